"""Wakes an observer when one of the agent's two processes ends."""

from __future__ import annotations

import anyio

from ....core.watching import Followed
from ....machine import Process
from ....model import Wake
from ....system import ending
from ..backendai.liveness import Liveness


class EndWatch:
    """`follow` says which processes; `wake` runs beside the observations."""

    def __init__(self) -> None:
        self._processes = Followed[tuple[Process, ...]](())

    def follow(self, main: Process | None, liveness: Liveness | None) -> None:
        """From now on these, as the last observation found them."""
        found = (main, liveness.worker if liveness else None)
        self._processes.become(tuple(process for process in found if process))

    async def wake(self, wake: Wake) -> None:
        async def after(process: Process) -> None:
            await ending.ended(process)
            wake()

        async def after_any(processes: tuple[Process, ...]) -> None:
            async with anyio.create_task_group() as tasks:
                for each in processes:
                    tasks.start_soon(after, each)

        await self._processes.run(after_any)
