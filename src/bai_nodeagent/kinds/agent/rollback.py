"""What the agent was healthy with last, and the way back to it. Pure.

Kept is what an agent reads at its start: agent.toml, and the inputs in `[agent]`
and `[plugins]`. Secrets are no part of it: they are never rolled back, since a
revoked password must not return. So in every place that holds a secret, then
or now, what is desired now stays.

A rollback is an order under the digest of the desired state that it gives up.
It is a change of what is desired: everything else follows from that, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...agent_toml import is_same, lookup, spelled
from ...desired import is_secret_place
from ...model import UNSET, KeyPath, NodeSpec, Verdict
from ...typed import toml_value, typed
from .sessions import HeldChange
from .spec import part_of

AGENT_INPUTS = ("command", "env", "install", "user", "workdir")
PLUGIN_INPUTS = ("allow", "block")
_CHANGES_LISTED = 10


@dataclass(frozen=True)
class Healthy:
    """With what the agent was healthy, secrets left out.

    file     agent.toml as the agent has read it
    agent    of `[agent]`: AGENT_INPUTS, as far as they are given
    plugins  of `[plugins]`: PLUGIN_INPUTS
    """

    file: Mapping[str, Any] = field(default_factory=dict, repr=False)
    agent: Mapping[str, Any] = field(default_factory=dict, repr=False)
    plugins: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollback:
    """
    digest   of the desired state that is given up
    why      for people
    changes  what is taken back, one by one, for people
    healthy  what is put back
    """

    digest: str
    why: str
    changes: tuple[str, ...]
    healthy: Healthy

    def __str__(self) -> str:
        more = len(self.changes) - _CHANGES_LISTED
        listed = "; ".join(self.changes[:_CHANGES_LISTED]) + (
            f"; and {more} more" if more > 0 else ""
        )
        return (
            f"{self.digest} is given up, since {self.why}; the agent was rolled back to its last "
            f"healthy inputs: {listed}. Tried again when the desired state changes, or after "
            "`bai-nodeagent retry`"
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What going back changes: a part of the inputs, and a line for people."""

    part: str
    line: str


@dataclass(frozen=True)
class RollbackState:
    """What is known of the last healthy inputs of the agent.

    healthy  with what it was healthy last; None: it never was, or nobody knows
    present  what would be kept if it is healthy now
    changes  what going back would change
    held     the rollback as a change that is held back; None: it may be done
    verdicts of the conditions that an agent relies on, as far as they are known
    digest   of the desired state in force
    inputs   keyed digest of what the agent is to run with
    """

    healthy: Healthy | None = None
    present: Healthy = field(default_factory=Healthy)
    changes: tuple[Change, ...] = ()
    held: HeldChange | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    digest: str = ""
    inputs: str = ""


def healthy_with(node: NodeSpec, file: Mapping[str, Any]) -> Healthy:
    """What is to be kept of an agent that is healthy with this desired state and agent.toml."""
    agent = _inputs(node, "agent", AGENT_INPUTS)
    if "env" in agent:
        agent["env"] = {k: v for k, v in agent["env"].items() if not _is_secret_variable(k, v)}
    is_secret = {*node.secret_paths}
    return Healthy(
        _without(file, lambda place: is_secret_place(place) or place in is_secret),
        agent,
        _inputs(node, "plugins", PLUGIN_INPUTS),
    )


def in_force(node: NodeSpec, order: Rollback | None) -> NodeSpec:
    """The desired state, or what a rollback makes of it."""
    if order is None or order.digest != node.digest:
        return node
    return replace(back(node, order.healthy), rolled_back=str(order))


def back(node: NodeSpec, healthy: Healthy) -> NodeSpec:
    """The desired state with the inputs that the agent was healthy with, and its own secrets."""
    document = dict(node.document)
    if "agent" in document:
        section = {**_but(document["agent"], AGENT_INPUTS), **healthy.agent}
        if env := _env(document["agent"].get("env", {}), healthy.agent.get("env", {})):
            section["env"] = env
        document["agent"] = section
    if "plugins" in document:
        document["plugins"] = {**_but(document["plugins"], PLUGIN_INPUTS), **healthy.plugins}
    values = None
    if node.agent_values is not None:
        values = dict(_values(node, healthy.file))
    return replace(node, document=document, agent_values=values)


def changes(node: NodeSpec, healthy: Healthy) -> tuple[Change, ...]:
    """What going back would change of this desired state; none if there is nothing to go back to.

    Only agent.toml's places and the inputs in `[agent]` count: `[plugins]` stands
    in agent.toml as well.
    """
    there = back(node, healthy)
    now_values, then_values = node.agent_values or {}, there.agent_values or {}
    found = []
    for place in sorted({*now_values, *then_values}):
        now, then = now_values.get(place, UNSET), then_values.get(place, UNSET)
        if not is_same(now, then):
            line = f"{'.'.join(place)}: {_shown(now)} instead of {_shown(then)}"
            found.append(Change(part_of(place), line))
    now_agent, then_agent = node.document.get("agent", {}), there.document.get("agent", {})
    for key in AGENT_INPUTS:
        now_value, then_value = now_agent.get(key), then_agent.get(key)
        if now_value != then_value:
            listed = _packages(now_value, then_value) if key == "install" else ""
            found.append(Change(key, f"[agent] {key}{listed}"))
    return tuple(found)


def _packages(now: Mapping[str, Any] | None, then: Mapping[str, Any] | None) -> str:
    """What differs between two `[agent.install]`, for people."""
    given_up, restored = (set(each["packages"]) if each else set() for each in (now, then))
    parts = [", ".join(sorted(given_up - restored)), ", ".join(sorted(restored - given_up))]
    return f": {parts[0] or 'nothing'} instead of {parts[1] or 'nothing'}" if any(parts) else ""


def encode(what: Healthy | Rollback) -> bytes:
    """As TOML, whose types are those of agent.toml."""
    pairs = vars(what)
    if isinstance(what, Rollback):
        pairs = {**pairs, "healthy": vars(what.healthy)}
    return "".join(f"{key} = {spelled(value)}\n" for key, value in pairs.items()).encode()


def decode_healthy(raw: bytes) -> Healthy:
    """Raises whatever the content asks for."""
    return _checked(typed(Healthy, toml_value(raw)))


def decode_rollback(raw: bytes) -> Rollback:
    """Raises whatever the content asks for."""
    order: Rollback = typed(Rollback, toml_value(raw))
    _checked(order.healthy)
    return order


@dataclass(frozen=True)
class _Agent:
    """The types of AGENT_INPUTS."""

    command: tuple[str, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    install: Mapping[str, Any] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""


@dataclass(frozen=True)
class _Plugins:
    """The types of PLUGIN_INPUTS."""

    allow: tuple[str, ...] = ()
    block: tuple[str, ...] = ()


def _checked(healthy: Healthy) -> Healthy:
    typed(_Agent, healthy.agent)
    typed(_Plugins, healthy.plugins)
    return healthy


def _inputs(node: NodeSpec, section: str, keys: tuple[str, ...]) -> dict[str, Any]:
    values = node.document.get(section, {})
    return {key: values[key] for key in keys if key in values}


def _but(section: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


def _is_secret_variable(name: str, value: object) -> bool:
    return not isinstance(value, str) or is_secret_place((name,))


def _env(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    secrets = {name: value for name, value in now.items() if _is_secret_variable(name, value)}
    return {**{name: value for name, value in then.items() if name not in secrets}, **secrets}


def _values(node: NodeSpec, file: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    for place, value in (node.agent_values or {}).items():
        is_spared = place in node.optional and place[0] not in file
        if place in node.secret_paths or is_spared:
            yield place, value
        elif value == {} and isinstance(lookup(file, place), dict):
            yield place, value  # only that there is a table is ours
        else:
            yield _read_at(file, place)


def _read_at(file: Mapping[str, Any], place: KeyPath) -> tuple[KeyPath, Any]:
    """The value at a place, or of the key above it that was no table."""
    for depth in range(1, len(place) + 1):
        value = lookup(file, place[:depth])
        is_address = depth == len(place) - 1 and lookup(file, place) is not UNSET
        if value is not UNSET and not isinstance(value, dict) and not is_address:
            return place[:depth], value
    return place, lookup(file, place)


def _without(value: Any, is_out: Callable[[KeyPath], bool], place: KeyPath = ()) -> Any:
    """A table without the places that are out, at any depth."""
    if isinstance(value, list):
        return [_without(item, is_out, place) for item in value]
    if not isinstance(value, Mapping):
        return value
    inner = {key: (*place, key) for key in value}
    return {
        key: _without(value[key], is_out, here) for key, here in inner.items() if not is_out(here)
    }


def _shown(value: object) -> str:
    return "nothing" if value is UNSET else spelled(value)
