"""Searches all processes for those of the agent, whoever started them.

The result decides about a start: never beside a living agent, and not before the processes
that an earlier agent left behind are ended.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....errors import Refused, Stuck
from ....machine import Process
from ....system import executable, files, kinship, launch, process, sockets
from ....system.blocking import in_thread
from ....system.executable import Executable, Traits
from ....system.kinship import Kinship
from ....text import clean
from ..backendai import release
from ..backendai.liveness import (
    A_CONNECTION,
    MAIN_TITLE,
    WORKER_TITLE,
    Endpoints,
    endpoints,
    is_backendai,
    pid_file,
)
from ..backendai.schema_faults import Version, version_of
from ..record import Record, config_text
from ..spec import AgentSpec

_PID_AT_MOST = 32  # bytes
NOBODY = -1  # an account


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search among all processes finds: fields as in ChildActual."""

    unrecorded: Process | None = None
    is_ours: bool = False
    unit: str = ""
    orphans: tuple[Process, ...] = ()
    background: tuple[Process, ...] = ()
    occupied: tuple[str, ...] = ()


class Search:
    """`lock` is held by an agent that we started, and by all that it forks. `asker` keeps
    concurrent searches apart."""

    def __init__(self, spec: AgentSpec, lock: Path, asker: str = "agent") -> None:
        self._spec = spec
        self._lock = lock
        self._asker = asker
        self._kinship = Kinship(lock)

    def main(self, record: Record) -> Process | None:
        """The recorded main process, if it lives."""
        at_s, life = process.now_s(), record.life
        main = process.find(life.pid, life.start_ticks) if life and life.pid else None
        if life and main and life.process:
            self._kinship.lives(life.process, at_s)
        return main

    async def run(self, record: Record, command: tuple[str, ...]) -> SearchResult:
        return await in_thread(
            f"{self._asker}: search of all processes",
            lambda: self._search(record, command),
            process.SCAN_DEADLINE_S,
        )

    def _search(self, record: Record, command: tuple[str, ...]) -> SearchResult:
        """Looks for the agent, that command, among all processes. Blocks."""
        everyone = process.living()
        leader = self._leader(record, everyone)
        if leader is not None:
            self._check_exec(leader)
            return SearchResult(unrecorded=leader, is_ours=True)
        left = self.left_behind(record)
        uids = self._uids()
        # By uid first: a process that can't be the agent costs one check, and nothing is read.
        others = [p for p in everyone if p not in left and _is_of(p, uids)]
        wanted = executable.executable(command, self._spec.workdir, self._search_path())
        unrecorded = self._by_command(others, everyone, command, wanted) if wanted else None
        left_over: set[Process] = set()
        found: tuple[sockets.Listener, ...] = ()
        if unrecorded is None and is_backendai(self._spec.health, command):
            text, env = config_text(self._spec), self._spec.env
            needed = endpoints(text, version_at(command), env)
            found = _occupants(needed)
            owners = {o.pid for o in found}
            unrecorded, left_over = self._by_title(
                others, wanted, owners, noted_pid(pid_file(text, env))
            )
        if unrecorded is not None:
            unit = process.unit_of(unrecorded)
            return SearchResult(unrecorded=unrecorded, unit=unit if unit == self._spec.unit else "")
        left |= left_over
        gone = {process.pid for process in left}
        occupied = described(o for o in found if o.pid not in gone)
        background = tuple(p for p in sorted(left) if self._may_be_whole(p, command))
        return SearchResult(orphans=tuple(sorted(left)), background=background, occupied=occupied)

    def _may_be_whole(self, orphan: Process, command: tuple[str, ...]) -> bool:
        """Whether it may be the agent itself, gone into the background, and no mere part of it."""
        if not is_backendai(self._spec.health, command):
            return True
        title = process.title_of(orphan)
        if title.startswith(WORKER_TITLE):
            return False
        return title.startswith(MAIN_TITLE) or is_backendai("auto", process.command_of(orphan))

    def _by_command(
        self,
        among: list[Process],
        everyone: list[Process],
        command: tuple[str, ...],
        wanted: Executable,
    ) -> Process | None:
        """The agent by its arguments, and by traits that a process can't choose for itself."""
        folder = self._folder()
        limit = process.ARGUMENTS_BYTES_AT_MOST + sum(
            len(os.fsencode(word)) + 1 for word in command
        )
        alike = [
            p
            for p in among
            if p.pid != os.getpid()
            and executable.has_arguments_of(process.command_of(p, limit), command, wanted)
            and (found := self._traits(p))
            and executable.runs(found, wanted)
            and found.folder == (folder or found.folder)
        ]
        tops = executable.topmost(alike, everyone)
        return min(tops, key=lambda each: (each.start_ticks, each.pid), default=None)

    def _by_title(
        self, among: list[Process], wanted: Executable | None, owners: set[int], noted: int
    ) -> tuple[Process | None, set[Process]]:
        """The agent by what it calls itself (it overwrites its arguments), and what is left of
        earlier ones without their main process.

        A title is no proof: the process must also be a Python of the agent's account. Another
        node's agent on this machine passes both checks. So ours is a process that listens on
        our ports; or one of our command's interpreter that works in our folder or is named by
        our pid-file, which a second agent would overwrite and then remove.
        """
        agents: dict[Process, tuple[str, Traits]] = {}
        for p in among:
            title = process.title_of(p)
            found = self._traits(p) if title.startswith(MAIN_TITLE) else None
            if found and executable.is_python(found.path):
                agents[p] = title, found
        mains = {p.pid: p for p in agents if not agents[p][0].startswith(WORKER_TITLE)}
        folder = self._folder()
        ours = {
            p
            for p, (_, found) in agents.items()
            if p.pid in owners
            or (
                (not wanted or not wanted.is_python or executable.runs(found, wanted))
                and (p.pid == noted or (folder and found.folder == folder))
            )
        }
        alive = [mains.get(p.pid) or mains.get(p.parent) for p in sorted(ours)]
        unrecorded = next((main for main in alive if main is not None), None)
        return unrecorded, {p for p in ours if p.pid not in mains and p.parent not in mains}

    def _traits(self, of: Process) -> Traits | None:
        """None for a process that can't be the agent: it has another account, or namespaces where
        paths and pids differ from ours. The agent's own unit may have such namespaces."""
        found = executable.traits(of)
        if found is None or not found.uids <= self._uids():
            return None
        return found if found.is_here or found.unit == self._spec.unit else None

    def _folder(self) -> str:
        """Where the agent works; "" where nobody has said so."""
        folder = os.path.realpath(self._spec.workdir)
        return "" if folder == "/" else folder

    def _search_path(self) -> str:
        return self._spec.env.get("PATH", launch.SEARCH_PATH)

    def left_behind(self, record: Record) -> set[Process]:
        """The living processes of an agent whose main process is dead. Blocks.

        None once the end is recorded: nothing was left then, and its pids may be reused.
        """
        life = record.life
        return self._kinship.of(life.process if life and not life.is_over else None)

    def _leader(self, record: Record, everyone: list[Process]) -> Process | None:
        """The main process of a start whose pid was never noted: the daemon was killed before."""
        if (record.life and record.life.pid) or not kinship.is_held(self._lock):
            return None
        holders = kinship.holders(self._lock, everyone)
        return next((p for p in sorted(holders) if p.session == p.pid), None)

    def _check_exec(self, leader: Process) -> None:
        """Raises Stuck while the child has not become the agent: it still shows our arguments."""
        if process.command_of(leader) == process.command_of(Process(os.getpid(), 0)):
            raise Stuck(
                f"the start of the agent hangs: {self._spec.workdir} or its program "
                "may be on a mount whose server is gone"
            )

    def _uids(self) -> set[int]:
        try:
            return {0, os.geteuid(), launch.account(self._spec.user).uid}
        except Refused:
            return {0, os.geteuid()}


def _occupants(needed: Endpoints) -> tuple[sockets.Listener, ...]:
    """Who has ports that the agent needs; uid NOBODY for an occupied port whose owner is
    hidden. Blocks."""
    occupied = [each for each in needed.all if sockets.is_occupied(each.host, each.port)]
    found = sockets.listeners({each.port for each in occupied})
    observed = {
        o for o in found for e in occupied if o.port == e.port and o.is_in_the_way_of(e.host)
    }
    others = {each.port for each in occupied} - {each.port for each in observed}
    observed |= {*sockets.connected(others)} if others else set()
    ports = {each.port for each in observed}
    unseen = [sockets.Listener(e.host, e.port, NOBODY) for e in occupied if e.port not in ports]
    return (*sorted(observed, key=lambda each: (each.port, each.pid)), *unseen)


def _is_of(one: Process, uids: set[int]) -> bool:
    try:
        return process.uid_of(one) in uids
    except OSError:
        return False  # gone


def version_at(command: Sequence[str]) -> Version:
    """Of the agent that a command runs; () if that is not known. Blocks."""
    found = release.find(command)
    return version_of(found.version) if found else ()


def noted_pid(file: Path | None) -> int:
    """What a pid-file says; 0 where it says nothing. The agent never checks it, nor do we.

    agent.toml names it, so it may be anything: a pipe, or /proc/kcore.
    """
    with contextlib.suppress(OSError, Refused, ValueError):
        return int(files.read_bounded(file, _PID_AT_MOST)) if file else 0
    return 0


def described(listeners: Iterable[sockets.Listener]) -> tuple[str, ...]:
    """Ports and who has them, for people."""
    return tuple(
        sorted({f"port {one.port} by {_how(one)}{_owner_text(one)}" for one in listeners}),
    )


def _how(one: sockets.Listener) -> str:
    return A_CONNECTION if one.is_connected else ""


def _owner_text(one: sockets.Listener) -> str:
    """Pid, name and account only: arguments are untrusted, and may hold secrets."""
    owner = process.find(one.pid) if one.pid else None
    if owner is None:
        return f"a process of {_account(one.uid)}" if one.uid != NOBODY else "a hidden process"
    return f"process {one.pid} ({process.name_of(owner)}, {_account(one.uid)})"


def _account(uid: int) -> str:
    try:
        return f"user {clean(pwd.getpwuid(uid).pw_name)}"
    except KeyError:
        return f"uid {uid}"
