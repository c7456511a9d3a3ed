"""Deadlines for calls that may never return.

A cancelled worker thread of anyio still holds up the interpreter's exit, so
such a call gets a daemon thread of its own, which is left behind when it
hangs. What is left behind is remembered: the same question is not asked again
until the first answer is there, so a hung server costs one thread, ever.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import anyio

from ..errors import Stuck, Unavailable

T = TypeVar("T")

_outstanding: dict[str, float] = {}


def within(what: str, call: Callable[[], T], deadline_s: float) -> T:
    """The same outside of an event loop, for what is asked once. Blocks. Raises Stuck."""
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=work, name=what, daemon=True).start()
    try:
        result, error = answers.get(timeout=deadline_s)
    except queue.Empty:
        raise Stuck(f"{what} did not answer within {deadline_s:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


async def in_thread(what: str, call: Callable[[], T], deadline_s: float) -> T:
    """Runs `call` in a daemon thread and gives its result or raises its error.

    `what` is for people and names the question: "docker: list containers".
    Raises Stuck when there is no answer in time, and at once as long as an
    earlier call with the same `what` has not returned; Unavailable when the
    system has no thread left.
    """
    if what in _outstanding:
        raise Stuck(f"{what} has not answered for {time.monotonic() - _outstanding[what]:.0f} s")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        _outstanding.pop(what, None)
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except BaseException as caught:
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    _outstanding[what] = time.monotonic()
    try:
        threading.Thread(target=work, name=what, daemon=True).start()
    except RuntimeError as error:
        del _outstanding[what]
        raise Unavailable(f"{what}: {error}") from error
    with anyio.move_on_after(deadline_s):
        return await answer
    raise Stuck(f"{what} did not answer within {deadline_s:g} s")
