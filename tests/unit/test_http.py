from __future__ import annotations

import contextlib
import socket
import urllib.request
from dataclasses import replace

import pytest

from bai_nodeagent import http
from bai_nodeagent.core.metrics import Metrics
from bai_nodeagent.core.status import NodeStatus, Reading
from bai_nodeagent.http import Server, Sources, answer, is_meant_for
from bai_nodeagent.kinds import KINDS
from bai_nodeagent.model import Action, Condition, Status

STATUS = NodeStatus("i-1", "0", "b", "t", Reading(), None, "Ready", (), {})


def sources(summary: str = "Ready", *, is_moving: bool = True) -> Sources:
    return Sources(lambda: b"m 1\n", lambda: replace(STATUS, summary=summary), lambda: is_moving)


@pytest.mark.parametrize(
    ("path", "given", "code", "body"),
    [
        ("/metrics", sources(), 200, b"m 1\n"),
        ("/metrics?x=1", sources("Degraded"), 200, b"m 1\n"),
        ("/livez", sources("Degraded"), 200, b"Degraded\n"),
        ("/livez", sources(is_moving=False), 503, b"the loop does not move\n"),
        ("/readyz", sources("Ready"), 200, b"Ready\n"),
        ("/readyz", sources("Paused"), 200, b"Paused\n"),
        ("/readyz", sources("Progressing"), 503, b"Progressing\n"),
        ("/readyz", sources("Degraded"), 503, b"Degraded\n"),
    ],
)
def test_answers(path: str, given: Sources, code: int, body: bytes) -> None:
    found = answer(path, given)
    assert (found[0], found[2]) == (code, body)


def test_status_is_always_200_and_other_paths_404() -> None:
    assert answer("/status", sources("Degraded"))[0] == 200
    assert answer("/", sources())[0] == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_answers_ends_at_once_and_frees_its_port(host: str) -> None:
    server = Server((host, 0), sources())
    port = server.port
    shown = f"[{host}]" if ":" in host else host
    with urllib.request.urlopen(f"http://{shown}:{port}/livez", timeout=5) as found:
        assert found.read() == b"Ready\n"
    with pytest.raises(OSError, match="in use"):
        Server((host, port), sources())
    server.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, port), timeout=1)


def test_metrics_show_conditions_and_take_them_away() -> None:
    metrics = Metrics("1.2", "i-1", "c")
    metrics.conditions([Condition("AgentConfig", Status.UNKNOWN, "Stuck", "m", "t", 1)], {})
    metrics.agent_up.set(1)
    text = metrics.text().decode()
    assert 'bai_nodeagent_condition{resource="agent_config",status="Unknown"} 1.0' in text
    assert 'bai_nodeagent_stuck_operations{resource="agent_config"} 1.0' in text
    assert 'bai_nodeagent_build_info{cluster="c",node="i-1",version="1.2"} 1.0' in text
    assert "bai_nodeagent_agent_up 1.0" in text
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text
    metrics.conditions([], {})
    metrics.agent_up.set(None)
    text = metrics.text().decode()
    for name in ("condition", "stuck_operations"):
        assert f"bai_nodeagent_{name}{{" not in text
    for name in ("agent_up", "store_up", "store_last_contact_timestamp_seconds"):
        assert f"\nbai_nodeagent_{name} " not in text


def test_every_counter_is_there_before_it_counts() -> None:
    metrics = Metrics("1.2", "i-1", "c")
    for kind in KINDS:
        metrics.expect(kind.section, {action.verb for action in kind.actions})
    text = metrics.text().decode()
    for series in (
        'actions_total{action="roll_back",resource="agent"}',
        'actions_total{action="write",resource="agent-config"}',
        'drift_total{resource="mount"}',
        'reconcile_total{resource="agent",result="failed"}',
        'reconcile_seconds_count{resource="agent"}',
        'agent_restarts_total{cause="died"}',
        "watch_restarts_total",
    ):
        assert f"\nbai_nodeagent_{series} 0.0\n" in text


def test_each_kind_of_action_is_reported_to_the_metrics() -> None:
    reported = {action for kind in KINDS for action in kind.actions}
    planned = {c for c in Action.__subclasses__() if c.__module__.startswith("bai_nodeagent.")}
    assert planned <= reported


@pytest.mark.parametrize(
    ("host", "listens_on", "is_served"),
    [
        ("127.0.0.1:9431", "127.0.0.1", True),
        ("localhost:9431", "127.0.0.1", True),
        ("[::1]:9431", "::1", True),
        (None, "127.0.0.1", True),
        ("evil.example:9431", "127.0.0.1", False),
        ("evil.example:9431", "10.0.0.1", True),
        ("node07:9431", "0.0.0.0", True),
    ],
)
def test_loopback_is_served_under_no_foreign_name(
    host: str | None, listens_on: str, is_served: bool
) -> None:
    assert is_meant_for(host, listens_on) is is_served


@pytest.mark.parametrize("head", [b"", b"GET /metrics HTTP/1.0\r\n"])
def test_whoever_has_been_silent_for_the_longest_makes_way(
    monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(http, "SILENT_AT_MOST", 8)
    server = Server(("127.0.0.1", 0), sources())
    held = []
    for _ in range(8):
        held.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        held[-1].sendall(head)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as asks:
        asks.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert asks.recv(12) == b"HTTP/1.0 200"
    with contextlib.suppress(ConnectionResetError):  # what it said was not read
        assert held[0].recv(1) == b""
    for connection in held[1:]:
        connection.sendall(b"\r\n" if head else b"GET /livez HTTP/1.0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.0 200"
    for connection in held:
        connection.close()
    server.close()


def test_those_that_do_not_read_their_answer_keep_nobody_out() -> None:
    more_than_a_kernel_takes = b"x" * (16 << 20)
    big = Sources(lambda: more_than_a_kernel_takes, sources().status, lambda: True)
    server = Server(("127.0.0.1", 0), big)
    held = []
    for _ in range(4 * http.ANSWERED_AT_MOST):
        held.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        held[-1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as asks:
        asks.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert asks.recv(12) == b"HTTP/1.0 200"
    for connection in held:
        connection.close()
    server.close()


def test_a_request_without_an_end_is_hung_up_on() -> None:
    server = Server(("127.0.0.1", 0), sources())
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as endless:
        with contextlib.suppress(OSError):
            for _ in range(1000):
                endless.sendall(b"GET /" + b"x" * 1000)
        with contextlib.suppress(ConnectionResetError):
            assert endless.recv(1) == b""
    server.close()


def test_a_client_that_sends_a_byte_at_a_time_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "REQUEST_DEADLINE_S", 0.3)
    server = Server(("127.0.0.1", 0), sources())
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.settimeout(0.05)
        for byte in b"GET /" + b"x" * 400:
            try:
                slow.sendall(bytes([byte]))
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            raise AssertionError("never hung up on")
    server.close()
