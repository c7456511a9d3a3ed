"""The connection to one endpoint of etcd: python-etcd3's stubs on an asyncio channel."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
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
from . import etcd_stubs as _stubs_first  # noqa: F401

# isort: split
import etcd3
from etcd3 import etcdrpc

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
WITH_LEADER = (("hasleader", "true"),)


class Member(etcd3.Etcd3Client):  # type: ignore[misc]  # etcd3 carries no types
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
        self.metadata: tuple[tuple[str, str], ...] = WITH_LEADER
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


async def answer(call: Awaitable[Any]) -> Any:
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


async def close_if_unused(member: Member) -> None:
    if member.is_retired and not member.users:
        with anyio.CancelScope(shield=True):  # does not wait for the server
            await member.channel.close()
