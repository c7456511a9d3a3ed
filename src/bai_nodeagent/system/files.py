"""Files on the node's own disks: read whole, replaced whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ..errors import Refused
from ..text import clean

NAMES_AT_MOST = 10_000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.tmp")  # as tempfile.mkstemp names them


def replace(path: Path, data: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replaces a file so that a crash at any moment leaves the old or the new content.

    Temporary file in the same folder, fsync, rename, fsync of the folder. What
    a crash leaves of it is for `sweep`. `path` must not be a link that is to
    survive: resolve it first. `owner` is (uid, gid); without it the file belongs
    to whoever we are. Raises OSError, whose `filename` is the path.
    """
    try:
        _replace(path, data, mode, owner)
    except OSError as error:  # one about a descriptor names nothing
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, data: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            claim(fd)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def claim(fd: int) -> None:
    """Says that the writer of a temporary file lives: the kernel forgets it with the process."""
    with contextlib.suppress(OSError):  # a file system without locks is swept all the same
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def names_in(folder: int) -> list[str]:
    """What lies in an opened folder, as far as it is worth a look: others fill theirs. Blocks."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, NAMES_AT_MOST)]


def sweep(folder: Path | int, names: Iterable[str] = (), owners: Iterable[int] = ()) -> list[str]:
    """Removes the temporary files of `replace` whose writer is dead; gives their names. Blocks.

    Those of ours, or of `owners`; with `names` those for these files alone.
    `folder`: a path of ours, or a descriptor where others own the way. Raises OSError.
    """
    swept = []
    wanted, uids = {*names}, {os.geteuid(), *owners}
    fd = os.open(folder, _FOLDER) if isinstance(folder, Path) else os.dup(folder)
    try:
        for name in names_in(fd):
            found = _TEMPORARY.fullmatch(name)
            if found and (not wanted or found["name"] in wanted):
                with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                    if _is_left(fd, name, uids):
                        os.unlink(name, dir_fd=fd)
                        swept.append(name)
    finally:
        os.close(fd)
    return swept


def _is_left(folder: int, name: str, uids: set[int]) -> bool:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in uids:
        return False
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder)
    except BlockingIOError:  # it has a lease: somebody is there
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        os.close(fd)
    return True


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in a folder survive a power cut. fsync(2)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_if_there(path: Path) -> bytes | None:
    """The whole file; None when it, or its folder, is not there. Raises other OSErrors."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def read_bounded(path: Path, at_most: int, *, is_followed: bool = True) -> bytes:
    """A regular file that others have named or laid, whole. Raises OSError, and as read_opened.

    `is_followed`: links count, those of others too; for what is only looked at.
    """
    with _found(path, is_followed=is_followed) as fd:
        return read_opened(fd, path, at_most)


def read_opened(fd: int, path: Path, at_most: int) -> bytes:
    """The same of what is open as O_PATH, and was found at that path.

    Raises Refused: NotAFile, TooLarge.
    """
    with _opened(fd, path) as file:
        # None: there is nothing yet, and it would have to be waited for, as in /proc/kmsg.
        raw = file.read(at_most + 1) or b""
    if len(raw) > at_most:
        text = f"{shown(path)} is larger than {at_most} bytes, so it is not read"
        raise Refused("TooLarge", text)
    return raw


def head(path: Path, size: int) -> bytes:
    """The first bytes of a regular file. Raises OSError, Refused: NotAFile."""
    with _found(path, is_followed=True) as fd, _opened(fd, path) as file:
        return file.read(size) or b""


@contextlib.contextmanager
def _found(path: Path, *, is_followed: bool) -> Iterator[int]:
    """What is at a path, opened for nothing: to open a pipe waits, a watchdog ends the machine."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if is_followed else os.O_NOFOLLOW))
    try:
        yield fd
    finally:
        os.close(fd)


def _opened(fd: int, path: Path) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Refused("NotAFile", f"{shown(path)} is no regular file; move it away")
    return open(f"/proc/self/fd/{fd}", "rb", opener=_at_once)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def shown(path: Path | str) -> str:
    """A path for people: its bytes may be anything."""
    return clean(os.fsencode(path))


def remove(path: Path) -> None:
    """Removes a file, for good also after a power cut; none there is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)
