"""`validate`, `put` and `schema`: documents before they are desired."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anyio

from .. import __version__, desired
from ..desired import Document
from ..desired.documents import LARGEST, Unreadable, parse
from ..desired.places import spelled, walk
from ..errors import Refused, Unavailable
from ..kinds import KINDS
from ..settings import NAME, NODE_ID
from ..store.base import Conflict, Entry, Store
from ..system import files
from . import STORE_DEADLINE_S, Answer, fleet


def validate(files: list[str]) -> Answer:
    """Each document alone, all mistakes at once. 0, 2."""
    mistakes: list[str] = []
    for file in files:
        layer = "stdin" if file == "-" else file
        try:
            mistakes += map(str, desired.check_alone(layer, _read(file), KINDS, __version__))
        except Unreadable as error:
            mistakes.append(str(error))
    value = {"valid": not mistakes, "mistakes": mistakes}
    lines = [] if mistakes else [f"{file}: valid" for file in files]
    return Answer(2 if mistakes else 0, lines, value, mistakes)


def schema() -> Answer:
    """JSON Schema of the document."""
    document = desired.json_schema(KINDS)
    return Answer(0, json.dumps(document, indent=2).split("\n"), document)


async def put(store: Store, layer: str, file: str) -> Answer:
    """Checks a document alone and with what is in the store, then writes it.

    0 written or equal, 2 mistakes, 4 store out of reach, 5 somebody else wrote
    in between.
    """
    if not _is_layer(layer):
        text = f"{layer}: no layer; allowed are cluster, group/NAME and node/NAME"
        return Answer(2, value={"error": text}, notes=[text])
    try:
        raw = _read(file)
    except Unreadable as error:
        return Answer(2, value={"error": str(error)}, notes=[str(error)])
    alone = desired.check_alone(layer, raw, KINDS, __version__)
    if alone:
        return _mistaken(map(str, alone))
    try:
        with anyio.fail_after(STORE_DEADLINE_S):
            return await _put(store, layer, raw)
    except (Unavailable, TimeoutError) as error:
        text = (
            str(error) or f"{store.where} does not answer; it is not known whether it was written"
        )
        return Answer(4, value={"error": text}, notes=[text])
    except Conflict as error:
        text = f"{layer}: changed by somebody else in between, nothing was written: {error}"
        return Answer(5, value={"error": text}, notes=[text])


async def _put(store: Store, layer: str, raw: bytes) -> Answer:
    key = f"desired/{layer}"
    there = (await store.list("desired/")).entries
    before = there.get(key)
    entries = {**there, key: Entry(raw, 0)}
    reports = await fleet.reports(store)
    mistakes, known = _merged(key, entries, reports), _merged(key, there, reports)
    if any(mistake not in known for mistake in mistakes):
        return _mistaken(mistakes)
    # Else two broken layers could never be put right: each would have to wait for the other.
    notes = [f"is in the store already: {mistake}" for mistake in mistakes]
    notes += [
        f"{each.node}: {fleet.UNREADABLE}: {each.fault}, so its groups are not known"
        for each in reports
        if each.status is None
    ]
    if before is not None and before.raw == raw:
        value = {"layer": layer, "revision": before.revision, "written": False}
        return Answer(0, [f"{layer}: unchanged, revision {before.revision}"], value, notes)
    changes = list(difference(before.raw if before else b"", raw, layer))
    revision = await store.put(key, raw, before.revision if before else 0)
    value = {"layer": layer, "revision": revision, "written": True, "diff": changes}
    return Answer(0, [*changes, f"{layer}: written, revision {revision}"], value, notes)


def difference(before: bytes, after: bytes, layer: str) -> Iterable[str]:
    """What a document says anew, leaf by leaf, every secret masked; as a unified diff."""
    lines = difflib.unified_diff(
        _leaves(before), _leaves(after), f"{layer} (in the store)", f"{layer} (new)", "", "", 1, ""
    )
    found = list(lines)
    if not found and before != after:
        return [f"{layer}: only comments, order, format or a masked secret differ"]
    return found


def _leaves(raw: bytes) -> list[str]:
    try:
        table = desired.mask(parse(raw))
    except Unreadable:
        return []  # what is there is broken: everything is new
    return [
        f"{spelled(place)} = {json.dumps(value, ensure_ascii=False, default=str)}"
        for place, value in walk(table)
        if not isinstance(value, Mapping) and not any(isinstance(part, int) for part in place)
    ]


def _nodes_with(
    key: str, entries: Mapping[str, Entry], reports: Iterable[fleet.Report]
) -> dict[str, tuple[str, ...]]:
    """Known nodes that a layer concerns, each with the keys of its layers.

    A node is known by its own document or by its status, which also has the
    groups of its own configuration.
    """
    raw = {name: entry.raw for name, entry in entries.items()}
    own = (k.removeprefix("desired/node/") for k in raw if k.startswith("desired/node/"))
    groups: dict[str, tuple[str, ...]] = dict.fromkeys(own, ())
    groups |= {each.node: each.status.groups if each.status else () for each in reports}
    layers = {}
    for node_id in sorted(groups):
        keys = desired.layer_keys(node_id, groups[node_id], raw)
        if key in keys:
            layers[node_id] = keys
    return layers


def _merged(key: str, entries: Mapping[str, Entry], reports: Iterable[fleet.Report]) -> list[str]:
    """The mistakes of every known node that a layer concerns."""
    return [
        f"for node {node_id}: {mistake}"
        for node_id, keys in _nodes_with(key, entries, reports).items()
        for mistake in _of_a_node(keys, entries)
    ]


def _of_a_node(keys: Iterable[str], entries: Mapping[str, Entry]) -> list[str]:
    documents = [
        Document(key.removeprefix("desired/"), key, entries[key].revision, entries[key].raw)
        for key in keys
        if key in entries
    ]
    missing = [key for key in keys if key not in entries and not key.startswith("desired/node/")]
    newest = desired.evaluate(documents, missing, KINDS, __version__)
    # A layer that is not there yet is no mistake of the one that is put now.
    return [str(mistake) for mistake in newest.mistakes]


def _is_layer(layer: str) -> bool:
    kind, _, name = layer.partition("/")
    if kind == "cluster":
        return layer == "cluster"
    return (kind == "group" and bool(NAME.match(name))) or (
        kind == "node" and bool(NODE_ID.match(name))
    )


def _mistaken(mistakes: Iterable[str]) -> Answer:
    found = list(mistakes)
    value: dict[str, Any] = {"mistakes": found, "written": False}
    return Answer(2, value=value, notes=[*found, "nothing was written"])


def _read(file: str) -> bytes:
    """At most a byte more than a document may have: the check of its size says the rest."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(LARGEST + 1)
        return files.read_bounded(Path(file), LARGEST)
    except OSError as error:
        raise Unreadable(f"{file}: {error.strerror}") from error
    except Refused as error:
        raise Unreadable(error.message) from error
