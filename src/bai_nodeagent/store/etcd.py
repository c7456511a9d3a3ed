"""The store in etcd: the keys below `<prefix>/<cluster>/`."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing

import anyio

from ..errors import Unavailable
from ..system.etcd import EtcdClient, Reading
from ..system.etcd_faults import Gone, Mismatch
from .base import Conflict, Entry, EtcdSettings, Snapshot, Superseded, reconnect_s
from .presence import LEASE_S, Claim, held


class EtcdStore:
    """`base.Store` over etcd. `lease_s` is whole seconds: etcd's unit."""

    def __init__(self, settings: EtcdSettings, lease_s: int = LEASE_S) -> None:
        self._client = EtcdClient(settings.access)
        self._root = f"{settings.prefix}/{settings.cluster}/"
        self._lease_s = lease_s
        self._is_watch_lost = False

    @property
    def where(self) -> str:
        return self._client.where

    async def read(self, keys: Iterable[str], at: int | None = None) -> Snapshot:
        try:
            return self._snapshot(await self._client.get(map(self._full, keys), at or 0))
        except Gone as error:
            raise Superseded(str(error)) from error

    async def list(self, below: str) -> Snapshot:
        return self._snapshot(await self._client.get_prefix(self._full(below)))

    async def names(self, below: str) -> frozenset[str]:
        found = await self._client.get_prefix(self._full(below), names_alone=True)
        return frozenset(self._snapshot(found).entries)

    async def put(self, key: str, value: bytes, expected: int | None = None) -> int:
        try:
            return await self._client.put(self._full(key), value, expected=expected)
        except Mismatch as error:
            raise Conflict(str(error)) from error

    async def changes(self, keys: Iterable[str], since: Snapshot) -> AsyncGenerator[None, None]:
        """See `base.Store`. After a watch that broke the next one waits for its turn."""
        if self._is_watch_lost:
            await anyio.sleep(reconnect_s(random.random()))  # noqa: S311
        self._is_watch_lost = False
        full = [self._full(key) for key in keys]
        try:
            watch = self._client.watch(full, since.revision, since.epoch)
            async with aclosing(watch) as events:
                async for _ in events:
                    yield
        except Unavailable:
            self._is_watch_lost = True
            raise

    def presence(
        self, key: str, value: Callable[[], bytes], replaces: Callable[[bytes, float], bool]
    ) -> AbstractAsyncContextManager[Claim]:
        claim = Claim(value, replaces, self._lease_s)
        holder = _Holder(self._client, self._full(key), claim, self._lease_s)
        return held(claim, holder.observe, holder.leave)

    async def close(self) -> None:
        await self._client.close()

    def _full(self, key: str) -> str:
        return self._root + key

    def _snapshot(self, reading: Reading) -> Snapshot:
        entries = {
            key.removeprefix(self._root): Entry(kv.value, kv.mod_revision)
            for key, kv in reading.entries.items()
        }
        return Snapshot(reading.revision, entries, epoch=reading.cluster_id)


class _Holder:
    """One lease and the key bound to it."""

    def __init__(self, client: EtcdClient, key: str, claim: Claim, lease_s: int) -> None:
        self._client, self._key, self._claim, self._lease_s = client, key, claim, lease_s
        self._lease = 0

    async def observe(self) -> None:
        """Refreshes what we hold and writes it where it is missing; or waits for a stranger.

        Raises Unavailable, and Conflict when somebody writes in the same moment.
        """
        if self._lease and not await self._client.refresh(self._lease):
            self._lease = 0
        kv = (await self._client.get([self._key])).entries.get(self._key)
        # Without a lease it outlives whoever wrote it, and says of nobody that he is alive.
        there = kv.value if kv and kv.lease else None
        if not self._claim.may_write(there, anyio.current_time()):
            return
        if not self._lease:
            self._lease = await self._client.grant(self._lease_s)
        value = self._claim.value()
        if kv is None or (kv.value, kv.lease) != (value, self._lease):
            revision = kv.mod_revision if kv else 0
            try:
                await self._client.put(self._key, value, lease=self._lease, expected=revision)
            except Mismatch as error:
                raise Conflict(str(error)) from error

    async def leave(self) -> None:
        if self._lease:
            await self._client.revoke(self._lease)
