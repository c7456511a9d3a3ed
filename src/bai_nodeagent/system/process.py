"""Processes: who lives, who belongs together, and ending all of it.

Everything is read from /proc, where one line of `stat` answers what needs
several calls elsewhere. A process is its pid *and* its start time (field 22):
a pid alone is reused. Zombies count as dead, as PID 1 may not reap them.

The lock. A process that `launch` starts inherits an open file that holds an
flock. The kernel keeps that lock as long as anybody has the file open: the
process, and all that it forks. So "does anything of an earlier life still
live?" has an answer that needs no notes, even when we were killed between
fork and writing down the pid. Source: flock(2), proc_pid_stat(5).

Whatever walks over /proc or looks up accounts may block (NSS, a process stuck
in the kernel): call it through `blocking.in_thread`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from ..blocking import in_thread
from ..model import Refused

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SCAN_DEADLINE_S = 5.0
# What is left of an agent without its main process gets this long to end by itself.
ORPHAN_PATIENCE_S = 2.0
KILL_DEADLINE_S = 5.0
_POLL_S = 0.02
_DEAD = "ZXx"


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One living process; `start_ticks` counts from boot, suspended time included."""

    pid: int
    start_ticks: int
    # Not part of who it is: these change while it lives.
    parent: int = field(default=0, compare=False)
    group: int = field(default=0, compare=False)
    session: int = field(default=0, compare=False)

    @property
    def started_s(self) -> float:
        """When it started, on the clock of `now_s`, rounded down to a tick."""
        return self.start_ticks / TICKS_PER_S


def now_s() -> float:
    """Seconds since boot, suspended time included: the clock of process start times."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(text: str) -> tuple[str, Process]:
    """A process and its state ("R", "S", "D", "Z", …) from its /proc/PID/stat.

    The name in parentheses may hold anything, spaces and parentheses too.
    """
    pid, rest = text.split(" (", 1)
    state, *fields = rest.rpartition(") ")[2].split()
    parent, group, session = map(int, fields[:3])
    return state, Process(int(pid), int(fields[18]), parent, group, session)


def _stat(pid: int) -> tuple[str, Process]:
    return parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))


def find(pid: int, start_ticks: int | None = None) -> Process | None:
    """The living process with that pid, and with that start time when one is given."""
    try:
        state, process = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state in _DEAD or start_ticks not in (None, process.start_ticks):
        return None
    return process


def born(pid: int) -> Process:
    """A child that we have not reaped yet, living or not."""
    return _stat(pid)[1]


def living() -> list[Process]:
    """Every process that can be seen. Blocks."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208
    return [process for pid in pids if (process := find(pid))]


def is_frozen(process: Process) -> bool:
    """A signal (SIGSTOP, a debugger) has stopped it."""
    try:
        state, now = _stat(process.pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state in "Tt" and now == process


def title_of(process: Process) -> str:
    """What ps shows: its arguments, or what it calls itself (setproctitle). Blocks."""
    return " ".join(command_of(process)).rstrip()


def folder_of(process: Process) -> str:
    """Its working directory; "" where we may not see it. Blocks."""
    try:
        return os.readlink(f"/proc/{process.pid}/cwd")  # noqa: PTH115
    except OSError:
        return ""


def command_of(process: Process) -> tuple[str, ...]:
    """Its arguments; empty when it is gone or a kernel thread. Blocks."""
    try:
        raw = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in raw.removesuffix(b"\0").split(b"\0") if raw)


def unit_of(process: Process) -> str:
    """The innermost systemd unit whose cgroup it is in; "" when there is none."""
    try:
        text = os.fsdecode(Path(f"/proc/{process.pid}/cgroup").read_bytes())
    except OSError:
        return ""
    names = [name for line in text.split("\n") for name in line.split("/")[1:]]
    return next((n for n in reversed(names) if n.endswith((".service", ".scope"))), "")


def holders(lock: Path, among: Iterable[Process]) -> list[Process]:
    """Those that have the lock's file open, but for ourselves. Blocks.

    Links in /proc/PID/fd are compared as text: to follow one could hang on a
    dead network mount. Processes that we may not look into are left out.
    """
    wanted = str(lock.resolve())
    return [p for p in among if p.pid != os.getpid() and wanted in _open_files(p)]


def _open_files(process: Process) -> set[str]:
    folder = f"/proc/{process.pid}/fd"
    files = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208
            with contextlib.suppress(OSError):
                files.add(os.readlink(f"{folder}/{name}"))  # noqa: PTH115
    return files


def matching(command: Sequence[str], uids: set[int], among: Iterable[Process]) -> Process | None:
    """The topmost process of this PID namespace that runs exactly that command. Blocks.

    A script shows with its interpreter before it, and so does a launcher
    (`sudo COMMAND`), which is not the process itself: those with the fewest
    extra words count, and of them the one that is nobody's descendant here.
    Processes of other accounts than `uids` don't count: anyone can choose his
    arguments.
    """
    everyone = {process.pid: process for process in among}
    extra = {
        process: len(words) - len(command)
        for process in everyone.values()
        if process.pid != os.getpid()
        and (words := command_of(process))[-len(command) :] == tuple(command)
        and is_near(process, uids)
    }
    if not extra:
        return None
    nearest = {process for process, words in extra.items() if words == min(extra.values())}
    tops = [p for p in nearest if not nearest.intersection(_ancestors(p, everyone))]
    return min(tops, key=lambda process: (process.start_ticks, process.pid))


def is_near(process: Process, uids: set[int]) -> bool:
    """It is of one of these accounts, and of our own PID namespace: no container's. Blocks."""
    try:
        owner = os.stat(f"/proc/{process.pid}").st_uid  # noqa: PTH116
        namespace = os.readlink(f"/proc/{process.pid}/ns/pid")  # noqa: PTH115
    except PermissionError:
        return owner in uids
    except OSError:
        return False
    return owner in uids and namespace == os.readlink("/proc/self/ns/pid")  # noqa: PTH115


def _ancestors(process: Process, everyone: Mapping[int, Process]) -> Iterator[Process]:
    seen = {process.pid}
    while (parent := everyone.get(process.parent)) and parent.pid not in seen:
        seen.add(parent.pid)
        yield parent
        process = parent


def kin(main: Process | None, lock: Path) -> set[Process]:
    """What belongs to a process but itself, whether that lives or not. Blocks.

    Its session and its group if it led them, what it forked, and who holds
    the lock; without `main` the latter alone. Session and group are another's
    when the number has been used again: then they have another leader, or
    members older than `main`.
    """
    everyone = {process.pid: process for process in living()}
    theirs = set(holders(lock, everyone.values()))
    if main is not None and everyone.get(main.pid, main) == main:
        theirs |= {p for p in everyone.values() if _belongs(p, main, everyone)}
    return {p for p in theirs if p != main and p.pid not in (os.getpid(), 1)}


def below(main: Process) -> list[Process]:
    """What a process has forked, and what that has, with the process itself. Blocks."""
    everyone = {process.pid: process for process in living()}
    return [p for p in everyone.values() if p == main or main in _ancestors(p, everyone)]


def _belongs(process: Process, main: Process, everyone: Mapping[int, Process]) -> bool:
    return process.start_ticks >= main.start_ticks and (
        process.session == main.pid == main.session
        or process.group == main.pid == main.group
        or main in _ancestors(process, everyone)
    )


def is_held(lock: Path) -> bool:
    """Whether anybody holds the lock. Asking does not disturb others who ask."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


async def ended(process: Process) -> None:
    """Returns within a millisecond of the end of any process, ours or not. pidfd_open(2)."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The number may have been given to another one before it was opened.
        if find(process.pid, process.start_ticks):
            await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


def send(process: Process, number: signal.Signals) -> None:
    """Signals exactly that process; one that is gone is fine. Raises Refused if we may not."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if find(process.pid, process.start_ticks):
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise Refused("NotPermitted", f"may not signal process {process.pid}: {error}") from error
    finally:
        os.close(pidfd)


async def stop(main: Process, lock: Path, patience_s: float) -> None:
    """Ends a process and all that belongs to it.

    SIGINT to the main process alone, which knows best how to end its own;
    after `patience_s` SIGKILL for everything. Raises Stuck or Refused when
    something can't be ended.
    """
    relatives = await _scan(lambda: kin(main, lock))
    send(main, signal.SIGINT)
    with anyio.move_on_after(patience_s) as patience:
        await ended(main)
    if patience.cancelled_caught:
        await _kill({main, *relatives}, lambda: {main, *kin(main, lock)})
    else:
        await end(relatives, lambda: kin(main, lock))


async def end(processes: Iterable[Process], again: Callable[[], set[Process]]) -> None:
    """Ends processes without a main one: SIGINT, a little patience, SIGKILL.

    `again` finds what has been forked meanwhile. Raises as `stop`.
    """
    left = _alive(processes) | await _scan(again)
    for process in left:
        send(process, signal.SIGINT)
    with anyio.move_on_after(ORPHAN_PATIENCE_S):
        for process in left:
            await ended(process)
    await _kill(_alive(left), again)


async def _kill(processes: set[Process], again: Callable[[], set[Process]]) -> None:
    left = processes
    with anyio.move_on_after(KILL_DEADLINE_S):
        while left := _alive(left | await _scan(again)):
            for process in left:
                send(process, signal.SIGKILL)
            await anyio.sleep(_POLL_S)
        return
    pids = ", ".join(str(process.pid) for process in sorted(left))
    raise Refused("CantKill", f"SIGKILL does not end process {pids}: it is stuck in the kernel")


def _alive(processes: Iterable[Process]) -> set[Process]:
    return {now for p in processes if (now := find(p.pid, p.start_ticks))}


async def _scan(call: Callable[[], set[Process]]) -> set[Process]:
    return await in_thread("processes: who belongs to the agent", call, SCAN_DEADLINE_S)
