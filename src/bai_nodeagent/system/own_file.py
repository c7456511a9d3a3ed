"""One small file of our own on the disk: read within bounds, written whole, set aside if it is
no file of ours.

`kept.py` adds what is needed when the disk can't be written; most callers want that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from pathlib import Path

from ..errors import Refused
from . import files

LIMIT = 1 << 20
# Of one name. Above that the newest makes room: the first shows most of what went wrong.
SET_ASIDE_AT_MOST = 8
# They say nothing of the file: the process, or the machine, is short of something.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

Stamp = tuple[int, int, int, int] | None


class Unreadable(Exception):
    """Something lies there, and it isn't what we would have written; the text says why."""


def read(path: Path, limit: int) -> bytes | None:
    """Its bytes; None if there is none. Raises Unreadable, and OSError where the process is short
    of descriptors or memory: then nobody knows."""
    try:
        return files.read_bounded(path, limit, is_followed=False)
    except Refused as error:
        raise Unreadable(error.message) from error
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        raise Unreadable(f"{path}: {error.strerror}") from error


def set_aside(path: Path) -> Path:
    """Moves away whatever lies there, as `<name>.unreadable-<time>`. Raises OSError."""
    mark = f"{path.name}.unreadable-"
    there = sorted(p for p in path.parent.iterdir() if p.name.startswith(mark))
    if len(there) < SET_ASIDE_AT_MOST:
        return path.rename(path.with_name(f"{mark}{time.time_ns()}"))
    for old in reversed(there):
        with contextlib.suppress(OSError):  # a folder that is not empty
            if not old.is_dir():
                old.unlink()
            return path.rename(old)
    raise OSError(errno.ENOTEMPTY, "what was set aside earlier is in the way", str(path))


def write(path: Path, data: bytes, owner: tuple[int, int] | None, limit: int) -> None:
    """Writes a file, 0600, or leaves it as it is where it says just that already.

    What lies there and is no file is set aside; a folder that is missing is
    made, 0700. More than `limit` is not written, since nobody would read it again.
    Raises OSError, whose `filename` is the path that can't be written.
    """
    if _is_on_disk(path, data, owner):
        return
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    make_way(path)
    files.replace(path, data, mode=0o600, owner=owner)


def remove(path: Path) -> None:
    """Takes a file away; what is none is set aside. Raises OSError."""
    if _is_file_or_nothing(path):
        files.remove(path)
    else:
        set_aside(path)


def make_way(path: Path) -> None:
    """Makes the folder for a file, 0700, and sets aside what lies in its place and is none.

    Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_file_or_nothing(path):
        set_aside(path)


def open_lock(path: Path) -> int:
    """A descriptor of a file to lock, made where it is missing. Raises OSError.

    For reading alone: whoever inherits it could write as much into it as the disk holds.
    """
    make_way(path)
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_on_disk(path: Path, data: bytes, owner: tuple[int, int] | None) -> bool:
    try:
        status = path.lstat()
        is_ours = stat.S_IMODE(status.st_mode) == 0o600 and status.st_size == len(data)
        is_theirs = owner is not None and owner != (status.st_uid, status.st_gid)
        return is_ours and not is_theirs and read(path, len(data)) == data
    except (OSError, Unreadable):
        return False


def _is_file_or_nothing(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def stamp(path: Path) -> Stamp:
    """Tells one file in a place from the next; None: there is none, or nobody can tell."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
