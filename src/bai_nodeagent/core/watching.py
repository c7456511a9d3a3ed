"""Several sources of wake-ups of one resource, followed side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from ..errors import Unavailable

Watch = Callable[[], Awaitable[None]]


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
