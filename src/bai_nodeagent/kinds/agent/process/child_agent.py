"""The agent as a process that the daemon starts itself."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from ....core.watching import together
from ....model import Host, NodeSpec, Plan, Wake
from ....system import ending, launch, output, process
from ....system.blocking import in_thread
from ..environment.rules import Switch
from ..record import Cause, Life, Record
from ..sessions import launch_of
from ..spec import AgentSpec
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
from .end_watch import EndWatch
from .health import HealthAction, NoteHealthy, NoteUnhealthy, RollBack, watched
from .memory import Memory
from .observe import NAME, OBSERVE_DEADLINE_S, AgentContext, is_output_news
from .rules import NoteWell
from .search import SearchResult


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
        main = self._context.search.main(record)
        result = SearchResult()
        if main is None:
            result = await self._context.search.run(record, self.spec.command)
        log = Path(life.output) if life and life.output else self._context.logs[0]
        lines = output.tail(log) if is_output_news(record, main) else ""
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
                await self._context.stop(main, cause)
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


def _with_background(record: Record) -> Record:
    return replace(record, life=record.life and replace(record.life, is_background=True))
