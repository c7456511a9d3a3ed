"""Addresses and routes of this node, by netlink (pyroute2). rtnetlink(7).

pyroute2 costs 9 MB and a sixth of a second: it is loaded when a document asks
for an address.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from ..address import InterfaceAddress, NetworkView
from ..model import Unavailable

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

_RTN_LOCAL = 2
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)


async def view(manager_ip: str | None, asked: Iterable[str]) -> NetworkView:
    """What the kernel says now of its addresses, the route to `manager_ip` (an address)
    and which of `asked` are this node's own. Raises Unavailable."""
    from pyroute2 import AsyncIPRoute, NetlinkError

    try:
        async with AsyncIPRoute() as ip:
            names = {link["index"]: link.get("ifname") async for link in await ip.get_links()}
            addresses = tuple(
                [
                    InterfaceAddress(
                        message.get("local") or message.get("address"),
                        names.get(message["index"], ""),
                        message["scope"],
                        message.get("flags") or message["flags"],
                    )
                    async for message in await ip.get_addr()
                ]
            )
            source, interface, _ = await _route(ip, manager_ip, names)
            local = frozenset([a for a in asked if (await _route(ip, a, names))[2] == _RTN_LOCAL])
    except (OSError, NetlinkError) as error:
        raise Unavailable(f"netlink: {error}") from error
    return NetworkView(addresses, source, interface, local)


async def changes() -> AsyncIterator[None]:
    """Yields at the start of the watch and whenever an address, route or link changes."""
    from pyroute2 import AsyncIPRoute, NetlinkError
    from pyroute2.netlink import rtnl

    groups = (
        rtnl.RTMGRP_IPV4_IFADDR
        | rtnl.RTMGRP_IPV6_IFADDR
        | rtnl.RTMGRP_IPV4_ROUTE
        | rtnl.RTMGRP_IPV6_ROUTE
        | rtnl.RTMGRP_LINK
    )
    try:
        async with AsyncIPRoute() as ip:
            await ip.bind(groups=groups)
            yield
            while True:  # one round of get() is one batch of messages
                async for _ in ip.get():
                    yield
    except (OSError, NetlinkError) as error:
        raise Unavailable(f"netlink: {error}") from error


async def _route(
    ip: AsyncIPRoute, to: str | None, names: dict[int, str]
) -> tuple[str | None, str | None, int | None]:
    """Source, interface and type of the route to an address; nothing without one."""
    from pyroute2 import NetlinkError

    if to is None:
        return None, None, None
    try:
        route = (await ip.route("get", dst=to))[0]
    except NetlinkError as error:
        if error.code in _NO_ROUTE:
            return None, None, None
        raise
    return route.get("prefsrc"), names.get(route.get("oif")), route["type"]
