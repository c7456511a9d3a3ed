"""Who uses a mount: processes and containers that an unmount would fail on, or leave behind.

No path is touched: /proc shows what a process has open, its folders and its
mapped files by their names as text, and of what is open also the mount. Other mount namespaces are
compared by device: there a file system stays, and nobody here notices. A process that can't be
looked at, for want of a descriptor for example, may be a user: then nobody can tell, and that is an
error. Those that we may not look into at all are left out; for root on a node there are none.
Sources: proc_pid_fdinfo(5), proc_pid_cwd(5), proc_pid_maps(5), proc_pid_cgroup(5).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import Refused, Unavailable
from ...paths import is_within
from ...system import files
from ...system.blocking import in_thread
from . import mountinfo, mounts
from .mountinfo import MountEntry, Table
from .rules import User

SCAN_DEADLINE_S = 10.0
# What /proc says of a process, or of a file of one, that has just gone, or is closed to us.
_OUT_OF_SIGHT = frozenset((errno.ENOENT, errno.ESRCH, errno.EINVAL, errno.EACCES, errno.EPERM))
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_SHORT_ID = 12  # as `docker ps` shows it
_INFO_BYTES = 512
_MAPS_AT_MOST = 32 << 20  # bytes; the kernel allows 65,530 maps with a path each


@dataclass(frozen=True, slots=True)
class _Places:
    """What a mount is in one namespace: itself, or copies that go when it goes.

    keeper  a mount there that would stay
    """

    ids: frozenset[int] = frozenset()
    targets: tuple[str, ...] = ()
    keeper: str = ""


async def of(mount: MountEntry) -> tuple[User, ...]:
    """Everybody who uses a mount, one line a process. Raises Stuck, Unavailable."""
    return await in_thread(
        f"processes: who uses {mount.target}", lambda: users(mount), SCAN_DEADLINE_S
    )


def users(mount: MountEntry) -> tuple[User, ...]:
    """As `of`. Blocks: some of /proc waits for a process that is stuck."""
    try:
        return _users(mount)
    except (OSError, ValueError, Refused) as error:
        raise Unavailable(f"who uses {mount.target} is not known: {error}") from error


def _users(mount: MountEntry) -> tuple[User, ...]:
    table = mounts.table()
    here = _link("/proc/self/ns/mnt")
    known = {here: _Places(frozenset({mount.id}), (mount.target,))}
    found = {User("", f"mount at {entry.target}") for entry in mountinfo.below(mount, table)}
    for pid in _pids():
        with _if_in_sight():
            space = _link(f"/proc/{pid}/ns/mnt")
            if is_first := space not in known:
                known[space] = _elsewhere(mount, table, pid)
            places = known[space]
            if places.keeper and is_first:
                found.add(_user(pid, f"mounted at {places.keeper} in its namespace"))
            if places.ids and (how := _use(pid, places)):
                found.add(_user(pid, how))
    return tuple(sorted(found))


@contextlib.contextmanager
def _if_in_sight() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _OUT_OF_SIGHT:
            raise


def _elsewhere(mount: MountEntry, here: Table, pid: int) -> _Places:
    there = mounts.read_table(Path(f"/proc/{pid}/mountinfo"))
    held = list(mountinfo.held_in(mount, here, there))
    followers = [entry for entry, stays in held if not stays]
    return _Places(
        frozenset(entry.id for entry in followers),
        tuple(entry.target for entry in followers),
        next((entry.target for entry, stays in held if stays), ""),
    )


def _use(pid: int, places: _Places) -> str:
    """How a process uses one of these mounts; "" when it does not."""
    for link, how in (("cwd", "working directory"), ("root", "root directory")):
        if _is_in(_link(f"/proc/{pid}/{link}"), places):
            return how
    if _has_open(pid, places):
        return "open file"
    return "mapped file" if _has_mapped(pid, places) else ""


def _is_in(path: str, places: _Places) -> bool:
    return any(is_within(path, target) for target in places.targets)


def _has_open(pid: int, places: _Places) -> bool:
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):  # noqa: PTH208
        with _if_in_sight():
            # By its name it may also lie in the folder that the mount hides.
            if _is_in(_link(f"{folder}/{name}"), places) and _mount_of(pid, name) in places.ids:
                return True
    return False


def _mount_of(pid: int, fd: str) -> int:
    # What it says of the file itself comes after that, and may go on for megabytes.
    lines = files.head(Path(f"/proc/{pid}/fdinfo/{fd}"), _INFO_BYTES).split(b"\n")
    return next(int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))


def _has_mapped(pid: int, places: _Places) -> bool:
    maps = files.read_bounded(Path(f"/proc/{pid}/maps"), _MAPS_AT_MOST)
    if not any(os.fsencode(target) in maps for target in places.targets):
        return False  # nearly always, and hundreds of lines are spared
    fields = (line.split(maxsplit=5) for line in maps.split(b"\n"))
    return any(_is_in(os.fsdecode(words[5]), places) for words in fields if len(words) > 5)


def _user(pid: int, how: str) -> User:
    name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    group = Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    ids: list[str] = _CONTAINER.findall(group)
    return User(name, how, pid, ids[-1][:_SHORT_ID] if ids else "")


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208


def _link(path: str) -> str:
    return os.readlink(path)  # noqa: PTH115
