"""TCP ports of this host: who has them, and whether who listens speaks ZeroMQ."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal

import anyio
import psutil

GREETING_DEADLINE_S = 2.0
_LISTENS, _TIME_WAIT = "0A", "06"
_CONNECTIONS_AT_MOST = 100_000  # looked at; anybody can have more
# Looked into for who has a socket: of one process, and of all. Anybody can have a million.
_OF_ONE_AT_MOST = 2000
_DESCRIPTORS_AT_MOST = 50_000
# The first bytes of each side, sent before it has read any: ZMTP 3.1, "signature".
_GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f"

Answer = Literal["greets", "speaks otherwise", "is silent", "refuses"]


@dataclass(frozen=True, slots=True)
class Listener:
    """Who has a port, by account. `pid` is 0 where that is not known.

    is_connected  by a connection from or to it, not by listening there
    """

    host: str
    port: int
    uid: int
    pid: int = 0
    is_connected: bool = False
    inode: int = field(default=0, repr=False, compare=False)

    def is_in_the_way_of(self, host: str) -> bool:
        """Whether it may be that nobody else can listen on that address. "": on all of them."""
        return _is_any(host) or _is_any(self.host) or self.host == host


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def is_occupied(host: str, port: int) -> bool:
    """Whether nobody can listen there now, as the kernel says. Blocks for moments. "": anywhere.

    What the tables show is no answer: whoever listens on [::] may leave IPv4 alone, and whoever
    is bound without listening is not shown at all. An address that is not here is not occupied,
    nor is a name's: to look that up takes seconds.
    """
    try:
        address = ipaddress.ip_address(host or "0.0.0.0")  # noqa: S104
    except ValueError:
        return False
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((str(address), port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def listeners(ports: Collection[int]) -> tuple[Listener, ...]:
    """Who listens on these ports in our network namespace, with the process as far as it can be
    told: so many descriptors are looked into for it. Blocks for moments."""
    return _with_pids(listening(ports))


def connected(ports: Collection[int]) -> tuple[Listener, ...]:
    """The same of those who have one of these ports by a connection. The kernel gives outgoing
    ones a port of net.ipv4.ip_local_port_range, whoever else may need it."""
    found = _of(ports, islice(_lines(), _CONNECTIONS_AT_MOST))
    return _with_pids(tuple(replace(each, is_connected=True) for each in found))


def _with_pids(found: tuple[Listener, ...]) -> tuple[Listener, ...]:
    pids = _holders({each.inode for each in found}, {each.uid for each in found}) if found else {}
    return tuple(replace(each, pid=pids.get(each.inode, 0)) for each in found)


def _holders(inodes: Collection[int], uids: Collection[int]) -> dict[int, int]:
    """Pids by the inode of a socket that they have open. proc_pid_fd(5)."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    pids: dict[int, int] = {}
    left = _DESCRIPTORS_AT_MOST
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}").stat().st_uid not in uids:
                continue
            with os.scandir(f"/proc/{pid}/fd") as entries:
                for entry in islice(entries, min(left, _OF_ONE_AT_MOST)):
                    left -= 1
                    if inode := wanted.get(os.readlink(entry.path)):  # noqa: PTH115
                        pids.setdefault(inode, pid)
        if left <= 0 or len(pids) == len(wanted):
            break
    return pids


def listening(ports: Collection[int]) -> tuple[Listener, ...]:
    """The same without pids."""
    return _of(ports, _lines(are_listening=True))


def _of(ports: Collection[int], lines: Iterable[list[str]]) -> tuple[Listener, ...]:
    """proc_net(5) has a line each: number, local address in hexadecimal, remote one, state, three
    more words, the account, one more, the inode."""
    found = ((*words[1].split(":"), words[7], words[9]) for words in lines)
    return tuple(
        Listener(_address(host), int(port, 16), int(uid), inode=int(inode))
        for host, port, uid, inode in found
        if int(port, 16) in ports
    )


def accounts_at(host: str, port: int) -> frozenset[int]:
    """The accounts whose processes listen on that address, a number. Blocks for moments."""
    return frozenset(each.uid for each in listening([port]) if each.is_in_the_way_of(host))


def _lines(*, are_listening: bool = False) -> Iterator[list[str]]:
    """Whoever listens comes before all connections; those that are over have no owner."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), Path(table).open() as lines:  # no IPv6
            next(lines)
            all_words = map(str.split, lines)
            if are_listening:
                yield from takewhile(lambda words: words[3] == _LISTENS, all_words)
            else:
                yield from (w for w in all_words if w[3] not in (_LISTENS, _TIME_WAIT))


def _address(digits: str) -> str:
    """From hexadecimal, by words of four bytes in the order of this machine."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return _spelled(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))


def _spelled(address: str) -> str:
    """One of IPv4 in its own way: whoever listens at ::ffff:127.0.0.1 does so at 127.0.0.1."""
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return str(mapped or address)


async def is_answering(server: str) -> bool:
    """Whether somebody takes a connection at "host:port", which is closed at once."""
    host, _, port = server.rpartition(":")
    try:
        with anyio.fail_after(GREETING_DEADLINE_S):
            async with await anyio.connect_tcp(host.strip("[]"), int(port)):
                return True
    except (TimeoutError, OSError, UnicodeError):
        return False


async def ask(host: str, port: int) -> Answer:
    """How a listener answers a connection, which is closed at once."""
    target = "127.0.0.1" if _is_any(host) else host
    try:
        with anyio.fail_after(GREETING_DEADLINE_S):
            async with await anyio.connect_tcp(target, port) as stream:
                return await _greeting(stream)
    except TimeoutError:
        return "is silent"
    except (OSError, UnicodeError):  # the latter: no name of a host
        return "refuses"


async def _greeting(stream: anyio.abc.SocketStream) -> Answer:
    received = b""
    try:
        while len(received) < len(_GREETING):
            received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return "speaks otherwise"
    return "greets" if received.startswith(_GREETING) else "speaks otherwise"
