from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bai_nodeagent.system.notify import notify, watchdog_interval_s


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(1)
        yield receiver


def test_lines_come_as_one_message(
    receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notify("READY=1", "STATUS=Ready")
    assert receiver.recv(1000) == b"READY=1\nSTATUS=Ready"


def test_an_at_sign_means_the_abstract_namespace(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"bai-nodeagent-test-{os.getpid()}"
    receiver.bind(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    notify("WATCHDOG=1")
    assert receiver.recv(1000) == b"WATCHDOG=1"


def test_a_line_break_in_a_status_starts_no_other_assignment(
    receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notify("STATUS=it said:\nMAINPID=1")
    assert receiver.recv(1000) == b"STATUS=it said: MAINPID=1"


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nobody/listens", "@nobody"])
def test_no_listener_is_no_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected_s"),
    [
        ("120000000", str(os.getpid()), 120.0),
        ("500000", None, 0.5),
        ("120000000", "1", None),  # meant for another process
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
    ids=["meant for us", "for anybody", "for another process", "none", "no number", "unset"],
)
def test_watchdog_interval(
    usec: str | None, pid: str | None, expected_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval_s() == expected_s
