"""Sources of changes, followed for ever or side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import structlog

from ..errors import Unavailable

Watch = Callable[[], Awaitable[None]]

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
