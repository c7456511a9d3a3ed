"""Who listens on a port, as the kernel tells it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from bai_nodeagent.system import sockets
from bai_nodeagent.system.sockets import Listener


@pytest.fixture(params=["127.0.0.1", "127.0.0.2", "::1", "::"])
def listening(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with ExitStack() as ends:
        server = ends.enter_context(socket.create_server((request.param, 0), family=family))
        port = server.getsockname()[1]
        # A connection is no listener, from either end.
        target = "::1" if request.param == "::" else request.param
        ends.enter_context(socket.create_connection((target, port)))
        yield request.param, port


def test_a_listener_is_found_with_its_account_and_process(listening: tuple[str, int]) -> None:
    host, port = listening
    assert sockets.listening([port]) == (Listener(host, port, os.geteuid()),)
    assert sockets.listeners([port]) == (Listener(host, port, os.geteuid(), os.getpid()),)
    assert sockets.accounts_at(host, port) == {os.geteuid()}
    assert sockets.listening([]) == ()


def test_where_nobody_listens_no_process_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can have a million descriptors, and a dead agent is not to wait for those."""

    def walk(kind: str) -> list[object]:
        raise AssertionError(kind)

    monkeypatch.setattr(psutil, "net_connections", walk)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert sockets.listeners([free.getsockname()[1]]) == ()
