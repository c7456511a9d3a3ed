"""The agent as a systemd unit: what to do about it. Pure.

systemd starts and restarts the agent; the daemon only queues jobs. systemd's own restarts
come first: the daemon acts only once systemd has given up. The inputs of a start are
recorded by `may-start`, the unit's gate, or by the daemon around a job. A run that is not
in the record is adopted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import ClassVar

from ....machine import Process
from ....model import Action, Plan, Status, Verdict
from ....system.systemd import UnitState
from ..backendai.liveness import TROUBLE_INTERVAL_S, port_occupied
from ..backendai.log_patterns import why_dead
from ..environment.rules import Switch
from ..record import Cause
from ..sessions import SESSIONS_INTERVAL_S
from ..spec import AgentSpec
from .actual import Actual, facts
from .child import Adopt, EndOrphans, NoteEnd, Stop, link_moved, orphaned, stop
from .rules import (
    CAUSES,
    OBSTACLE_INTERVAL_S,
    NoteWell,
    adopted_life,
    blocked,
    goes_on,
    judge_running,
    left_alone,
    link_repairs,
    must_wait_to_adopt,
)
from .starting import (
    died,
    is_looping,
    is_rescue,
    judge_dead,
    moves_before_start,
    start_needs,
    switches,
)

# A unit has time-outs of its own, 90 s each by default; they are waited for.
JOB_DEADLINE_S = 240.0
_AGAIN = "; systemd starts it again"


@dataclass(frozen=True, kw_only=True)
class StartUnit(Action):
    verb: ClassVar[str] = "start"
    unit: str
    has_failed: bool
    cause: Cause
    restart_cause: str
    needs: tuple[str, ...]
    is_rescue: bool = False
    deadline_s: float = JOB_DEADLINE_S

    @property
    def summary(self) -> str:
        reset = "forget its failure and " if self.has_failed else ""
        return f"{reset}start {self.unit} ({CAUSES[self.cause]})"


@dataclass(frozen=True, kw_only=True)
class RestartUnit(Action):
    verb: ClassVar[str] = "restart"
    is_disruptive: ClassVar[bool] = True
    unit: str
    needs: tuple[str, ...]
    cause: Cause = "changed"
    restart_cause: str = "changed"
    deadline_s: float = 2 * JOB_DEADLINE_S

    @property
    def summary(self) -> str:
        return f"restart {self.unit} ({CAUSES[self.cause]})"


@dataclass(frozen=True, kw_only=True)
class StopUnit(Action):
    """Stops the unit for good, or to start it in another environment; `needs` are that start's."""

    verb: ClassVar[str] = "stop"
    is_disruptive: ClassVar[bool] = True
    unit: str
    cause: Cause = "stopped"
    needs: tuple[str, ...] = ()
    deadline_s: float = JOB_DEADLINE_S

    @property
    def summary(self) -> str:
        return f"stop {self.unit} ({CAUSES[self.cause]})"


UnitAction = (
    Adopt | NoteEnd | NoteWell | EndOrphans | StartUnit | RestartUnit | StopUnit | Stop | Switch
)


@dataclass(frozen=True, kw_only=True)
class UnitActual(Actual):
    """
    main      the unit's main process
    outside   an agent that runs outside the unit
    is_child  of `outside`: we started it, when the supervisor was "child"
    orphans   of an earlier agent, outside of the unit, without their main process
    """

    unit: UnitState
    main: Process | None = None
    outside: Process | None = None
    is_child: bool = False
    orphans: tuple[Process, ...] = ()


def plan_unit(spec: AgentSpec, actual: UnitActual) -> Plan[UnitAction]:
    is_stopped = spec.state == "stopped"
    if not is_stopped and (fault := _fault(actual.unit)):
        return Plan(fault, facts=facts(actual, actual.main))
    if actual.outside is not None:
        return _plan_outside(spec, actual, actual.outside)
    match actual.unit.active_state:
        case "deactivating":
            text = f"{spec.unit} is being stopped"
            return Plan(Verdict(Status.UNKNOWN, "Stopping", text))
        case "inactive" | "failed":
            return _plan_down(spec, actual)
    if is_stopped and (held := actual.risk.held):
        verdict, known = goes_on(held), facts(actual, actual.main)
        return Plan(verdict, observe_again_in_s=SESSIONS_INTERVAL_S, facts=known)
    if is_stopped:
        verdict = Verdict(Status.UNKNOWN, "Stopping", f"{spec.unit} is to be stopped")
        return Plan(verdict, (StopUnit(unit=spec.unit),), facts=facts(actual, actual.main))
    if actual.unit.active_state == "activating":
        return _plan_activating(actual)
    return _plan_active(spec, actual)


def _fault(unit: UnitState) -> Verdict | None:
    match unit.load_state:
        case "loaded":
            return None
        case "masked":
            text = f"{unit.name} is masked; to let it start: `systemctl unmask {unit.name}`"
            return Verdict(Status.FALSE, "Blocked", text)
        case "not-found":
            text = f"there is no unit {unit.name}; install it, or name yours in [agent] unit"
            return Verdict(Status.FALSE, "NoUnit", text)
    text = f"systemd can't load {unit.name} ({unit.load_state}): `systemd-analyze verify` says why"
    return Verdict(Status.FALSE, "BadUnit", text)


def _plan_outside(spec: AgentSpec, actual: UnitActual, outside: Process) -> Plan[UnitAction]:
    """An agent that this daemon started as a child is stopped, so that the unit can take over.
    Any other is left to people."""
    if not actual.is_child:
        text = f"an agent runs outside {spec.unit}, as process {outside.pid}: end that process"
        return Plan(Verdict(Status.FALSE, "Blocked", text))
    known = facts(actual, outside)
    if held := actual.risk.held:
        return Plan(goes_on(held), observe_again_in_s=SESSIONS_INTERVAL_S, facts=known)
    if spec.state == "running" and actual.obstacle:
        return Plan(blocked(actual.obstacle), observe_again_in_s=OBSTACLE_INTERVAL_S, facts=known)
    text = f"process {outside.pid} makes way for {spec.unit}"
    cause: Cause = "stopped" if spec.state == "stopped" else "changed"
    return Plan(Verdict(Status.UNKNOWN, "Stopping", text), (stop(spec, outside, cause),))


def _plan_active(spec: AgentSpec, actual: UnitActual) -> Plan[UnitAction]:
    life = actual.record.life
    if life is None or life.is_over or life.invocation_id != actual.unit.invocation_id:
        if must_wait_to_adopt(spec, actual):
            return left_alone(actual, f"{spec.unit} is active")
        fresh = replace(
            adopted_life(spec, actual, actual.main), invocation_id=actual.unit.invocation_id
        )
        known = replace(actual, record=replace(actual.record, life=fresh, ending=""))
        verdict = Verdict(Status.UNKNOWN, "Adopting", f"{spec.unit} is active")
        return Plan(verdict, (Adopt(life=fresh), *plan_unit(spec, known).actions))
    if moved := link_repairs(spec, actual):
        return Plan(link_moved(moved), moved, facts=facts(actual, actual.main))
    restart = RestartUnit(unit=spec.unit, needs=spec.needs)
    needs = start_needs(spec, actual, "died")
    revive = replace(restart, cause="died", restart_cause="died", needs=needs)
    restarts: tuple[UnitAction, ...] = (restart,)
    if moving := switches(spec, actual):  # the link is switched while it is down
        down = StopUnit(unit=spec.unit, cause="changed", needs=spec.needs)
        restarts = (down, *moving, _start(spec, actual, "changed"))
    plan = judge_running(spec, actual, actual.main, restarts, (revive,))
    if plan.verdict.reason == "Running" and not _is_gated(actual.unit):
        return replace(plan, verdict=_ungated(spec.unit))
    return plan


def _is_gated(unit: UnitState) -> bool:
    return any(
        "may-start" in words and any("nodeagent" in PurePath(word).name for word in words)
        for words in unit.exec_conditions
    )


def _ungated(unit: str) -> Verdict:
    text = (
        f"it runs, but {unit} lacks ExecCondition= with `bai-nodeagent may-start`: "
        "systemd may start it before its mounts are there"
    )
    return Verdict(Status.TRUE, "Ungated", text)


def _plan_activating(actual: UnitActual) -> Plan[UnitAction]:
    """A unit that systemd restarts by itself has died too, and is reported in the same words."""
    unit, life = actual.unit, actual.record.life
    if unit.sub_state == "auto-restart":
        note = _end(actual)
        noted = replace(actual, record=actual.record.died(note.at_s, note.exit, note.trouble))
        if actual.record.is_open and life and life.invocation_id == unit.invocation_id:
            return Plan(died(noted, _AGAIN), (note,))
        return Plan(died(actual if actual.record.deaths else noted, _AGAIN))
    if is_looping(actual.record):
        return Plan(died(actual, "; it is starting again"))
    return Plan(Verdict(Status.UNKNOWN, "Starting", f"{unit.name} starts ({unit.sub_state})"))


def _end(actual: UnitActual) -> NoteEnd:
    how, record = f"systemd: {actual.unit.result}", actual.record
    trouble = why_dead(actual.output)
    # Its last lines may be missing: journald is late, or they were never written (seen with 23.09
    # on a busy machine). As long as it ends alike, the last known cause counts.
    if trouble is None and record.deaths and how == record.exit:
        trouble = record.trouble if record.is_dying_again(actual.now_s) else None
    return NoteEnd(at_s=actual.now_s, exit=how, trouble=trouble)


def _plan_down(spec: AgentSpec, actual: UnitActual) -> Plan[UnitAction]:
    if actual.record.is_open:
        note = _end(actual)
        noted = replace(actual, record=actual.record.died(note.at_s, note.exit, note.trouble))
        after = _plan_down(spec, noted)
        return replace(after, actions=(note, *after.actions))
    if actual.orphans:
        after = _plan_down(spec, replace(actual, orphans=()))
        end = EndOrphans(processes=actual.orphans, is_rescue=is_rescue(spec, actual, "died"))
        return Plan(orphaned(actual.orphans), (end, *after.actions))
    if spec.state == "stopped":
        return Plan(Verdict(Status.TRUE, "Stopped"), switches(spec, actual))
    if actual.occupied:
        return Plan(port_occupied(actual.occupied), observe_again_in_s=TROUBLE_INTERVAL_S)
    verdict, wait_s, cause = judge_dead(spec, actual)
    if wait_s > 0:
        return Plan(verdict, observe_again_in_s=wait_s)
    if actual.risk.held:
        verdict = actual.risk.held.verdict
    moves = moves_before_start(spec, actual, cause)
    return Plan(verdict, (*moves, _start(spec, actual, cause)))


def _start(spec: AgentSpec, actual: UnitActual, cause: Cause) -> StartUnit:
    return StartUnit(
        unit=spec.unit,
        has_failed=actual.unit.active_state == "failed",
        cause=cause,
        restart_cause=cause,
        needs=start_needs(spec, actual, cause),
        is_rescue=is_rescue(spec, actual, cause),
    )
