"""The last valid desired state on this node's disk, so that it boots and repairs without a store.

One file below the state folder, 0600 since it holds the secrets that go into
agent.toml and the agent's environment. Those that a kind names, such as a join
token, are not in it: they are in the store alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import desired
from ..core.status import Applied
from ..store.base import Entry, Snapshot
from ..system import kept
from ..typed import json_value, typed

FORMAT = 1
NAME = "journal.json"
BYTES_AT_MOST = 64 << 20  # a document has 1 MiB at most, and a node some of them


@dataclass(frozen=True)
class Journal:
    """What is remembered of the store.

    raw        the valid set: key -> exact bytes, documents and secrets; see `lasting`
    revisions  key -> revision of its last change
    is_paused  whether the newest documents said so, even if they were not valid
    applied    the last state that the node was wholly in line with
    """

    node_id: str
    revision: int = 0
    epoch: str = ""
    raw: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    revisions: Mapping[str, int] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    is_paused: bool = False
    applied: Applied | None = None


def load(path: Path, node_id: str) -> Journal:
    """The journal, or an empty one. One of another node id is set aside as well."""
    found = kept.read(path, lambda raw: _decode(raw, node_id), BYTES_AT_MOST)
    return found or Journal(node_id)


def peek(path: Path, node_id: str) -> Journal | None:
    """Reads the journal and changes nothing; None if there is none. Raises own_file.Unreadable."""
    return kept.peek(path, lambda raw: _decode(raw, node_id), BYTES_AT_MOST)


def lasting(journal: Journal) -> Journal:
    """The same without the secrets that are in the store alone."""
    keys = desired.kept_keys(journal.node_id, journal.groups, journal.raw)
    return replace(
        journal,
        raw={key: raw for key, raw in journal.raw.items() if key in keys},
        revisions={key: each for key, each in journal.revisions.items() if key in keys},
    )


def snapshot(journal: Journal) -> Snapshot:
    """The valid set as the store gave it, but for what is not `lasting`."""
    entries = {k: Entry(raw, journal.revisions.get(k, 0)) for k, raw in journal.raw.items()}
    return Snapshot(journal.revision, entries, journal.epoch, is_journaled=True)


def encode(journal: Journal) -> bytes:
    applied = journal.applied
    return json.dumps(
        {
            "format": FORMAT,
            "node": journal.node_id,
            "revision": journal.revision,
            "epoch": journal.epoch,
            "raw": {k: base64.b64encode(v).decode() for k, v in journal.raw.items()},
            "revisions": dict(journal.revisions),
            "groups": list(journal.groups),
            "paused": journal.is_paused,
            "applied": applied and [applied.revision, applied.digest, applied.at],
        },
        indent=1,
    ).encode()


@dataclass(frozen=True)
class _Stored:
    """The file as it is."""

    format: int
    node: str
    revision: int
    epoch: str
    raw: Mapping[str, str]
    revisions: Mapping[str, int]
    groups: tuple[str, ...]
    paused: bool
    applied: tuple[int, str, str] | None


def _decode(raw: bytes, node_id: str) -> Journal:
    stored: _Stored = typed(_Stored, json_value(raw))
    if stored.format != FORMAT:
        raise ValueError(f"format {stored.format} is not {FORMAT}")
    if stored.node != node_id:
        raise ValueError(f"it is of node {stored.node}")
    return Journal(
        node_id,
        stored.revision,
        stored.epoch,
        {key: base64.b64decode(value, validate=True) for key, value in stored.raw.items()},
        stored.revisions,
        stored.groups,
        stored.paused,
        stored.applied and Applied(*stored.applied),
    )
