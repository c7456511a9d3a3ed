"""What a look at the node finds of the agent, whoever supervises it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio

from ..blocking import in_thread
from ..model import Host, Refused, Stuck, Unavailable, Wake
from ..plugin_rules import Environment
from ..swarm import record as swarm_record
from ..swarm.inputs import found_part, wanted_part
from ..system import distributions, environments, inotify, launch, output, process, sockets
from ..system.environments import Environments
from ..system.process import Process
from . import install
from .guard import Guard
from .record import Life, Notes, Record, config_text, installed, located, remembered_swarm
from .sessions import Launch
from .signs import (
    MAIN_TITLE,
    WORKER_TITLE,
    Endpoint,
    Signs,
    endpoints,
    is_backendai,
    pid_file,
)
from .spec import AgentSpec, Inputs, differing, found, wanted, wanted_plugins

NAME = "Agent"
LINES_QUOTED = 10
# Of what an agent says in its troubles; a traceback is some 50 lines.
LINES_READ = 120


@dataclass(frozen=True, slots=True)
class Around:
    """What a search among all processes finds: fields as in ChildActual."""

    stray: Process | None = None
    is_ours: bool = False
    unit: str = ""
    orphans: tuple[Process, ...] = ()
    taken: tuple[str, ...] = ()


class Ends:
    """Wakes whoever looks at an agent when one of its two processes ends."""

    def __init__(self) -> None:
        self._followed: tuple[Process, ...] = ()
        self._moved = anyio.Event()

    def follow(self, main: Process | None, signs: Signs | None) -> None:
        """From now on these, as the last look has found them."""
        found = tuple(p for p in (main, signs.worker if signs else None) if p)
        if found != self._followed:
            self._followed, moved, self._moved = found, self._moved, anyio.Event()
            moved.set()

    async def wake(self, wake: Wake) -> None:
        while True:
            followed, moved = self._followed, self._moved
            async with anyio.create_task_group() as tasks:
                for each in followed:
                    tasks.start_soon(_wake_after, each, wake)
                await moved.wait()
                tasks.cancel_scope.cancel()


async def _wake_after(end_of: Process, wake: Wake) -> None:
    await process.ended(end_of)
    wake()


class Desk:
    """What both supervisors do alike: notes, inputs, questions."""

    def __init__(self, spec: AgentSpec, host: Host) -> None:
        self.spec = spec
        self.host = host
        self.notes = Notes(host.runtime)
        self._wants = wanted(spec, host.digest)
        self.guard = Guard(spec, host, NAME)
        self.lock = host.runtime / "agent.lock"
        self.log = host.state / "agent.log"

    def finds(self, launch: Launch) -> Inputs:
        """The inputs that an agent which is started so now would find. Blocks."""
        spec = replace(
            self.spec,
            command=launch.command,
            workdir=Path(launch.workdir),
            user=launch.user,
            env=launch.env,
        )
        inputs = found(spec, config_text(spec), self.host.digest, installed(spec))
        return self._with_more(inputs, located(spec))

    def _finds(self, plugins: Environment | None, seen: Environments | None) -> Inputs:
        inputs = found(self.spec, config_text(self.spec), self.host.digest, plugins)
        return self._with_more(inputs, seen)

    def _with_more(self, inputs: Inputs, seen: Environments | None) -> Inputs:
        digest = self.host.digest
        swarm = found_part(remembered_swarm(self.spec, self.host), digest)
        return {**inputs, **swarm, **install.found_part(seen, digest)}

    def launch(self, *, as_before: bool) -> Launch:
        """How the agent is to be started; remembered for when a change is held back."""
        spec = self.spec
        wanted = Launch(spec.command, str(spec.workdir), spec.user, spec.env)
        launch = self.guard.kept() if as_before else None
        if launch is None:
            self.guard.keep(wanted)
        return launch or wanted

    async def finds_now(self) -> Inputs:
        return self._finds(await self._plugins(), await self._environments())

    async def _environments(self) -> Environments | None:
        """None where they are unmanaged, or can't be looked at: AgentEnvironment tells of that."""
        spec = self.spec.install
        try:
            return await environments.look(spec.path, NAME) if spec else None
        except (Unavailable, Stuck):
            return None

    async def _plugins(self) -> Environment | None:
        """What is installed; None when that is unmanaged, or can't be told."""
        try:
            return await distributions.look(self.spec.plugins, NAME) if self.spec.plugins else None
        except (Unavailable, Stuck):
            return None  # for the condition Plugins to say; the agent is kept alive without

    async def wake_at_plugins(self, wake: Wake) -> None:
        """Wakes when packages come or go."""
        if self.spec.plugins is None:
            await anyio.sleep_forever()
        else:
            asker = f"{NAME} (watch)"
            async for _ in distributions.changes(self.spec.plugins, asker, are_settled=True):
                wake()

    async def wake_at_environments(self, wake: Wake) -> None:
        """Wakes when an environment is there, or the link to the one in use is moved."""
        if self.spec.install is None:
            await anyio.sleep_forever()
        else:
            async for _ in environments.changes(self.spec.install.path, f"{NAME} (watch)"):
                wake()

    async def switch(self, to: install.Switch) -> None:
        if self.spec.install is not None:
            await environments.switch(environment_place(self.spec.install, self.host), to.name)

    async def wake_at_swarm(self, wake: Wake) -> None:
        """Wakes when the node has come into a swarm."""
        if not self.spec.is_in_swarm:
            await anyio.sleep_forever()
        async for _ in inotify.changes([swarm_record.Notes(self.host.state).path]):
            wake()

    async def common(
        self, record: Record, main: Process | None, lines: str, command: tuple[str, ...]
    ) -> dict[str, Any]:
        """The fields of Actual. `lines` is the output of this life; `command` what it runs."""
        said = self.host.redact(lines)
        is_real = is_backendai(self.spec.health, command)
        signs = await self._signs(main, record.life) if main and is_real else None
        plugins, seen = await self._plugins(), await self._environments()
        now_s = process.now_s()
        epoch_s = time.time() - now_s
        wants = {
            **self._wants,
            **self._wanted_plugins(record, plugins, now_s, epoch_s),
            **self._wanted_swarm(record, epoch_s),
            **install.wanted_part(self.spec.install, seen, self.host.digest),
        }
        finds = self._finds(plugins, seen)
        return {
            "now_s": now_s,
            "epoch_s": epoch_s,
            "record": record,
            "wants": wants,
            "finds": finds,
            "written_s": _written_s(self.spec.config_path, epoch_s),
            "last_lines": output.quoted(said, LINES_QUOTED),
            "output": said if is_real else "",
            "signs": signs,
            "caution": await self.guard.look(command, record, finds),
            "sessions": await self._sessions(record, main, wants),
            "environments": seen,
        }

    async def _signs(self, main: Process, life: Life | None) -> Signs:
        def look() -> tuple[list[Process], Process | None]:
            family = process.below(main)
            worker = (p for p in family if process.title_of(p).startswith(WORKER_TITLE))
            return family, next(worker, None)

        family, worker = await in_thread("agent: its worker", look, process.SCAN_DEADLINE_S)
        wanted = endpoints(config_text(self.spec))
        rpc = Endpoint.parse(life.rpc) if life and life.rpc else wanted.rpc
        frozen = tuple(p.pid for p in (main, worker) if p and process.is_frozen(p))
        answer = await sockets.ask(rpc.host, rpc.port) if rpc.host else "refuses"
        taken: tuple[str, ...] = ()
        if answer != "greets" or not (life and life.well_s):
            # Who listens costs a walk through all of /proc: not asked of one that works.
            found = await self._listeners(wanted.ports)
            ours = {p.pid for p in family} | {0}
            own = next((o for o in found if o.port == rpc.port and o.pid in ours), None)
            if own and not rpc.host:
                rpc = Endpoint(own.host, own.port)
                answer = await sockets.ask(rpc.host, rpc.port)
            taken = _described(o for o in wanted.taken(found) if o.pid not in ours)
        if taken and answer == "greets":
            answer = "refuses"  # it is a stranger that does
        return Signs(worker, answer, str(rpc), frozen, taken)

    async def _listeners(self, ports: frozenset[int]) -> tuple[sockets.Listener, ...]:
        return await in_thread(
            "agent: who has its ports",
            lambda: sockets.listeners(ports),
            process.SCAN_DEADLINE_S,
        )

    def _wanted_plugins(
        self, record: Record, plugins: Environment | None, now_s: float, epoch_s: float
    ) -> Inputs:
        life = record.life
        if life is None:
            return {}
        started_s = epoch_s + life.started_s
        return wanted_plugins(
            self.spec, plugins, life.inputs, started_s, epoch_s + now_s, self.host.digest
        )

    def _wanted_swarm(self, record: Record, epoch_s: float) -> Inputs:
        life = record.life
        if life is None:
            return {}
        known = remembered_swarm(self.spec, self.host)
        return wanted_part(known, life.inputs, epoch_s + life.started_s, self.host.digest)

    async def _sessions(self, record: Record, main: Process | None, wants: Inputs) -> int | None:
        life = record.life
        if self.spec.restart != "idle" or main is None or life is None:
            return None
        if not differing(self.spec, wants, life.inputs):
            return None
        from ..system import docker  # heavy, and only for this question

        try:
            return len(await docker.sessions([self.spec.agent_id], "restart"))
        except Unavailable:
            return None

    async def around(self, record: Record, command: tuple[str, ...]) -> Around:
        return await in_thread(
            "agent: who lives", lambda: self._search(record, command), process.SCAN_DEADLINE_S
        )

    def _search(self, record: Record, command: tuple[str, ...]) -> Around:
        """Looks for the agent, that command, among all processes. Blocks."""
        everyone = process.living()
        leader = self._leader(record, everyone)
        if leader is not None:
            self._check_exec(leader)
            return Around(stray=leader, is_ours=True)
        left = self.left_behind(record)
        others = [p for p in everyone if p not in left]
        stray = process.matching(command, self._uids(), others) if command else None
        estranged: set[Process] = set()
        found: tuple[sockets.Listener, ...] = ()
        if stray is None and is_backendai(self.spec.health, command):
            text = config_text(self.spec)
            needed = endpoints(text)
            found = needed.taken(sockets.listeners(needed.ports))
            owners = {o.pid for o in found} | {_noted_pid(pid_file(text))}
            stray, estranged = self._by_title(others, owners)
        if stray is not None:
            unit = process.unit_of(stray)
            return Around(stray=stray, unit=unit if unit == self.spec.unit else "")
        left |= estranged
        gone = {process.pid for process in left}
        taken = _described(o for o in found if o.pid not in gone)
        return Around(orphans=tuple(sorted(left)), taken=taken)

    def _by_title(
        self, everyone: list[Process], owners: set[int]
    ) -> tuple[Process | None, set[Process]]:
        """The agent by what it calls itself (it overwrites its arguments), and what is left of
        earlier ones without their main process.

        Another node's agent on this machine has the same titles: so ours is
        who has our ports, works in our folder, or stands in our pid-file, which a
        second agent would overwrite and then remove.
        """
        uids, folder = self._uids(), str(self.spec.workdir)
        agents = {
            p: title
            for p in everyone
            if (title := process.title_of(p)).startswith(MAIN_TITLE) and process.is_near(p, uids)
        }
        mains = {p.pid: p for p in agents if not agents[p].startswith(WORKER_TITLE)}
        ours = {
            p
            for p in agents
            if p.pid in owners or (folder != "/" and process.folder_of(p) == folder)
        }
        alive = [mains.get(p.pid) or mains.get(p.parent) for p in sorted(ours)]
        stray = next((main for main in alive if main is not None), None)
        return stray, {p for p in ours if p.pid not in mains and p.parent not in mains}

    def left_behind(self, record: Record) -> set[Process]:
        """What lives of an agent whose main process does not. Blocks.

        Once an end is noted nothing was left, and its numbers may be others' by now.
        """
        life = record.life
        return process.kin(life.process if life and not life.is_over else None, self.lock)

    def _leader(self, record: Record, everyone: list[Process]) -> Process | None:
        """The main process that we started without living to note its pid."""
        if (record.life and record.life.pid) or not process.is_held(self.lock):
            return None
        holders = process.holders(self.lock, everyone)
        return next((p for p in sorted(holders) if p.session == p.pid), None)

    def _check_exec(self, leader: Process) -> None:
        """A child of ours that has not become the agent yet still shows our own arguments."""
        if process.command_of(leader) == process.command_of(Process(os.getpid(), 0)):
            raise Stuck(
                f"the start of the agent hangs: {self.spec.workdir} or its program "
                "may be on a mount whose server is gone"
            )

    def _uids(self) -> set[int]:
        try:
            return {0, os.geteuid(), launch.account(self.spec.user).uid}
        except Refused:
            return {0, os.geteuid()}


def environment_place(spec: install.InstallSpec, host: Host) -> environments.Place:
    return environments.Place(spec.path, spec.user, host.runtime / "agent-environment.lock")


def _noted_pid(file: Path | None) -> int:
    """What a pid-file says; 0 where it says nothing. The agent never checks it, nor do we."""
    try:
        text = file.read_text(errors="replace").strip() if file and file.is_file() else ""
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def _described(listeners: Iterable[sockets.Listener]) -> tuple[str, ...]:
    """Ports and who has them, for people."""
    return tuple(
        sorted({f"port {one.port} by {_who(one.pid)}" for one in listeners}),
    )


def _who(pid: int) -> str:
    owner = process.find(pid) if pid else None
    if owner is None:
        return "a process that we may not see"
    return f"process {pid} ({process.title_of(owner)[:60]})"


def _written_s(path: Path | None, epoch_s: float) -> float | None:
    """When a file was last written, in seconds since boot; None: it is not there."""
    try:
        return path.stat().st_mtime - epoch_s if path else None
    except OSError:
        return None
