"""The last valid desired state on this node's disk, so that it boots and repairs without a store.

One file below the state folder, 0600 since it holds the secrets that go into
agent.toml and the agent's environment. Those that a kind names, such as a join
token, are not in it: they stand in the store alone. A file that can't be read
is set aside under another name: never acted on, never deleted.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from . import desired
from .status import Applied
from .store.base import Entry, Snapshot
from .system import files

FORMAT = 1
NAME = "journal.json"

log = structlog.get_logger()


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
    """The journal, or an empty one. A journal of another node id, or one that can't be
    read, is set aside as `<name>.unreadable-<time>`, where the disk lets it."""
    try:
        raw = files.read_if_there(path)
        return Journal(node_id) if raw is None else _decode(raw, node_id)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("journal.unreadable", kept_as=_set_aside(path), error=str(error))
        return Journal(node_id)


def _set_aside(path: Path) -> str:
    """Where it is kept: in its place, if the disk is read-only. The daemon doesn't end for that."""
    aside = path.with_name(f"{path.name}.unreadable-{int(time.time())}")
    try:
        return str(path.replace(aside))
    except OSError as error:
        return f"{path} ({error.strerror})"


def peek(path: Path, node_id: str) -> Journal | None:
    """The journal for those who touch nothing; None when there is none that can be read."""
    raw = files.read_if_there(path)
    try:
        return None if raw is None else _decode(raw, node_id)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def lasting(journal: Journal) -> Journal:
    """The same without the secrets that stand in the store alone."""
    keys = desired.kept_keys(journal.node_id, journal.groups, journal.raw)
    return replace(
        journal,
        raw={key: raw for key, raw in journal.raw.items() if key in keys},
        revisions={key: each for key, each in journal.revisions.items() if key in keys},
    )


def save(path: Path, journal: Journal) -> None:
    """Writes the journal whole. Raises OSError."""
    files.replace(path, _encode(journal), mode=0o600)


def snapshot(journal: Journal) -> Snapshot:
    """The valid set as the store gave it, but for what is not `lasting`."""
    entries = {k: Entry(raw, journal.revisions.get(k, 0)) for k, raw in journal.raw.items()}
    return Snapshot(journal.revision, entries, journal.epoch, is_journaled=True)


def _encode(journal: Journal) -> bytes:
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


def _decode(raw: bytes, node_id: str) -> Journal:
    data = json.loads(raw)
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r} is not {FORMAT}")
    if data["node"] != node_id:
        raise ValueError(f"it is of node {data['node']}")
    return Journal(
        node_id=data["node"],
        revision=int(data["revision"]),
        epoch=data["epoch"],
        raw={k: base64.b64decode(v, validate=True) for k, v in data["raw"].items()},
        revisions={k: int(v) for k, v in data["revisions"].items()},
        groups=tuple(data["groups"]),
        is_paused=bool(data["paused"]),
        applied=Applied(*data["applied"]) if data["applied"] else None,
    )
