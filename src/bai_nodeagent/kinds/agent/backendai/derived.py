"""What follows from the managed addresses for the rest of one agent.toml. Pure.

Values of documents are the same for every version and every file. These are not:
they complete what is there, and let move along what named the old address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from .... import toml
from ....agent_toml import DEFAULT_PORTS, Values, lookup, managed
from ....model import UNSET, KeyPath
from .schema_faults import ANNOUNCES, version_of

_RPC: KeyPath = ("agent", "rpc-listen-addr", "host")
_BIND: KeyPath = ("container", "bind-host")
# Keys that announce an address to others, and the address that they announce.
_FOLLOWERS: tuple[tuple[KeyPath, KeyPath], ...] = (
    (("agent", "advertised-rpc-addr", "host"), _RPC),
    (("agent", "public-host"), _RPC),
    (("agent", "service-addr", "host"), _RPC),
    (("agent", "internal-addr", "host"), _RPC),
    (("agent", "announce-addr", "host"), _RPC),
    (("agent", "announce-internal-addr", "host"), _RPC),
    (("container", "advertised-host"), _BIND),
)
# Both are names of one setting. By default it is a name that only a container can resolve.
_ANNOUNCED: tuple[KeyPath, ...] = (("agent", "announce-addr"), ("agent", "announce-internal-addr"))
_SERVICES: tuple[KeyPath, ...] = (
    ("agent", "service-addr", "port"),
    ("agent", "internal-addr", "port"),
)
_NOWHERE = "host.docker.internal"
_SERVICE_PORT = 6003


def derived(text: str, values: Values, version: str) -> dict[KeyPath, Any]:
    """More values for the agent.toml `text`, of a version that is to read it."""
    document = toml.loads(text)
    found = {
        **dict(_completed(document, values)),
        **dict(_moved(text, values)),
        **dict(_announced(document, values, version)),
    }
    return {place: value for place, value in found.items() if not _is_managed(place, values)}


def left_behind(text: str, values: Values) -> tuple[str, ...]:
    """The keys that announce an address which is none of the managed ones, for people."""
    found = managed(text, dict.fromkeys(place for place, _ in _FOLLOWERS))
    return tuple(
        f"{'.'.join(place)} is {found[place]}, and {'.'.join(leader)} is {values[leader]}"
        for place, leader in _FOLLOWERS
        if _is_usable(found.get(place)) and _is_usable(values.get(leader))
        if found[place] != values[leader] and not _is_managed(place, values)
    )


def _completed(document: Mapping[str, Any], values: Values) -> Iterator[tuple[KeyPath, Any]]:
    """The port of an address that is there without one."""
    for place, port in DEFAULT_PORTS.items():
        present = lookup(document, place)
        is_ours = values.get((*place, "host"), UNSET) is not UNSET
        if is_ours and isinstance(present, dict) and "port" not in present:
            yield (*place, "port"), port


def _moved(text: str, values: Values) -> Iterator[tuple[KeyPath, Any]]:
    leaders = {leader for _, leader in _FOLLOWERS}
    found = managed(text, dict.fromkeys([*leaders, *(place for place, _ in _FOLLOWERS)]))
    for place, leader in _FOLLOWERS:
        old = found.get(leader)
        if _is_usable(old) and found.get(place) == old and _is_usable(values.get(leader)):
            yield place, values[leader]


def _announced(
    document: Mapping[str, Any], values: Values, version: str
) -> Iterator[tuple[KeyPath, Any]]:
    if version_of(version) < ANNOUNCES or not _is_usable(values.get(_RPC)):
        return
    names = [name for name in _ANNOUNCED if lookup(document, name) is not UNSET]
    host = lookup(document, (*names[0], "host")) if names else _NOWHERE
    if host == _NOWHERE:
        place = names[0] if names else _ANNOUNCED[0]
        yield (*place, "host"), values[_RPC]
        if lookup(document, (*place, "port")) is UNSET:
            ports = (lookup(document, service) for service in _SERVICES)
            yield (*place, "port"), next((p for p in ports if p is not UNSET), _SERVICE_PORT)


def _is_managed(place: KeyPath, values: Values) -> bool:
    """Whether a document speaks of that place, or of one around or within it."""
    return any(
        place[: len(managed)] == managed or managed[: len(place)] == place
        for managed, value in values.items()
        if value != {}
    )


def _is_usable(address: object) -> bool:
    """An address at which others can reach this node."""
    try:
        found = ipaddress.ip_address(str(address))
    except ValueError:
        return False
    return not (found.is_unspecified or found.is_loopback)
