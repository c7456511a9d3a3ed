"""The documents of a node, judged together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Mistake
from ..model import Kind
from .check import Rules, is_below, mistakes
from .documents import Document, Fault, Unreadable, read
from .formats import satisfies
from .merge import Merged, digest, layer_of, merge
from .places import secret_names, spelled
from .secrecy import MASK, Place


@dataclass(frozen=True)
class Desired:
    """What the documents say, right or wrong.

    missing    keys of layers that must exist and don't
    merged     the document that all layers make together; None while there are
               mistakes or missing layers. Variables and secrets are not filled in
    digest     of `merged`: comments, order, format and [meta] don't count, and of secrets
               what `seal` makes of them
    is_paused  some layer that parses says so, whatever is wrong elsewhere
    too_old    why this daemon is older than a document asks for; it has to hold
    """

    documents: tuple[Document, ...]
    mistakes: tuple[Mistake, ...]
    missing: tuple[str, ...]
    is_paused: bool
    merged: Mapping[str, Any] | None = field(repr=False)
    digest: str | None
    too_old: str | None
    layer_by_place: Mapping[Place, str] = field(repr=False)

    @property
    def secret_names(self) -> frozenset[str]:
        """The secrets that the merged document names."""
        return secret_names(self.merged)

    def layer_of(self, place: Place) -> str:
        """The layer that said what stands at a place of `merged`."""
        return layer_of(place, self.layer_by_place)


@dataclass(frozen=True)
class _Reading:
    """A layer's table; None where it could not be had, and `faults` say why."""

    layer: str
    table: dict[str, Any] | None = field(repr=False)
    faults: list[Fault]


def evaluate(
    documents: Sequence[Document],
    missing: Sequence[str],
    kinds: Sequence[Kind],
    daemon_version: str,
    faults: Mapping[str, str] | None = None,
    seal: Callable[[object], str] = lambda _secret: MASK,
) -> Desired:
    """Judges the layers alone and together. Never raises, whatever the bytes.

    `documents` come in merge order. `missing` are the keys of layers that must
    exist and don't; `faults` the layers that are in the store but could not
    be had as one document, each with the sentence that says why. `seal` gives what
    is in the digest for a secret that a document holds itself. Required keys
    are looked for only when every layer can be read: what seems to be missing
    might be in the others.
    """
    rules = Rules(kinds)
    unreadable = faults or {}
    readings = [_Reading(layer, None, [Fault((), what)]) for layer, what in unreadable.items()]
    readings += [_read(each, rules) for each in documents if each.layer not in unreadable]
    readings.sort(key=_rank)
    mistakes_found = [mistake for r in readings for mistake in mistakes(r.layer, r.faults)]

    tables = [(r.layer, r.table) for r in readings if r.table is not None]
    merged = merge(tables, rules.named)
    if tables and len(tables) == len(readings) and not missing:
        mistakes_found = _with_mistakes_of_merged(mistakes_found, merged, readings, rules)
    is_paused = any(table.get("paused") is True for _, table in tables)
    if is_paused:  # no layer takes back what another one says
        merged.document["paused"] = True
    is_valid = bool(tables) and not mistakes_found and not missing
    return Desired(
        documents=tuple(documents),
        mistakes=tuple(mistakes_found),
        missing=tuple(missing),
        is_paused=is_paused,
        merged=merged.document if is_valid else None,
        digest=digest(merged.document, seal) if is_valid else None,
        too_old=_too_old(tables, daemon_version),
        layer_by_place=merged.layer_by_place,
    )


def check_alone(
    layer: str, raw: bytes, kinds: Sequence[Kind], daemon_version: str
) -> tuple[Mistake, ...]:
    """The mistakes of one document by itself. `layer` may be a file's name."""
    rules = Rules(kinds)
    reading = _read(Document(layer, layer, 0, raw), rules)
    mistakes_found = mistakes(layer, reading.faults)
    if reading.table is not None:
        too_old = _version_fault(reading.table, daemon_version)
        mistakes_found += mistakes(layer, [too_old] if too_old else [])
    return tuple(mistakes_found)


def _rank(reading: _Reading) -> int:
    scope = reading.layer.partition("/")[0]
    return {"cluster": 0, "group": 1}.get(scope, 2)


def _read(document: Document, rules: Rules) -> _Reading:
    try:
        table, found = read(document.raw)
    except Unreadable as exc:
        return _Reading(document.layer, None, [Fault((), str(exc))])
    return _Reading(document.layer, table, rules.layer(document.layer, table, found))


def _with_mistakes_of_merged(
    mistakes_found: list[Mistake], merged: Merged, readings: Sequence[_Reading], rules: Rules
) -> list[Mistake]:
    """Adds what only the whole shows; a layer's own mistake is not reported twice."""
    known = {r.layer: {fault.place for fault in r.faults} for r in readings}
    late: dict[str, list[Fault]] = {r.layer: [] for r in readings}
    for fault in rules.merged(merged.document):
        layer = layer_of(fault.place, merged.layer_by_place)
        if not is_below(fault.place, known[layer]):
            late[layer].append(fault)
    order = list(known)
    added = [mistake for layer, found in late.items() for mistake in mistakes(layer, found)]
    return sorted(mistakes_found + added, key=lambda m: (order.index(m.layer), m.key, m.what))


def _too_old(tables: Sequence[tuple[str, Mapping[str, Any]]], daemon_version: str) -> str | None:
    for layer, table in tables:
        fault = _version_fault(table, daemon_version)
        if fault:
            return f"{layer}: {spelled(fault.place)}: {fault.what}"
    return None


def _version_fault(table: Mapping[str, Any], daemon_version: str) -> Fault | None:
    wanted = table.get("requires-daemon")
    try:
        if not isinstance(wanted, str) or satisfies(daemon_version, wanted):
            return None
    except ValueError:  # reported as a mistake already
        return None
    return Fault(("requires-daemon",), f"{wanted} is asked for; this daemon is {daemon_version}")


def addresses(merged: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """[node] manager-ip, and the rule for agent-ip: "auto", an address, or "interface:eth1"."""
    node = merged.get("node", {})
    return node.get("manager-ip"), node.get("agent-ip")
