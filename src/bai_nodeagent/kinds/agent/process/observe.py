"""What one observation finds out about the agent, under either supervisor."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import anyio

from ....errors import Refused, Stuck, Unavailable
from ....machine import Process
from ....model import AgentInput, Host, Inputs, Wake
from ....system import ending, output, process, sockets
from ....system.blocking import in_thread
from ..backendai.liveness import (
    START_S,
    WORKER_TITLE,
    Endpoint,
    Liveness,
    endpoints,
    is_backendai,
)
from ..backendai.schema_faults import Version
from ..environment import building, environments
from ..environment import rules as install
from ..environment.environments import Environments
from ..environment.spec import InstallSpec
from ..given import NOT_SHOWN, Given
from ..guard import LOCK, Guard
from ..record import (
    Cause,
    Life,
    Notes,
    Record,
    config_text,
    config_text_soon,
    due,
    found_of,
    located,
)
from ..sessions import Launch, launch_of
from ..spec import AgentSpec, desired_inputs, found_inputs
from . import rehearsal
from .actual import Actual
from .search import Search, described, version_at

NAME = "Agent"
OBSERVE_DEADLINE_S = 20.0
LINES_QUOTED = 10
# Of what an agent says in its troubles; a traceback is some 50 lines.
LINES_READ = 120


class AgentContext:
    """What both supervisors do alike: notes, inputs, questions."""

    def __init__(self, spec: AgentSpec, host: Host) -> None:
        self.spec = spec
        self.host = host
        self.notes = Notes.of(host)
        self._desired = desired_inputs(spec, host.digest)
        self.guard = Guard(spec, host, NAME)
        self.lock = host.runtime / LOCK
        self.logs = (host.state / "agent.log", host.runtime / "agent.log")
        self.given = Given(host.runtime, host.learn_passing)
        self.search = Search(spec, self.lock)
        self.not_switched = self._why_not_switched = ""

    def found(self, launch: Launch) -> Inputs:
        """The inputs that an agent which is started so now would find. Blocks."""
        spec = replace(
            self.spec,
            command=launch.command,
            workdir=Path(launch.workdir),
            user=launch.user,
            env=launch.env,
        )
        digest = self.host.digest
        inputs = {
            **found_inputs(spec, config_text(spec), digest),
            **install.found_part(located(spec), digest),
        }
        for each in spec.inputs:
            inputs |= found_of(each, self.host)
        return inputs

    def _found(self, text: str | None, others: Inputs, observed: Environments | None) -> Inputs:
        """`others`: the parts of other kinds."""
        digest = self.host.digest
        return {
            **found_inputs(self.spec, text, digest),
            **others,
            **install.found_part(observed, digest),
        }

    def launch(self, *, as_before: bool) -> Launch:
        """How the agent is to be started; remembered for when a change is held back."""
        wanted = launch_of(self.spec)
        launch = self.guard.kept() if as_before else None
        if launch is None:
            self.guard.keep(wanted)
        return launch or wanted

    async def found_now(self) -> Inputs:
        text, _ = await config_text_soon(self.spec, NAME)
        return self._found(text, self._found_of(await self._others()), await self._environments())

    async def _environments(self) -> Environments | None:
        """None: they are unmanaged, or can't be observed, which AgentEnvironment reports."""
        spec = self.spec.install
        try:
            return await environments.observe(spec.path, NAME) if spec else None
        except (Refused, Unavailable, Stuck):
            return None

    async def _others(self) -> list[tuple[AgentInput, Any]]:
        """The inputs of other kinds, each with its observation. One that can't be observed is left
        out: its own condition reports why, and the agent is kept alive without it."""
        found = []
        for each in self.spec.inputs:
            observe = partial(each.observe, self.host)
            with contextlib.suppress(OSError, Refused, Unavailable, Stuck):
                found.append(
                    (each, await in_thread(f"{NAME}: {each.name}", observe, each.deadline_s))
                )
        return found

    def _found_of(self, others: Iterable[tuple[AgentInput, Any]]) -> Inputs:
        parts = [each.found(observed, self.host.digest) for each, observed in others]
        return dict(chain.from_iterable(each.items() for each in parts))

    async def wake_at(self, each: AgentInput, wake: Wake) -> None:
        async for _ in each.changes(self.host, f"{NAME} (watch)"):
            wake()

    async def wake_at_environments(self, wake: Wake) -> None:
        """Wakes when an environment is there, or the link to the one in use is moved."""
        if self.spec.install is None:
            await anyio.sleep_forever()
        else:
            async for _ in environments.changes(self.spec.install.path, f"{NAME} (watch)"):
                wake()

    async def obstacle(
        self, launch: Launch | None, record: Record, desired: Inputs, observed: Environments | None
    ) -> str:
        """Why a start with the desired inputs would fail; "": it would not, or no restart is due.
        Checked before a living agent is stopped.

        If the environment is to change, a program is run in the new one.
        """
        life = record.life
        if life is None or not due(self.spec, desired, life):
            return ""
        name = install.due_switch(self.spec.install, observed)
        if self.spec.install and name:
            if name == self.not_switched:
                return self._why_not_switched
            place = environment_place(self.spec.install, self.host)
            if fault := await building.try_out(place, name):
                return fault
        if launch is None:
            return ""
        command, tried = launch.command, tuple[str, ...]()
        if self.spec.install and name:
            there = environments.folder_of(self.spec.install.path) / name
            command = (install.moved(command[0], self.spec.install.path, there), *command[1:])
            tried = (str(there / "bin/python"), "-c", "")
        try:
            return await in_thread(
                "agent: check of its start",
                lambda: rehearsal.obstacle(
                    command,
                    user=launch.user,
                    env=launch.env,
                    workdir=Path(launch.workdir),
                    tried=tried,
                ),
                rehearsal.DEADLINE_S,
            )
        except Stuck as error:
            return str(error)

    async def switch(self, to: install.Switch) -> None:
        """Raises as building.switch; after Refused the agent is kept in the old one."""
        if self.spec.install is None:
            return
        try:
            await building.switch(environment_place(self.spec.install, self.host), to.name)
        except Refused as error:
            self.not_switched, self._why_not_switched = to.name, error.message
            raise

    async def stop(self, main: Process, cause: Cause) -> None:
        self.notes.update(lambda record: record.ends(cause, process.now_s()))
        await ending.stop(main, self.lock, self.spec.stop_timeout_s)
        self.notes.update(lambda record: record.ended_by_us(process.now_s()).ended())

    async def common(
        self,
        record: Record,
        main: Process | None,
        lines: str,
        command: tuple[str, ...],
        launch: Launch | None,
        occupied: tuple[str, ...],
    ) -> Actual:
        """What both supervisors observe. `lines` is the output of this life, `command` what it
        runs. `launch` is how it is started; None: no rehearsal is possible.
        `occupied` as in Actual."""
        text, unread = await config_text_soon(self.spec, NAME)
        # After the text: if we have written that since the notes were read, they say so now.
        record = replace(record, wrote_s=self.notes.read().wrote_s)
        is_masked = self.given.observe(text or "")
        shown = self.host.redact(lines) if is_masked else NOT_SHOWN
        is_real = is_backendai(self.spec.health, command)
        liveness = (
            await self._liveness(main, record.life, command, text) if main and is_real else None
        )
        others, observed = await self._others(), await self._environments()
        now_s = process.now_s()
        epoch_s = time.time() - now_s
        desired = {
            **self._desired,
            **self._desired_of(others, record, now_s, epoch_s),
            **install.desired_part(self.spec.install, observed, self.host.digest),
        }
        found = self._found(text, self._found_of(others), observed)
        return Actual(
            now_s=now_s,
            epoch_s=epoch_s,
            record=record,
            desired=desired,
            found=found,
            unread=unread,
            occupied=occupied,
            last_lines=output.quoted(shown, LINES_QUOTED),
            output=shown if is_real else "",
            liveness=liveness,
            risk=await self.guard.observe(command, record, found, desired),
            sessions=await self._sessions(record, desired),
            environments=observed,
            not_switched=self.not_switched,
            obstacle=await self.obstacle(launch, record, desired, observed),
            entrusted=await self._entrusted(launch) if main else "",
        )

    async def _entrusted(self, launch: Launch | None) -> str:
        """A sentence on who besides root can change what runs as root; "": nobody can."""
        if launch is None or launch.user not in (None, "root") or os.geteuid() != 0:
            return ""
        with contextlib.suppress(Stuck):
            return await in_thread(
                "agent: owner of its program",
                lambda: rehearsal.entrusted(launch.command, launch.env, Path(launch.workdir)),
                process.SCAN_DEADLINE_S,
            )
        return ""

    async def _liveness(
        self, main: Process, life: Life | None, command: tuple[str, ...], text: str | None
    ) -> Liveness:
        def observe() -> tuple[list[Process], Process | None, Version, int | None]:
            family = process.below(main)
            worker = (p for p in family if process.title_of(p).startswith(WORKER_TITLE))
            return family, next(worker, None), version_at(command), _uid_of(main)

        found_now = await in_thread("agent: its worker", observe, process.SCAN_DEADLINE_S)
        family, worker, version, uid = found_now
        wanted = endpoints(text, version, self.spec.env)
        rpc = Endpoint.parse(life.rpc) if life and life.rpc else wanted.rpc
        frozen = tuple(p.pid for p in (main, worker) if p and process.is_frozen(p))
        answer = await sockets.ask(rpc.host, rpc.port) if rpc.host else "refuses"
        occupied: tuple[str, ...] = ()
        if answer != "greets" or not (life and life.well_s):
            # Listeners are found by a walk through all of /proc: skipped for an agent that works.
            found = await self._listeners(wanted.ports, sockets.listeners)
            pids = {p.pid for p in family}
            ours = {o for o in found if (o.pid in pids if o.pid else o.uid == uid)}
            own = next((o for o in found if o.port == rpc.port and o in ours), None)
            if own and not rpc.host:
                rpc = Endpoint(own.host, own.port)
                answer = await sockets.ask(rpc.host, rpc.port)
            strangers = [o for o in wanted.occupied(found) if o not in ours]
            if life and process.now_s() - life.started_s > START_S:
                # It may hang since a connection has a port of its own: those are many to examine.
                missing = wanted.ports - {o.port for o in found}
                strangers += wanted.occupied(await self._listeners(missing, sockets.connected))
            occupied = described(strangers)
            if answer == "greets" and any(o.port == rpc.port for o in strangers):
                answer = "refuses"  # it is a stranger that does
        return Liveness(worker, answer, str(rpc), frozen, occupied)

    async def _listeners(
        self,
        ports: frozenset[int],
        find: Callable[[frozenset[int]], tuple[sockets.Listener, ...]],
    ) -> tuple[sockets.Listener, ...]:
        return await in_thread(
            "agent: owners of its ports",
            lambda: find(ports),
            process.SCAN_DEADLINE_S,
        )

    def _desired_of(
        self,
        others: Iterable[tuple[AgentInput, Any]],
        record: Record,
        now_s: float,
        epoch_s: float,
    ) -> Inputs:
        life, desired = record.life, dict[str, str]()
        if life is None:
            return desired
        for each, observed in others:
            started_s = epoch_s + life.started_s
            desired |= each.desired(
                observed, life.inputs, started_s, epoch_s + now_s, self.host.digest
            )
        return desired

    async def _sessions(self, record: Record, desired: Inputs) -> int | None:
        life = record.life
        is_due = life is None or bool(due(self.spec, desired, life))
        if self.spec.restart != "idle" or not is_due:
            return None
        sessions = await self.guard.sessions()
        return None if sessions is None else sessions.count


def is_output_news(record: Record, main: Process | None) -> bool:
    """Whether the agent's output has something to report now."""
    return main is None or bool(record.deaths) or not (record.life and record.life.well_s)


def _uid_of(one: Process) -> int | None:
    with contextlib.suppress(OSError):  # it is gone
        return process.uid_of(one)
    return None


def environment_place(spec: InstallSpec, host: Host) -> building.Place:
    return building.Place(spec.path, spec.user, host.runtime / "agent-environment.lock")
