"""Managed places in a parsed agent.toml: what is there, and what is left without them.

An address may be a table, "host:port" or as [host, port]; places
below it, such as etcd.addr.host, mean the same in all three.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..model import UNSET, KeyPath

Values = Mapping[KeyPath, Any]
"""Desired values by place. UNSET takes the key out; an empty dict: any table has to be there."""

# Backend.AI's own defaults.
DEFAULT_PORTS: Mapping[KeyPath, int] = {
    ("etcd", "addr"): 2379,
    ("agent", "rpc-listen-addr"): 6001,
    ("watcher", "service-addr"): 6009,
}

_ADDRESS = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]]*):(?P<port>[0-9]{1,5})")


def is_same(one: object, other: object) -> bool:
    """Equal in type and value, at any depth. Of a date or a time the offset counts as well."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


def is_met(found: object, desired: object) -> bool:
    return is_same(found, desired) or (desired == {} and isinstance(found, dict))


def lookup(document: Mapping[str, Any], path: KeyPath) -> Any:
    """The value at a place, addresses taken apart; UNSET if nothing is there."""
    here: Any = document
    for depth, name in enumerate(path, start=1):
        if depth == len(path) and is_of_an_address(path):
            here = as_address(here) or here
        if not isinstance(here, dict) or name not in here:
            return UNSET
        here = here[name]
    return here


def owned(values: Values) -> set[KeyPath]:
    """The places that are ours alone."""
    # A table that only has to be there is not ours with all that is in it; no
    # key of a real file has the name "".
    return {path if value != {} else (*path, "") for path, value in values.items()}


def rest(table: Mapping[str, Any], places: Collection[KeyPath]) -> dict[str, Any]:
    """A table without some places, and without the tables that this empties.

    Something else that stands where a place needs a table goes as well.
    """
    left: dict[str, Any] = {}
    under: dict[str, set[KeyPath]] = {}
    for path in places:
        under.setdefault(path[0], set()).add(path[1:])
    for name, value in table.items():
        below = under.get(name)
        if not below:
            left[name] = value
        elif () not in below and (inner := rest(_as_table(value, below), below)):
            left[name] = inner
    return left


def addresses(places: Iterable[KeyPath]) -> set[KeyPath]:
    """The addresses of which some of the places are the host or the port."""
    return {path[:-1] for path in places if is_of_an_address(path)}


def is_of_an_address(path: KeyPath) -> bool:
    return len(path) > 1 and path[-1] in ("host", "port")


def as_address(value: object) -> dict[str, Any] | None:
    """Host and port of an address that is no table; None if it is none."""
    if isinstance(value, str) and (match := _ADDRESS.fullmatch(value)):
        return {"host": match["host"].strip("[]"), "port": int(match["port"])}
    match value:
        case [str() as host, int() | str() as port] if str(port).isdecimal():
            return {"host": host, "port": port}
    return None


def as_endpoints(value: object) -> tuple[dict[str, Any], ...]:
    """Host and port of each of a list of addresses (25.13 and later); empty if it is none."""
    if not isinstance(value, list) or as_address(value):
        return ()
    found = [item if isinstance(item, dict) else as_address(item) for item in value]
    return tuple(each for each in found if each and {"host", "port"} <= each.keys())


def present(document: Mapping[str, Any], path: KeyPath, values: Values) -> Any:
    """As `lookup`; of a list of endpoints it is the desired one, or the first if it isn't there."""
    place = path[:-1]
    if is_of_an_address(path) and (many := as_endpoints(lookup(document, place))):
        asked = {
            name: values[key] for name in ("host", "port") if (key := (*place, name)) in values
        }
        fit = (each for each in many if all(is_same(each[n], v) for n, v in asked.items()))
        return next(fit, many[0])[path[-1]]
    return lookup(document, path)


def joined(address: Mapping[str, Any]) -> str | None:
    """The address as "host:port"; None where that would not say the same as the table."""
    host = address.get("host")
    bracketed = f"[{host}]" if isinstance(host, str) and ":" in host else host
    text = f"{bracketed}:{address.get('port')}"
    return text if is_same(as_address(text), dict(address)) else None


def _as_table(value: object, below: set[KeyPath]) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    return (below & {("host",), ("port",)} and as_address(value)) or {}
