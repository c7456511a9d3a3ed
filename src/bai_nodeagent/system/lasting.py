"""The daemon's own tasks, which no error ends.

They read what others have written. An error that nobody foresaw is a bug and logged as such, but
it must not end the daemon, which keeps the node by its other tasks.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
import structlog

PAUSE_MOST_S = 60.0
STABLE_S = 60.0  # whatever ran for so long begins anew at once

log = structlog.get_logger()


async def lasting(task: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` until it returns; after an error it is begun anew, with growing pauses."""
    failures = 0
    while True:
        began_s = time.monotonic()
        try:
            return await work()
        except Exception as error:
            log.exception("daemon.bug", task=task, exc_info=error)
        failures = 0 if time.monotonic() - began_s > STABLE_S else failures + 1
        await anyio.sleep(min(2.0 ** min(failures - 1, 10), PAUSE_MOST_S) if failures else 0.0)
