"""Mounts of this node: the kernel's table and its changes, mounting, and probes.

This process reads /proc alone. Whatever touches a path that may lie on a dead
share is asked of a helper process: see `helper`, `mount_questions`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import json
import os
import select
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import anyio

from ...errors import Refused, Stuck, Unavailable
from ...system import files, helper, kept
from ...system.helper import Hangs, Outstanding
from ...system.programs import program
from ...typed import json_value, typed
from . import mountinfo
from . import questions as mount_questions
from .mountinfo import MountEntry, Table

PROBE_DEADLINE_S = 5.0
MOUNT_DEADLINE_S = 25.0
UNMOUNT_DEADLINE_S = 15.0
# A wait that the kernel has lost never ends: then a fresh one is begun.
SENTINEL_PATIENCE_S = 60.0
_PAUSE_S = 2.0
_TABLE = Path("/proc/self/mountinfo")
TABLE_AT_MOST = 32 << 20  # bytes; the kernel allows 100,000 mounts in a namespace
T = TypeVar("T")
Note = dict[str, Any]
"""What a helper process has answered, or what is noted in a file."""

# Its text, read now: the file may be gone or another one after an upgrade.
_ASK = (sys.executable, "-I", "-S", "-c", Path(mount_questions.__file__).read_text())


def table() -> Table:
    """What is mounted in our namespace. Raises Unavailable where /proc doesn't say."""
    try:
        return _ours(files.read_bounded(_TABLE, TABLE_AT_MOST))
    except (OSError, ValueError, Refused) as error:
        raise Unavailable(f"{_TABLE}: {error}") from error


@lru_cache(maxsize=1)
def _ours(raw: bytes) -> Table:
    """The newest is kept: each event is one for every item of a document."""
    return _parsed(raw)


def read_table(path: Path) -> Table:
    """Of any process. Raises OSError, ValueError, and Refused: anybody can make that of his own
    namespace TooLarge."""
    return _parsed(files.read_bounded(path, TABLE_AT_MOST))


def _parsed(raw: bytes) -> Table:
    """As bytes: reading text would take a carriage return in a path for a line's end."""
    return mountinfo.parse(os.fsdecode(raw))


def is_private() -> bool:
    """Whether what we mount stays hidden from the host: PID 1 has another namespace.

    Where we may not see that one, we are no root either, and can't mount at all.
    """
    try:
        return os.readlink("/proc/self/ns/mnt") != os.readlink("/proc/1/ns/mnt")  # noqa: PTH115
    except OSError:
        return False


async def changes() -> AsyncIterator[None]:
    """Yields once when the watch is in place, and then whenever a mount comes, goes or changes.

    The kernel reports by POLLPRI, once for each poll that asks. asyncio asks for
    readability alone, so an epoll of our own stands between; and it must stay
    registered all the time, since registering polls, and so swallows an event
    that is not delivered then. proc_pid_mounts(5).
    """
    loop, moved = asyncio.get_running_loop(), asyncio.Event()
    with _TABLE.open("rb") as file, select.epoll() as events:  # noqa: ASYNC230  (/proc)
        events.register(file.fileno(), select.EPOLLPRI | select.EPOLLERR)
        loop.add_reader(events.fileno(), moved.set)
        try:
            while True:
                yield
                await moved.wait()
                moved.clear()
        finally:
            loop.remove_reader(events.fileno())


class Prober:
    """Asks about one target, with at most one process outstanding on each mount.

    folder  where locks and notes lie; it has to be there, or they are done without
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        self._target = target

    @property
    def lock(self) -> Path | None:
        """Of the target itself, for mounting, unmounting and observing it."""
        return self._lock(self._target)

    async def observe(self) -> Note:
        """What lies at the target when nothing is mounted there. Raises Stuck, Unavailable."""
        return await self._ask("observe")

    async def mount(self, path: str, kind: str, source: str, options: tuple[str, ...]) -> None:
        """Mounts at the target, if that leads to `path`; missing folders are made.

        Raises Refused with the words of mount(8), Stuck while an earlier attempt is not over.
        """
        is_bind = kind == "bind"
        # The daemon itself tries again; what mount(8) leaves in the background would mount later.
        given = ",".join((*(("bind",) if is_bind else ()), *(o for o in options if o != "bg")))
        how = ("--no-mtab", "--types", "none" if is_bind else kind)
        more = ("--options", given) if given else ()
        where = () if is_bind else ("--source", source)
        argv = (program("mount"), *how, *more, *where)
        stage = self._folder / "stage"
        with contextlib.suppress(FileExistsError):
            stage.mkdir(mode=0o700)
        try:
            answer = await self._change(
                MOUNT_DEADLINE_S, "mount", path, str(stage), source if is_bind else "", *argv
            )
        except Hangs as error:
            text = f"{source} was not mounted within {MOUNT_DEADLINE_S:g} s: is its server up?"
            raise Refused("MountFailed", text) from error
        if way := answer.get("untrusted"):
            raise Refused("Untrusted", untrusted(self._target, way))
        if fault := answer.get("fault"):
            words = fault if fault.startswith("mount") else f"mount: {self._target}: {fault}"
            raise Refused("MountFailed", words)

    async def unmount(self, mount: MountEntry) -> None:
        """Neither lazily nor by force. Raises Refused, or Stuck."""
        try:
            answer = await self._change(UNMOUNT_DEADLINE_S, "unmount", str(mount.parent), of=mount)
        except Hangs as error:
            text = (
                f"{mount.target} could not be unmounted within {UNMOUNT_DEADLINE_S:g} s: its server"
                " does not answer; if it never will again, end what uses it and run "
                f"`umount -f -l {mount.target}`"
            )
            raise Stuck(text) from error
        if fault := answer.get("fault"):
            reason = "Busy" if fault == "EBUSY" else "UnmountFailed"
            raise Refused(reason, f"umount: {mount.target}: {fault}")

    async def _change(
        self, deadline_s: float, what: str, *words: str, of: MountEntry | None = None
    ) -> Note:
        """Raises Hangs at the deadline, Stuck while an earlier attempt is not over."""
        target = of.target if of else self._target
        try:
            return await self._run((what, target, *words), self.lock, deadline_s, 0.0)
        except Outstanding as error:
            raise Stuck(f"an earlier attempt to mount or unmount {target} is not over") from error

    async def probe(
        self, mount: MountEntry, file: str, uid: int | None, gid: int | None, write: str
    ) -> Note:
        """Is the server there, and the share as expected. Raises Stuck as long as it is not.

        An earlier probe that hangs is answer enough; then no other is begun.
        """
        since_s, note = time.time(), self._note(mount)
        patience_s = PROBE_DEADLINE_S if _read(note, _hang) is None else 0.0
        lock = self._lock(f"{mount.device} {mount.target}")
        words = (file, _number(uid), _number(gid), write)
        argv = ("probe", mount.target, str(mount.id), *words)
        try:
            answer = await self._run(argv, lock, PROBE_DEADLINE_S, patience_s)
        except Hangs as error:
            raise Stuck(self._stuck(mount, note, since_s, error.waits_for)) from error
        with contextlib.suppress(OSError):
            kept.remove(note)
        if answer.get("is_another"):
            raise Unavailable(f"{mount.target} leads to another mount now")
        return answer

    async def recovered(self, mount: MountEntry) -> None:
        """Returns when the server of a mount that hangs answers, or the mount is gone.

        One process waits for it, the mount's only one; nothing polls.
        """
        lock = self._lock(f"{mount.device} {mount.target}")
        while mount in table():
            with contextlib.suppress(Hangs):
                await self._run(("statvfs", mount.target), lock, SENTINEL_PATIENCE_S, 0.0)
                return
            await anyio.sleep(_PAUSE_S)

    def made(self) -> Note | None:
        """What `remember` has noted in this boot."""
        return _read(self._path(self._target, "made"), _made)

    def remember(self, made: Note) -> None:
        """Notes how a mount was made."""
        kept.keep_soon(self._path(self._target, "made"), json.dumps(made).encode())

    async def _ask(self, question: str) -> Note:
        try:
            argv = (question, self._target)
            return await self._run(argv, self.lock, PROBE_DEADLINE_S, PROBE_DEADLINE_S)
        except Hangs as error:
            raise Stuck(self._in_the_way(error.waits_for)) from error

    async def _run(
        self, question: tuple[str, ...], lock: Path | None, deadline_s: float, patience_s: float
    ) -> Note:
        try:
            done = await helper.run((*_ASK, *question), deadline_s, lock, patience_s)
            answer: Note = ast.literal_eval(done.output)
        except (OSError, SyntaxError, ValueError) as error:
            raise Unavailable(f"the helper process for {self._target} failed: {error}") from error
        return answer

    def _stuck(self, mount: MountEntry, note: Path, since_s: float, waits_for: str) -> str:
        known = _read(note, _hang)
        if known is None:
            known = _Hang(since_s, waits_for)
            kept.keep_soon(note, json.dumps(asdict(known)).encode())
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(known.since))
        place = f"the kernel waits in {known.waits_for or 'an unknown place'}"
        return (
            f"{mount.source} at {mount.target} has not answered since {since} ({place}); "
            "nothing else is held up, and its return is noticed"
        )

    def _in_the_way(self, waits_for: str) -> str:
        way = mountinfo.way_to(self._target, table())
        on = f" on {way[-1].source} at {way[-1].target}" if way else ""
        return f"{self._target}{on} can't be looked at (the kernel waits in {waits_for or '?'})"

    def _note(self, mount: MountEntry) -> Path:
        return self._path(f"{mount.device} {mount.target}", "hangs")

    def _path(self, about: str, suffix: str) -> Path:
        name = hashlib.sha256(os.fsencode(about)).hexdigest()[:16]
        return self._folder / f"{name}.{suffix}"

    def _lock(self, about: str) -> Path | None:
        """None where nothing can be written: a `plan` that isn't root's."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        return self._path(about, "lock") if os.access(self._folder, os.W_OK) else None


def untrusted(target: str, way: str) -> str:
    """The sentence on a way that somebody else could lead elsewhere."""
    return f"{target} is not gone to: {way}; name the folder itself, or let the link be root's"


def _number(number: int | None) -> str:
    return "" if number is None else str(number)


# A note saves work and words; without it the verdicts are the same.


@dataclass(frozen=True)
class _Hang:
    """Since when a mount has not answered, Unix time, and where the kernel waits."""

    since: float
    waits_for: str


def _hang(raw: bytes) -> _Hang:
    hang: _Hang = typed(_Hang, json_value(raw))
    if not 0 <= hang.since <= time.time():
        raise ValueError("it is of no time that has been")
    return hang


def _made(raw: bytes) -> Note:
    return dict(typed(dict[str, Any], json_value(raw)))


def _read(path: Path, parse: Callable[[bytes], T]) -> T | None:
    with contextlib.suppress(OSError):
        return kept.read(path, parse)
    return None
