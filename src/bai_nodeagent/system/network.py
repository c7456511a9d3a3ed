"""Addresses and routes of this node, by netlink. rtnetlink(7).

pyroute2 costs 9 MB and a sixth of a second: it is loaded when a document asks
for an address. Links are never dumped: a node with many containers has hundreds.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING

import anyio

from ..address import InterfaceAddress, NetworkState
from ..errors import Unavailable

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

SETTLE_S = 0.2  # the start of a container is some twenty messages: one observation is enough
_RTN_UNICAST, _RTN_LOCAL = 1, 2
# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE. A link
# that goes down takes its IPv4 routes along without a message about them.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_MESSAGES = 65536  # bytes at once
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)


async def observe(manager_ip: str | None, asked: Iterable[str]) -> NetworkState:
    """What the kernel says now of its addresses, the route to `manager_ip` (an address)
    and which of `asked` are this node's own. Raises Unavailable."""
    from pyroute2 import AsyncIPRoute, NetlinkError

    try:
        async with AsyncIPRoute() as ip:
            addresses = tuple(
                [
                    InterfaceAddress(
                        message.get("local") or message.get("address"),
                        _name(message["index"]),
                        message["scope"],
                        message.get("flags") or message["flags"],
                    )
                    async for message in await ip.get_addr()
                ]
            )
            source, interface, _ = await _route(ip, manager_ip)
            local = frozenset([a for a in asked if (await _route(ip, a))[2] == _RTN_LOCAL])
    except (OSError, NetlinkError) as error:
        raise Unavailable(f"netlink: {error}") from error
    return NetworkState(addresses, source, interface, local)


async def changes() -> AsyncGenerator[None, None]:
    """Yields at the start of the watch, and once for each burst of messages about addresses,
    routes and links. What they say is not looked at. Raises Unavailable."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as messages:
            messages.bind((0, _GROUPS))
            yield
            while True:
                await anyio.wait_readable(messages)
                await anyio.sleep(SETTLE_S)
                _drain(messages)
                yield
    except OSError as error:
        raise Unavailable(f"netlink: {error}") from error


def _drain(messages: socket.socket) -> None:
    while True:
        try:
            messages.recv(_MESSAGES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were dropped: as good as read
                raise


async def _route(ip: AsyncIPRoute, to: str | None) -> tuple[str | None, str | None, int | None]:
    """Source, interface and type of the route to a host; nothing without one."""
    from pyroute2 import NetlinkError

    if to is None:
        return None, None, None
    try:
        route = (await ip.route("get", dst=to))[0]
    except NetlinkError as error:
        if error.code in _NO_ROUTE:
            return None, None, None
        raise
    if route["type"] not in (_RTN_UNICAST, _RTN_LOCAL):
        return None, None, None  # a broadcast address of a network is no host
    return route.get("prefsrc"), _name(route.get("oif")), route["type"]


def _name(index: int | None) -> str:
    """Of an interface; "" when it has just gone, or there is none."""
    try:
        return socket.if_indextoname(index) if index is not None else ""
    except OSError:
        return ""
