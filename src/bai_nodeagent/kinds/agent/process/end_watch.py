"""Wakes an observer when one of the agent's two processes ends."""

from __future__ import annotations

import anyio

from ....machine import Process
from ....model import Wake
from ....system import ending
from ..backendai.liveness import Liveness


class EndWatch:
    """`follow` says which processes; `wake` runs beside the observations."""

    def __init__(self) -> None:
        self._followed: tuple[Process, ...] = ()
        self._moved = anyio.Event()

    def follow(self, main: Process | None, liveness: Liveness | None) -> None:
        """From now on these, as the last observation found them."""
        found = tuple(p for p in (main, liveness.worker if liveness else None) if p)
        if found != self._followed:
            self._followed, moved, self._moved = found, self._moved, anyio.Event()
            moved.set()

    async def wake(self, wake: Wake) -> None:
        while True:
            followed, moved = self._followed, self._moved
            async with anyio.create_task_group() as tasks:
                for each in followed:
                    tasks.start_soon(_wake_after, each, wake)
                await moved.wait()
                tasks.cancel_scope.cancel()


async def _wake_after(end_of: Process, wake: Wake) -> None:
    await ending.ended(end_of)
    wake()
