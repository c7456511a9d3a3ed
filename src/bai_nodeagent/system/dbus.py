"""D-Bus: a conversation with one service on a message bus.

jeepney makes and reads the messages; the socket is ours, because jeepney's
own asyncio connection leaves it open when a bus does not answer, and waits
for signals for ever when the bus is gone. A conversation is short: open, ask
in turn, close (1 ms on top). Nothing is shared between calls, so there is
nothing to reconnect after a restart of dbus-daemon.

Any account may send signals to any connection, of 32 MB too, and call them as it
likes: only what comes from the bus itself or from the service is parsed.

Source: the D-Bus specification.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    Message,
    MessageFlag,
    MessageType,
    message_bus,
    new_method_call,
)
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.low_level import Header, calc_msg_size

from ..errors import Refused, Unavailable

# All properties of a unit are some 20 kB; the header of an answer some 200 bytes.
MESSAGE_AT_MOST = 1 << 20
_HEADER_AT_MOST = 4096
# Before its fields: as many bytes, and where among them the size of these stands.
_FIXED, _FIELDS_AT = 16, 12

# What the bus itself says for a service that is not there or does not answer.
_NOBODY_ANSWERS = frozenset(
    f"org.freedesktop.DBus.Error.{word}"
    for word in (
        "Disconnected",
        "LimitsExceeded",
        "NameHasNoOwner",
        "NoReply",
        "ServiceUnknown",
        "TimedOut",
        "Timeout",
    )
)


@dataclass(frozen=True, slots=True)
class Signal:
    member: str
    body: tuple[Any, ...]


@contextlib.asynccontextmanager
async def connect(socket: Path, service: str, label: str) -> AsyncIterator[Conversation]:
    """Opens a conversation with the service of that name on the bus at `socket`.

    `label` is what people call the service; errors begin with it. Raises
    Unavailable, also later and out of the body, when there is no bus or it
    closes the connection. Has no deadline of its own.
    """
    try:
        async with await anyio.connect_unix(socket) as stream:
            conversation = Conversation(stream, service, label)
            await conversation.greet()
            yield conversation
    except (OSError, AuthenticationError) as error:
        raise Unavailable(f"{label}: no bus at {socket}: {error}") from error
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise Unavailable(f"{label}: the bus at {socket} closed the connection") from error


class Conversation:
    """Calls are answered in turn; signals wait until they are asked for."""

    def __init__(self, stream: anyio.abc.SocketStream, service: str, label: str) -> None:
        self._stream = stream
        self._service = service
        self._label = label
        self._frames = Frames()
        self._trusted = {message_bus.bus_name}
        self._serials = itertools.count(1)
        self._signals: list[Signal] = []

    async def greet(self) -> None:
        """Authenticates by the socket's credentials and says hello. Before anything else."""
        authenticator = Authenticator()
        for line in authenticator:
            await self._stream.send(line)
            authenticator.feed(await self._stream.receive())
        await self._stream.send(BEGIN)
        await self._ask(new_method_call(message_bus, "Hello"))
        with contextlib.suppress(Unavailable):  # for the first call to say
            self._trusted |= {*await self._ask(message_bus.GetNameOwner(self._service))}

    async def call(
        self, path: str, interface: str, method: str, signature: str = "", *body: object
    ) -> tuple[Any, ...]:
        """Calls a method of the service; variants come as (signature, value).

        Raises Unavailable when the service is not on the bus, and Refused with
        the last word of the error's name and its text for any other error.
        """
        address = DBusAddress(path, self._service, interface)
        message = new_method_call(address, method, signature or None, body)
        # Else the bus tries to start a service that is not there.
        message.header.flags |= MessageFlag.no_auto_start
        return await self._ask(message)

    async def listen(self, interface: str, member: str, path: str | None = None) -> None:
        """From now on `signals` gives those of this kind, and fails when the service leaves."""
        gone = MatchRule(type="signal", sender=message_bus.bus_name, member="NameOwnerChanged")
        gone.add_arg_condition(0, self._service)
        rule = MatchRule(
            type="signal", sender=self._service, interface=interface, member=member, path=path
        )
        for match in (gone, rule):
            await self._ask(message_bus.AddMatch(match))

    async def signals(self) -> list[Signal]:
        """What has been signalled since the last call; waits for at least one.

        Raises Unavailable when the service left the bus or another took its name.
        """
        while not self._signals:
            await self._receive()
        signals, self._signals = self._signals, []
        if any(signal.member == "NameOwnerChanged" for signal in signals):
            raise Unavailable(f"{self._label}: left the bus")
        return signals

    async def _ask(self, message: Message) -> tuple[Any, ...]:
        serial = next(self._serials)
        await self._stream.send(message.serialise(serial))
        while True:
            for reply in await self._receive():
                if reply.header.fields.get(HeaderFields.reply_serial) == serial:
                    return self._body(reply)

    async def _receive(self) -> list[Message]:
        """Waits for bytes; gives the replies that they complete and keeps the signals."""
        messages = []
        for raw in self._frames.feed(await self._stream.receive()):
            header, _ = Header.from_buffer(raw)
            if header.fields.get(HeaderFields.sender) in self._trusted:
                messages.append(Message.from_buffer(raw))
        for message in messages:
            member = message.header.fields.get(HeaderFields.member)
            # NameAcquired is the bus's answer to Hello; nobody asked for it.
            if message.header.message_type is MessageType.signal and member != "NameAcquired":
                self._signals.append(Signal(member, tuple(message.body)))
        return [m for m in messages if m.header.message_type is not MessageType.signal]

    def _body(self, reply: Message) -> tuple[Any, ...]:
        if reply.header.message_type is not MessageType.error:
            return tuple(reply.body)
        error = str(reply.header.fields.get(HeaderFields.error_name))
        text = f"{self._label}: {reply.body[0] if reply.body else error}"
        if error in _NOBODY_ANSWERS:
            raise Unavailable(text)
        raise Refused(error.rpartition(".")[2], text)


class Frames:
    """Splits what is received into messages. What is too large for one of ours is passed over."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._left = 0  # bytes that are to be passed over

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that these bytes complete."""
        self._raw += data
        while True:
            passed = min(self._left, len(self._raw))
            del self._raw[:passed]
            self._left -= passed
            if self._left or len(self._raw) < _FIXED:
                return
            start = bytes(self._raw[:_FIXED])
            size = calc_msg_size(start)
            order = "<" if start[:1] == b"l" else ">"
            (fields,) = struct.unpack_from(f"{order}I", start, _FIELDS_AT)
            if size > MESSAGE_AT_MOST or fields > _HEADER_AT_MOST:
                self._left = size
            elif len(self._raw) < size:
                return
            else:
                yield bytes(self._raw[:size])
                del self._raw[:size]
