"""The one way to keep a small file of our own, to read it again, and to lose it.

Whatever lies in a file's place, the daemon lives on without it: what can't be
read is set aside under another name, reported, and never acted on. And what can't
be written holds in memory as long as this process lives: the node is kept by
a daemon whose disk is full.

Reading takes what a small read takes; of what writes, only `keep_soon` is for
the event loop.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Queue
from typing import TypeVar

import structlog

from . import own_file
from .own_file import LIMIT, Stamp, Unreadable, stamp

log = structlog.get_logger()

T = TypeVar("T")


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
        pending, is_ours = _pending.get(path), path in _being_written
    is_pending = pending is not None and (is_ours or pending.instead_of == stamp(path))
    raw = pending.data if pending is not None and is_pending else own_file.read(path, limit)
    if raw is None:
        return None
    try:
        return parse(raw)
    except RecursionError as error:
        raise Unreadable(f"{path}: it is nested too deeply") from error
    except Exception as error:
        raise Unreadable(f"{path}: {type(error).__name__}: {error}") from error


def readable(path: Path, parse: Callable[[bytes], T], limit: int = LIMIT) -> T | None:
    """As `read`, for those who touch nothing: `read` sets aside, and reports, what is none."""
    try:
        return peek(path, parse, limit)
    except Unreadable:
        return None


def _lose(path: Path, why: str) -> None:
    """Sets aside what can't be used; where that can't be, it is found, and reported once."""
    try:
        kept_as = str(own_file.set_aside(path))
    except OSError as error:
        kept_as = f"{path} ({error.strerror})"
    if _lost.get(path) != why:
        log.warning("file.unreadable", error=why, kept_as=kept_as)
    _lost[path] = why


# --- writing


@dataclass(frozen=True)
class _Pending:
    """What is to stand in a file; None: it is to go. It counts as long as nobody
    else has put something there `instead_of` what it was to replace."""

    data: bytes | None = field(repr=False)
    owner: tuple[int, int] | None
    limit: int
    instead_of: Stamp


_pending: dict[Path, _Pending] = {}
_being_written: set[Path] = set()  # by us: what is there changes, and nobody was faster
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
    """As `own_file.write`; nothing stays in memory. Raises OSError."""
    with _turns[path]:
        _forget(path)
        own_file.write(path, data, owner, limit)


def remove(path: Path) -> None:
    """As `own_file.remove`; nothing stays in memory. Raises OSError."""
    with _turns[path]:
        _forget(path)
        own_file.remove(path)


def _forget(path: Path) -> None:
    """What was to be kept there is overtaken."""
    with _mutex:
        _pending.pop(path, None)
    _note(path, "")


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
    _remember(path, data, owner, limit)
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
    _remember(path, data, owner, limit)
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


def _remember(path: Path, data: bytes | None, owner: tuple[int, int] | None, limit: int) -> None:
    with _mutex:
        _pending[path] = _Pending(data, owner, limit, stamp(path))


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
            pending = _pending.get(path)
            if pending is None:
                return
            _being_written.add(path)
        # Where somebody else was faster, what that one put there counts.
        fault = _attempt(path, pending) if pending.instead_of == stamp(path) else ""
        with _mutex:
            _being_written.discard(path)
            newest = _pending.get(path)
            if newest is pending and not fault:
                del _pending[path]
            elif newest is not None:
                _pending[path] = replace(newest, instead_of=stamp(path))
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


def _attempt(path: Path, pending: _Pending) -> str:
    try:
        if pending.data is None:
            own_file.remove(path)
        else:
            own_file.write(path, pending.data, pending.owner, pending.limit)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""
