"""Every regular expression of the daemon on what somebody writes to make it slow.

One that begins anew at each letter of a word, or goes back over it, takes half a minute for 200 kB
and hours for a megabyte, and the interpreter does nothing else meanwhile.
"""

from __future__ import annotations

import subprocess
import sys

DEADLINE_S = 100
# In a process of its own: no thread and no signal interrupts a match.
PROGRAM = """\
import importlib, inspect, pkgutil, re, sys
import bai_nodeagent
SIZE = 200_000
LETTERS = "a0.-_ \\t\\n\\"'#=[]{}/:@\\\\*,;$%<&\\x1b\\u00e9"
PAIRS = ["a.", "a ", " a", "a=", "=a", '"a', "'a", "a\\\\", "//", "key=", "password ", "--a", "a-",
         "a:", "${", "$a", "[a", "{a", "\\x1b[", "0,", "/a", "a@", "://", " .", ". ", "%2"]
shapes = [letter * SIZE for letter in LETTERS] + [pair * (SIZE // len(pair)) for pair in PAIRS]
shapes += [f"{start}{'a' * SIZE}" for start in ("#", '"', "'", "key=", "//", "--", "${", "\\x1b[")]
# One run after another, behind what makes a pattern look further.
BEFORE = ["pwd=", '"password": "', "--token "]
RUNS = [one * SIZE for one in "\\\\\\"'-*"]
shapes += [before + one + other + one for before in BEFORE for one in RUNS
           for other in ('"', "\\\\a", "=")]
seen = set()
for found in pkgutil.walk_packages(bai_nodeagent.__path__, "bai_nodeagent."):
    if found.name.endswith("__main__"):
        continue
    module = importlib.import_module(found.name)
    source = inspect.getsource(module)
    for name, value in vars(module).items():
        group = value if isinstance(value, (tuple, list)) else [value]
        # What is only ever matched from a text's first letter on may look at all of it.
        is_searched = group is value or any(
            f"{name}.{how}(" in source for how in ("sub", "search", "finditer", "findall", "split")
        )
        for pattern in group:
            if not isinstance(pattern, re.Pattern) or pattern in seen:
                continue
            seen.add(pattern)
            for number, shape in enumerate(shapes):
                text = shape if isinstance(pattern.pattern, str) else shape.encode()
                print(found.name, name, number, flush=True)
                if is_searched:
                    for _ in pattern.finditer(text):
                        pass
                pattern.match(text)
                pattern.fullmatch(text)
print("all", len(seen))
"""


def test_no_pattern_takes_time_by_the_square() -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        last = (error.stdout or b"").decode().splitlines()[-1:]
        raise AssertionError(f"not within {DEADLINE_S} s: {last}") from error
    word, count = done.stdout.splitlines()[-1].split()
    assert word == "all"
    assert int(count) > 30
