"""The pure half of the folder's store: names, and how changes are counted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bai_nodeagent.store import FileSettings
from bai_nodeagent.store.files import COUNT, Count, FileStore, file_names, key_of, parse_count

A, B = "desired/cluster", "desired/node/n1"


@pytest.mark.parametrize(
    ("key", "names"),
    [
        (A, ("desired/cluster.toml", "desired/cluster.json", "desired/cluster")),
        ("secret/cluster/a.toml", ("secret/cluster/a.toml",)),
        ("node/I-n1/status", ("node/I-n1/status",)),
    ],
)
def test_only_documents_carry_a_suffix(key: str, names: tuple[str, ...]) -> None:
    assert file_names(key) == names


@pytest.mark.parametrize("key", ["", "/etc/passwd", "desired/../x", "secret/cluster/.x", "a//b"])
def test_what_leads_elsewhere_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match="not the name of a key"):
        file_names(key)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("desired/cluster.toml", A),
        ("desired/group/gpu.json", "desired/group/gpu"),
        ("desired/group/gpu", "desired/group/gpu"),
        ("secret/cluster/token", "secret/cluster/token"),
        ("secret/cluster/a.toml", "secret/cluster/a.toml"),
        ("desired/.cluster.toml.swp", None),
        ("desired/#cluster.toml#", None),
        ("desired/cluster.toml~", None),
        ("node/n1/.status.abc.tmp", None),
    ],
)
def test_files_that_hold_keys(path: str, key: str | None) -> None:
    assert key_of(path) == key


def test_first_observation_changes_nothing() -> None:
    count = Count("e").advanced({A: "x", B: ""})
    assert count == Count("e", 1, {A: ("x", 1), B: ("", 1)})


@pytest.mark.parametrize(("before", "now"), [("x", "y"), ("x", ""), ("", "x")])
def test_change_deletion_and_creation_are_counted(before: str, now: str) -> None:
    count = Count("e").advanced({A: before, B: "b"}).advanced({A: now, B: "b"})
    assert (count.revision, count.since(A), count.since(B)) == (2, 2, 1)


def test_changes_observed_together_are_one_revision() -> None:
    count = Count("e").advanced({A: "1", B: "1"}).advanced({A: "2", B: "2"})
    assert (count.revision, count.since(A), count.since(B)) == (2, 2, 2)


def test_equal_observation_is_the_same_count() -> None:
    count = Count("e").advanced({A: "1"})
    assert count.advanced({A: "1"}) is count


def test_key_observed_late_has_not_changed_since_anybody_can_know() -> None:
    count = Count("e").advanced({A: "1"}).advanced({A: "2"}).advanced({B: "1"})
    assert (count.revision, count.since(B)) == (2, 1)


def test_count_survives_its_file() -> None:
    count = Count("e").advanced({A: "1"}).advanced({A: "2"})
    assert parse_count(json.dumps(asdict(count)).encode()) == count


@pytest.mark.anyio
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"epoch": 1}', b"\xff", b"[" * 9999])
@pytest.mark.parametrize("is_counted", [True, False])
async def test_unreadable_count_is_a_new_epoch(
    tmp_path: Path, raw: bytes, is_counted: bool
) -> None:
    settings = FileSettings(tmp_path / "store", tmp_path, is_counted)
    (tmp_path / COUNT).write_bytes(raw)
    first = await FileStore(settings).read([A])
    assert first.revision == 1
    assert first.epoch
    again = await FileStore(settings).read([A])
    assert (again.epoch == first.epoch) is is_counted
    assert ((tmp_path / COUNT).read_bytes() == raw) is not is_counted
