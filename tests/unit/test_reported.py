"""Statuses of other nodes: whatever is there, the reader lives and the rows are its own."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_nodeagent.cli import fitting
from bai_nodeagent.commands import fleet, reported
from bai_nodeagent.commands.reported import Unreadable
from bai_nodeagent.store.base import Entry

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
READY: dict[str, object] = {
    "summary": "Ready",
    "conditions": [],
    "facts": {},
    "desired": {},
    "applied": None,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DOCUMENT = st.dictionaries(st.sampled_from(list(READY)), JSON).map(lambda d: READY | d)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"5",
        b"null",
        b"[]",
        b"[" * 60_000,
        b'{"summary": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"summary": "Ready", "a": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"{}",
        b'{"summary": 5}',
        b'{"summary": "Ready", "conditions": 5}',
        b'{"summary": "Ready", "conditions": [5]}',
        b'{"summary": "Ready", "facts": []}',
        b'{"summary": "Ready", "desired": {"documents": 5}}',
        b'{"summary": "Ready", "n": ' + b"9" * 5000 + b"}",
        b'{"summary": "Ready", "n": ' + b"9" * 50 + b"}",
        b'{"summary": "Ready", "n": 1e999}',
        b'{"summary": "Ready", "n": NaN}',
        json.dumps(READY | {"x": "y" * reported.READ_AT_MOST}).encode(),
    ],
)
def test_what_is_no_status_is_unreadable_and_the_rest_of_the_fleet_is_shown(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        reported.read(raw)
    entries = {
        "node/i-a/status": Entry(raw, 1),
        "node/i-a/alive": Entry(b"", 1),
        "node/i-b/status": Entry(json.dumps(READY).encode(), 1),
        "node/i-b/alive": Entry(b"", 1),
    }
    found = {each.node: each.summary for each in fleet.reports_of(entries, NOW)}
    assert found == {"i-a": "Unreadable", "i-b": "Ready"}


@given(DOCUMENT)
def test_whatever_is_read_is_shown_in_printable_lines_of_our_own(document: object) -> None:
    report = fleet.read("i-\x1b[2J\n", json.dumps(document).encode())
    lines = fleet.shown(report, "says a store").lines
    assert "".join(lines).replace("\n", "").replace("\t", "").isprintable()
    assert "\n" not in lines[0]
    assert fleet.headline(report).isprintable()


def test_no_name_and_no_word_forges_a_row() -> None:
    bad = {"type": "A\n i-x Ready", "status": "False\n", "reason": "B\x1b[1A", "message": "m\nn"}
    report = fleet.read("i-1\ni-2 Ready", json.dumps(READY | {"conditions": [bad]}).encode())
    assert report.node == r"i-1\ni-2 Ready"
    assert fleet.headline(report) == r"A\n i-x Ready: B\x1b[1A: m"


def test_a_newer_daemon_may_report_more() -> None:
    known = reported.read(json.dumps(READY | {"new": {"a": [1, "x"]}, "summary": "New"}).encode())
    assert (known.summary, known.document["new"]) == ("New", {"a": [1, "x"]})


def test_no_row_goes_on_where_a_terminal_begins_its_next_line() -> None:
    forged = "x" + " \u3164\u2800" * 40 + "i-good  Ready"
    condition = {"type": "Agent", "status": "False", "reason": "Bad", "message": forged}
    raw = json.dumps(READY | {"summary": "Degraded", "conditions": [condition]}).encode()
    entries = {"node/i-evil/status": Entry(raw, 1), "node/i-evil/alive": Entry(b"", 1)}
    (report,) = fleet.reports_of(entries, NOW)
    assert fleet.headline(report) == "Agent: Bad: x i-good Ready"


@pytest.mark.parametrize(
    ("line", "width", "shown"),
    [
        ("abcdef", None, "abcdef"),
        ("abcdef", 4, "abcd"),
        ("日本語", 5, "日本"),
        ("ab", 80, "ab"),
        ("§§§", 5, "§§"),
    ],
)
def test_a_row_is_cut_at_the_width_of_a_terminal(line: str, width: int | None, shown: str) -> None:
    assert fitting(line, width) == shown


@pytest.mark.parametrize(
    ("value", "summary"),
    [
        (b"{}", "Ready"),  # of an earlier version
        (b'{"at": "2026-01-01T11:50:00Z"}', "Ready"),
        (b'{"at": "2026-01-01T12:50:00Z"}', "Ready"),
        (b'{"at": "yesterday"}', "Ready"),
        (b'{"at": "2026-01-01T11:00:00"}', "Ready"),
        (b'{"at": "2026-01-01T11:00:00Z"}', "Unknown"),
        (None, "Unknown"),
    ],
)
def test_a_daemon_whose_lease_another_renews_is_not_alive(
    value: bytes | None, summary: str
) -> None:
    entries = {"node/i-a/status": Entry(json.dumps(READY).encode(), 1)}
    entries |= {"node/i-a/alive": Entry(value, 1)} if value is not None else {}
    (report,) = fleet.reports_of(entries, NOW)
    assert report.summary == summary
    if summary == "Unknown":
        (line,) = fleet.shown(report, "says a store").lines[:1]
        assert ("renews its lease" if value else "a lease's time") in line
