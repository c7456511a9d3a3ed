"""What is taken of a message bus, where everybody may send signals to everybody."""

from __future__ import annotations

import pytest
from jeepney import DBusAddress, HeaderFields, new_signal

from bai_nodeagent.system import dbus

PATH = DBusAddress("/org/x", interface="org.x.Y")


def signal(text: str = "x", sender: str = ":1.7") -> bytes:
    message = new_signal(PATH, "Z", "s", (text,))
    message.header.fields[HeaderFields.sender] = sender
    raw: bytes = message.serialise(serial=9)
    return raw


@pytest.mark.parametrize("pieces", [1, 7, 100, 10_000_000])
def test_messages_are_split_wherever_bytes_end(pieces: int) -> None:
    frames, sent = dbus.Frames(), [signal("a"), signal("b" * 5000), signal("c")]
    stream = b"".join(sent)
    parts = [stream[at : at + pieces] for at in range(0, len(stream), pieces)]
    assert [raw for part in parts for raw in frames.feed(part)] == sent


@pytest.mark.parametrize(
    "large", [signal("x" * dbus.MESSAGE_AT_MOST), signal(sender=":1." + "7" * 5000)]
)
def test_what_is_too_large_is_passed_over(large: bytes) -> None:
    frames = dbus.Frames()
    stream = signal("a") + large + signal("b")
    found = [raw for at in range(0, len(stream), 65536) for raw in frames.feed(stream[at:][:65536])]
    assert found == [signal("a"), signal("b")]
    assert not frames._raw
