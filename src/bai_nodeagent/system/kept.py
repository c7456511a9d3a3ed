"""The one way to keep a small file of our own, to read it again, and to lose it.

Whatever lies in a file's place, the daemon lives on without it: what can't be
read is set aside under another name, told, and never acted on. And what can't
be written holds in memory as long as this process lives: the node is kept by
a daemon whose disk is full.

Reading takes what a small read takes; of what writes, only `keep_soon` is for
the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Queue
from typing import TypeVar

import structlog

from ..errors import Refused
from . import files

LIMIT = 1 << 20
# Of one name. Above that the newest makes room: the first tells most of what went wrong.
SET_ASIDE_AT_MOST = 8
# They say nothing of the file: the process, or the machine, is short of something.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

log = structlog.get_logger()

T = TypeVar("T")
Stamp = tuple[int, int, int, int] | None


class Unreadable(Exception):
    """Something lies there, and it isn't what we would have written; the text says why."""


# --- reading


def read(path: Path, parse: Callable[[bytes], T], limit: int = LIMIT) -> T | None:
    """What is kept there; None when nothing is.

    `parse` may raise whatever it likes. What can't be used is set aside, logged
    once, and counts as nothing. Raises OSError where the process is short of
    descriptors or memory: then nobody knows.
    """
    try:
        return peek(path, parse, limit)
    except Unreadable as error:
        _lose(path, str(error))
        return None


def peek(path: Path, parse: Callable[[bytes], T], limit: int = LIMIT) -> T | None:
    """As `read`, for those who touch nothing. Raises Unreadable as well."""
    with _mutex:
        held, is_ours = _held.get(path), path in _being_written
    is_held = held is not None and (is_ours or held.instead_of == _stamp(path))
    raw = held.data if held is not None and is_held else _raw(path, limit)
    if raw is None:
        return None
    try:
        return parse(raw)
    except RecursionError as error:
        raise Unreadable(f"{path}: it is nested too deeply") from error
    except Exception as error:
        raise Unreadable(f"{path}: {type(error).__name__}: {error}") from error


def readable(path: Path, parse: Callable[[bytes], T], limit: int = LIMIT) -> T | None:
    """As `read`, for those who touch nothing: `read` sets aside, and tells, what is none."""
    try:
        return peek(path, parse, limit)
    except Unreadable:
        return None


def _raw(path: Path, limit: int) -> bytes | None:
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


def _lose(path: Path, why: str) -> None:
    """Sets aside what can't be used; where that can't be, it is found and told of but once."""
    try:
        kept_as = str(set_aside(path))
    except OSError as error:
        kept_as = f"{path} ({error.strerror})"
    if _lost.get(path) != why:
        log.warning("file.unreadable", error=why, kept_as=kept_as)
    _lost[path] = why


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


# --- writing


@dataclass(frozen=True)
class _Held:
    """What is to stand in a file; None: it is to go. It counts as long as nobody
    else has put something there `instead_of` what it was to replace."""

    data: bytes | None = field(repr=False)
    owner: tuple[int, int] | None
    limit: int
    instead_of: Stamp


_held: dict[Path, _Held] = {}
_being_written: set[Path] = set()  # by us: what stands there changes, and nobody was faster
_faults: dict[Path, str] = {}
_lost: dict[Path, str] = {}
_mutex = threading.Lock()
_turns: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
_queue: Queue[Path] = Queue()
_workers: list[threading.Thread] = []
_listeners: list[Callable[[], object]] = []


def write(
    path: Path, data: bytes, *, owner: tuple[int, int] | None = None, limit: int = LIMIT
) -> None:
    """Writes a file, 0600, or leaves it as it is where it says just that already.

    What lies there and is no file is set aside; a folder that is missing is
    made, 0700. More than `limit` is not written, since nobody would read it again.
    Raises OSError, whose `filename` is the path that can't be written.
    """
    with _turns[path]:
        _forget(path)
        _write(path, data, owner, limit)


def remove(path: Path) -> None:
    """Takes a file away; what is none is set aside. Raises OSError."""
    with _turns[path]:
        _forget(path)
        _remove(path)


def _forget(path: Path) -> None:
    """What was to be kept there is overtaken."""
    with _mutex:
        _held.pop(path, None)
    _note(path, "")


def _write(path: Path, data: bytes, owner: tuple[int, int] | None, limit: int) -> None:
    if _is_on_disk(path, data, owner):
        return
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    make_way(path)
    files.replace(path, data, mode=0o600, owner=owner)


def _remove(path: Path) -> None:
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


def keep(
    path: Path,
    data: bytes | None,
    *,
    owner: tuple[int, int] | None = None,
    limit: int = LIMIT,
) -> str:
    """Writes, or removes, as well as the disk allows; gives what is wrong with it, "" for nothing.

    As long as it could not be written, `read` gives it from memory. Blocks.
    """
    _hold(path, data, owner, limit)
    _settle(path)
    return _faults.get(path, "")


def keep_soon(
    path: Path,
    data: bytes | None,
    *,
    owner: tuple[int, int] | None = None,
    limit: int = LIMIT,
) -> None:
    """As `keep`, in a thread and in the order asked for; `read` gives it from now on.

    For callers in the event loop: an fsync on a busy disk takes seconds.
    """
    _hold(path, data, owner, limit)
    _later(path)


def retry() -> None:
    """Tries again in that thread what could not be written."""
    for path in [*_faults]:
        _later(path)


@contextlib.contextmanager
def listening(listener: Callable[[], object]) -> Iterator[None]:
    """Calls it, in any thread, whenever `faults` may have changed."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def faults() -> dict[Path, str]:
    """The files that can't be kept, each with a sentence that names what is full or read-only."""
    return dict(_faults)


def flush(within_s: float) -> None:
    """Returns once all that was to be written soon is, or could not be. Blocks."""
    until_s = time.monotonic() + within_s
    while _queue.unfinished_tasks and time.monotonic() < until_s:
        time.sleep(0.005)


def _hold(path: Path, data: bytes | None, owner: tuple[int, int] | None, limit: int) -> None:
    with _mutex:
        _held[path] = _Held(data, owner, limit, _stamp(path))


def _later(path: Path) -> None:
    _queue.put(path)
    if not _workers:
        _workers.append(threading.Thread(target=_work, name="kept", daemon=True))
        _workers[0].start()


def _work() -> None:
    while True:
        _settle(_queue.get())
        _queue.task_done()


def _settle(path: Path) -> None:
    with _turns[path]:
        with _mutex:
            held = _held.get(path)
            if held is None:
                return
            _being_written.add(path)
        # Where somebody else was faster, what that one put there counts.
        fault = _attempt(path, held) if held.instead_of == _stamp(path) else ""
        with _mutex:
            _being_written.discard(path)
            newest = _held.get(path)
            if newest is held and not fault:
                del _held[path]
            elif newest is not None:
                _held[path] = replace(newest, instead_of=_stamp(path))
    _note(path, fault)


def _note(path: Path, fault: str) -> None:
    if fault == _faults.get(path, ""):
        return
    if fault:
        _faults[path] = fault
        log.warning("file.not_kept", error=fault)
    else:
        del _faults[path]
        log.info("file.kept_again", path=str(path))
    for listener in [*_listeners]:
        listener()


def _attempt(path: Path, held: _Held) -> str:
    try:
        if held.data is None:
            _remove(path)
        else:
            _write(path, held.data, held.owner, held.limit)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""


def _is_on_disk(path: Path, data: bytes, owner: tuple[int, int] | None) -> bool:
    try:
        status = path.lstat()
        is_ours = stat.S_IMODE(status.st_mode) == 0o600 and status.st_size == len(data)
        is_theirs = owner is not None and owner != (status.st_uid, status.st_gid)
        return is_ours and not is_theirs and _raw(path, len(data)) == data
    except (OSError, Unreadable):
        return False


def _is_file_or_nothing(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def _stamp(path: Path) -> Stamp:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
