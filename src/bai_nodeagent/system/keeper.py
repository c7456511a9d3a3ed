"""The program that runs another one as some account, and outlives nothing that it has started.

    python -I -S -c TEXT PARENT DEADLINE UID GID GROUPS /usr/bin/env pip install …

Packages run whatever they like while they are installed or imported, also
processes that go on in sessions of their own. All of them become children of
this process when theirs has gone (a subreaper), and are ended when the program
has ended, at the deadline, and when the daemon goes. It ends with the program's
exit code, or with HUNG. Sources: prctl(2), PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

HUNG = 253
# What is stuck in the kernel outlives its SIGKILL, and is left behind with the lock.
_PATIENCE_S = 5.0
_PAUSE_S = 0.01
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36


def main(parent: str, deadline_s: str, uid: str, gid: str, groups: str, *argv: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(HUNG))
    _prctl(_SET_CHILD_SUBREAPER, 1)
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        return HUNG  # it has gone before we could ask to be notified
    try:
        child = os.fork()
        if child == 0:
            try:
                _become(int(uid), int(gid), [int(group) for group in groups.split(",")])
                os.execv(argv[0], argv)  # noqa: S606
            finally:
                os._exit(1)
        return _code(child, float(deadline_s))
    finally:
        end_children()


def _become(uid: int, gid: int, groups: list[int]) -> None:
    if uid != os.geteuid():
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)  # only now: the kernel forgets it with the account


def _code(child: int, deadline_s: float) -> int:
    ended, _, _ = select.select([os.pidfd_open(child)], [], [], deadline_s)
    if not ended:
        return HUNG
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def end_children() -> None:
    """Kills children until there are none: what theirs leave behind become children as well."""
    until_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until_s:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_PAUSE_S)


def _children() -> list[int]:
    names = os.listdir("/proc")  # noqa: PTH208
    return [int(name) for name in names if name.isdecimal() and _parent(name) == os.getpid()]


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
