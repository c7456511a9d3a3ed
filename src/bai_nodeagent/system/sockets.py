"""TCP ports of this host: who listens, and whether it speaks ZeroMQ."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import psutil

GREETING_DEADLINE_S = 2.0
_LISTENS = "0A"
# The first bytes of each side, sent before it has read any: ZMTP 3.1, "signature".
_GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f"

Answer = Literal["greets", "speaks otherwise", "is silent", "refuses"]


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens on a port. `pid` is 0 where we may not see it."""

    host: str
    port: int
    pid: int

    def is_in_the_way_of(self, host: str) -> bool:
        """Whether nobody else can listen on that address now. "": on all of them."""
        return _is_any(host) or _is_any(self.host) or self.host == host


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def listeners(ports: Collection[int]) -> tuple[Listener, ...]:
    """Who listens on these ports in our network namespace. Blocks: it looks into all of /proc."""
    found = psutil.net_connections(kind="tcp")
    return tuple(
        Listener(each.laddr.ip, each.laddr.port, each.pid or 0)
        for each in found
        if each.status == psutil.CONN_LISTEN and each.laddr.port in ports
    )


def accounts_at(port: int) -> frozenset[int]:
    """The accounts whose processes listen on a TCP port of this host. proc_net(5) has a line each:
    number, local address in hexadecimal, remote one, state, three more words, the account."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(int(words[7]))
    return frozenset(found)


async def ask(host: str, port: int) -> Answer:
    """How a listener answers a connection, which is closed at once."""
    target = "127.0.0.1" if _is_any(host) else host
    try:
        with anyio.fail_after(GREETING_DEADLINE_S):
            async with await anyio.connect_tcp(target, port) as stream:
                return await _greeting(stream)
    except TimeoutError:
        return "is silent"
    except OSError:
        return "refuses"


async def _greeting(stream: anyio.abc.SocketStream) -> Answer:
    said = b""
    try:
        while len(said) < len(_GREETING):
            said += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return "speaks otherwise"
    return "greets" if said.startswith(_GREETING) else "speaks otherwise"
