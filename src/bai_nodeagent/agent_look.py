"""What a look at the node finds of the agent, whoever supervises it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from .agent_record import Notes, Record, config_text, installed
from .agent_spec import AgentSpec, Inputs, differing, found, wanted, wanted_plugins
from .blocking import in_thread
from .model import Host, Refused, Stuck, Unavailable, Wake
from .plugin_rules import Environment
from .system import distributions, launch, output, process
from .system.process import Process

NAME = "Agent"
LINES_QUOTED = 10


@dataclass(frozen=True, slots=True)
class Around:
    """What a search among all processes finds: fields as in ChildActual."""

    stray: Process | None = None
    is_ours: bool = False
    unit: str = ""
    orphans: tuple[Process, ...] = ()


class Desk:
    """What both supervisors do alike: notes, inputs, questions."""

    def __init__(self, spec: AgentSpec, host: Host) -> None:
        self.spec = spec
        self.host = host
        self.notes = Notes(host.runtime)
        self._wants = wanted(spec, host.digest)
        self.lock = host.runtime / "agent.lock"
        self.log = host.state / "agent.log"

    def finds(self) -> Inputs:
        """The inputs that an agent which starts now would find. Blocks."""
        return self._finds(installed(self.spec))

    def _finds(self, plugins: Environment | None) -> Inputs:
        return found(self.spec, config_text(self.spec), self.host.digest, plugins)

    async def finds_now(self) -> Inputs:
        return self._finds(await self._plugins())

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
            async for _ in distributions.changes(self.spec.plugins, f"{NAME} (watch)"):
                wake()

    async def common(self, record: Record, main: Process | None, lines: str) -> dict[str, Any]:
        """The fields of Actual."""
        plugins = await self._plugins()
        now_s = process.now_s()
        epoch_s = time.time() - now_s
        wants = {**self._wants, **self._wanted_plugins(record, plugins, now_s, epoch_s)}
        return {
            "now_s": now_s,
            "epoch_s": epoch_s,
            "record": record,
            "wants": wants,
            "finds": self._finds(plugins),
            "written_s": _written_s(self.spec.config_path, epoch_s),
            "last_lines": output.quoted(self.host.redact(lines), LINES_QUOTED),
            "sessions": await self._sessions(record, main, wants),
        }

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

    async def _sessions(self, record: Record, main: Process | None, wants: Inputs) -> int | None:
        life = record.life
        if self.spec.restart != "idle" or main is None or life is None:
            return None
        if not differing(self.spec, wants, life.inputs):
            return None
        from .system import docker  # heavy, and only for this question

        try:
            return len(await docker.session_containers(self.spec.agent_id))
        except (Unavailable, Stuck):
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
        if stray is not None:
            unit = process.unit_of(stray)
            return Around(stray=stray, unit=unit if unit == self.spec.unit else "")
        return Around(orphans=tuple(sorted(left)))

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


def _written_s(path: Path | None, epoch_s: float) -> float | None:
    """When a file was last written, in seconds since boot; None: it is not there."""
    try:
        return path.stat().st_mtime - epoch_s if path else None
    except OSError:
        return None
