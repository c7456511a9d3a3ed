"""Which lines of two texts correspond, in bounded time (pure).

difflib takes time by the square of equal lines, or worse: 100,000 times "#" are hours.
People change a few lines in the middle of a file, so what both have at their head and at
their tail is cut off first, and what is left is compared only where there is little of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

# Lines on either side that are still compared one by one.
COMPARED_AT_MOST = 300
_CONTEXT = 3
_AT = re.compile(r"^@@ -(\d+)((?:,\d+)?) \+(\d+)((?:,\d+)?) @@")

Opcode = tuple[str, int, int, int, int]
"""As of difflib.SequenceMatcher.get_opcodes."""


def opcodes(one: Sequence[str], other: Sequence[str]) -> list[Opcode]:
    """How `one` becomes `other`. A middle that is too long counts as exchanged as a whole."""
    head, tail = _ends(one, other)
    mine, theirs = one[head : len(one) - tail], other[head : len(other) - tail]
    found: list[Opcode] = [("equal", 0, head, 0, head)] if head else []
    if max(len(mine), len(theirs)) > COMPARED_AT_MOST:
        found.append(("replace", head, head + len(mine), head, head + len(theirs)))
    else:
        matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
        found += [
            (tag, head + first, head + last, head + start, head + end)
            for tag, first, last, start, end in matcher.get_opcodes()
        ]
    end = ("equal", len(one) - tail, len(one), len(other) - tail, len(other))
    return [*found, *([end] if tail else [])]


def unified(before: Sequence[str], after: Sequence[str], old: str, new: str) -> list[str]:
    """The lines of a unified diff, without line ends. Of too much it says how much that is."""
    head, tail = _ends(before, after)
    gone, come = len(before) - head - tail, len(after) - head - tail
    if max(gone, come) > COMPARED_AT_MOST:
        text = f"({gone} lines from line {head + 1} on make way for {come} others: not shown)"
        return [f"--- {old}", f"+++ {new}", text]
    start = max(0, head - _CONTEXT)
    end = max(0, tail - _CONTEXT)
    mine, theirs = before[start : len(before) - end], after[start : len(after) - end]
    lines = difflib.unified_diff(mine, theirs, old, new, lineterm="", n=_CONTEXT)
    return [_AT.sub(lambda at: _moved(at, start), line) for line in lines]


def _ends(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """How many lines both have at their head, and how many more at their tail."""
    most = min(len(one), len(other))
    head = next((i for i in range(most) if one[i] != other[i]), most)
    most -= head
    tail = next((i for i in range(most) if one[-1 - i] != other[-1 - i]), most)
    return head, tail


def _moved(at: re.Match[str], by: int) -> str:
    return f"@@ -{int(at[1]) + by}{at[2]} +{int(at[3]) + by}{at[4]} @@"
