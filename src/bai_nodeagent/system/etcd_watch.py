"""One watch of keys on one endpoint of etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import anyio

from ..errors import Unavailable
from .etcd_member import Member, answer

# isort: split
import grpc.aio
from etcd3 import etcdrpc

CALL_DEADLINE_S = 5.0
SILENCE_LIMIT_S = 30.0  # a watch that says nothing for so long is broken
PROGRESS_INTERVAL_S = SILENCE_LIMIT_S / 2


class WatchRefused(Exception):
    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason


async def events(
    member: Member, keys: Sequence[str], after: int, cluster_id: str
) -> AsyncGenerator[None, None]:
    """Yields for each answer with events. Raises AioRpcError, TimeoutError when silent,
    WatchRefused, and Unavailable when compacted or of another store than was read."""
    call = member.watchstub.Watch(_watch_requests(keys, after + 1), metadata=member.metadata)
    pending = list(keys)  # answers to creations come in their order
    try:
        while True:
            with anyio.fail_after(CALL_DEADLINE_S if pending else SILENCE_LIMIT_S):
                response = await answer(call.read())
            if response is grpc.aio.EOF:
                raise Unavailable(f"etcd {member.endpoint}: the watch was ended")
            key = pending.pop(0) if response.created and pending else "a key"
            if response.compact_revision:
                raise Unavailable(f"etcd {member.endpoint}: compacted beyond revision {after}")
            if response.canceled:
                raise WatchRefused(key, response.cancel_reason)
            if fault := _went_back(response, after, cluster_id):
                raise Unavailable(f"etcd {member.endpoint}: {fault}")
            if response.events:
                yield
    finally:
        call.cancel()


def _went_back(response: Any, after: int, cluster_id: str) -> str:
    """Why an answer is not of the store that was read at revision `after`; "" where it is.

    A watch that starts beyond the newest revision is created without a word, and
    stays silent until the store has come that far: it was replaced, or restored.
    Of a member that merely lags behind the next watch gets the same.
    """
    header = response.header
    if f"{header.cluster_id:x}" != cluster_id:
        return f"cluster {header.cluster_id:x} answers the watch; cluster {cluster_id} was read"
    if response.created and header.revision < after:
        return f"is at revision {header.revision}; it was read at {after}"
    return ""


async def _watch_requests(keys: Sequence[str], start: int) -> AsyncGenerator[Any, None]:
    """What the client's half of a watch says: creations, then a sign of life for ever.

    The revision in the answers to progress requests can't be trusted before
    etcd 3.4.25 and 3.5.8; that they come at all is what counts here.
    """
    for key in keys:
        create = etcdrpc.WatchCreateRequest(key=key.encode(), start_revision=start, fragment=True)
        yield etcdrpc.WatchRequest(create_request=create)
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL_S)  # in a task of grpc's own
        yield etcdrpc.WatchRequest(progress_request=etcdrpc.WatchProgressRequest())
