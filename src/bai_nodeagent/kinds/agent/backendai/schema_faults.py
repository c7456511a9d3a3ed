"""What an agent of a given version makes of an agent.toml, before it reads it. Pure.

What it accepts is asked of that version (kinds/agent/backendai/validator.py). The rules here are
for where it can't be asked: guesses, which tests hold to the versions' own validators.
A key that is not here is the agent's affair. `pitfalls` is what no validator finds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ....agent_toml import as_address, as_endpoints, is_usable, managed
from ....model import KeyPath
from .validator import Answer

Version = tuple[int, ...]
Document = Mapping[str, Any]

PYDANTIC: Version = (25, 12)
"""From here on agent.toml is checked anew: other keys are required, and text is no range."""

ANNOUNCES: Version = (25, 12)
"""From here on an agent announces to others where its own service is: agent.announce-addr."""

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

_ALWAYS: Version = (999,)
# Key, and the versions that it is required from and up to.
_REQUIRED: tuple[tuple[KeyPath, Version, Version], ...] = (
    (("etcd",), (), _ALWAYS),
    (("container",), (), _ALWAYS),
    (("resource",), (), _ALWAYS),
    (("etcd", "addr"), PYDANTIC, (26,)),
    (("etcd", "namespace"), (), (26,)),
    (("container", "scratch-type"), (), (25, 18)),
    (("logging",), (24, 9), PYDANTIC),
)
_PLUGINS: tuple[tuple[KeyPath, KeyPath], ...] = tuple(
    (("agent", f"allow-{kind}-plugins"), ("agent", f"block-{kind}-plugins"))
    for kind in ("compute", "network")
)
_LISTS: tuple[KeyPath, ...] = (("resource", "allocation-order"), ("logging", "drivers"))
_CHOICES: Mapping[KeyPath, tuple[str, ...]] = {
    ("agent", "backend"): ("docker", "kubernetes", "dummy"),
    ("agent", "event-loop"): ("asyncio", "uvloop"),
    ("container", "scratch-type"): ("hostdir", "hostfile", "memory", "k8s-nfs"),
    ("container", "sandbox-type"): ("docker", "jail"),
}
_RPC: KeyPath = ("agent", "rpc-listen-addr")
_ETCD: KeyPath = ("etcd", "addr")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What an agent would make of an agent.toml.

    faults  why it would not start with it, or do something else than is meant
    guess   why it was not asked itself; "": it was
    """

    faults: tuple[str, ...] = ()
    guess: str = ""


NOBODY = Answer(None, ("it can't be asked here",))


def opinion(version: str, text: str, answer: Answer) -> Opinion:
    """Made of the agent's own answer, or of our rules where it has none."""
    own = tuple(pitfalls(text))
    if answer.accepts is None:
        return Opinion(own + faults(version, text), "; ".join(answer.why))
    return Opinion(own if answer.accepts else own + answer.why)


def version_of(text: str) -> Version:
    """ "26.8.3rc1" -> (26, 8, 3)."""
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0])[:3])


def pitfalls(text: str) -> Iterator[str]:
    """What some versions accept, or none of them checks, and what is not meant all the same."""
    if not is_usable(text.encode()):
        return
    found = managed(text, dict.fromkeys(key for pair in _PLUGINS for key in pair))
    for allowed, blocked in _PLUGINS:
        for key in (allowed, blocked):
            if isinstance(found.get(key), str):
                yield f"{_named(key)} is text, not a list: it would match nothing, or be refused"
        for item in _both(found.get(allowed), found.get(blocked)):
            yield f'"{item}" is in both {_named(allowed)} and {_named(blocked)}, which is fatal'


def faults(version: str, text: str) -> tuple[str, ...]:
    """What is fatal for that version in the text of an agent.toml, as far as we know."""
    if not is_usable(text.encode()):
        return ()  # for others to say
    # In one form: addresses may be spelled in several ways.
    places: dict[KeyPath, None] = dict.fromkeys(
        [
            *(key for key, _, _ in _REQUIRED), *_LISTS, *_CHOICES,
            ("agent", "id"), ("agent", "mode"), ("agent", "scaling-group"),
            ("container", "port-range"), _ETCD, (*_ETCD, "host"), (*_ETCD, "port"),
            _RPC, (*_RPC, "host"), (*_RPC, "port"),
        ]
    )  # fmt: skip
    found = managed(text, places)
    known = version_of(version)
    rules = (_missing(known, found), _misspelt(found), _renamed(known, found), _rpc(known, found))
    return tuple(sorted(fault for each in (*rules, _etcd(known, found)) for fault in each))


Found = Mapping[KeyPath, Any]


def _missing(version: Version, found: Found) -> Iterator[str]:
    for key, since, until in _REQUIRED:
        if since <= version < until and key not in found:
            hint = "; [node] manager-ip gives it" if key == _ETCD else ""
            yield f"{_named(key)} is missing{hint}"
    if ("agent", "backend") not in found and ("agent", "mode") not in found:
        yield 'agent.backend is missing, such as "docker"'


def _misspelt(found: Found) -> Iterator[str]:
    for key in _LISTS:
        if isinstance(found.get(key), str):
            yield f"{_named(key)} is text, not a list"
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
    if ("agent", "scaling-group") in found and version >= (26, 8):
        yield (
            "agent.scaling-group is fatal from 26.8 on: it is agent.initial-resource-group-name "
            "now; take the old one out by { unset = true }"
        )
    if isinstance(found.get(("container", "port-range")), str) and version >= PYDANTIC:
        yield "container.port-range is text, which this version refuses: a list of two numbers"


def _etcd(version: Version, found: Found) -> Iterator[str]:
    present = found.get(_ETCD)
    if isinstance(present, dict) and not {"host", "port"} <= present.keys():
        yield "etcd.addr needs both host and port"
    if not isinstance(present, list):
        return
    if as_address(present) and version >= (25, 13):
        yield "etcd.addr is [host, port], which this version takes for two endpoints"
    elif as_endpoints(present) and version < (25, 13):
        yield "etcd.addr is a list of endpoints, and this version takes one"


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
        return  # a name does where it can be resolved
    if address.is_link_local and not PYDANTIC <= version < (25, 16):
        yield "agent.rpc-listen-addr.host is link-local, which the agent refuses"
    if address.is_unspecified and version < PYDANTIC:
        yield f"agent.rpc-listen-addr.host is {address}, which this version refuses: name one"


def _named(key: KeyPath) -> str:
    return ".".join(key) if len(key) > 1 else f"[{key[0]}]"
