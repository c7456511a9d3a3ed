"""Redis and its Sentinels over redis-py, on asyncio. The only module that imports redis.

Asks, and never writes. Values are taken as text: what Backend.AI keeps there
is partly pickled, and unpickling runs whatever somebody has put there.

It is heavy, and not every node needs it: import this module only where a
document asks for something of Redis.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
from redis._parsers import _AsyncRESP2Parser  # no public name; `parser_class` takes it
from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import TimeoutError as NoAnswer

from .rules import Server

CALL_DEADLINE_S = 3.0
# How long a link is silent when all is well; its end is noticed at once.
HOLD_S = 5.0
POLL_S = 2.0
# Of one reply; what we ask for is far below. Whoever sends more is no Redis.
REPLY_AT_MOST = 1 << 20  # bytes
DEPTH_AT_MOST = 8
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
    except (OSError, UnicodeError, RuntimeError) as error:  # the last: no thread left
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
        with _as_of_redis(self._server):
            return Server(str(found[0]), _port(found[1])) if found else None

    async def texts(self, key: str, fields: Sequence[str]) -> dict[str, str | None]:
        """Fields of a hash, at least one; None for those that are not there."""
        found = await self._ask("HMGET", key, *fields)
        with _as_of_redis(self._server):
            values = [None if each is None else str(each) for each in found]
            return dict(zip(fields, values, strict=True))

    async def now_s(self) -> float:
        """The server's clock, in Unix time."""
        answer = await self._ask("TIME")
        with _as_of_redis(self._server):
            seconds, microseconds = answer
            return int(seconds) + int(microseconds) / 1e6

    async def keeps_role(self) -> bool:
        """Whether the server's role is what it was, after a wait of HOLD_S at most.

        That it ends raises Unreachable. Both show within milliseconds: Redis ends
        the waits of its clients when it becomes a replica. One that hangs shows after
        HOLD_S and a deadline. One that answers at once is polled: this user may not wait there,
        or it is a stranger.
        """
        wait_ms, asked_s = str(int(HOLD_S * 1000)), anyio.current_time()
        with suppress(_MayNot):
            await self._ask("XREAD", "BLOCK", wait_ms, "STREAMS", _NOBODY_S_KEY, "$", wait_s=HOLD_S)
        if await self._role() != self.role:
            return False
        await anyio.sleep_until(asked_s + POLL_S)
        return True

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
        parser_class=_Bounded,
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
    with _as_of_redis(server):
        return _ROLES[answer[0]]


async def _ask(server: Server, connection: Connection, *words: str, wait_s: float = 0.0) -> Any:
    with _translated(server), anyio.fail_after(CALL_DEADLINE_S + wait_s):
        await connection.send_command(*words)
        return await connection.read_response()


class _Bounded(_AsyncRESP2Parser):
    """redis-py's parser with bounds: it reads, and allocates, whatever a server announces."""

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self._left = self._depth = 0

    async def read_response(self, *args: Any, **more: Any) -> Any:
        self._left, self._depth = REPLY_AT_MOST, 0
        return await super().read_response(*args, **more)

    async def _read_response(self, *args: Any, **more: Any) -> Any:
        self._depth += 1
        if self._depth > DEPTH_AT_MOST:
            raise InvalidResponse("lists in lists")
        try:
            return await super()._read_response(*args, **more)
        except ValueError as error:  # no number where one has to be, or a line without end
            raise InvalidResponse(str(error)) from error
        finally:
            self._depth -= 1

    async def _readline(self) -> bytes:
        line = await super()._readline()
        self._take(len(line))
        return line

    async def _read(self, length: int) -> bytes:
        self._take(length)
        return await super()._read(length)

    def _take(self, length: int) -> None:
        self._left -= abs(length)
        if self._left < 0:
            raise InvalidResponse(f"a reply of more than {REPLY_AT_MOST} bytes")


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
    except InvalidResponse as error:
        raise Unreachable(_stranger(server)) from error
    except (RedisError, OSError) as error:
        raise Unreachable(f"{server}: {error}") from error


@contextmanager
def _as_of_redis(server: Server) -> Iterator[None]:
    """While an answer is taken apart: one of another form is no Redis's."""
    try:
        yield
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise Unreachable(_stranger(server)) from error


def _port(text: object) -> int:
    port = int(str(text))
    if not 0 < port < 65536:
        raise ValueError("no port")
    return port


def _stranger(server: Server) -> str:
    return f"{server}: something else than Redis answers there"
