"""How long the agent has been well, or unwell, and what follows from that. Pure.

- Inputs with which the agent has been healthy for a while are kept, for a rollback.
- If the document asks for it, inputs with which the agent does not get healthy in time
  are rolled back to those. Time counts only while everything that the agent relies on is
  well, and only for a fault that the change can have caused: an outage during a good
  change rolls nothing back.
- Nothing is rolled back if that could cost sessions, and nothing is rolled back twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ....model import Action, Plan, Status, Verdict
from ..record import STABLE_S, UnhealthyTime
from ..rollback import Healthy, Rollback, RollbackState, encode
from ..sessions import HeldChange
from ..spec import AgentSpec, differing
from .actual import Actual, moment

# How often time is counted, and the most that one observation may add: two observations
# further apart (a suspended machine) prove nothing about the time between them.
COUNT_EVERY_S = 2.0
COUNT_MOST_S = 10.0

_ETCD = ("agent.toml etcd.",)
_PORTS = ("agent.toml agent.rpc-listen-addr", "agent.toml agent.agent-sock-port")
_PORTS_OF_OTHERS = ("agent.toml agent.metadata-server-port",)
_CAUSES: Mapping[str, tuple[str, ...]] = {
    "EtcdUnreachable": _ETCD,
    "NoRedisAddress": _ETCD,
    "RedisRefuses": _ETCD,
    "RedisUnreachable": _ETCD,
    "WaitingForManager": _ETCD,
    "WaitingForRedis": _ETCD,
    "DockerUnreachable": ("env", "user"),
    "PortTaken": (*_PORTS, *_PORTS_OF_OTHERS),
    "BadUnit": (),
    "Blocked": (),
    "Frozen": (),
    "NoUnit": (),
    "Orphaned": (),
}
"""Reason -> the inputs that can be its cause; of a reason that is not here any may be."""

# That the manager does not see an agent is no trouble of Redis.
_NOT_OF_REDIS = frozenset({"NotSeen"})


@dataclass(frozen=True, kw_only=True)
class NoteHealthy(Action):
    """Keeps what the agent is healthy with, and ends the count of its unhealthy time."""

    verb: ClassVar[str] = "note_healthy"
    is_note: ClassVar[bool] = True
    healthy: Healthy

    @property
    def summary(self) -> str:
        return "keep the inputs that the agent is healthy with"


@dataclass(frozen=True, kw_only=True)
class NoteUnhealthy(Action):
    verb: ClassVar[str] = "note_unhealthy"
    is_note: ClassVar[bool] = True
    unhealthy: UnhealthyTime

    @property
    def summary(self) -> str:
        return f"note that the agent has been unhealthy for {self.unhealthy.unhealthy_s:.0f} s"


@dataclass(frozen=True, kw_only=True)
class RollBack(Action):
    """Gives up a desired state: the agent gets back what it was healthy with."""

    verb: ClassVar[str] = "roll_back"
    order: Rollback

    @property
    def summary(self) -> str:
        return f"roll back to the last healthy inputs ({len(self.order.changes)} changes)"


HealthAction = NoteHealthy | NoteUnhealthy | RollBack


def watched(spec: AgentSpec, actual: Actual, plan: Plan[Any]) -> Plan[Any]:
    """The plan for an agent, with what follows from its health so far."""
    life, rollback = actual.record.life, actual.rollback
    is_tried = life is not None and not differing(spec, actual.desired, life.inputs)
    if spec.state == "stopped" or not is_tried:
        return plan
    if plan.verdict.status is Status.TRUE:
        return _with_rollback(spec, _healthy(spec, actual, plan))
    if spec.on_unhealthy == "hold" or rollback.healthy is None or not rollback.changes:
        return plan
    return plan if spec.rolled_back else _unhealthy(spec, actual, rollback.healthy, plan)


def _healthy(spec: AgentSpec, actual: Actual, plan: Plan[Any]) -> Plan[Any]:
    life, rollback = actual.record.life, actual.rollback
    # As they are written: 1 == True, but not in agent.toml.
    is_kept = rollback.healthy is not None and encode(rollback.present) == encode(rollback.healthy)
    if life is None or (is_kept and actual.record.unhealthy is None):
        return plan
    left_s = (life.well_s or life.started_s) + settled_after_s(spec) - actual.now_s
    if left_s > 0:
        return replace(plan, observe_again_in_s=_sooner(plan.observe_again_in_s, left_s))
    return replace(plan, actions=(NoteHealthy(healthy=rollback.present), *plan.actions))


def settled_after_s(spec: AgentSpec) -> float:
    """How long an agent has to be well until that counts as healthy."""
    return min(STABLE_S, spec.health_timeout_s)


def _unhealthy(spec: AgentSpec, actual: Actual, healthy: Healthy, plan: Plan[Any]) -> Plan[Any]:
    rollback = actual.rollback
    obstacle = _why_not_counted(spec, rollback, plan.verdict)
    before = actual.record.unhealthy
    unhealthy = counted(before, rollback.inputs, actual.now_s, is_counting=obstacle is None)
    left_s = spec.health_timeout_s - unhealthy.unhealthy_s
    if left_s <= 0 and obstacle is None and rollback.held is None:
        cause = f"{plan.verdict.reason}: {plan.verdict.message}".rstrip(": ")
        why = f"the agent was not healthy for {spec.health_timeout_s:g} s ({cause})"
        lines = tuple(change.line for change in rollback.changes)
        order = Rollback(rollback.digest, why, lines, healthy)
        return replace(plan, actions=(RollBack(order=order),))
    due = moment(actual, actual.now_s + max(left_s, 0.0))
    text = f"{plan.verdict.message}; {_outlook(due, rollback.held, obstacle)}"
    note = (NoteUnhealthy(unhealthy=unhealthy),) if _is_worth_a_note(before, unhealthy) else ()
    return replace(
        plan,
        verdict=replace(plan.verdict, message=text),
        actions=(*note, *plan.actions),
        observe_again_in_s=_sooner(plan.observe_again_in_s, min(max(left_s, 0.1), COUNT_EVERY_S)),
    )


def _is_worth_a_note(before: UnhealthyTime | None, unhealthy: UnhealthyTime) -> bool:
    if before is None or (before.of, before.is_counting) != (unhealthy.of, unhealthy.is_counting):
        return True
    return unhealthy.is_counting and unhealthy.at_s - before.at_s >= COUNT_EVERY_S


def counted(
    before: UnhealthyTime | None, of: str, now_s: float, *, is_counting: bool
) -> UnhealthyTime:
    """The count at this observation. Time between two of them counts if it counted at both."""
    if before is None or before.of != of:
        return UnhealthyTime(of, 0.0, now_s, is_counting)
    passed_s = min(max(now_s - before.at_s, 0.0), COUNT_MOST_S)
    more_s = passed_s if before.is_counting and is_counting else 0.0
    return UnhealthyTime(of, before.unhealthy_s + more_s, now_s, is_counting)


def _why_not_counted(spec: AgentSpec, rollback: RollbackState, verdict: Verdict) -> str | None:
    """Why this time does not count, for people; None: it does."""
    for name in spec.relies_on:
        found = rollback.verdicts.get(name)
        if found is None or (found.status is not Status.TRUE and found.reason not in _NOT_OF_REDIS):
            return f"this time does not count, since {name} is not well"
    causes = _CAUSES.get(verdict.reason)
    if causes is None or any(change.part.startswith(causes) for change in rollback.changes):
        return None
    return "this time does not count, since the change can't have caused it"


def _outlook(due: str, held: HeldChange | None, obstacle: str | None) -> str:
    if held is not None:
        return f"it is not rolled back, since {held.verdict.message}"
    return obstacle or f"it is rolled back at {due} unless it gets healthy before then"


def _with_rollback(spec: AgentSpec, plan: Plan[Any]) -> Plan[Any]:
    """Without a managed agent.toml, no other condition reports a rollback."""
    if not spec.rolled_back or spec.config_path is not None:
        return plan
    return replace(plan, verdict=Verdict(Status.FALSE, "RolledBack", spec.rolled_back))


def _sooner(one_s: float | None, other_s: float) -> float:
    return other_s if one_s is None else min(one_s, other_s)
