"""Holding the `alive` key: what every store does alike."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import structlog

from ..errors import Unavailable
from ..system.lasting import lasting
from .base import Conflict, reconnect_s

LEASE_S = 90  # a key whose holder is silent for so long is gone
CHECKS_PER_LEASE = 3
FAREWELL_S = 2.0  # for taking the key back at exit

log = structlog.get_logger()


@dataclass
class Claim:
    """Ours on one key: `base.Presence`. Decides whether to write it; no I/O.

    It is given what is there, and remembers since when a stranger does.

    value     what the value is to be now; asked each time
    replaces  as in base.Store.presence
    lease_s   whoever is still there after that long is alive himself: a rival
    """

    value: Callable[[], bytes] = field(repr=False)
    replaces: Callable[[bytes, float], bool] = field(repr=False)
    lease_s: float
    rival: bytes | None = None
    _stranger_since: float | None = None
    _observed: tuple[bytes, float] = (b"", 0.0)

    def may_write(self, there: bytes | None, now: float) -> bool:
        """`there`: the key's value, None for none; `now`: a monotonic clock, in seconds."""
        if there is not None and there != self._observed[0]:
            self._observed = there, now
        is_ours = there in (None, self.value())
        if is_ours or self.replaces(there or b"", now - self._observed[1]):
            self.rival = self._stranger_since = None
            return True
        if self._stranger_since is None:
            self._stranger_since = now
        self.rival = there if now - self._stranger_since >= self.lease_s else None
        return False


@asynccontextmanager
async def held(
    claim: Claim, observe: Callable[[], Awaitable[None]], leave: Callable[[], Awaitable[None]]
) -> AsyncIterator[Claim]:
    """Looks after a key while entered, then leaves it.

    `observe` writes the key where it may and must; `leave` takes it back. Both may
    raise Unavailable or Conflict: it is tried again soon then. Of any other error as well,
    since what is there may be anybody's.
    """

    async def keep_observing() -> None:
        is_lost = False
        while True:
            pause_s = claim.lease_s / CHECKS_PER_LEASE
            try:
                await observe()
                if is_lost:
                    is_lost = False
                    log.info("alive.written_again")
            except (Unavailable, Conflict) as error:
                if not is_lost:
                    is_lost = True
                    log.warning("alive.not_written", error=str(error))
                pause_s = min(pause_s, reconnect_s(random.random()))  # noqa: S311
            await anyio.sleep(pause_s)

    async with anyio.create_task_group() as group:
        group.start_soon(lasting, "alive", keep_observing)
        try:
            yield claim
        finally:
            group.cancel_scope.cancel()
            with anyio.move_on_after(FAREWELL_S, shield=True), suppress(Unavailable):
                await leave()
