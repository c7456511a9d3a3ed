"""Starting a process that outlives us.

It gets a session of its own, nothing to read, a file to write to, and the
lock: see `process`. Everything here may block, on accounts (NSS) or on a
program that lies on a dead mount: call it through `blocking.in_thread`.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from ..errors import Refused, Unavailable
from ..machine import Account, Process
from . import kinship, own_file, process

# Not that of the daemon: the same agent must come out however the daemon was started.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOCK_TRIES = 25
_LOCK_PAUSE_S = 0.02

_starting: set[Path] = set()  # the locks that we hold ourselves
_children: dict[int, subprocess.Popen[bytes]] = {}


@contextlib.contextmanager
def held(lock: Path) -> Iterator[int]:
    """Takes the lock and gives its descriptor; who inherits that keeps the lock. Blocks.

    Raises Unavailable when an earlier start holds it, or a process of one. Whom that one has
    passed it to says nothing of an agent, and is not ours to end: then another file is the lock.
    """
    with contextlib.ExitStack() as ends:
        fd = ends.enter_context(_opened(lock))
        if not _takes(fd):
            if lock in _starting or kinship.holders(lock, process.living()):
                raise Unavailable(f"{lock} is held: a process of an earlier start still lives")
            lock.unlink()
            fd = ends.enter_context(_opened(lock))
            if not _takes(fd):
                raise Unavailable(f"{lock} has just been taken by another start")
        _starting.add(lock)
        try:
            yield fd
        finally:
            ends.close()
            _starting.discard(lock)


@contextlib.contextmanager
def _opened(lock: Path) -> Iterator[int]:
    fd = own_file.open_lock(lock)
    try:
        yield fd
    finally:
        os.close(fd)


def _takes(fd: int) -> bool:
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_PAUSE_S)  # somebody may just be asking: kinship.is_held
    return False


def account(user: str | None) -> Account:
    """Looks an account up, our own for None. Blocks. Raises Refused when there is none."""
    try:
        entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    except KeyError as error:
        run_as = f"user {user!r}" if user else f"uid {os.geteuid()}"
        raise Refused("NoSuchUser", f"there is no {run_as} on this node") from error
    groups = [g.gr_gid for g in grp.getgrall() if entry.pw_name in g.gr_mem]
    everyone = tuple(sorted({entry.pw_gid, *groups}))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, everyone, entry.pw_dir)


def in_groups(run_as: Account, group: str, groups: Sequence[str]) -> Account:
    """The same account as systemd starts it with these in its unit: systemd.exec(5). Blocks.

    Raises Refused where one of them is not there.
    """
    try:
        gid = _gid(group) if group else run_as.gid
        everyone = {gid, *run_as.groups, *map(_gid, groups)}
    except KeyError as error:
        raise Refused("NoSuchGroup", f"{error.args[0]} on this node") from error
    return replace(run_as, gid=gid, groups=tuple(sorted(everyone)))


def _gid(group: str) -> int:
    return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid


def environment(run_as: Account, extra: Mapping[str, str]) -> dict[str, str]:
    """What a started process finds: nothing of ours, above all no NOTIFY_SOCKET."""
    return {
        "PATH": SEARCH_PATH,
        "HOME": run_as.home,
        "USER": run_as.name,
        "LOGNAME": run_as.name,
        "LANG": "C.UTF-8",
        **extra,
    }


class Credentials(TypedDict, total=False):
    """What Popen takes to start a process as another account."""

    user: int
    group: int
    extra_groups: Sequence[int]


def credentials(run_as: Account | None) -> Credentials:
    """Nothing where that is ourselves, who may be nobody to change them."""
    if run_as is None or run_as.uid == os.geteuid():
        return {}
    return {"user": run_as.uid, "group": run_as.gid, "extra_groups": run_as.groups}


def start(
    command: Sequence[str],
    *,
    user: str | None,
    env: Mapping[str, str],
    workdir: Path,
    output: Path,
    lock_fd: int,
) -> Process:
    """Starts a process in a session of its own that keeps `lock_fd` and outlives us. Blocks.

    It returns after exec, so with a program or folder on a hung mount maybe
    never. The process may have ended already. Raises Refused with what exec
    or the accounts say.
    """
    run_as = account(user)
    _forget_dead_children()
    if os.geteuid() == 0:
        os.fchown(lock_fd, -1, run_as.uid)  # as its group: marks whose it is, kinship.holders
    log = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=workdir,
            env=environment(run_as, env),
            umask=0o022,
            start_new_session=True,
            pass_fds=(lock_fd,),
            **credentials(run_as),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(
            "CantStart", f"{command[0]} can't be started in {workdir}: {error}"
        ) from error
    finally:
        os.close(log)
    _children[child.pid] = child
    return process.born(child.pid)  # there even when it has ended: nobody has reaped it yet


def _forget_dead_children() -> None:
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            del _children[pid]


def exit_of(pid: int) -> str:
    """How a child of ours ended, for people, and reaps it; "" when that can't be known."""
    child = _children.get(pid)
    code = child.poll() if child else None
    if code is None:
        return ""
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
