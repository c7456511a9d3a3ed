"""The agent process: kept running with the inputs that are desired.

What it runs with is noted when it starts (kinds/agent/record.py), compared with what
is desired (spec.py), and the rest follows by rule (rules.py, child.py, unit.py
there). This module observes, and applies one action.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from ....core.watching import together
from ....desired import duration_s
from ....model import AnyResource, Host, Kind, NodeSpec, Plan, Refused, Stuck, Unavailable, Wake
from ....system import ending, launch, output, process
from ....system.blocking import in_thread
from ....system.process import Process
from ....system.systemd import Systemd, UnitState
from ..environment.rules import Switch
from ..record import Cause, Life, Record
from ..section import SCHEMA, SECTION
from ..sessions import Launch, launch_of
from ..spec import AgentSpec, agent_spec
from .child import (
    START_DEADLINE_S,
    Adopt,
    ChildAction,
    ChildActual,
    EndOrphans,
    NoteBackground,
    NoteEnd,
    Start,
    Stop,
    plan_child,
)
from .health import NoteHealthy, NoteUnhealthy, RollBack, watched
from .memory import Memory
from .observe import LINES_READ, NAME, AgentContext, EndWatch
from .rules import NoteWell
from .search import SearchResult
from .unit import RestartUnit, StartUnit, StopUnit, UnitAction, UnitActual, plan_unit

OBSERVE_DEADLINE_S = 20.0
# systemd forgets a unit that is down: then a run has been, and nobody knows its number.
_FORGOTTEN = "forgotten"

HealthAction = NoteHealthy | NoteUnhealthy | RollBack


class ChildAgent:
    """The agent as a process that we start, in a session of its own, and that outlives us."""

    name = NAME
    deadline_s = OBSERVE_DEADLINE_S

    def __init__(self, spec: AgentSpec, node: NodeSpec, host: Host) -> None:
        self.spec = spec
        self._context = AgentContext(spec, host)
        self._memory = Memory(spec, node, host)
        self._end_watch = EndWatch()

    async def observe(self) -> ChildActual:
        actual = await self._observe()
        return replace(actual, rollback=await self._memory.observe(actual, self.spec.command))

    async def _observe(self) -> ChildActual:
        record = self._context.notes.read()
        life = record.life
        main = process.find(life.pid, life.start_ticks) if life and life.pid else None
        result = SearchResult()
        if main is None:
            result = await self._context.search.run(record, self.spec.command)
        log = Path(life.output) if life and life.output else self._context.logs[0]
        lines = output.tail(log) if _is_to_be_read(record, main) else ""
        common = await self._context.common(
            record, main, lines, self.spec.command, launch_of(self.spec), result.occupied
        )
        self._end_watch.follow(main, common.liveness)
        return ChildActual(
            main=main,
            unrecorded=result.unrecorded,
            is_ours=result.is_ours,
            unit=result.unit,
            orphans=result.orphans,
            background=result.background,
            exit=launch.exit_of(life.pid) if life and life.pid and main is None else "",
            **vars(common),
        )

    def plan(self, actual: ChildActual) -> Plan[ChildAction | HealthAction]:
        return watched(self.spec, actual, plan_child(self.spec, actual))

    async def apply(self, action: ChildAction | HealthAction) -> None:
        notes = self._context.notes
        match action:
            case Adopt(life=life):
                notes.update(lambda record: replace(record, life=life, ending=""))
            case NoteEnd(at_s=at_s, exit=how, trouble=trouble):
                notes.update(lambda record: record.died(at_s, how, trouble))
            case NoteWell(at_s=at_s, rpc=rpc):
                notes.update(lambda record: record.works(at_s, rpc))
            case NoteBackground():
                notes.update(_with_background)
            case EndOrphans(processes=left):
                await ending.end(left, lambda: self._context.search.left_behind(notes.read()))
            case Start(cause=cause, as_before=as_before):
                await in_thread(
                    "agent: start", lambda: self._launch(cause, as_before), START_DEADLINE_S
                )
            case Stop(process=main, cause=cause):
                await _stop(self._context, main, cause)
            case Switch():
                await self._context.switch(action)
            case NoteHealthy() | NoteUnhealthy() | RollBack():
                self._memory.keep(action)

    def _launch(self, cause: Cause, as_before: bool) -> None:
        """Starts the agent, with notes before and after. Blocks.

        The lock comes first, so that these notes can only be of a process
        that we start; and it is the process's own from fork on, so that it is
        found again with these notes when we are killed before we know its pid.
        """
        context = self._context
        with launch.held(context.lock) as lock_fd:
            now_s = process.now_s()
            how = context.launch(as_before=as_before)
            life = Life(
                context.found(how), started_s=now_s, desired_digest=self.spec.desired_digest
            )
            context.notes.update(lambda record: record.begins(life, cause, now_s))
            context.given.begin()
            log, unwritten = output.begin(
                context.logs, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            )
            main = launch.start(
                how.command,
                user=how.user,
                env=how.env,
                workdir=Path(how.workdir),
                output=log,
                lock_fd=lock_fd,
            )
            born = replace(
                life,
                pid=main.pid,
                start_ticks=main.start_ticks,
                started_s=main.started_s,
                output=str(log),
                unwritten=unwritten,
            )
            context.notes.update(lambda record: replace(record, life=born))

    async def watch(self, wake: Wake) -> None:
        await together(
            *(partial(output.keep_small, log) for log in self._context.logs),
            *(partial(self._context.wake_at, each, wake) for each in self.spec.inputs),
            lambda: self._context.wake_at_environments(wake),
            lambda: self._end_watch.wake(wake),
        )


class UnitAgent:
    """The agent as a systemd unit."""

    name = NAME
    deadline_s = OBSERVE_DEADLINE_S

    def __init__(self, spec: AgentSpec, node: NodeSpec, host: Host, systemd: Systemd) -> None:
        self.spec = spec
        self._context = AgentContext(spec, host)
        self._memory = Memory(spec, node, host)
        self._end_watch = EndWatch()
        self._systemd = systemd

    async def observe(self) -> UnitActual:
        actual = await self._observe()
        command = self.spec.command or next(iter(actual.unit.exec_start), ())
        return replace(actual, rollback=await self._memory.observe(actual, command))

    async def _observe(self) -> UnitActual:
        # The notes first: what `may-start` notes after this is of a later run
        # than the unit shows, and adopting that one leaves the note alone.
        record = self._context.notes.read()
        unit = await self._systemd.unit(self.spec.unit)
        main = process.find(unit.main_pid) if unit.main_pid else None
        command = self.spec.command or next(iter(unit.exec_start), ())
        result = await self._outside(record, unit, command)
        is_read = _is_to_be_read(record, main) and unit.load_state == "loaded"
        lines = await self._last_lines() if is_read else ""
        common = await self._context.common(
            record, main, lines, command, _launch_of_unit(unit), result.occupied
        )
        self._end_watch.follow(main, common.liveness)
        return UnitActual(
            unit=unit,
            main=main,
            outside=None if result.unit else result.unrecorded,
            is_child=result.is_ours,
            orphans=result.orphans,
            **vars(common),
        )

    async def _outside(
        self, record: Record, unit: UnitState, command: tuple[str, ...]
    ) -> SearchResult:
        """Agents beside the unit; `is_ours`: it is one that we started."""
        life = record.life
        child = process.find(life.pid, life.start_ticks) if life and life.pid else None
        if child is not None or unit.main_pid:
            return SearchResult(unrecorded=child, is_ours=child is not None)
        return await self._context.search.run(record, command)

    async def _last_lines(self) -> str:
        try:
            return await self._systemd.last_lines(self.spec.unit, LINES_READ)
        except (Unavailable, Refused, Stuck):
            return ""  # a comfort; the verdict stands without it

    def plan(self, actual: UnitActual) -> Plan[UnitAction | HealthAction]:
        return watched(self.spec, actual, plan_unit(self.spec, actual))

    async def apply(self, action: UnitAction | HealthAction) -> None:
        notes = self._context.notes
        match action:
            case Adopt(life=life):
                notes.update(lambda record: _with_run(record, life))
            case NoteEnd(at_s=at_s, exit=how, trouble=trouble):
                notes.update(lambda record: record.died(at_s, how, trouble))
            case NoteWell(at_s=at_s, rpc=rpc):
                notes.update(lambda record: record.works(at_s, rpc))
            case EndOrphans(processes=left):
                await ending.end(left, lambda: self._context.search.left_behind(notes.read()))
            case Stop(process=main, cause=cause):
                await _stop(self._context, main, cause)
            case StopUnit(unit=unit, cause=cause):
                notes.update(lambda record: record.ends(cause, process.now_s()))
                await self._systemd.stop(unit)
                notes.update(Record.ended)
            case StartUnit(unit=unit, cause=cause, has_failed=has_failed):
                notes.update(lambda record: record.begins(None, cause, process.now_s()))
                if has_failed:
                    await self._systemd.reset_failed(unit)
                await self._noting(self._systemd.start(unit))
            case RestartUnit(unit=unit, cause=cause):
                notes.update(lambda record: _ended_by_us(record.ends(cause, process.now_s())))
                await self._noting(self._systemd.restart(unit))
            case Switch():
                await self._context.switch(action)
            case NoteHealthy() | NoteUnhealthy() | RollBack():
                self._memory.keep(action)

    async def _noting(self, job: Awaitable[None]) -> None:
        """Notes what a unit found at its start, unless its own gate has done so."""
        inputs = await self._context.found_now()
        await job
        self._context.given.begin()
        unit = await self._systemd.unit(self.spec.unit)
        life = Life(
            inputs,
            invocation_id=unit.invocation_id or _FORGOTTEN,
            started_s=process.now_s(),
            desired_digest=self.spec.desired_digest,
        )
        self._context.notes.update(
            lambda record: (
                record if _gate_has_noted(record) else replace(record, life=life, ending="")
            )
        )

    async def watch(self, wake: Wake) -> None:
        await together(
            *(partial(self._context.wake_at, each, wake) for each in self.spec.inputs),
            lambda: self._context.wake_at_environments(wake),
            lambda: self._wake_at_changes(wake),
            lambda: self._end_watch.wake(wake),
        )

    async def _wake_at_changes(self, wake: Wake) -> None:
        async for _ in self._systemd.changes(self.spec.unit):
            wake()


def _launch_of_unit(unit: UnitState) -> Launch | None:
    """As far as it can be told from outside; None where it can't be."""
    command = next(iter(unit.exec_start), ())
    if unit.is_apart or not command or not command[0].startswith("/"):
        return None
    user = None if unit.user.isdecimal() else unit.user or None
    return Launch(command, unit.workdir or "/", user, {})


def _with_run(record: Record, life: Life) -> Record:
    """Notes a run of the unit that was found, unless its gate has noted it meanwhile."""
    noted = record.life
    if noted and not noted.is_over and noted.invocation_id == life.invocation_id:
        return record
    return replace(record, life=life, ending="")


def _with_background(record: Record) -> Record:
    return replace(record, life=record.life and replace(record.life, is_background=True))


def _gate_has_noted(record: Record) -> bool:
    """A job begins by marking the noted life as over or ending; only the gate takes that back."""
    return record.life is not None and not record.life.is_over and not record.ending


async def _stop(context: AgentContext, main: Process, cause: Cause) -> None:
    context.notes.update(lambda record: record.ends(cause, process.now_s()))
    await ending.stop(main, context.lock, context.spec.stop_timeout_s)
    context.notes.update(lambda record: _ended_by_us(record).ended())


def _ended_by_us(record: Record) -> Record:
    """One that we end since its worker is dead has died, and counts as such."""
    if record.ending != "died":
        return record
    return record.died(process.now_s(), "its main process lived on without its worker")


def _is_to_be_read(record: Record, main: Process | None) -> bool:
    """Whether the agent's output has something to tell now."""
    return main is None or bool(record.deaths) or not (record.life and record.life.well_s)


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    if SECTION not in node.document:
        return []
    spec = agent_spec(node)
    if spec.supervisor == "systemd":
        return [UnitAgent(spec, node, host, Systemd())]
    return [ChildAgent(spec, node, host)]


def _check(section: Mapping[str, Any]) -> Iterable[tuple[tuple[str | int, ...], str]]:
    if duration_s(section.get("health-timeout", "5m")) == 0:
        yield ("health-timeout",), "0 leaves an agent no time to start; leave it out for 5m"


KIND = Kind(
    section=SECTION,
    schema=SCHEMA,
    resources=_resources,
    check=_check,
    actions=get_args(ChildAction | UnitAction | HealthAction),
)
