"""etcd over python-etcd3, on asyncio. The only module that imports etcd3 and grpc.

Knows keys, revisions and leases, and nothing of what is kept in them.

- One connection to one endpoint at a time. A fault of transport retires it,
  and what comes next opens the next endpoint. A retired connection is closed
  by its last user: closing a grpc.aio channel would cancel the calls of others.
- Every call is over after CALL_DEADLINE_S, with authentication, repetition and
  other endpoints included.
- All calls may be repeated: writes are idempotent, see `put`.
- Nobody but this module sees an exception of grpc.
"""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import anyio
import anyio.lowlevel

# A process that is started as another account comes by fork(2), and gRPC's own
# handlers around that kill one in ten (SIGSEGV) before its exec. Read at import.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# isort: split
import grpc
import grpc.aio

from ..etcd_access import EtcdAccess
from ..model import Unavailable
from . import etcd_stubs as _stubs_first  # noqa: F401

# isort: split
import etcd3
from etcd3 import etcdrpc

CALL_DEADLINE_S = 5.0
SILENCE_LIMIT_S = 30.0  # a watch that says nothing for so long is broken
PROGRESS_INTERVAL_S = SILENCE_LIMIT_S / 2
LIST_PAGE = 500  # keys
TXN_OPS_AT_MOST = 128  # etcd's default of --max-txn-ops

CHANNEL_OPTIONS = (
    # Keepalives find a frozen or vanished server. Without ping_timeout_ms that takes a
    # minute, and servers answer pings more often than every 5 s with GOAWAY.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.max_receive_message_length", 64 << 20),
    # A retired channel must not hand its broken connection, or its backoff, to the next.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
# Without "hasleader" a member that is cut off from the others goes on answering.
_WITH_LEADER = (("hasleader", "true"),)
_NO_AUTHENTICATION = "authentication is not enabled"
_NEW_TOKEN_FOR = ("invalid auth token", "auth store is old", "header is old", "user name is empty")


class Gone(Exception):
    """The revision that was asked for is compacted, or not reached yet."""


class Mismatch(Exception):
    """A key was not at its expected revision. Nothing was written."""


class Denied(Unavailable):
    """The user lacks the permission. Another endpoint would say the same."""


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


class Next(enum.Enum):
    """What to do about an error that etcd or grpc answered with."""

    TELL = "tell"
    AUTHENTICATE = "authenticate again, then once more"
    OTHER_MEMBER = "another endpoint may know better"


_OTHER_MEMBER = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


def judge(code: Any, details: str) -> Next:
    """By the text first: servers send the same complaint under codes that vary by version."""
    if code is grpc.StatusCode.UNAUTHENTICATED or any(text in details for text in _NEW_TOKEN_FOR):
        return Next.AUTHENTICATE
    return Next.OTHER_MEMBER if code in _OTHER_MEMBER else Next.TELL


def translate(code: Any, details: str, endpoint: str, user: str | None, about: str) -> Exception:
    """The error for our callers; `about` is what was wanted: "read /a/b"."""
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return Gone(f"etcd {endpoint}: {details}")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return Denied(f"etcd {endpoint}: user {user or '(none)'} may not {about}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"etcd {endpoint}: no answer in time to {about}")
    return Unavailable(f"etcd {endpoint}: {details.strip() or code.name} ({about})")


class _Member(etcd3.Etcd3Client):  # type: ignore[misc]  # etcd3 carries no types
    """python-etcd3's client of one endpoint, its stubs moved to an asyncio channel.

    What its constructor checks and loads is used; its own calls are not: they
    wait synchronously, drop what they do not know, and its watcher dies unseen.
    """

    channel: Any

    def __init__(self, endpoint: str, access: EtcdAccess, tls_stamp: object) -> None:
        host, _, port = endpoint.rpartition(":")
        ca, cert, key = (path and str(path) for path in (access.ca, access.cert, access.key))
        super().__init__(
            host, int(port), ca_cert=ca, cert_cert=cert, cert_key=key, grpc_options=CHANNEL_OPTIONS
        )
        self.channel.close()  # the synchronous one, which has not connected yet
        if self.uses_secure_channel:
            credentials = self._get_secure_creds(ca, key, cert)
            self.channel = grpc.aio.secure_channel(endpoint, credentials, CHANNEL_OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(endpoint, CHANNEL_OPTIONS)
        self.authstub = etcdrpc.AuthStub(self.channel)
        self.kvstub = etcdrpc.KVStub(self.channel)
        self.leasestub = etcdrpc.LeaseStub(self.channel)
        self.watchstub = etcdrpc.WatchStub(self.channel)
        self.metadata: tuple[tuple[str, str], ...] = _WITH_LEADER
        self.endpoint = endpoint
        self.tls_stamp = tls_stamp
        self.needs_token = access.user is not None
        self.users = 0
        self.is_retired = False

    async def keep_alive(self, request: Any, **how: Any) -> bool:
        """One refresh. That the lease is gone comes as TTL 0, not as an error."""
        call = self.leasestub.LeaseKeepAlive(iter([request]), **how)
        try:
            response = await call.read()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False
        finally:
            call.cancel()
        return response is not grpc.aio.EOF and response.TTL > 0


class EtcdClient:
    """Errors: `Unavailable` (`Denied`) everywhere, with the endpoint and the reason; `Gone`
    where a revision is asked for."""

    def __init__(self, access: EtcdAccess) -> None:
        self._access = access
        self._turn = 0
        self._member: _Member | None = None

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
                await self._tell_denied(keys)
            raise
        kvs = [kv for part in response.responses for kv in part.response_range.kvs]
        return _reading(response.header, kvs, revision)

    async def _tell_denied(self, keys: list[str]) -> None:
        """Raises for the first key that may not be read alone: the refusal itself names none."""
        for key in keys:
            await self._get_at_once([key], 0)

    async def get_prefix(self, prefix: str) -> Reading:
        """All keys that start with `prefix`, in pages at one revision."""
        start, end = prefix.encode(), etcd3.utils.increment_last_byte(prefix.encode())
        entries: dict[str, KeyValue] = {}
        revision = 0
        while True:
            request = etcdrpc.RangeRequest(
                key=start, range_end=end, limit=LIST_PAGE, revision=revision
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
                    async with aclosing(_events(member, keys, after, cluster_id)) as events:
                        async for _ in events:
                            yield
                except grpc.aio.AioRpcError as error:
                    raise self._fault(member, error, f"watch {_some(keys)}") from error
                except TimeoutError:
                    self._retire(member)
                    raise Unavailable(f"etcd {member.endpoint}: the watch is silent") from None
                except _WatchRefused as refusal:
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
            await _close_if_unused(member)

    async def _call(self, rpc: str, request: Any, about: str) -> Any:
        """The answer of the first endpoint that has one; each gets its share of the deadline.

        `rpc` is a method below _Member: "kvstub.Txn".
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

    async def _ask(self, member: _Member, rpc: str, request: Any, patience_s: float) -> Any:
        """One answer of one member, with a new token where it wants one. Raises AioRpcError."""
        ends_at = anyio.current_time() + patience_s

        async def once() -> Any:
            if member.needs_token:
                await self._authenticate(member, ends_at - anyio.current_time())
            how = {"timeout": ends_at - anyio.current_time(), "metadata": member.metadata}
            return await _answer(attrgetter(rpc)(member)(request, **how))

        try:
            return await once()
        except grpc.aio.AioRpcError as error:
            if self._access.user is None or _verdict(error) is not Next.AUTHENTICATE:
                raise
        member.needs_token = True
        return await once()

    async def _authenticate(self, member: _Member, patience_s: float) -> None:
        """Gets a token. Raises AioRpcError, or Unavailable where no other member would help."""
        user, file = self._access.user, self._access.password_file
        try:
            password = file.read_text(encoding="utf-8") if file is not None else ""
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"etcd password file {file}: {error}") from error
        request = etcdrpc.AuthenticateRequest(name=user, password=password.removesuffix("\n"))
        try:
            call = member.authstub.Authenticate(request, timeout=patience_s, metadata=_WITH_LEADER)
            answer = await _answer(call)
            member.metadata = (*_WITH_LEADER, ("token", answer.token))
        except grpc.aio.AioRpcError as error:
            if _NO_AUTHENTICATION not in (error.details() or ""):
                if _verdict(error) is Next.OTHER_MEMBER:
                    raise
                about = f"authenticate as {user} with {file}"
                raise self._fault(member, error, about) from error
            member.metadata = _WITH_LEADER  # switched off there: nothing to prove
        member.needs_token = False

    def _fault(self, member: _Member, error: Any, about: str) -> Exception:
        """Takes note of what the error says of the member; gives what to raise for it."""
        verdict = _verdict(error)
        if verdict is Next.OTHER_MEMBER:
            self._retire(member)
        if verdict is Next.AUTHENTICATE:
            member.needs_token = self._access.user is not None
        user = self._access.user
        return translate(error.code(), error.details() or "", member.endpoint, user, about)

    def _retire(self, member: _Member) -> None:
        """From now on the next endpoint is used; who is using this one may go on."""
        member.is_retired = True
        if self._member is member:
            self._member = None
            self._turn += 1

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[_Member]:
        member = await self._open()
        member.users += 1
        try:
            yield member
        finally:
            member.users -= 1
            await _close_if_unused(member)

    async def _open(self) -> _Member:
        endpoint = self._access.endpoints[self._turn % len(self._access.endpoints)]
        try:
            files = [path.stat() for path in self._access.tls_files]
            stamp = [(file.st_ino, file.st_mtime_ns, file.st_size) for file in files]
            if self._member is not None and self._member.tls_stamp != stamp:
                await self.close()  # a channel reads them once: a renewal asks for a new one
            if self._member is None:
                self._member = _Member(endpoint, self._access, stamp)
        except OSError as error:
            raise Unavailable(f"etcd {endpoint}: {error.filename}: {error.strerror}") from error
        return self._member


class _WatchRefused(Exception):
    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason


async def _events(
    member: _Member, keys: Sequence[str], after: int, cluster_id: str
) -> AsyncGenerator[None, None]:
    """Yields for each answer with events. Raises AioRpcError, TimeoutError when silent,
    _WatchRefused, and Unavailable when compacted or of another store than was read."""
    call = member.watchstub.Watch(_watch_requests(keys, after + 1), metadata=member.metadata)
    pending = list(keys)  # answers to creations come in their order
    try:
        while True:
            with anyio.fail_after(CALL_DEADLINE_S if pending else SILENCE_LIMIT_S):
                response = await _answer(call.read())
            if response is grpc.aio.EOF:
                raise Unavailable(f"etcd {member.endpoint}: the watch was ended")
            key = pending.pop(0) if response.created and pending else "a key"
            if response.compact_revision:
                raise Unavailable(f"etcd {member.endpoint}: compacted beyond revision {after}")
            if response.canceled:
                raise _WatchRefused(key, response.cancel_reason)
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
    Of a member that merely lags behind the next watch is told the same.
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


async def _answer(call: Awaitable[Any]) -> Any:
    """Waits for grpc, and stays within anyio's scopes.

    grpc.aio swallows the CancelledError that it is sent and raises one of its
    own. anyio would take that for somebody else's and let it out of the scope
    whose deadline is over: it is exchanged for the scope's.
    """
    try:
        return await call
    except asyncio.CancelledError:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


async def _close_if_unused(member: _Member) -> None:
    if member.is_retired and not member.users:
        with anyio.CancelScope(shield=True):  # does not wait for the server
            await member.channel.close()


def _verdict(error: Any) -> Next:
    return judge(error.code(), error.details() or "")


def _reading(header: Any, kvs: Iterable[Any], revision: int) -> Reading:
    entries = {
        kv.key.decode(errors="backslashreplace"): KeyValue(kv.value, kv.mod_revision, kv.lease)
        for kv in kvs
    }
    return Reading(revision or header.revision, f"{header.cluster_id:x}", entries)


def _some(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"
