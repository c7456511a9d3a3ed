"""Which lines of two texts correspond, in bounded time (pure).

difflib takes time by the square of equal lines, or worse: 100,000 times "#" are hours.
People change a few lines in the middle of a file, so what both have at their head and at
their tail is cut off first, and what is left is compared only where there is little of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

# Lines on either side that are still compared one by one.
COMPARED_AT_MOST = 300
_CONTEXT = 3

Opcode = tuple[str, int, int, int, int]
"""As of difflib.SequenceMatcher.get_opcodes."""


def opcodes(one: Sequence[str], other: Sequence[str]) -> list[Opcode]:
    """How `one` becomes `other`. A middle that is too long counts as exchanged as a whole."""
    head, tail = _common_ends(one, other)
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
    codes = opcodes(before, after)
    lines: list[str] = []
    for group in _grouped(codes):
        (_, first, _, start, _), (_, _, last, _, end) = group[0], group[-1]
        lines.append(f"@@ -{_range(first, last)} +{_range(start, end)} @@")
        for tag, i, j, m, n in group:
            if max(j - i, n - m) > COMPARED_AT_MOST:
                lines.append(f"({j - i} lines make way for {n - m} others: not shown)")
            elif tag == "equal":
                lines += [f" {line}" for line in before[i:j]]
            else:
                lines += [f"-{line}" for line in before[i:j]]
                lines += [f"+{line}" for line in after[m:n]]
    return [f"--- {old}", f"+++ {new}", *lines] if lines else []


def _grouped(codes: list[Opcode]) -> Iterator[list[Opcode]]:
    """What is changed, with some lines around it."""
    matcher = difflib.SequenceMatcher(None, "", "")
    matcher.opcodes = codes  # type: ignore[attr-defined]
    yield from matcher.get_grouped_opcodes(_CONTEXT) if codes else ()


def _range(start: int, end: int) -> str:
    """As diff(1) writes it: from one on, and an empty one by the line before it."""
    count = end - start
    return f"{start + 1}" if count == 1 else f"{start + (count > 0)},{count}"


def _common_ends(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """How many lines both have at their head, and how many more at their tail."""
    most = min(len(one), len(other))
    head = next((i for i in range(most) if one[i] != other[i]), most)
    most -= head
    tail = next((i for i in range(most) if one[-1 - i] != other[-1 - i]), most)
    return head, tail
