"""Which processes belong together: by the lock that they inherited, by session, by descent.

A process that `launch` starts inherits an open file that holds an
flock. The kernel keeps that lock as long as anybody has the file open: the
process, and all that it forks. So "does anything of an earlier life still
live?" has an answer that needs no notes, even when we were killed between
fork and writing down the pid. Source: flock(2), proc_pid_stat(5).

All of it walks over /proc and blocks: call it through `blocking.in_thread`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path

from ..machine import TICKS_PER_S, Process
from .process import ancestors, command_of, is_unreaped, living, now_s, uid_of, uids_of

# Of one process, and processes. A lock that was inherited is among the first: it has the number
# that it had here.
_DESCRIPTORS_AT_MOST = 256
_HEIRS_AT_MOST = 4000
# Of what is said of one: an flock stands before all other locks, of which there may be thousands.
_INFO_BYTES = 4096


def holders(lock: Path, among: Iterable[Process]) -> list[Process]:
    """Those that hold the lock, but for ourselves. Blocks.

    Proof is what the kernel says of an open file, in /proc/PID/fdinfo: the lock
    on it, by device and inode. Only where the file's name is the right one is
    it asked; the name alone is no proof, since whoever has a mount namespace of
    his own gives it to any file. No link is followed: that could hang on a dead
    network mount. Processes that we may not look into are left out.

    Who holds it can pass it on to any process that takes descriptors (SCM_RIGHTS, unix(7)),
    and what is found here is ended by root. So it counts with the account alone
    that the lock was made for: `launch.start` notes that as the file's group. Not as its
    owner, who could keep us from opening it by a lease (fcntl(2)). Of root's
    everybody counts, who may have become another since: root's own are looked into first, and
    so many of all, since anybody can have thousands.
    """
    if not is_held(lock) or not (file := _kernel_name(lock)):
        return []
    wanted, heir = str(lock.resolve()), _heir(lock)
    heirs = [p for p in among if p.pid != os.getpid() and _may_inherit(p, heir)]
    heirs.sort(key=_is_strange)
    return [p for p in heirs[:_HEIRS_AT_MOST] if _holds(p, wanted, file)]


def _heir(lock: Path) -> int:
    """The account that the lock was made for; root where there is none."""
    with contextlib.suppress(OSError):
        status = lock.stat(follow_symlinks=False)
        return status.st_uid or status.st_gid
    return 0


def _is_of(process: Process, accounts: Collection[int]) -> bool:
    with contextlib.suppress(OSError):
        return uids_of(process) <= {*accounts}
    return False


def _is_strange(process: Process) -> bool:
    try:
        return uid_of(process) != 0
    except OSError:
        return True


def _may_inherit(process: Process, heir: int) -> bool:
    try:
        # Before it becomes the agent, a child of ours is of our account, and shows our arguments.
        return heir in (0, uid_of(process)) or (
            uids_of(process) == {os.geteuid()}
            and command_of(process) == command_of(Process(os.getpid(), 0))
        )
    except OSError:
        return False


def _holds(process: Process, path: str, file: bytes) -> bool:
    folder = f"/proc/{process.pid}"
    with contextlib.suppress(OSError):
        with os.scandir(f"{folder}/fd") as entries:
            descriptors = [entry.name for entry in islice(entries, _DESCRIPTORS_AT_MOST)]
        for fd in descriptors:
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/fd/{fd}") != path:  # noqa: PTH115
                    continue
                with Path(f"{folder}/fdinfo/{fd}").open("rb") as opened:
                    info = opened.read(_INFO_BYTES).split(b"\n")
                if any(b"FLOCK" in line and file in line.split() for line in info):
                    return True
    return False


def _kernel_name(file: Path) -> bytes:
    """A file's device and inode as locks show them, b"" where it is not there.

    Asked by a lock of another sort, which disturbs nobody: st_dev is another
    device on btrfs and overlays. Source: proc_pid_fdinfo(5), fcntl(2).
    """
    fd = _open_lock(file)
    if fd is None:
        return b""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
        info = Path(f"/proc/self/fdinfo/{fd}").read_bytes()
    finally:
        os.close(fd)
    locks = (line.split() for line in info.split(b"\n") if line.startswith(b"lock:"))
    return next((words[6] for words in locks if words[2] == b"OFDLCK"), b"")


class Kinship:
    """What belongs to one process after another: each the main process of an agent.

    Once nothing is left of a session or a group, the kernel may give its number to another
    process, and who is in it then is a stranger, root's as well. So the number of a dead main
    process proves something only if it was never free since: until the process was reaped, and
    as long as a member lives that was one before. When that was observed last is kept here.
    """

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._main: Process | None = None
        self._held_s = 0.0

    def lives(self, main: Process, at_s: float) -> None:
        """The process, or its session, was alive then: on the clock of `process.now_s`."""
        if main != self._main:
            self._main, self._held_s = main, 0.0
        self._held_s = max(self._held_s, at_s)

    def of(self, main: Process | None) -> set[Process]:
        """What belongs to a process but itself, whether that lives or not. Blocks.

        Its session and its group if it led them, what it forked, and who holds
        the lock; without `main` the latter alone. Members of another account are none of its.
        """
        at_s = now_s()
        everyone = {process.pid: process for process in living()}
        theirs = set(holders(self._lock, everyone.values()))
        if main is not None:
            theirs |= self._members(main, everyone, at_s)
        return {p for p in theirs if p != main and p.pid not in (os.getpid(), 1)}

    def _members(self, main: Process, everyone: Mapping[int, Process], at_s: float) -> set[Process]:
        members = {p for p in everyone.values() if _belongs(p, main, everyone)}
        held_s = self._held_s if main == self._main else main.started_s
        began_s = (p.started_s + 1 / TICKS_PER_S for p in members)  # at the latest
        if not is_unreaped(main) and not any(each <= held_s for each in began_s):
            return set()
        self.lives(main, at_s)
        accounts = {0, os.geteuid(), _heir(self._lock)}
        return {p for p in members if _is_of(p, accounts)}


def _belongs(process: Process, main: Process, everyone: Mapping[int, Process]) -> bool:
    return process.start_ticks >= main.start_ticks and (
        process.session == main.pid == main.session
        or process.group == main.pid == main.group
        or main in ancestors(process, everyone)
    )


def is_held(lock: Path) -> bool:
    """Whether anybody holds the lock. Asking does not disturb others who ask."""
    fd = _open_lock(lock)
    if fd is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _open_lock(path: Path) -> int | None:
    """None where no lock of ours is: nothing, a link, a socket. A pipe is not waited for."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return None
        raise
