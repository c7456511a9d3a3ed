"""Who listens on a port, as the kernel tells it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from bai_nodeagent.kinds.agent.backendai.liveness import Endpoint, Endpoints, port_occupied
from bai_nodeagent.kinds.agent.process import search
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


@pytest.mark.parametrize(
    ("host", "other", "is_listening", "is_occupied"),
    [
        ("127.0.0.1", "127.0.0.1", True, True),
        ("127.0.0.1", "0.0.0.0", True, True),
        ("127.0.0.1", "::", True, True),
        ("127.0.0.1", "::ffff:127.0.0.1", True, True),
        ("127.0.0.1", "127.0.0.1", False, True),  # it is bound, and nothing shows it
        ("127.0.0.1", "127.0.0.2", True, False),
        ("127.0.0.1", "::1", True, False),
        ("", "127.0.0.2", True, True),
        ("::1", "127.0.0.1", True, False),
        ("192.0.2.1", "127.0.0.1", True, False),  # not an address of this machine
    ],
)
def test_whether_an_address_is_occupied_the_kernel_decides(
    host: str, other: str, *, is_listening: bool, is_occupied: bool
) -> None:
    with socket.socket(socket.AF_INET6 if ":" in other else socket.AF_INET) as held:
        if ":" in other:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        held.bind((other, 0))
        if is_listening:
            held.listen()
        assert sockets.is_occupied(host, held.getsockname()[1]) is is_occupied


def test_whoever_listens_for_ipv6_alone_takes_no_address_of_ipv4() -> None:
    """The tables of the kernel show the same of it as of one who takes both."""
    with socket.create_server(("::", 0), family=socket.AF_INET6) as held:
        port = held.getsockname()[1]
        assert sockets.listening([port])[0].is_in_the_way_of("127.0.0.1")
        assert not sockets.is_occupied("127.0.0.1", port)


def test_where_nobody_listens_no_process_is_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can have a million descriptors, and a dead agent is not to wait for those."""

    def walk() -> list[int]:
        raise AssertionError

    monkeypatch.setattr(psutil, "pids", walk)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert sockets.listeners([free.getsockname()[1]]) == ()


def test_who_has_a_port_by_an_outgoing_connection_is_found() -> None:
    """The kernel gives them ports that a server may need: aiomonitor's default is one of them."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.bind(("127.0.0.1", 0))
        port = client.getsockname()[1]
        client.connect(server.getsockname())
        expected = Listener("127.0.0.1", port, os.geteuid(), os.getpid(), is_connected=True)
        assert sockets.is_occupied("127.0.0.1", port)
        assert sockets.listeners([port]) == ()
        assert sockets.connected([port]) == (expected,)
        (found,) = search._occupants(Endpoints(Endpoint("127.0.0.1", port)))
    (said,) = search.described([found])
    assert said.startswith(f"port {port} by a connection of process {os.getpid()} (")
    assert "ip_local_reserved_ports" in port_occupied([said]).message
    assert "ip_local_reserved_ports" not in port_occupied(["port 1 by process 2"]).message
