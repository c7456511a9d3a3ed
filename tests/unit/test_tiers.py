"""That the two tiers name tests that there are: a test renamed must not leave `make test`."""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from tiers import BEYOND, ONCE

TESTS = Path(__file__).parent.parent


def test_every_pattern_names_a_test() -> None:
    patterns = {**ONCE, **BEYOND}
    files = [str(TESTS / file) for file in patterns]
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *files]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    lines = [line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line]
    found = [tuple(line.split("::", 1)) for line in lines]
    for file, names in patterns.items():
        for pattern in names:
            assert any(f == file and fnmatchcase(n, pattern) for f, n in found), (file, pattern)
