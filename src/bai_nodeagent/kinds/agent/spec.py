"""The typed `[agent]`, and the agent's inputs: desired, found and running. Pure.

Inputs are compared part by part, each as a keyed digest: a message can name what differs
without showing a value. A running agent is
recorded with every leaf of the agent.toml that it found, managed or not. So
a key that a document takes over with the value that it already has is no
reason for a restart, and neither is a key that nobody manages any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ... import toml
from ...agent_toml import lookup, managed
from ...desired.formats import duration_s
from ...model import ABSENT, UNSET, AgentInput, Digest, Inputs, KeyPath, NodeSpec
from .backendai.liveness import is_backendai
from .environment import rules as install
from .environment.spec import InstallSpec, install_spec

DEFAULT_UNIT = "backendai-agent.service"
STOP_TIMEOUT_S = 10.0
# Backend.AI's own main process gives its worker 5 s, and has to live through that.
STOP_TIMEOUT_LEAST_S = 7.0
HEALTH_TIMEOUT_S = 300.0

PRESENT = "present"
_FILE = "agent.toml"
OWN = ("command", "env", "user", "workdir")
# Key -> the agent's own default; None: it has none.
SACRED: Mapping[KeyPath, str | None] = {
    ("agent", "id"): None,
    ("agents",): None,
    ("agent", "var-base-path"): "./var/lib/backend.ai",
    ("agent", "ipc-base-path"): "/tmp/backend.ai/ipc",  # noqa: S108  (Backend.AI's own)
    ("container", "scratch-root"): "./scratches",
}
"""Where the agent looks for the registry of its sessions follows from these: sessions.py."""
# Of keys that no document names, each recorded for itself; more of them count as one.
OTHERS_AT_MOST = 2000
OTHERS_NAMES_AT_MOST = 64 << 10  # characters
_OTHERS = f"{_FILE} (all other keys)"
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class AgentSpec:
    """`[agent]`, with all of the document that bears on the agent.

    command         empty: only with the supervisor "systemd", whose unit has its own
    env             secrets filled in
    adopt           whether one that is found running may be restarted for that alone
    allow_session_loss  the digest of the one change that may cost running sessions
    on_unhealthy, health_timeout_s  what becomes of inputs with which it does not get healthy
    rolled_back     why the inputs are those of an earlier state; "": they are not
    relies_on       condition types of what an agent can't be healthy without
    config_path     None: agent.toml is unmanaged, and `values` is empty
    fingerprint     the values for comparison: 1 == True, but not here
    install         None: the environment that it runs in is unmanaged
    inputs          of other kinds, which the agent finds at its start
    needs           condition types that must hold before a start
    desired_digest  of the document; notes say by it what a process was started for
    """

    supervisor: Literal["child", "systemd"]
    state: Literal["running", "stopped"] = "running"
    restart: Literal["auto", "idle", "manual"] = "auto"
    adopt: Literal["restart", "as-is"] = "restart"
    health: Literal["auto", "process", "backendai"] = "auto"
    unit: str = DEFAULT_UNIT
    command: tuple[str, ...] = ()
    workdir: Path = Path("/")
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    stop_timeout_s: float = STOP_TIMEOUT_S
    allow_session_loss: str = ""
    on_unhealthy: Literal["hold", "rollback"] = "hold"
    health_timeout_s: float = HEALTH_TIMEOUT_S
    rolled_back: str = ""
    relies_on: tuple[str, ...] = ()
    agent_id: str = ""
    config_path: Path | None = None
    values: Mapping[KeyPath, Any] = field(default_factory=dict, repr=False, compare=False)
    fingerprint: str = field(default="", repr=False)
    optional: frozenset[KeyPath] = frozenset()
    install: InstallSpec | None = None
    inputs: tuple[AgentInput, ...] = ()
    needs: tuple[str, ...] = ()
    desired_digest: str = field(default="", compare=False)


def agent_spec(node: NodeSpec) -> AgentSpec:
    """The typed `[agent]` of a checked document, which must have one."""
    section = node.document["agent"]
    values = node.agent_values
    return AgentSpec(
        supervisor=section["supervisor"],
        state=section.get("state", "running"),
        restart=section.get("restart", "auto"),
        adopt=section.get("adopt", "restart"),
        health=section.get("health", "auto"),
        unit=section.get("unit", DEFAULT_UNIT),
        command=tuple(section.get("command", ())),
        workdir=Path(section.get("workdir", "/")),
        user=section.get("user"),
        env={name: _text(value, node.secrets) for name, value in section.get("env", {}).items()},
        stop_timeout_s=_stop_timeout_s(section),
        allow_session_loss=section.get("allow-session-loss", ""),
        on_unhealthy=section.get("on-unhealthy", "hold"),
        health_timeout_s=duration_s(section.get("health-timeout", f"{HEALTH_TIMEOUT_S:g}s")),
        rolled_back=node.rolled_back,
        relies_on=_relies_on(node),
        agent_id=(values or {}).get(("agent", "id"), node.node_id),
        config_path=None if values is None else node.agent_config_path,
        values=values or {},
        fingerprint=fingerprint(values or {}),
        optional=node.optional,
        install=install_spec(section),
        inputs=node.agent_inputs,
        needs=_needs(node),
        desired_digest=node.digest,
    )


def fingerprint(values: Mapping[KeyPath, Any]) -> str:
    """The same for equal values of the same types only. Holds secrets."""
    return repr(sorted(values.items(), key=lambda item: item[0]))


def _text(value: str | Mapping[str, str], secrets: Mapping[str, str]) -> str:
    return value if isinstance(value, str) else secrets[value["secret"]]


def _stop_timeout_s(section: Mapping[str, Any]) -> float:
    wanted_s = duration_s(section.get("stop-timeout", f"{STOP_TIMEOUT_S:g}s"))
    is_real = is_backendai(section.get("health", "auto"), section.get("command", ()))
    return max(wanted_s, STOP_TIMEOUT_LEAST_S) if is_real else wanted_s


def _needs(node: NodeSpec) -> tuple[str, ...]:
    mounts = [m["name"] for m in node.document.get("mount", ()) if m.get("required")]
    config = () if node.agent_values is None else ("AgentConfig",)
    environment = (install.NAME,) if "install" in node.document["agent"] else ()
    return (*config, *environment, *(f"Mount/{name}" for name in mounts))


def _relies_on(node: NodeSpec) -> tuple[str, ...]:
    mounts = (f"Mount/{mount['name']}" for mount in node.document.get("mount", ()))
    return ("Store", *(("Redis",) if "redis" in node.document else ()), *mounts)


def desired_inputs(spec: AgentSpec, digest: Digest) -> Inputs:
    """The inputs that the agent is to run with.

    ABSENT for what must not be in the file, PRESENT for what only has to be there.
    """
    rules = {place: _rule(value, digest) for place, value in spec.values.items()}
    return {**_own_parts(spec, digest), **{part_of(place): rule for place, rule in rules.items()}}


def _rule(value: Any, digest: Digest) -> str:
    if value is UNSET:
        return ABSENT
    return PRESENT if value == {} else digest(value)


def found_inputs(spec: AgentSpec, text: str | None, digest: Digest) -> Inputs:
    """The inputs of a process that starts while agent.toml reads `text` (None: no such file),
    but for those of other kinds.

    A file that is not TOML counts as an empty one: nobody knows what the
    agent makes of it.
    """
    own = _own_parts(spec, digest)
    if spec.config_path is None:
        return own
    try:
        document = toml.loads(text or "")
    except ValueError:
        return own
    # An address may be spelled in several ways; `managed` reads them all.
    values = {**dict(_leaves(document)), **managed(text or "", spec.values)}
    file = {part_of(at): value for at, value in values.items() if value is not UNSET}
    named = {part_of(place) for place in (*spec.values, *SACRED)}
    others = {part: value for part, value in file.items() if part not in named}
    if len(others) <= OTHERS_AT_MOST and sum(map(len, others)) <= OTHERS_NAMES_AT_MOST:
        return {**own, **{part: digest(value) for part, value in file.items()}}
    known = {part: digest(value) for part, value in file.items() if part in named}
    tables = {place for place, value in spec.values.items() if value == {}}
    tables |= {place[:1] for place in spec.optional}
    there = {part_of(place) for place in tables if isinstance(lookup(document, place), dict)}
    return {**own, **dict.fromkeys(there, PRESENT), **known, _OTHERS: digest(others)}


def as_read(text: str | None, inputs: Inputs, digest: Digest) -> dict[str, Any]:
    """What a process with these inputs has read of agent.toml, which may have changed since."""
    table: dict[str, Any] = {}
    try:
        document = toml.loads(text or "")
    except ValueError:
        return table
    leaves = dict(_leaves(document))
    others = {p: value for at, value in leaves.items() if (p := part_of(at)) not in inputs}
    are_others_read = _OTHERS in inputs and inputs[_OTHERS] == digest(others)
    for place, value in leaves.items():
        part = part_of(place)
        if inputs.get(part) == digest(value) or (are_others_read and part in others):
            above = table
            for key in place[:-1]:
                above = above.setdefault(key, {})
            above[place[-1]] = value
    return table


def is_in_step(spec: AgentSpec, desired: Inputs, found: Inputs) -> bool:
    """Whether agent.toml holds all that is desired in it: `found` is what a start would find."""
    return not is_of_file(differing(spec, desired, found))


def is_of_file(parts: Iterable[str]) -> bool:
    """Whether any of these parts is a key of agent.toml."""
    return any(part.startswith(f"{_FILE} ") for part in parts)


def differing(spec: AgentSpec, desired: Inputs, running: Inputs) -> tuple[str, ...]:
    """The parts in which a running agent is not as wanted.

    An optional place counts only for an agent that found its table.
    """
    spared = {part_of(place) for place in spec.optional if not _is_in(part_of(place[:1]), running)}
    return tuple(p for p in desired if p not in spared and not is_met(p, desired[p], running))


def is_met(part: str, rule: str, running: Inputs) -> bool:
    if rule in (ABSENT, PRESENT):
        return _is_in(part, running) is (rule == PRESENT)
    return running.get(part) == rule


def is_same_start(one: Inputs, other: Inputs) -> bool:
    """Whether two starts read the same of agent.toml, and run the same."""
    starts = [
        {part: value for part, value in each.items() if part in OWN or part.startswith(_FILE)}
        for each in (one, other)
    ]
    return bool(one) and starts[0] == starts[1]


def unread(desired: Inputs, running: Inputs, current: Inputs) -> tuple[str, ...]:
    """Keys of agent.toml that no document names and that changed after the agent read them."""
    changed = {part for part in {*running, *current} if running.get(part) != current.get(part)}
    return tuple(
        sorted(
            part
            for part in changed
            if part.startswith(f"{_FILE} ")
            and not any(_is_within(part, w) or _is_within(w, part) for w in desired)
        )
    )


def _own_parts(spec: AgentSpec, digest: Digest) -> Inputs:
    """What the daemon itself starts the agent with; empty with systemd, where the unit says it."""
    if spec.supervisor == "systemd":
        return {}
    return {
        "command": digest(list(spec.command)),
        "env": digest(dict(spec.env)),
        "user": digest(spec.user or ""),
        "workdir": digest(str(spec.workdir)),
    }


def part_of(place: KeyPath) -> str:
    """The name of a key of agent.toml among the inputs."""
    words = (word if _BARE.fullmatch(word) else json.dumps(word) for word in place)
    return f"{_FILE} {'.'.join(words)}"


def _is_within(part: str, outer: str) -> bool:
    return part == outer or part.startswith(f"{outer}.")


def _is_in(part: str, inputs: Inputs) -> bool:
    return any(_is_within(each, part) for each in inputs)


def _leaves(table: Mapping[str, Any], place: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*place, key))
        else:
            yield (*place, key), value
