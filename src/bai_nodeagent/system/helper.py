"""Helper processes: programs that may get stuck in the kernel and must not take us along.

Nobody waits for one beyond its deadline: it is killed, with all that it
started, and left behind; one that SIGKILL does not end (state D) stays
without costing more than itself. While one with the same lock lives, no other
is started, whoever started it: the lock is an flock on a file that the helper
inherits, so the kernel keeps it until the last of it is gone, also across a
restart of this daemon. Sources: flock(2), pidfd_open(2), proc_pid_wchan(5).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from ..machine import Account
from . import keeper, output, own_file
from .launch import Credentials, credentials, environment
from .programs import SEARCH_PATH

# Fixed, so that the same comes out however the daemon was started; C for words to be quoted.
_WORDS = {"LC_ALL": "C"}
_ENVIRONMENT = {"PATH": SEARCH_PATH, **_WORDS}
# Read now: an upgrade may take the file away under us.
_KEEPER = Path(keeper.__file__).read_text()
_LOCK_PAUSE_S = 0.02
# What a keeper takes to end others, after the deadline that it keeps.
KEEPER_S = 10.0
_OUTPUT_AT_MOST = 65536

_left_behind: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Finished:
    """`output` is what it wrote last, to either stream."""

    code: int
    output: str


class Hangs(Exception):
    """It did not finish in time; `waits_for` is the kernel's function it sits in, "" if unknown."""

    def __init__(self, waits_for: str = "") -> None:
        super().__init__(waits_for)
        self.waits_for = waits_for


class Outstanding(Hangs):
    """An earlier one with the same lock is not done, so none was started."""


async def run(
    argv: Sequence[str],
    deadline_s: float,
    lock: Path | None,
    patience_s: float = 0.0,
    run_as: Account | None = None,
) -> Finished:
    """Runs a program to its end, with nothing to read, as a session of its own in /.

    lock        None: it may run beside others
    patience_s  how long to wait for the lock
    run_as      another account than ours; it gets an environment of its own as well

    Raises Hangs at the deadline, Outstanding when the lock stays taken, and
    OSError when the program can't be started.
    """
    env = environment(run_as, _WORDS) if run_as else _ENVIRONMENT
    return await _run(argv, deadline_s, lock, patience_s, env, credentials(run_as))


async def run_kept(
    argv: Sequence[str], deadline_s: float, lock: Path, patience_s: float, run_as: Account
) -> Finished:
    """As `run`; and nothing that the program has started outlives it, the deadline or us.

    `argv` begins with an absolute path.
    """
    groups = ",".join(map(str, run_as.groups))
    whom = (f"{os.getpid()}", f"{deadline_s}", f"{run_as.uid}", f"{run_as.gid}", groups)
    words = (sys.executable, "-I", "-S", "-c", _KEEPER, *whom, *argv)
    env = environment(run_as, _WORDS)
    done = await _run(words, deadline_s + KEEPER_S, lock, patience_s, env, {}, signal.SIGTERM)
    if done.code == keeper.HUNG:
        raise Hangs
    return done


async def _run(
    argv: Sequence[str],
    deadline_s: float,
    lock: Path | None,
    patience_s: float,
    env: Mapping[str, str],
    account: Credentials,
    end_with: signal.Signals = signal.SIGKILL,
) -> Finished:
    _reap()
    with contextlib.ExitStack() as ours:
        lock_fd = await _locked(lock, patience_s) if lock else None
        if lock_fd is not None:
            ours.callback(os.close, lock_fd)  # the helper has its own
        captured = ours.enter_context(output.bounded())
        child = subprocess.Popen(  # noqa: ASYNC220  (returns at exec; our programs are local)
            argv,
            stdin=subprocess.DEVNULL,
            stdout=captured,
            stderr=captured,
            cwd="/",
            env=env,
            pass_fds=() if lock_fd is None else (lock_fd,),
            start_new_session=True,
            **account,
        )
        try:
            await _ended(child, deadline_s)
        except BaseException:
            _leave(child, end_with)
            raise
        return Finished(child.wait(), output.last_of(captured, _OUTPUT_AT_MOST))


async def _ended(child: subprocess.Popen[bytes], deadline_s: float) -> None:
    pidfd = os.pidfd_open(child.pid)
    try:
        with anyio.move_on_after(deadline_s):
            return await anyio.wait_readable(pidfd)
        raise Hangs(waits_for(child.pid))
    finally:
        os.close(pidfd)


def _leave(child: subprocess.Popen[bytes], end_with: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if end_with is signal.SIGKILL:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.send_signal(end_with)  # it ends the others itself
    _left_behind.append(child)


def _reap() -> None:
    _left_behind[:] = [child for child in _left_behind if child.poll() is None]


async def _locked(lock: Path, patience_s: float) -> int:
    fd = own_file.open_lock(lock)
    try:
        with anyio.move_on_after(patience_s):
            while not _take(fd):  # noqa: ASYNC110  (a lock of other processes makes no event)
                await anyio.sleep(_LOCK_PAUSE_S)
            return fd
        raise Outstanding  # noqa: TRY301
    except BaseException:
        os.close(fd)
        raise


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def waits_for(pid: int) -> str:
    """The function of the kernel that a process sits in; "" if it runs or can't be seen."""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/wchan").read_text()
        if name not in ("", "0"):
            return name
    return ""
