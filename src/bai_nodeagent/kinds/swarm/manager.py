"""Asks a swarm's managers whether they are there, and whether they still know a node.

A removed worker is not notified: its own Docker says "active", or "pending" after
a restart, for ever (seen with 20.10). Managers answer anybody, without a
certificate of his own, what has become of a node's request for one: the call by
which a joining node fetches its certificate. The answer for a node that was
removed is NOT_FOUND. Source: SwarmKit, api/ca.proto (NodeCertificateStatus is
open to all) and ca/server.go.

The call is one request of gRPC, made by hand over HTTP/2: the grpc library
refuses managers that have renewed their certificate since their start, because
those no longer choose a protocol in the handshake (ALPN).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, TrailersReceived
from h2.exceptions import H2Error

DEADLINE_S = 2.0
ASKED_AT_MOST = 3
_CALL = "/docker.swarmkit.v1.NodeCA/NodeCertificateStatus"
# Whatever its address, a manager's certificate carries this name; the authority is the swarm's own.
_NAME = "swarm-manager"
_OK, _NOT_FOUND = "0", "5"  # statuses of gRPC


class NoAnswer(Exception):
    """No manager answers; the text says which were asked, and why each failed."""


async def knows(node: str, managers: Sequence[tuple[str, int]], authority: str) -> bool:
    """Whether the node is a member. `managers` by address and port; `authority` as PEM.

    Raises NoAnswer.
    """
    faults = []
    for host, port in managers[:ASKED_AT_MOST]:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=authority)
            context.set_alpn_protocols(["h2"])
            async with asyncio.timeout(DEADLINE_S):
                status, text = await _ask(node, host, port, context)
            if status in (_OK, _NOT_FOUND):
                return status == _OK
            faults.append(f"{host}:{port}: {text or f'status {status}'}")
        except TimeoutError:
            faults.append(f"{host}:{port}: no answer within {DEADLINE_S:g} s")
        except (OSError, ValueError, OverflowError, H2Error) as error:
            faults.append(f"{host}:{port}: {error}")
    raise NoAnswer("; ".join(faults) or "none is known")


async def answers(host: str, port: int) -> bool:
    """Whether somebody there speaks TLS, as a manager does. Who it is, only a join finds out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(DEADLINE_S):
            _, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=_NAME
            )
    except (TimeoutError, OSError, UnicodeError, OverflowError):  # no name by IDNA, no port
        return False
    writer.transport.abort()
    return True


async def _ask(node: str, host: str, port: int, context: ssl.SSLContext) -> tuple[str, str]:
    """Status and message of the call. Raises OSError, ValueError, H2Error."""
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=_NAME)
    try:
        connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        connection.initiate_connection()
        stream = connection.get_next_available_stream_id()
        connection.send_headers(stream, _HEADERS)
        connection.send_data(stream, _request(node), end_stream=True)
        writer.write(connection.data_to_send())
        while data := await reader.read(1 << 16):
            for event in connection.receive_data(data):
                # An answer without content has its status in its only headers.
                if isinstance(event, ResponseReceived | TrailersReceived):
                    headers = {str(name): str(value) for name, value in event.headers or ()}
                    if status := headers.get("grpc-status"):
                        return status, headers.get("grpc-message", "")
            writer.write(connection.data_to_send())
        raise ConnectionError("it hung up")
    finally:
        writer.transport.abort()


_HEADERS = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", _NAME),
    (":path", _CALL),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def _request(node: str) -> bytes:
    """A NodeCertificateStatusRequest, whose one field is the node's id, as gRPC frames it."""
    text = node.encode()
    message = bytes([0x0A, len(text)]) + text
    return b"\0" + len(message).to_bytes(4) + message
