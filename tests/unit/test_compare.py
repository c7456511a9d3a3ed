"""Which lines of two texts correspond: as difflib says of short ones, and soon of any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_nodeagent import agent_toml, toml
from bai_nodeagent.agent_toml.compare import COMPARED_AT_MOST, opcodes, unified
from bai_nodeagent.model import KeyPath

LINES = st.lists(st.sampled_from(["a", "b", "c", "#"]), max_size=12)


def applied(one: list[str], other: list[str]) -> list[str]:
    lines: list[str] = []
    for tag, first, last, start, end in opcodes(one, other):
        lines += one[first:last] if tag == "equal" else other[start:end]
    return lines


@given(LINES, LINES)
def test_the_codes_make_the_one_of_the_other(one: list[str], other: list[str]) -> None:
    assert applied(one, other) == other
    covered = [(first, last) for _, first, last, _, _ in opcodes(one, other)]
    assert [i for first, last in covered for i in range(first, last)] == list(range(len(one)))


@given(LINES, st.integers(0, 11), st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=3))
def test_a_diff_shows_what_came_between_and_nothing_else(
    one: list[str], at: int, more: list[str]
) -> None:
    other = [*one[:at], *more, *one[at:]]
    found = unified(one, other, "old", "new")
    assert [line[1:] for line in found[2:] if line[:1] == "+"] == more
    assert not [line for line in found[2:] if line[:1] == "-"]
    assert [line[1:] for line in found[3:] if line[:1] in " +"] == other[
        max(0, min(at, len(one)) - 3) :
    ][: len(found) - 3]


def test_line_numbers_are_those_of_the_whole_text() -> None:
    one = [str(number) for number in range(1000)]
    other = [*one[:500], "new", *one[501:]]
    assert unified(one, other, "o", "n")[2:5] == ["@@ -498,7 +498,7 @@", " 497", " 498"]


def test_what_is_too_much_to_be_compared_is_reported() -> None:
    count = COMPARED_AT_MOST + 1
    one, other = ["head", *["#"] * count, "tail"], ["head", *["##"] * count, "tail"]
    assert applied(one, other) == other
    text = f"({count} lines make way for {count} others: not shown)"
    at = f"@@ -1,{count + 2} +1,{count + 2} @@"
    assert unified(one, other, "o", "n") == ["--- o", "+++ n", at, " head", text, " tail"]


def test_of_a_diff_so_much_is_shown_as_somebody_reads() -> None:
    """All that is shown is searched for secrets, and kept."""
    long, many = "# " + "x" * 5_000, [f"# {'x' * 1_900}" for _ in range(200)]
    shown = agent_toml.diff("a = 1\n", f"a = 2\n{long}\n", (), "it")
    assert "+# (a line" not in shown
    assert f"+(a line of {len(long) + 1} characters, not shown)" in shown
    shown = agent_toml.diff("a = 1\n", "\n".join(["a = 2", *many]), (), "it")
    assert len(shown) < 70_000
    assert shown.endswith(" more lines, not shown)")


SIZE = 250_000
BASE = '[agent]\nid = "i-1"\n'


@pytest.mark.parametrize(
    "more",
    [
        "#\n" * (SIZE // 2),
        "\n" * SIZE,
        "#a\n#b\n" * (SIZE // 6),
        "#" + "x" * SIZE + "\n",
        "# password\n" * (SIZE // 11),
        "".join(f"[s{number}]\n" for number in range(SIZE // 8)),
        "[[x]]\n" * (SIZE // 6),
        '[x]\ny = "' + "a" * SIZE + '"\n',
    ],
    ids=["comments", "blanks", "alternating", "word", "secrets", "tables", "array", "text"],
)
def test_whatever_others_write_is_edited_soon(more: str) -> None:
    """By difflib, and by regular expressions that begin anew at each letter, these took hours."""
    values: dict[KeyPath, str] = {("agent", "id"): "i-2"}
    reference = f"{more}{BASE}" if more.startswith("#") else f"{BASE}{more}"
    wanted = agent_toml.edit(BASE + more, values, frozenset(), reference)
    assert toml.loads(wanted)["agent"]["id"] == "i-2"
    assert agent_toml.diff(BASE + more, wanted, (), "agent.toml")
