"""Whether an agent works, told from what it shows; and why it does not, from what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bai_nodeagent.kinds.agent.backendai.liveness import (
    START_S,
    WORKER_S,
    Endpoint,
    Endpoints,
    Liveness,
    endpoints,
    is_backendai,
    judge_liveness,
    pid_file,
)
from bai_nodeagent.kinds.agent.backendai.log_patterns import what_it_waits_for, why_dead
from bai_nodeagent.machine import Process
from bai_nodeagent.model import Status
from bai_nodeagent.system.sockets import Listener

WORKER = Process(72, 1)
WELL = Liveness(WORKER, "greets", "10.0.0.1:6001")
STARTING = Liveness(WORKER, "refuses", "10.0.0.1:6001")
HEADLESS = Liveness(None, "refuses", "10.0.0.1:6001")
MANAGER = "WARNING watching etcd to wait for the manager being available"
FOUND = "INFO detected at least one manager running"
REDIS = "WARNING Retrying due to interruption of Redis connection (ConnectionError('Error 111'))"
PASSWORD = "WARNING Retrying due to interruption of Redis connection (AuthenticationError('no'))"


@pytest.mark.parametrize(
    ("liveness", "output", "lived_s", "was_well", "reason"),
    [
        (WELL, "", 1, False, "Running"),
        (WELL, MANAGER, 500, True, "Running"),
        (STARTING, "", 1, False, "Starting"),
        (HEADLESS, "", 1, False, "Starting"),
        (STARTING, MANAGER, 2, False, "WaitingForManager"),
        (STARTING, f"{MANAGER}\n{FOUND}", 2, False, "Starting"),
        (STARTING, f"{FOUND}\n{REDIS}\nINFO Slot types", 2, False, "WaitingForRedis"),
        (STARTING, "", START_S + 1, False, "StartHangs"),
        (STARTING, "", 500, True, "NotAnswering"),
        (Liveness(WORKER, "is silent", "a:1"), "", 500, True, "NotAnswering"),
        (HEADLESS, "", WORKER_S + 1, False, "WorkerDead"),
        (HEADLESS, "", 2, True, "WorkerDead"),
        (Liveness(WORKER, "greets", "a:1", frozen=(72,)), "", 500, True, "Frozen"),
        (Liveness(WORKER, "refuses", "a:1", occupied=("port 1 by x",)), "", 2, False, "PortTaken"),
    ],
)
def test_patterns_and_what_they_mean(
    liveness: Liveness, output: str, lived_s: float, was_well: bool, reason: str
) -> None:
    verdict, observe_again_in_s = judge_liveness(liveness, output, "", lived_s, was_well=was_well)
    assert verdict.reason == reason
    expected = {"Running": Status.TRUE, "Starting": Status.UNKNOWN}.get(reason, Status.FALSE)
    assert verdict.status is expected
    assert observe_again_in_s > 0


def test_a_refused_password_is_distinguished_from_an_unreachable_redis() -> None:
    refused, unreachable = what_it_waits_for(PASSWORD), what_it_waits_for(REDIS)
    assert refused
    assert unreachable
    assert refused.reason == unreachable.reason == "WaitingForRedis"
    assert "password" in refused.message
    assert "password" not in unreachable.message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("zmq.error.ZMQError: Address already in use (addr='tcp://10.0.0.1:6001')", "PortTaken"),
        (
            "OSError: [Errno 98] error while attempting to bind on address ('0.0.0.0', 40128): "
            "address already in use",
            "PortTaken",
        ),
        ("TypeError: AioRpcError.__init__() missing 3 required", "EtcdUnreachable"),
        ("etcd_client.GRPCStatusError: {'code': 14, 'details': b''}", "EtcdUnreachable"),
        ("    assert redis_url is not None", "NoRedisAddress"),
        ("  | ValueError: RedisTarget must have an address for standalone", "NoRedisAddress"),
        ("  | glide_shared.exceptions.ClosingError: Connection error", "RedisUnreachable"),
        ("  | glide_shared.exceptions.ClosingError: WRONGPASS invalid", "RedisRefuses"),
        (
            "aiodocker.exceptions.DockerError: DockerError(900, 'Cannot connect to Docker Engine",
            "DockerUnreachable",
        ),
        ("tomli.TOMLDecodeError: Invalid value (at line 20, column 5)", "BadConfig"),
        ("ConfigurationError: Validation of agent local config has failed:", "BadConfig"),
        ("ModuleNotFoundError: No module named 'ai.backend.x'", "ImportFailed"),
        ("INFO exit.", None),
    ],
)
def test_each_way_to_fail_has_its_own_reason(line: str, reason: str | None) -> None:
    trouble = why_dead(f"INFO Backend.AI Agent 23.09.10\nTraceback:\n{line}\nINFO exit.\n")
    assert (trouble.reason if trouble else None) == reason


def test_the_occupied_port_is_named() -> None:
    trouble = why_dead("ZMQError: Address already in use (addr='tcp://10.0.0.1:6011')")
    assert trouble
    assert "6011" in trouble.message


@pytest.mark.parametrize(
    ("health", "words", "is_real"),
    [
        ("auto", ["/v/bin/python", "-m", "ai.backend.agent.server", "-f", "x"], True),
        ("auto", ["/v/bin/backend.ai", "ag", "start-server"], True),
        ("auto", ["/v/bin/python", "/v/bin/backend.ai", "ag", "start-server"], True),
        ("auto", ["/v/bin/backend.ai", "ag", "status"], False),
        ("auto", ["/bin/sh", "run-agent", "ai.backend.agents"], False),
        ("auto", [], False),
        ("process", ["python", "-m", "ai.backend.agent.server"], False),
        ("backendai", ["/opt/start-agent"], True),
    ],
)
def test_what_counts_as_the_real_agent(health: str, words: list[str], is_real: bool) -> None:
    assert is_backendai(health, words) is is_real


@pytest.mark.parametrize(
    ("text", "rpc", "others"),
    [
        (None, Endpoint("", 6001), [6007, 40128]),
        ("not = = toml", Endpoint("", 6001), [6007, 40128]),
        ('[agent]\nrpc-listen-addr = "10.0.0.1:6011"', Endpoint("10.0.0.1", 6011), [6007, 40128]),
        (
            '[agent]\nrpc-listen-addr = { host = "10.0.0.1" }\nmetadata-server-port = 40129',
            Endpoint("10.0.0.1", 6001),
            [6007, 40129],
        ),
    ],
)
def test_the_ports_that_an_agent_needs(text: str | None, rpc: Endpoint, others: list[int]) -> None:
    found = endpoints(text)
    assert found.rpc == rpc
    assert [each.port for each in found.others] == others


@pytest.mark.parametrize(
    ("version", "text", "ports"),
    [
        ((23, 9, 11), "", [49200]),
        ((24, 9, 14), "[agent]\naiomonitor-webui-port = 49300", [49300]),
        ((25, 6, 17), "", [6003, 39200]),
        ((25, 6, 17), '[agent]\nservice-addr = "10.0.0.1:6013"', [6013, 39200]),
        ((26, 8, 1), '[agent.internal-addr]\nhost = "0.0.0.0"', [6003, 39200]),
        ((), "", []),
        ((), "[agent]\naiomonitor-webui-port = 39201\nservice-addr = { port = 1 }", [1, 39201]),
    ],
)
def test_each_version_has_ports_of_its_own(
    version: tuple[int, ...], text: str, ports: list[int]
) -> None:
    found = endpoints(text, version)
    assert [each.port for each in found.others if each.port not in (6007, 40128)] == ports


def test_every_agent_of_a_process_has_its_ports() -> None:
    text = """\
[agent]
rpc-listen-addr = "10.0.0.1:6001"
[[agents]]
agent = { id = "i-a" }
[[agents]]
agent = { id = "i-b", rpc-listen-addr = "10.0.0.1:6011", agent-sock-port = 6017 }
[[agents]]
"""
    assert endpoints(text).ports == {6001, 6007, 6011, 6017, 40128}


def test_variables_precede_the_file() -> None:
    env = {"BACKEND_AGENT_PORT": "6021", "BACKEND_AGENT_HOST_OVERRIDE": "10.0.0.9"}
    text = '[agent]\nrpc-listen-addr = "10.0.0.1:6001"\npid-file = "/run/one"'
    assert endpoints(text, (), env).rpc == Endpoint("10.0.0.9", 6021)
    assert endpoints(text, (), {"BACKEND_AGENT_PORT": "no"}).rpc == Endpoint("10.0.0.1", 6001)
    assert pid_file(text, {"BACKEND_PID_FILE": "/run/other"}) == Path("/run/other")


BIND = "OSError: [Errno 98] error while attempting to bind on address ('0.0.0.0', {}): in use"


def test_a_bind_error_of_an_agent_that_starts_is_reported_at_once() -> None:
    verdict, _ = judge_liveness(STARTING, BIND.format(6003), "", 1, was_well=False)
    assert (verdict.reason, "6003" in verdict.message) == ("PortTaken", True)
    harmless, _ = judge_liveness(STARTING, BIND.format(6007), "", 1, was_well=False)
    assert harmless.reason == "Starting"


WORKS = "INFO started handling RPC requests at 10.0.0.1:6001\n"


@pytest.mark.parametrize(
    ("output", "exit_text", "reason"),
    [
        (f"{BIND.format(6003)}\n{WORKS}", "exit status 0", None),
        (f"AioRpcError\n{WORKS}ModuleNotFoundError", "", "ImportFailed"),
        ("ModuleNotFoundError", "killed by SIGKILL", None),
        ("AioRpcError\n" + "INFO\n" * 100 + "ModuleNotFoundError: x", "", "ImportFailed"),
        ("Cannot connect to Docker Engine\n" + "at\n" * 20 + "ImportError", "", "Docker"),
    ],
)
def test_the_last_lines_of_this_life_give_the_cause(
    output: str, exit_text: str, reason: str | None
) -> None:
    trouble = why_dead(output, exit_text)
    assert (trouble.reason if trouble else "None").startswith(str(reason))


def test_a_listener_is_in_the_way_where_both_can_t_bind() -> None:
    needed = Endpoints(Endpoint("10.0.0.1", 6001), (Endpoint("", 40128),))
    same, other = Listener("10.0.0.1", 6001, 0, 7), Listener("10.0.0.2", 6001, 0, 8)
    every, meta = Listener("::", 6001, 0, 9), Listener("127.0.0.1", 40128, 0, 10)
    assert needed.occupied([same, other, every, meta]) == (same, every, meta)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        (None, None),
        ("[agent]", None),
        ('[agent]\npid-file = "/run/agent.pid"', Path("/run/agent.pid")),
        ('[agent]\npid-file = "agent.pid"', None),
    ],
)
def test_where_an_agent_notes_its_pid(text: str | None, file: Path | None) -> None:
    assert pid_file(text) == file


def test_an_endpoint_is_read_as_it_was_written() -> None:
    for endpoint in (Endpoint("10.0.0.1", 6001), Endpoint("fd00::1", 6001), Endpoint("", 1)):
        assert Endpoint.parse(str(endpoint)) == endpoint
