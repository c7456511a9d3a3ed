"""The output of a process that outlives us: one file that several write to at once; and of one
that does not, with a bound.

The file is only ever opened for appending. So it can be cut while a process
holds it: what that writes next stands at the new end. What is written between
copy and cut is lost; no other way needs neither a pipe to us, which would
break when we go, nor a signal to the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio

from ..errors import Stuck, Unavailable
from . import inotify
from .blocking import in_thread

BYTES_AT_MOST = 10 * 1024 * 1024
ROOM_BYTES = 16 * 1024 * 1024
_ROTATE_DEADLINE_S = 30.0
_PAUSE_S = 0.2  # between two readings of a file that is being written
_AGAIN_S = 30.0
_TAIL_BYTES = 16 * 1024
_QUOTED_BYTES = 1024
_MARK = b"[bai-nodeagent] started at "
# Colours and cursor movements, then whatever else is not text (ECMA-48).
_NOT_TEXT = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\n\t\x20-\x7e\xa0-\U0010ffff]")


def begin(paths: Sequence[Path], when: str) -> tuple[Path, str]:
    """Marks where a new process's output begins, in the first of the files that takes it: for the
    sake of its output no process stays down. Gives that one, /dev/null if none does, and why it
    is not the first.
    """
    why = ""
    for path in paths:
        with contextlib.suppress(OSError):
            rotate(path)
        try:
            _mark(path, when)
        except OSError as error:
            why = why or f"{path}: {error.strerror}"
            continue
        return path, why
    return Path(os.devnull), why


def _mark(path: Path, when: str) -> None:
    """Makes the file, 0600."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        os.write(fd, _MARK + when.encode() + b"\n")
    finally:
        os.close(fd)


def rotate(path: Path, bytes_at_most: int = BYTES_AT_MOST) -> None:
    """Moves what is in a file that has grown too big to FILE.1, the last part of it at least."""
    try:
        with open(path, "r+b", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            # Whoever writes it can take room behind its end too: fallocate(2), KEEP_SIZE.
            if size <= bytes_at_most and status.st_blocks * 512 - size <= BYTES_AT_MOST:
                return
            file.seek(max(0, size - bytes_at_most))
            old = file.read(bytes_at_most)  # it may have grown since
            try:
                before = path.with_name(f"{path.name}.1")
                with os.fdopen(os.open(before, _FRESH, 0o600), "wb") as copy:
                    copy.write(old)
            finally:  # where the disk is full all the more
                file.truncate(0)
    except (FileNotFoundError, IsADirectoryError):
        return


async def keep_small(path: Path) -> None:
    """Cuts a file whenever it has grown too big, by event: a process in trouble writes hundreds
    of megabytes within a second. For ever."""
    while True:
        # A full or a hung disk is for others to tell; the next round tries again.
        with contextlib.suppress(OSError, Stuck, Unavailable):
            async with contextlib.aclosing(inotify.written(path)) as events:
                async for _ in events:
                    await in_thread(
                        f"agent: rotate {path}", lambda: rotate(path), _ROTATE_DEADLINE_S
                    )
                    await anyio.sleep(_PAUSE_S)
        await anyio.sleep(_AGAIN_S)


@contextlib.contextmanager
def bounded() -> Iterator[int]:
    """A file without a name for the output of a program, whoever wrote that.

    It lies in memory, which counts as ours, so what goes beyond `ROOM_BYTES` is refused to its
    writer (EPERM): memfd_create(2), F_SEAL_GROW. `last_of` and `first_of` read it.
    """
    fd = os.memfd_create("output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, ROOM_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        yield fd
    finally:
        os.close(fd)


def last_of(fd: int, bytes_at_most: int) -> str:
    """The end of what was written to a file of `bounded`, of which all writers share the offset."""
    end = _end_of(fd)
    size = min(end, bytes_at_most)
    return os.pread(fd, size, end - size).decode(errors="replace")


def first_of(fd: int, bytes_at_most: int) -> str:
    """The beginning of it."""
    return os.pread(fd, min(_end_of(fd), bytes_at_most), 0).decode(errors="replace")


def is_full(fd: int) -> bool:
    """Whether its writers had more to say."""
    return _end_of(fd) >= ROOM_BYTES


def _end_of(fd: int) -> int:
    return min(os.lseek(fd, 0, os.SEEK_CUR), ROOM_BYTES)


def _at_once(path: str, flags: int) -> int:
    """A pipe in its place is not waited for; it can't be sought in, and counts as no file."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


_FRESH = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def tail(path: Path) -> str:
    """The end of what the last process wrote; "" when there is nothing. May hold secrets."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL_BYTES))
            data = file.read(_TAIL_BYTES)
    except OSError:  # a comfort; the verdict stands without it
        return ""
    mark = data.rfind(_MARK)
    if mark >= 0:
        data = data[mark:].partition(b"\n")[2]
    return data.decode(errors="replace")


def quoted(text: str, lines: int = 10) -> str:
    """The last lines of a text, fit for a message: without control characters, 1 KB at most.

    Mask secrets before: half of one can't be recognised.
    """
    plain = "\n".join(_NOT_TEXT.sub("", text).strip().splitlines()[-lines:])
    return plain.encode()[-_QUOTED_BYTES:].decode(errors="ignore")
