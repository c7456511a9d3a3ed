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
from ..store.base import Conflict, Entry, Store, raw_of
from ..system import files
from . import STORE_DEADLINE_S, Answer, fleet

_LISTED_AT_MOST = 3


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
        text = f"{layer}: is not a layer; allowed: cluster, group/NAME, node/NAME"
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
    nodes = _known_nodes(entries, reports)
    mistakes, known = _merged(key, nodes, entries), _merged(key, nodes, there)
    if any(mistake not in known for mistake in mistakes):
        return _mistaken(mistakes)
    # Else two broken layers could never be put right: each would have to wait for the other.
    notes = [f"is in the store already: {mistake}" for mistake in mistakes]
    notes += await _lacking_secrets(store, key, nodes, entries)
    is_used = any(key in desired.layer_keys(*node, raw_of(entries)) for node in nodes.items())
    if layer.startswith("group/") and not is_used:
        notes.append(f"no known node is in {layer}")
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


def _known_nodes(
    entries: Mapping[str, Entry], reports: Iterable[fleet.Report]
) -> dict[str, tuple[str, ...]]:
    """The groups of each node's own configuration, by node.

    A node is known by its own document or by its status, which has those groups.
    """
    own = (k.removeprefix("desired/node/") for k in entries if k.startswith("desired/node/"))
    groups: dict[str, tuple[str, ...]] = dict.fromkeys(own, ())
    groups |= {each.node: each.status.groups if each.status else () for each in reports}
    return dict(sorted(groups.items()))


def _merged(
    key: str, nodes: Mapping[str, tuple[str, ...]], entries: Mapping[str, Entry]
) -> list[str]:
    """The mistakes of every node that a layer concerns."""
    raw = raw_of(entries)
    return [
        f"for node {node_id}: {mistake}"
        for node_id, groups in nodes.items()
        if key in (keys := desired.layer_keys(node_id, groups, raw))
        for mistake in _of_a_node(keys, entries)
    ]


async def _lacking_secrets(
    store: Store, key: str, nodes: Mapping[str, tuple[str, ...]], entries: Mapping[str, Entry]
) -> list[str]:
    """Which secrets the nodes of a layer name that are not there. Their values are not read."""
    raw = raw_of(entries)
    named: dict[str, dict[str, set[str]]] = {}
    for node_id, groups in nodes.items():
        keys = desired.wanted_keys(node_id, groups, raw, KINDS)
        for each in sorted(keys) if key in keys else ():
            name = each.rpartition("/")[2]
            if each.startswith("secret/"):
                named.setdefault(name, {}).setdefault(node_id, set()).add(each)
    try:
        there = await store.names("secret/") if named else frozenset()
    except Unavailable as error:
        return [f"whether the secrets {', '.join(sorted(named))} are there is not known: {error}"]
    lacking = {name: [n for n in by if not by[n] & there] for name, by in sorted(named.items())}
    return [
        f"there is no secret {name} for {_listed(who)}, which will be Invalid until there is one; "
        f"looked for at {', '.join(sorted(named[name][who[0]]))}"
        for name, who in lacking.items()
        if who
    ]


def _listed(nodes: list[str]) -> str:
    more = len(nodes) - _LISTED_AT_MOST
    shown = ", ".join(nodes[:_LISTED_AT_MOST])
    return f"{shown} and {more} more nodes" if more > 0 else shown


def _of_a_node(keys: Iterable[str], entries: Mapping[str, Entry]) -> list[str]:
    documents = [
        Document(key.removeprefix("desired/"), key, entries[key].revision, entries[key].raw)
        for key in keys
        if key in entries
    ]
    missing = [key for key in keys if key not in entries and not key.startswith("desired/node/")]
    newest = desired.evaluate(documents, missing, KINDS, __version__)
    # `newest.missing` is left out: a layer that is not there yet is no mistake of this one.
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
        is_none = error.reason == "NotAFile"
        raise Unreadable(f"{file}: is not a regular file" if is_none else error.message) from error
