"""Processes: who lives, and what is known of one.

Everything is read from /proc, where one line of `stat` answers what needs
several calls elsewhere. A process is its pid *and* its start time (field 22):
a pid alone is reused. Zombies count as dead, as PID 1 may not reap them.

Whatever walks over /proc or looks up accounts may block (NSS, a process stuck
in the kernel): call it through `blocking.in_thread`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..machine import Process
from ..text import clean

SCAN_DEADLINE_S = 5.0
ARGUMENTS_BYTES_AT_MOST = 4096
_DEAD = "ZXx"


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


def is_unreaped(process: Process) -> bool:
    """Whether it lives, or is dead and nobody has asked for its end yet: its pid is its own."""
    try:
        return _stat(process.pid)[1] == process
    except (FileNotFoundError, ProcessLookupError):
        return False


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


def command_of(process: Process, limit: int = ARGUMENTS_BYTES_AT_MOST) -> tuple[str, ...]:
    """Its arguments, or so many bytes of them; empty when it is gone or a kernel thread. Blocks.

    A process overwrites its own as it likes, with megabytes of empty words too.
    """
    try:
        with Path(f"/proc/{process.pid}/cmdline").open("rb", buffering=0) as file:
            raw = file.read(limit)
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in raw.removesuffix(b"\0").split(b"\0") if raw)


def name_of(process: Process) -> str:
    """The short name that the kernel has for it (comm), fit to be shown; "" when it is gone."""
    try:
        return clean(Path(f"/proc/{process.pid}/comm").read_bytes().rstrip(b"\n"))
    except OSError:
        return ""


def unit_of(process: Process) -> str:
    """The innermost unit of the system's systemd whose cgroup it is in; "" when there is none.

    Below user@UID.service accounts name their units as they like.
    """
    try:
        text = os.fsdecode(Path(f"/proc/{process.pid}/cgroup").read_bytes())
    except OSError:
        return ""
    names = [name for line in text.split("\n") for name in line.split("/")[1:]]
    if any(name.startswith("user@") for name in names):
        return ""
    return next((n for n in reversed(names) if n.endswith((".service", ".scope"))), "")


def uid_of(process: Process) -> int:
    """Its effective account. Raises OSError."""
    return Path(f"/proc/{process.pid}").stat().st_uid


def uids_of(process: Process) -> frozenset[int]:
    """Its real, effective, saved and file system account, of which the first is that of whoever
    has called a set-user-ID program. proc_pid_status(5). Raises OSError."""
    with Path(f"/proc/{process.pid}/status").open("rb") as file:
        line = next(line for line in file if line.startswith(b"Uid:"))
    return frozenset(map(int, line.split()[1:]))


def ancestors(process: Process, everyone: Mapping[int, Process]) -> Iterator[Process]:
    visited = {process.pid}
    while (parent := everyone.get(process.parent)) and parent.pid not in visited:
        visited.add(parent.pid)
        yield parent
        process = parent


def below(main: Process) -> list[Process]:
    """What a process has forked, and what that has, with the process itself. Blocks."""
    everyone = {process.pid: process for process in living()}
    return [p for p in everyone.values() if p == main or main in ancestors(p, everyone)]
