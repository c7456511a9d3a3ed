"""etcd over python-etcd3, on asyncio.

Knows keys, revisions and leases, and nothing of what is kept in them.

- One connection to one endpoint at a time. A fault of transport retires it,
  and what comes next opens the next endpoint. A retired connection is closed
  by its last user: closing a grpc.aio channel would cancel the calls of others.
- Every call is over after CALL_DEADLINE_S, with authentication, repetition and
  other endpoints included.
- All calls may be repeated: writes are idempotent, see `put`.
- Nobody but the modules etcd*.py here sees an exception of grpc.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import anyio
import anyio.lowlevel

from ..errors import Unavailable
from ..etcd_access import EtcdAccess
from .etcd_faults import Denied, Mismatch, Next, translate, verdict_of
from .etcd_member import WITH_LEADER, Member, answer, close_if_unused
from .etcd_watch import CALL_DEADLINE_S, WatchRefused, events

# isort: split
import etcd3
import grpc.aio
from etcd3 import etcdrpc

LIST_PAGE = 500  # keys
NAMES_PAGE = 10_000
TXN_OPS_AT_MOST = 128  # etcd's default of --max-txn-ops

_NO_AUTHENTICATION = "authentication is not enabled"


@dataclass(frozen=True, slots=True)
class KeyValue:
    value: bytes = field(repr=False)
    mod_revision: int
    lease: int  # 0: none


@dataclass(frozen=True, slots=True)
class Reading:
    """Keys as they stood at `revision` of the cluster `cluster_id` (hexadecimal)."""

    revision: int
    cluster_id: str
    entries: dict[str, KeyValue]


@asynccontextmanager
async def connected(access: EtcdAccess) -> AsyncIterator[EtcdClient]:
    """A client for a while."""
    client = EtcdClient(access)
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()


class EtcdClient:
    """Errors: `Unavailable` (`Denied`) everywhere, with the endpoint and the reason; `Gone`
    where a revision is asked for."""

    def __init__(self, access: EtcdAccess) -> None:
        self._access = access
        self._turn = 0
        self._member: Member | None = None

    @property
    def where(self) -> str:
        return self._access.where

    async def get(self, keys: Iterable[str], revision: int = 0) -> Reading:
        """Exact keys, all at one revision, that one if given. Linearizable."""
        entries: dict[str, KeyValue] = {}
        reading = Reading(revision, "", entries)
        wanted = list(keys)
        for start in range(0, len(wanted), TXN_OPS_AT_MOST):
            some = wanted[start : start + TXN_OPS_AT_MOST]
            part = await self._get_at_once(some, reading.revision)
            entries |= part.entries
            reading = Reading(part.revision, part.cluster_id, entries)
        return reading

    async def _get_at_once(self, keys: list[str], revision: int) -> Reading:
        ranges = [etcdrpc.RangeRequest(key=key.encode(), revision=revision) for key in keys]
        request = etcdrpc.TxnRequest(success=[etcdrpc.RequestOp(request_range=r) for r in ranges])
        try:
            response = await self._call("kvstub.Txn", request, f"read {_some(keys)}")
        except Denied:
            if len(keys) > 1:
                await self._report_denied(keys)
            raise
        kvs = [kv for part in response.responses for kv in part.response_range.kvs]
        return _reading(response.header, kvs, revision)

    async def _report_denied(self, keys: list[str]) -> None:
        """Raises for the first key that may not be read alone: the refusal itself names none."""
        for key in keys:
            await self._get_at_once([key], 0)

    async def get_prefix(self, prefix: str, *, names_alone: bool = False) -> Reading:
        """All keys that start with `prefix`, in pages at one revision; `names_alone`: without
        their values, which may be large, and many."""
        start, end = prefix.encode(), etcd3.utils.increment_last_byte(prefix.encode())
        entries: dict[str, KeyValue] = {}
        revision = 0
        while True:
            request = etcdrpc.RangeRequest(
                key=start,
                range_end=end,
                limit=NAMES_PAGE if names_alone else LIST_PAGE,
                revision=revision,
                keys_only=names_alone,
            )
            about = f"read all keys below {prefix}"
            response = await self._call("kvstub.Range", request, about)
            page = _reading(response.header, response.kvs, revision)
            entries |= page.entries
            revision = page.revision
            if not response.more:
                return Reading(revision, page.cluster_id, entries)
            start = response.kvs[-1].key + b"\0"

    async def put(
        self, key: str, value: bytes, *, lease: int = 0, expected: int | None = None
    ) -> int:
        """Gives the new revision. `expected`: the key's mod_revision, 0 for none; else Mismatch.

        A key that already holds just this value and lease counts as written:
        so a put whose answer was lost can be repeated.
        """

        put = etcdrpc.PutRequest(key=key.encode(), value=value, lease=lease)
        request = etcdrpc.TxnRequest(success=[etcdrpc.RequestOp(request_put=put)])
        if expected is not None:
            there = etcdrpc.RangeRequest(key=key.encode())
            request.compare.append((etcd3.transactions.Mod(key) == expected).build_message())
            request.failure.append(etcdrpc.RequestOp(request_range=there))
        response = await self._call("kvstub.Txn", request, f"write {key}")
        if not response.succeeded:
            kvs = response.responses[0].response_range.kvs
            if not kvs or (kvs[0].value, kvs[0].lease) != (value, lease):
                raise Mismatch(f"{key} is not at revision {expected} any more")
        return int(response.header.revision)

    async def grant(self, ttl_s: int) -> int:
        """A new lease."""
        request = etcdrpc.LeaseGrantRequest(TTL=ttl_s)
        return int((await self._call("leasestub.LeaseGrant", request, "get a lease")).ID)

    async def refresh(self, lease: int) -> bool:
        """Whether the lease was still there, and now is for its whole life again."""
        request = etcdrpc.LeaseKeepAliveRequest(ID=lease)
        return bool(await self._call("keep_alive", request, "refresh a lease"))

    async def revoke(self, lease: int) -> None:
        """Ends the lease, and its keys with it."""
        request = etcdrpc.LeaseRevokeRequest(ID=lease)
        await self._call("leasestub.LeaseRevoke", request, "end a lease")

    async def watch(
        self, keys: Sequence[str], after: int, cluster_id: str
    ) -> AsyncGenerator[None, None]:
        """Yields when one of the exact keys has changed after that revision of that cluster;
        `aclose` it when done.

        It ends by Unavailable alone: denied (with the key), compacted, broken, silent, or
        answered by an etcd that is another one than was read, or is not as far.
        """
        may_authenticate = self._access.user is not None
        while True:
            async with self._use() as member:
                try:
                    if member.needs_token:
                        await self._authenticate(member, CALL_DEADLINE_S)
                    async with aclosing(events(member, keys, after, cluster_id)) as found:
                        async for _ in found:
                            yield
                except grpc.aio.AioRpcError as error:
                    raise self._fault(member, error, f"watch {_some(keys)}") from error
                except TimeoutError:
                    self._retire(member)
                    raise Unavailable(f"etcd {member.endpoint}: the watch is silent") from None
                except WatchRefused as refusal:
                    # The servers say "permission denied" of a stale token as well.
                    member.needs_token = self._access.user is not None
                    if not may_authenticate:
                        sentence = f"etcd {member.endpoint}: watch of {refusal.key} refused"
                        raise Denied(f"{sentence}: {refusal.reason}") from None
                    may_authenticate = False

    async def close(self) -> None:
        """Closes the connection, or lets its last user close it."""
        member, self._member = self._member, None
        if member is not None:
            member.is_retired = True
            await close_if_unused(member)

    async def _call(self, rpc: str, request: Any, about: str) -> Any:
        """The answer of the first endpoint that has one; each gets its share of the deadline.

        `rpc` is a method below Member: "kvstub.Txn".
        """
        ends_at = anyio.current_time() + CALL_DEADLINE_S
        faults: list[str] = []
        for left in range(len(self._access.endpoints), 0, -1):
            async with self._use() as member:
                patience_s = (ends_at - anyio.current_time()) / left
                try:
                    return await self._ask(member, rpc, request, patience_s)
                except grpc.aio.AioRpcError as error:
                    fault = self._fault(member, error, about)
                    if not member.is_retired:
                        raise fault from error
                    faults.append(str(fault))
        raise Unavailable("; ".join(faults))

    async def _ask(self, member: Member, rpc: str, request: Any, patience_s: float) -> Any:
        """One answer of one member, with a new token where it wants one. Raises AioRpcError."""
        ends_at = anyio.current_time() + patience_s

        async def once() -> Any:
            if member.needs_token:
                await self._authenticate(member, ends_at - anyio.current_time())
            how = {"timeout": ends_at - anyio.current_time(), "metadata": member.metadata}
            return await answer(attrgetter(rpc)(member)(request, **how))

        try:
            return await once()
        except grpc.aio.AioRpcError as error:
            if self._access.user is None or verdict_of(error) is not Next.AUTHENTICATE:
                raise
        member.needs_token = True
        return await once()

    async def _authenticate(self, member: Member, patience_s: float) -> None:
        """Gets a token. Raises AioRpcError, or Unavailable where no other member would help."""
        user, file = self._access.user, self._access.password_file
        try:
            password = file.read_text(encoding="utf-8") if file is not None else ""
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"etcd password file {file}: {error}") from error
        request = etcdrpc.AuthenticateRequest(name=user, password=password.removesuffix("\n"))
        try:
            call = member.authstub.Authenticate(request, timeout=patience_s, metadata=WITH_LEADER)
            token = (await answer(call)).token
            member.metadata = (*WITH_LEADER, ("token", token))
        except grpc.aio.AioRpcError as error:
            if _NO_AUTHENTICATION not in (error.details() or ""):
                if verdict_of(error) is Next.OTHER_MEMBER:
                    raise
                about = f"authenticate as {user} with {file}"
                raise self._fault(member, error, about) from error
            member.metadata = WITH_LEADER  # switched off there: nothing to prove
        member.needs_token = False

    def _fault(self, member: Member, error: Any, about: str) -> Exception:
        """Takes note of what the error says of the member; gives what to raise for it."""
        verdict = verdict_of(error)
        if verdict is Next.OTHER_MEMBER:
            self._retire(member)
        if verdict is Next.AUTHENTICATE:
            member.needs_token = self._access.user is not None
        user = self._access.user
        return translate(error.code(), error.details() or "", member.endpoint, user, about)

    def _retire(self, member: Member) -> None:
        """From now on the next endpoint is used; who is using this one may go on."""
        member.is_retired = True
        if self._member is member:
            self._member = None
            self._turn += 1

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[Member]:
        member = await self._open()
        member.users += 1
        try:
            yield member
        finally:
            member.users -= 1
            await close_if_unused(member)

    async def _open(self) -> Member:
        endpoint = self._access.endpoints[self._turn % len(self._access.endpoints)]
        try:
            files = [path.stat() for path in self._access.tls_files]
            stamp = [(file.st_ino, file.st_mtime_ns, file.st_size) for file in files]
            if self._member is not None and self._member.tls_stamp != stamp:
                await self.close()  # a channel reads them once: a renewal asks for a new one
            if self._member is None:
                self._member = Member(endpoint, self._access, stamp)
        except OSError as error:
            raise Unavailable(f"etcd {endpoint}: {error.filename}: {error.strerror}") from error
        return self._member


def _reading(header: Any, kvs: Iterable[Any], revision: int) -> Reading:
    entries = {
        kv.key.decode(errors="backslashreplace"): KeyValue(kv.value, kv.mod_revision, kv.lease)
        for kv in kvs
    }
    return Reading(revision or header.revision, f"{header.cluster_id:x}", entries)


def _some(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{len(keys)} keys, such as {keys[0]}"
