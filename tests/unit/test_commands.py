"""What commands say, from values; how they exit is tests/integration/test_cli.py's matter."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent.commands import documents, fleet
from bai_nodeagent.commands.fleet import Report
from bai_nodeagent.store import FileSettings
from bai_nodeagent.store.files import FileStore

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, ""),
        ({"started-at": "garbage", "conditions": [{"since": None}, 3]}, ""),
        ({"started-at": "2026-11-23T11:59:30Z"}, "30 s"),
        ({"started-at": "2026-11-23T09:00:00Z", "applied": {"at": "2026-11-23T11:00:00Z"}}, "1 h"),
        (
            {
                "started-at": "2026-11-20T09:00:00Z",
                "conditions": [{"since": "2026-11-21T12:00:00Z"}],
            },
            "2 d",
        ),
        ({"started-at": "2026-11-23T13:00:00Z"}, "0 s"),
        ({"started-at": "2026-11-23T11:00:00"}, ""),
    ],
)
def test_age_is_that_of_the_newest_time_that_can_be_read(
    document: dict[str, Any], expected: str
) -> None:
    assert fleet.age(document, NOW) == expected


def report(document: object, silence: str = "") -> Report:
    return fleet.read("i-1", json.dumps(document).encode(), silence)


def test_a_status_without_alive_is_unknown_whatever_it_reports() -> None:
    silent = report({"summary": "Ready", "reported-at": "2026-01-01T00:00:00Z"}, "is silent")
    found = fleet.shown(silent, "says a store")
    assert silent.summary == "Unknown"
    assert found.code == 3
    assert "it said Ready" in found.lines[0]


def test_a_ready_node_is_0_and_shows_conditions_facts_and_its_time() -> None:
    document = {
        "summary": "Ready",
        "reported-at": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Agent", "status": "True", "reason": "Running", "message": ""}],
        "desired": {"revision": 4, "digest": "sha256:a"},
        "facts": {"agent-pid": 7},
    }
    found = fleet.shown(report(document), "says a store")
    assert found.code == 0
    text = "\n".join(found.lines)
    for part in (
        "i-1: Ready",
        "as of 2026-01-01T00:00:00Z, says a store",
        "Agent  True     Running",
        "desired: revision 4",
        "agent-pid: 7",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("documents", "shown"), [({"desired/cluster": 4}, "not valid"), ({}, "no document")]
)
def test_a_missing_digest_is_reported(documents: dict[str, int], shown: str) -> None:
    desired = {"revision": 4, "digest": None, "documents": documents}
    found = fleet.shown(report({"summary": "Invalid", "desired": desired}), "says a store")
    assert f"  desired: revision 4, {shown}" in found.lines


class Raced(FileStore):
    """Somebody else writes the cluster's document after it was read."""

    async def names(self, below: str) -> frozenset[str]:
        found = await super().names(below)
        if below == "node/":
            await self.put("desired/cluster", b"api-version = 1 # theirs")
        return found


@pytest.mark.anyio
async def test_put_writes_nothing_over_what_somebody_wrote_in_between(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("api-version = 1\npaused = true")
    store = Raced(FileSettings(tmp_path / "store", tmp_path))
    found = await documents.put(store, "cluster", str(file))
    assert found.code == 5
    assert "nothing was written" in found.notes[0]
    entry = (await store.read(["desired/cluster"])).entries["desired/cluster"]
    assert entry.raw == b"api-version = 1 # theirs"


def test_a_difference_is_leaf_by_leaf_and_masked() -> None:
    before = b'api-version = 1\n[agent-config.values.etcd]\npassword = "old-secret"\nuser = "a"'
    after = b'api-version = 1\n[agent-config.values.etcd]\npassword = "new-secret"\nuser = "b"'
    text = "\n".join(documents.difference(before, after, "cluster"))
    assert '-agent-config.values.etcd.user = "a"' in text
    assert '+agent-config.values.etcd.user = "b"' in text
    assert "secret" not in text.replace("masked secret", "")


def test_a_difference_that_can_not_be_shown_is_reported() -> None:
    (line,) = documents.difference(b"api-version = 1", b"api-version = 1 # x", "cluster")
    assert "only comments" in line


def test_a_broken_document_in_the_store_is_replaced_by_all_of_the_new_one() -> None:
    text = "\n".join(documents.difference(b"[[[", b"api-version = 1", "cluster"))
    assert "+api-version = 1" in text
