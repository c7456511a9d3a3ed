"""What an agent of a given version makes of an agent.toml, before it reads it. Pure.

Held to the agents' own validators by tests. A key that is not here is the
agent's affair: unknown ones are kept by both lines, and mean nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..agent_toml import is_usable, managed
from ..model import KeyPath

Version = tuple[int, ...]
Document = Mapping[str, Any]

PYDANTIC: Version = (26, 8)
"""From here on agent.toml is checked anew: other keys are required, and strings are no lists."""
_TRAFARET_ENDS: Version = (24,)

# A file that is made from nothing: with an id and the address of etcd it starts.
MINIMAL = """\
[etcd]
namespace = "local"

[agent]
backend = "docker"

[container]
scratch-type = "hostdir"

[logging]
drivers = ["console"]

[logging.console]
colored = false
format = "simple"

[resource]

[debug]
"""

_REQUIRED: tuple[KeyPath, ...] = (("etcd",), ("container",), ("resource",))
_REQUIRED_ONCE: tuple[KeyPath, ...] = (
    ("etcd", "namespace"),
    ("container", "scratch-type"),
    ("logging",),
    ("debug",),
)
_LISTS: tuple[KeyPath, ...] = (
    ("agent", "allow-compute-plugins"),
    ("agent", "block-compute-plugins"),
    ("resource", "allocation-order"),
    ("logging", "drivers"),
)
_ALLOWED, _BLOCKED = _LISTS[:2]
_CHOICES: Mapping[KeyPath, tuple[str, ...]] = {
    ("agent", "backend"): ("docker", "kubernetes", "dummy"),
    ("agent", "event-loop"): ("asyncio", "uvloop"),
    ("container", "scratch-type"): ("hostdir", "hostfile", "memory", "k8s-nfs"),
    ("container", "sandbox-type"): ("docker", "jail"),
}
_RPC: KeyPath = ("agent", "rpc-listen-addr")


def version_of(text: str) -> Version:
    """ "26.8.3rc1" -> (26, 8, 3)."""
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0])[:3])


def faults(version: str, text: str) -> tuple[str, ...]:
    """What is fatal, or silently wrong, for that version in the text of an agent.toml."""
    if not is_usable(text.encode()):
        return ()  # for others to say
    # In one form: addresses may be spelled in several ways.
    places: dict[KeyPath, None] = dict.fromkeys(
        [
            *_REQUIRED, *_REQUIRED_ONCE, *_LISTS, *_CHOICES,
            ("agent", "id"), ("agent", "mode"), ("agent", "scaling-group"), ("etcd", "addr"),
            ("container", "port-range"), _RPC, (*_RPC, "host"), (*_RPC, "port"),
        ]
    )  # fmt: skip
    found = managed(text, places)
    known = version_of(version)
    rules = (_missing(known, found), _misspelt(found), _renamed(known, found), _rpc(known, found))
    return tuple(sorted(fault for each in rules for fault in each))


Found = Mapping[KeyPath, Any]


def _missing(version: Version, found: Found) -> Iterator[str]:
    required = _REQUIRED + (_REQUIRED_ONCE if version < _TRAFARET_ENDS else ())
    yield from (f"{_named(key)} is missing" for key in required if key not in found)
    if ("agent", "backend") not in found and ("agent", "mode") not in found:
        yield 'agent.backend is missing, such as "docker"'
    if ("etcd", "addr") not in found:
        yield "etcd.addr is missing; [node] manager-ip gives it"


def _misspelt(found: Found) -> Iterator[str]:
    for key in _LISTS:
        if isinstance(found.get(key), str):
            yield f"{_named(key)} is text, not a list: it would match nothing, or be refused"
    for item in _both(found.get(_ALLOWED), found.get(_BLOCKED)):
        yield f'"{item}" is in both {_named(_ALLOWED)} and {_named(_BLOCKED)}, which is fatal'
    for key, choices in _CHOICES.items():
        if key in found and found[key] not in choices:
            yield f"{_named(key)} is none of {', '.join(choices)}"
    if ("agent", "id") in found and not isinstance(found["agent", "id"], str):
        yield "agent.id is not text"


def _both(allowed: object, blocked: object) -> list[Any]:
    """Who manages one of the two lists may find the other in the file."""
    if not (isinstance(allowed, list) and isinstance(blocked, list)):
        return []
    return [item for item in allowed if item in blocked]


def _renamed(version: Version, found: Found) -> Iterator[str]:
    if version < PYDANTIC:
        return
    if ("agent", "scaling-group") in found:
        yield (
            "agent.scaling-group is fatal from 26.8 on: it is agent.initial-resource-group-name "
            "now; take the old one out by { unset = true }"
        )
    if isinstance(found.get(("container", "port-range")), str):
        yield "container.port-range is text, which 26.8 refuses: a list of two numbers"


def _rpc(version: Version, found: Found) -> Iterator[str]:
    if _RPC not in found:
        return
    host, port = found.get((*_RPC, "host")), found.get((*_RPC, "port"))
    if host is None or port is None:
        yield "agent.rpc-listen-addr needs both host and port"
        return
    try:
        address = ipaddress.ip_address(str(host))
    except ValueError:
        if host:
            yield "agent.rpc-listen-addr.host is a name: it has to be an address of this node"
        return
    if address.is_link_local:
        yield "agent.rpc-listen-addr.host is link-local, which the agent refuses"
    if address.is_unspecified and version < PYDANTIC:
        yield f"agent.rpc-listen-addr.host is {address}, which this version refuses: name one"


def _named(key: KeyPath) -> str:
    return ".".join(key) if len(key) > 1 else f"[{key[0]}]"
