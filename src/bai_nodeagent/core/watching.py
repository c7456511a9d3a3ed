"""Sources of changes, followed for ever or side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import anyio
import structlog

from ..errors import Unavailable

Watch = Callable[[], Awaitable[None]]
T = TypeVar("T")

log = structlog.get_logger()


async def together(*watches: Watch) -> None:
    """Follows them until one ends, and then ends the others.

    Raises Unavailable when one does: the whole watch is started again then.
    """
    broken: list[Unavailable] = []

    async def follow(watch: Watch) -> None:
        try:
            await watch()
        except Unavailable as error:
            broken.append(error)  # raised inside of the group, it would come as a group
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for each in watches:
            tasks.start_soon(follow, each)
    if broken:
        raise broken[0]


class Followed(Generic[T]):
    """A value that an observation finds, and what follows it meanwhile."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = anyio.Event()

    def become(self, value: T) -> None:
        """From now on that one; nothing is begun anew for an equal one."""
        if value != self._value:
            self._value, changed = value, self._changed
            self._changed = anyio.Event()
            changed.set()

    async def run(self, follow: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        """Calls `follow` with the value, and anew with each other one; the call before is
        cancelled then. For ever."""
        while True:
            value, changed = self._value, self._changed
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, value)
                await changed.wait()
                tasks.cancel_scope.cancel()


async def again_and_again(
    name: str, changes: Callable[[], AsyncIterator[None]], changed: Watch, pause_s: float
) -> None:
    """Calls `changed` after each change, until cancelled.

    A watch that breaks counts as a change: what it missed is found then. It is
    logged when the fault is another one than before, and begun anew after a pause.
    """
    logged = ""
    while True:
        try:
            async for _ in changes():
                logged = ""
                await changed()
        except Unavailable as error:
            if str(error) != logged:
                logged = str(error)
                log.warning(f"{name}.watch_broke", error=logged)
        await anyio.sleep(pause_s)
        await changed()
