"""The agent as a process that the daemon itself starts: what to do about it. Pure.

The rules, in the order of their weight:

- never start a second agent: an agent that is found running is adopted;
- end what an earlier agent left behind before a start;
- the rest is in rules.py.

A restart is a stop. The start follows since a dead agent is to run, so nothing is
forgotten if the daemon crashes in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ....machine import Process
from ....model import Action, Plan, Status, Verdict
from ....system.ending import KILL_DEADLINE_S, ORPHAN_PATIENCE_S
from ..backendai.liveness import TROUBLE_INTERVAL_S, port_occupied
from ..backendai.log_patterns import Trouble, why_dead
from ..environment.rules import Switch
from ..record import Cause, Life
from ..sessions import SESSIONS_INTERVAL_S, HeldChange
from ..spec import OWN, AgentSpec, differing
from .actual import Actual, facts, pids
from .rules import (
    CAUSES,
    NoteWell,
    adopted_life,
    goes_on,
    judge_running,
    left_alone,
    link_repairs,
    must_wait_to_adopt,
)
from .starting import is_rescue, judge_dead, moves_before_start, start_needs, switches

# exec on a slow disk; on a hung one it never comes back.
START_DEADLINE_S = 30.0
_SLACK_S = 10.0
# Whoever goes into the background does so at once.
BACKGROUND_S = 30.0
BACKGROUND_INTERVAL_S = 10.0
_ENDED_WELL = "exit status 0"


@dataclass(frozen=True, kw_only=True)
class Adopt(Action):
    """Records an unrecorded agent: not started by us, or we crashed before recording its start."""

    verb: ClassVar[str] = "adopt"
    is_note: ClassVar[bool] = True
    life: Life

    @property
    def summary(self) -> str:
        return f"adopt the agent that runs as process {self.life.pid}"


@dataclass(frozen=True, kw_only=True)
class NoteEnd(Action):
    """Notes that the agent ended: as a death, unless we were about to end it."""

    verb: ClassVar[str] = "note_end"
    is_note: ClassVar[bool] = True
    at_s: float
    exit: str
    trouble: Trouble | None = None

    @property
    def summary(self) -> str:
        return f"note that the agent ended ({self.exit or 'how is not known'})"


@dataclass(frozen=True, kw_only=True)
class NoteBackground(Action):
    """Notes that the agent's main process has ended and the agent runs on in the background."""

    verb: ClassVar[str] = "note_background"
    is_note: ClassVar[bool] = True

    @property
    def summary(self) -> str:
        return "note that the agent went into the background"


@dataclass(frozen=True, kw_only=True)
class EndOrphans(Action):
    """Ends what an agent left behind when its main process died."""

    verb: ClassVar[str] = "end_orphans"
    processes: tuple[Process, ...]
    is_rescue: bool = False
    deadline_s: float = ORPHAN_PATIENCE_S + KILL_DEADLINE_S + _SLACK_S

    @property
    def summary(self) -> str:
        return f"end what is left of the agent: process {pids(self.processes)}"


@dataclass(frozen=True, kw_only=True)
class Start(Action):
    verb: ClassVar[str] = "start"
    cause: Cause
    restart_cause: str
    needs: tuple[str, ...]
    is_rescue: bool = False
    as_before: bool = False  # with what it ran with last: a change is held back
    deadline_s: float = START_DEADLINE_S + _SLACK_S

    @property
    def summary(self) -> str:
        how = ", with what it ran with before" if self.as_before else ""
        return f"start the agent ({CAUSES[self.cause]}{how})"


@dataclass(frozen=True, kw_only=True)
class Stop(Action):
    verb: ClassVar[str] = "stop"
    is_disruptive: ClassVar[bool] = True
    process: Process
    cause: Cause
    needs: tuple[str, ...]
    deadline_s: float

    @property
    def summary(self) -> str:
        return f"stop the agent, process {self.process.pid} ({CAUSES[self.cause]})"


ChildAction = Adopt | NoteEnd | NoteWell | NoteBackground | EndOrphans | Start | Stop | Switch


@dataclass(frozen=True, kw_only=True)
class ChildActual(Actual):
    """
    main     the recorded main process, if it is alive
    unrecorded  a living agent that is not in the record
    is_ours  `unrecorded` holds our lock, so the inputs recorded for a start are its inputs
    unit     the agent's systemd unit, when `unrecorded` runs in that
    orphans  what is left of the noted life without its main process
    background  those of `orphans` that may be the agent itself
    exit     how the noted life ended, where that is known
    """

    main: Process | None = None
    unrecorded: Process | None = None
    is_ours: bool = False
    unit: str = ""
    orphans: tuple[Process, ...] = ()
    background: tuple[Process, ...] = ()
    exit: str = ""


def plan_child(spec: AgentSpec, actual: ChildActual) -> Plan[ChildAction]:
    if actual.main is not None:
        return _plan_living(spec, actual, actual.main)
    if actual.unit:
        return Plan(_in_the_way(actual.unit))
    if actual.unrecorded is not None:
        return _plan_unrecorded(spec, actual, actual.unrecorded)
    if actual.orphans:
        return _plan_orphans(spec, actual)
    if actual.record.is_open:
        return _plan_end(spec, actual)
    if spec.state == "stopped":
        return Plan(Verdict(Status.TRUE, "Stopped"), switches(spec, actual))
    return _plan_dead(spec, actual)


def stop(spec: AgentSpec, main: Process, cause: Cause) -> Stop:
    """A stop for a change leads to a start, so it waits for whatever that one needs."""
    return Stop(
        process=main,
        cause=cause,
        needs=spec.needs if cause == "changed" else (),
        deadline_s=spec.stop_timeout_s + ORPHAN_PATIENCE_S + KILL_DEADLINE_S + _SLACK_S,
    )


def _start(spec: AgentSpec, actual: Actual, cause: Cause) -> Start:
    return Start(
        cause=cause,
        restart_cause=cause,
        needs=start_needs(spec, actual, cause),
        is_rescue=is_rescue(spec, actual, cause),
    )


def link_moved(back: tuple[Switch, ...]) -> Verdict:
    text = f"somebody has moved the link to the environment that the agent runs in: {back[0].path}"
    return Verdict(Status.FALSE, "LinkMoved", text)


def _plan_living(spec: AgentSpec, actual: ChildActual, main: Process) -> Plan[ChildAction]:
    if spec.state == "stopped" and (held := actual.risk.held):
        known = facts(actual, main)
        return Plan(goes_on(held), observe_again_in_s=SESSIONS_INTERVAL_S, facts=known)
    if spec.state == "stopped":
        verdict = Verdict(Status.UNKNOWN, "Stopping", f"process {main.pid} is to be stopped")
        return Plan(verdict, (stop(spec, main, "stopped"),), facts=facts(actual, main))
    if moved := link_repairs(spec, actual):
        return Plan(link_moved(moved), moved, facts=facts(actual, main))
    restart: tuple[ChildAction, ...] = (
        stop(spec, main, "changed"),
        *switches(spec, actual),
        _start(spec, actual, "changed"),
    )
    revive = (stop(spec, main, "died"), _start(spec, actual, "died"))
    return judge_running(spec, actual, main, restart, revive)


def _in_the_way(unit: str) -> Verdict:
    text = (
        f"{unit} runs the agent, and systemd would start it again: "
        f'`systemctl disable --now {unit}`, or [agent] supervisor = "systemd"'
    )
    return Verdict(Status.FALSE, "Blocked", text)


def _plan_unrecorded(
    spec: AgentSpec, actual: ChildActual, unrecorded: Process
) -> Plan[ChildAction]:
    noted = actual.record.life
    is_noted_start = actual.is_ours and noted is not None and noted.pid is None
    what = f"the agent runs as process {unrecorded.pid}"
    if not is_noted_start and must_wait_to_adopt(spec, actual):
        return left_alone(actual, what)
    life = noted if noted and is_noted_start else adopted_life(spec, actual, unrecorded)
    life = replace(
        life,
        pid=unrecorded.pid,
        start_ticks=unrecorded.start_ticks,
        is_leader=unrecorded.session == unrecorded.pid,
        started_s=unrecorded.started_s,
    )
    record = replace(actual.record, life=life, ending="")
    known = replace(actual, main=unrecorded, unrecorded=None, record=record)
    verdict = Verdict(Status.UNKNOWN, "Adopting", what)
    return Plan(verdict, (Adopt(life=life), *plan_child(spec, known).actions))


def _plan_orphans(spec: AgentSpec, actual: ChildActual) -> Plan[ChildAction]:
    if actual.background and spec.state == "running" and not _is_superseded(spec, actual):
        verdict, life = _in_background(actual.background), actual.record.life
        if life and life.is_background:
            return Plan(verdict, observe_again_in_s=BACKGROUND_INTERVAL_S)
        if _went_into_background(actual):
            return Plan(verdict, (NoteBackground(),))
    after = plan_child(spec, replace(actual, orphans=()))
    end = EndOrphans(processes=actual.orphans, is_rescue=is_rescue(spec, actual, "died"))
    return Plan(orphaned(actual.orphans), (end, *after.actions))


def _went_into_background(actual: ChildActual) -> bool:
    """Whether the main process exited soon, with status 0, and was not stopped by us."""
    record = actual.record
    lived_s = actual.now_s - record.life.started_s if record.life else BACKGROUND_S
    return (
        record.is_open
        and not record.ending
        and actual.exit == _ENDED_WELL
        and lived_s < BACKGROUND_S
    )


def _is_superseded(spec: AgentSpec, actual: ChildActual) -> bool:
    """Whether the document asks for another agent than the one in the background."""
    life = actual.record.life
    differs = differing(spec, actual.desired, life.inputs) if life else ()
    may = not actual.risk.held and not actual.obstacle and spec.restart == "auto"
    return may and any(part in OWN for part in differs)


def _in_background(those: tuple[Process, ...]) -> Verdict:
    text = (
        f"it went into the background (process {pids(those)}), where it can't be kept running; "
        "run it in the foreground: [agent] command must not end before the agent does"
    )
    return Verdict(Status.FALSE, "InBackground", text)


def orphaned(orphans: tuple[Process, ...]) -> Verdict:
    text = f"the agent's main process is gone, but its process {pids(orphans)} is still alive"
    return Verdict(Status.FALSE, "Orphaned", text)


def _plan_end(spec: AgentSpec, actual: ChildActual) -> Plan[ChildAction]:
    note = NoteEnd(
        at_s=actual.now_s, exit=actual.exit, trouble=why_dead(actual.output, actual.exit)
    )
    noted = replace(actual, record=actual.record.died(note.at_s, note.exit, note.trouble))
    after = plan_child(spec, noted)
    return replace(after, actions=(note, *after.actions))


def _plan_dead(spec: AgentSpec, actual: ChildActual) -> Plan[ChildAction]:
    if actual.occupied:  # a start would fail, and set back what stands in etcd of this agent
        return Plan(port_occupied(actual.occupied), observe_again_in_s=TROUBLE_INTERVAL_S)
    verdict, wait_s, cause = judge_dead(spec, actual)
    if wait_s > 0:
        return Plan(verdict, observe_again_in_s=wait_s)
    if held := actual.risk.held:
        return _plan_dead_and_held(spec, actual, held)
    moves = moves_before_start(spec, actual, cause)
    return Plan(verdict, (*moves, _start(spec, actual, cause)))


def _plan_dead_and_held(
    spec: AgentSpec, actual: ChildActual, held: HeldChange
) -> Plan[ChildAction]:
    """Starts the agent as before, since its sessions need it; agent.toml stays held back."""
    if actual.risk.before is None:
        text = f"{held.verdict.message}; the agent is down, and how it was started is not known"
        return Plan(replace(held.verdict, message=text), observe_again_in_s=SESSIONS_INTERVAL_S)
    needs = start_needs(spec, actual, "died")
    start = Start(cause="died", restart_cause="died", needs=needs, as_before=True)
    return Plan(held.verdict, (start,))
