"""Writes log lines to stderr beside the event loop, which never waits for whoever reads them.

stderr is a stranger's: a pipe that nobody reads, a file on a full disk, a
terminal that is stopped. Lines wait in a bounded queue for a thread that
writes them; what does not fit, or can't be written, is dropped and counted.
The first line that gets through afterwards says how many there were.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

# Some minutes of a busy daemon's log.
WAITING_AT_MOST = 10_000


class LogWriter:
    """`describe_loss` makes a line of the number of lines that are missing."""

    def __init__(self, fd: int, describe_loss: Callable[[int], str]) -> None:
        self._fd = fd
        self._describe_loss = describe_loss
        self._lines: deque[str] = deque()
        self._moved = threading.Condition()
        self._is_writing = False
        self._thread: threading.Thread | None = None
        self._lost = 0

    def write(self, line: str) -> None:
        """Never blocks and never fails."""
        with self._moved:
            if len(self._lines) >= WAITING_AT_MOST:
                self._lost += 1
                return
            self._lines.append(line)
            self._moved.notify_all()
            if self._thread is None:
                self._start()

    def flush(self, deadline_s: float) -> None:
        """Waits until all is written, but no longer than that."""
        until_s = time.monotonic() + deadline_s
        with self._moved:
            while self._lines or self._is_writing:
                if not self._moved.wait(until_s - time.monotonic()):
                    return

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads now: the next line tries again
            return
        self._thread = thread

    def _run(self) -> None:
        while True:
            with self._moved:
                self._is_writing = False
                self._moved.notify_all()
                while not self._lines:
                    self._moved.wait()
                line, self._is_writing = self._lines.popleft(), True
                lost = self._lost
            if lost and self._put(self._describe_loss(lost)):
                self._count(-lost)
            if not self._put(line):
                self._count(1)

    def _count(self, lines: int) -> None:
        with self._moved:
            self._lost += lines

    def _put(self, line: str) -> bool:
        data = f"{line}\n".encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody has made it non-blocking
                select.select([], [self._fd], [])
            except OSError:  # its disk is full, its reader is gone
                return False
        return True
