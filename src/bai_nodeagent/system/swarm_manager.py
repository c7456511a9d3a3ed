"""Asks a swarm's managers whether they still know a node.

A removed worker is not told: its own Docker says "active", or "pending" after
a restart, for ever (seen with 20.10). Managers answer anybody, without a
certificate of his own, what has become of a node's request for one: the call by
which a joining node fetches its certificate. The answer for a node that was
removed is NOT_FOUND. Source: SwarmKit, api/ca.proto (NodeCertificateStatus is
open to all) and ca/server.go.

grpc is heavy: import this module only where a document asks for a swarm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

DEADLINE_S = 2.0
ASKED_AT_MOST = 3
_CALL = "/docker.swarmkit.v1.NodeCA/NodeCertificateStatus"
# Whatever its address, a manager's certificate carries this name; the authority is the swarm's own.
_NAME = "swarm-manager"


class NoAnswer(Exception):
    """No manager answers; the text says which were asked, and why each failed."""


async def knows(node: str, managers: Sequence[str], authority: bytes) -> bool:
    """Whether the node is a member. `managers` as "host:port"; `authority` as PEM.

    Raises NoAnswer.
    """
    faults = []
    for address in managers[:ASKED_AT_MOST]:
        try:
            return await _ask(node, address, authority)
        except grpc.aio.AioRpcError as error:
            faults.append(f"{address}: {error.details() or error.code().name}")
        except TimeoutError:
            faults.append(f"{address}: no answer within {DEADLINE_S:g} s")
    raise NoAnswer("; ".join(faults) or "none is known")


async def _ask(node: str, address: str, authority: bytes) -> bool:
    options = [("grpc.ssl_target_name_override", _NAME), ("grpc.enable_http_proxy", 0)]
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        call = channel.unary_unary(_CALL)
        try:
            # Its own deadline says less than ours when a connection hangs.
            async with asyncio.timeout(DEADLINE_S):
                await call(_request(node), timeout=2 * DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True


def _request(node: str) -> bytes:
    """NodeCertificateStatusRequest: its one field is the node's id. Protocol buffers, by hand."""
    text = node.encode()
    return bytes([0x0A, len(text)]) + text
