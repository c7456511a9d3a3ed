"""What a document says about agent.toml, as leaves by their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..agent_toml.places import DEFAULT_PORTS, as_address
from ..errors import InvalidSpec, Mistake
from ..model import UNSET, KeyPath, Kind
from .check import bug
from .evaluate import addresses
from .places import SECRET_KEY, VALUES, is_secret, is_unset, secret_names, walk
from .secrecy import Place, is_secret_place

_MANAGER: tuple[KeyPath, ...] = (("etcd", "addr", "host"),)
_AGENT: tuple[KeyPath, ...] = (
    ("agent", "rpc-listen-addr", "host"),
    ("container", "bind-host"),
    ("watcher", "service-addr", "host"),
)
_CREATED = frozenset({"etcd", "agent", "container"})
"""Tables that are created for a derived value alone."""


@dataclass(frozen=True)
class AgentValues:
    """As in `NodeSpec`; `values` is None where nothing is said about agent.toml."""

    values: Mapping[KeyPath, Any] | None = field(repr=False)
    optional: frozenset[KeyPath]
    secret_paths: frozenset[KeyPath]


def agent_values(
    document: Mapping[str, Any],
    unresolved: frozenset[Place],
    secrets: Mapping[str, str],
    agent_ip: str | None,
    kinds: Sequence[Kind],
) -> AgentValues:
    """From the checked, expanded document. Leaves with an unresolved variable are left out,
    so that the value that is in the file stays there."""
    explicit = dict(_leaves(document.get("agent-config", {}).get("values", {}), ()))
    waiting = {text for place, text in walk(document) if place in unresolved}
    derived = {
        place: value
        for place, value in _derived(document, agent_ip, kinds).items()
        if not any(_overlap(place, other, item) for other, item in explicit.items())
        and not any(isinstance(text, str) and text in waiting for _, text in walk(value))
    }
    pending = _leaves_near(unresolved)
    known = {
        place: _filled(value, secrets)
        for place, value in explicit.items()
        if place not in pending and not _is_implied(place, value, derived)
    }
    is_managed = "agent-config" in document or derived or addresses(document) != (None, None)
    return AgentValues(
        values={**dict(_apart(known)), **derived} if is_managed else None,
        optional=frozenset(p for p in derived if not _is_created(p, known)),
        secret_paths=frozenset(
            place
            for place, value in {**explicit, **derived}.items()
            if _is_secret_leaf(place, value)
        ),
    )


def _leaves(table: Mapping[str, Any], place: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Tables flatten, however they are written; lists are leaves, and so is an empty table."""
    for key, value in table.items():
        here = (*place, key)
        if is_unset(value):
            yield here, UNSET
        elif isinstance(value, Mapping) and value and not is_secret(value):
            yield from _leaves(value, here)
        else:
            yield here, value


def _apart(values: Mapping[KeyPath, Any]) -> Iterator[tuple[KeyPath, Any]]:
    """Addresses by host and port, so that each is in a form that the version takes."""
    for place, value in values.items():
        address = as_address(value) if place in DEFAULT_PORTS else None
        if address is None:
            yield place, value
        else:
            yield from (((*place, name), part) for name, part in address.items())


def _derived(
    document: Mapping[str, Any], agent_ip: str | None, kinds: Sequence[Kind]
) -> dict[KeyPath, Any]:
    manager_ip, rule = addresses(document)
    values: dict[KeyPath, Any] = {}
    if manager_ip is not None:
        values |= dict.fromkeys(_MANAGER, manager_ip)
    if rule is not None and agent_ip is not None:
        values |= dict.fromkeys(_AGENT, agent_ip)
    for kind in kinds:
        if kind.section in document:
            try:
                values |= kind.agent_values(document[kind.section])
            except Exception as error:
                what = f"can't be put into agent.toml: {bug(error)}"
                raise InvalidSpec((Mistake("", kind.section, what),)) from error
    return values


def _leaves_near(unresolved: frozenset[Place]) -> set[Place]:
    """The places in agent.toml that a variable's place is, or lies in."""
    return {
        place[2:length]
        for place in unresolved
        if place[:2] == VALUES
        for length in range(len(VALUES) + 1, len(place) + 1)
    }


def _is_implied(place: KeyPath, value: object, derived: Collection[KeyPath]) -> bool:
    """Whether an empty table is there anyway, for the derived values in it."""
    return value == {} and any(below[: len(place)] == place for below in derived)


def _overlap(derived: KeyPath, explicit: KeyPath, value: object) -> bool:
    """Whether the explicit value speaks of the derived one's place, or of something in it."""
    if value == {}:  # "this table is there" contradicts nothing in it
        return derived == explicit
    shorter = min(len(derived), len(explicit))
    return derived[:shorter] == explicit[:shorter]


def _is_created(place: KeyPath, explicit: Mapping[KeyPath, Any]) -> bool:
    return place[0] in _CREATED or any(
        other[0] == place[0] and value is not UNSET for other, value in explicit.items()
    )


def _filled(value: Any, secrets: Mapping[str, str]) -> Any:
    if is_secret(value):
        return secrets[value[SECRET_KEY]]
    if isinstance(value, Mapping):
        return {key: _filled(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, secrets) for item in value]
    return value


def _is_secret_leaf(place: KeyPath, value: object) -> bool:
    return bool(secret_names(value)) or any(
        is_secret_place(inside) for inside, _ in walk(value, place)
    )
