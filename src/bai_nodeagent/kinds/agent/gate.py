"""What `may-start` asks and notes, in the ExecCondition of the agent's unit.

It runs beside the daemon, also while that is down, and systemd waits for it: every call has a
deadline, and what gives no answer is not known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ...errors import Stuck
from ...model import Host, NodeSpec, Status, Verdict
from ...system import process
from ...system.blocking import within
from .environment import rules as install
from .environment.environments import Environments
from .record import CONFIG_DEADLINE_S, Life, Notes, config_text, found_of, located
from .spec import AgentSpec, agent_spec, found_inputs

T = TypeVar("T")


def record_start(host: Host, node: NodeSpec, invocation_id: str) -> None:
    """Notes that systemd is starting the agent now: for `may-start`, in the unit's ExecCondition.

    `invocation_id` is $INVOCATION_ID there; without one somebody merely asks.
    """
    if "agent" not in node.document or not invocation_id:
        return
    spec = agent_spec(node)
    if spec.supervisor != "systemd":
        return  # the notes are of a process that we started
    now_s = process.now_s()
    text = _in_time("read agent.toml", lambda: config_text(spec))
    inputs = {
        **found_inputs(spec, text, host.digest),
        **install.found_part(_located(spec), host.digest),
    }
    for each in spec.inputs:
        inputs |= _in_time(f"look for {each.name}", partial(found_of, each, host)) or {}
    life = Life(
        inputs=inputs,
        invocation_id=invocation_id,
        started_s=now_s,
        desired_digest=node.digest,
    )
    Notes.of(host).update(lambda record: replace(record, life=life, ending=""))


def _located(spec: AgentSpec) -> Environments | None:
    return _in_time("look for environments", lambda: located(spec))


def _in_time(what: str, observe: Callable[[], T | None]) -> T | None:
    """None where a share that hangs gives no answer: systemd does not wait for ever."""
    with contextlib.suppress(Stuck):
        return within(f"may-start: {what}", observe, CONFIG_DEADLINE_S)
    return None


def may_start(node: NodeSpec, verdicts: Mapping[str, Verdict]) -> str | None:
    """Why the agent may not start now, as a sentence; None when it may. Blocks.

    `verdicts` by condition type as the node is, at least of the required
    mounts. agent.toml is no reason: a start with an old one is put right by a
    restart, but a node whose file can't be written would stay without agent.
    """
    if "agent" not in node.document:
        return None
    spec = agent_spec(node)
    if spec.state == "stopped":
        return 'the desired state says [agent] state = "stopped"'
    mounts = node.document.get("mount", ())
    away = {f"Mount/{mount['name']}" for mount in mounts if mount.get("state") == "unmounted"}
    for need in spec.needs:
        verdict = verdicts.get(need)
        if need in away:
            return f'waits for {need} (required, and its desired state is "unmounted")'
        if need.startswith("Mount/") and (verdict is None or verdict.status is not Status.TRUE):
            why = f"{verdict.reason}: {verdict.message}" if verdict else "nothing is known of it"
            return f"waits for {need} ({why})"
    observed = _located(spec)
    if spec.install and not (observed and observed.link):
        return f"waits for {install.NAME}: nothing is at {spec.install.path} yet"
    return None
