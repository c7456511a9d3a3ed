"""Redis and its Sentinels over redis-py, on asyncio. The only module that imports redis.

Asks, and never writes. Values are taken as text: what Backend.AI keeps there
is partly pickled, and unpickling runs whatever somebody has put there.

It is heavy, and not every node needs it: import this module only where a
document asks for something of Redis.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import TimeoutError as NoAnswer

from ..redis_rules import Server

CALL_DEADLINE_S = 3.0
# How long a link is silent when all is well; its end is noticed at once.
HOLD_S = 5.0
# A key that nobody writes: reading it waits, and says that the server lives.
_NOBODY_S_KEY = "bai-nodeagent:nothing"
_ROLES = {"master": "master", "slave": "replica", "sentinel": "sentinel"}


class RedisFault(Exception):
    """Redis can't be used like this; the text says what is in the way."""


class Unresolvable(RedisFault):
    """Its name leads to no address."""


class Unreachable(RedisFault):
    """There is no answer, or not a useful one."""


class Unauthorized(RedisFault):
    """The password is wrong, missing, or one too many."""


async def resolve(server: Server) -> tuple[str, ...]:
    """The addresses of a server's name. Raises Unresolvable."""
    try:
        with anyio.fail_after(CALL_DEADLINE_S):
            found = await anyio.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        text = f"{server.host}: no answer from name service within {CALL_DEADLINE_S:g} s"
        raise Unresolvable(text) from error
    except (OSError, UnicodeError) as error:
        raise Unresolvable(f"{server.host}: {error}") from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class Link:
    """One connection to one server, proven by its first answer. Everything raises RedisFault."""

    def __init__(self, server: Server, connection: Connection, role: str) -> None:
        self._server = server
        self._connection = connection
        self.role = role

    async def master_of(self, service: str) -> Server | None:
        """What a Sentinel knows."""
        found = await self._ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        return Server(str(found[0]), int(found[1])) if found else None

    async def text(self, key: str, field: str) -> str | None:
        """A field of a hash."""
        found = await self._ask("HGET", key, field)
        return None if found is None else str(found)

    async def now_s(self) -> float:
        """The server's clock, in Unix time."""
        seconds, microseconds = await self._ask("TIME")
        return int(seconds) + int(microseconds) / 1e6

    async def hold(self) -> None:
        """Returns when the server has changed its role; its end raises Unreachable.

        Both show within milliseconds: Redis ends the waits of its clients when
        it becomes a replica. One that hangs shows after HOLD_S and a deadline.
        """
        while await self._role() == self.role:
            wait_ms = str(int(HOLD_S * 1000))
            await self._ask("XREAD", "BLOCK", wait_ms, "STREAMS", _NOBODY_S_KEY, "$", wait_s=HOLD_S)

    async def _role(self) -> str:
        return await _role(self._server, self._connection)

    async def _ask(self, *words: str, wait_s: float = 0.0) -> Any:
        return await _ask(self._server, self._connection, *words, wait_s=wait_s)


@asynccontextmanager
async def linked(server: Server, password: str | None, database: int = 0) -> AsyncIterator[Link]:
    """A connection to a server whose host is a name or an address. Raises RedisFault."""
    connection = Connection(
        host=server.host,
        port=server.port,
        db=database,
        password=password,
        socket_timeout=None,  # its own makes "no answer" and "the answer None" look the same
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # 3 begins with a command that Redis 5 doesn't know
        decode_responses=True,
        encoding_errors="replace",
    )
    try:
        with _translated(server), anyio.fail_after(CALL_DEADLINE_S):
            await connection.connect()  # type: ignore[no-untyped-call]
        yield Link(server, connection, await _role(server, connection))
    finally:
        with anyio.CancelScope(shield=True):
            await connection.disconnect(nowait=True)


async def _role(server: Server, connection: Connection) -> str:
    """ "master", "replica" or "sentinel"; "" where that may not be asked."""
    try:
        answer = await _ask(server, connection, "ROLE")
    except _MayNot:
        return ""
    return _ROLES.get(str(answer[0]), str(answer[0]))


async def _ask(server: Server, connection: Connection, *words: str, wait_s: float = 0.0) -> Any:
    with _translated(server), anyio.fail_after(CALL_DEADLINE_S + wait_s):
        await connection.send_command(*words)
        return await connection.read_response()


class _MayNot(Unreachable):
    """A command that this user is not allowed."""


@contextmanager
def _translated(server: Server) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as error:
        raise Unauthorized(f"{server}: {error}") from error
    except NoPermissionError as error:
        raise _MayNot(f"{server}: {error}") from error
    except (NoAnswer, TimeoutError) as error:
        raise Unreachable(f"{server}: no answer within {CALL_DEADLINE_S:g} s") from error
    except (RedisError, OSError) as error:
        raise Unreachable(f"{server}: {error}") from error
