"""The agent as a systemd unit."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from functools import partial

from ....core.watching import together
from ....errors import Refused, Stuck, Unavailable
from ....model import Host, NodeSpec, Plan, Wake
from ....system import ending, process
from ....system.systemd import Systemd, UnitState
from ..environment.rules import Switch
from ..record import Life, Record
from ..sessions import Launch
from ..spec import AgentSpec
from .child import (
    Adopt,
    EndOrphans,
    NoteEnd,
    Stop,
)
from .end_watch import EndWatch
from .health import HealthAction, NoteHealthy, NoteUnhealthy, RollBack, watched
from .memory import Memory
from .observe import LINES_READ, NAME, OBSERVE_DEADLINE_S, AgentContext, is_output_news
from .rules import NoteWell
from .search import SearchResult
from .unit import RestartUnit, StartUnit, StopUnit, UnitAction, UnitActual, plan_unit

# systemd forgets a unit that is down: then a run has been, and nobody knows its number.
_FORGOTTEN = "forgotten"


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
        is_read = is_output_news(record, main) and unit.load_state == "loaded"
        lines = await self._last_lines(unit) if is_read else ""
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
        child = self._context.search.main(record)
        if child is not None or unit.main_pid:
            return SearchResult(unrecorded=child, is_ours=child is not None)
        return await self._context.search.run(record, command)

    async def _last_lines(self, unit: UnitState) -> str:
        try:
            return await self._systemd.last_lines(unit, LINES_READ)
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
                await self._context.stop(main, cause)
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
                notes.update(
                    lambda record: record.ends(cause, process.now_s()).ended_by_us(process.now_s())
                )
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
    """As far as it is known from outside; None if it is not."""
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


def _gate_has_noted(record: Record) -> bool:
    """A job begins by marking the noted life as over or ending; only the gate takes that back."""
    return record.life is not None and not record.life.is_over and not record.ending
