"""The real agent: from an empty folder to a member of the cluster, and every way to fail."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from debian_root import NotPossible
from real_agent import (
    ETCD_PORT,
    NEW,
    OLD,
    REDIS_PORT,
    RPC_PORT,
    Lab,
    Line,
    RealNode,
    agent_python,
    lab,
)

pytestmark = pytest.mark.root
START_S = 120.0  # a few seconds, but for a machine that has much else to do


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    try:
        with lab() as here:
            yield here
    except NotPossible as why:
        pytest.skip(f"no real agent to test with: {why}")


@pytest.fixture
def node(cluster: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RealNode]:
    line: Line = getattr(request, "param", OLD)
    try:
        python = agent_python(line)
    except NotPossible as why:
        pytest.skip(str(why))
    cluster.publish()
    node = RealNode(tmp_path / "n", cluster, python)
    try:
        yield node
    finally:
        node.close()


both = pytest.mark.parametrize("node", [OLD, NEW], indirect=True, ids=lambda line: line.name)


REQUIRED = """
[agent-config.values.etcd]
namespace = "local"
[agent-config.values.container]
scratch-type = "hostdir"
[agent-config.values.resource]
[agent-config.values.debug]
[agent-config.values.logging]
drivers = ["console"]
console = { colored = false, format = "simple" }
"""


def document(node: RealNode) -> str:
    return node.agent_document('backend = "docker"', REQUIRED)


def running(node: RealNode) -> tuple[int, int]:
    """Main process and worker of an agent that really works."""
    node.wait("the agent works", lambda: node.condition("Agent")["reason"] == "Running", START_S)
    return node.agent_pid, node.worker_pid()


@both
def test_from_an_empty_folder_and_one_put_to_registered(node: RealNode) -> None:
    node.start()
    node.desire(document(node))
    node.wait_summary("Ready", START_S)
    agents = f"/sorna/local/nodes/agents/{node.id}"
    assert node.lab.etcd.keys(agents)
    node.wait("seen in Redis", lambda: node.lab.redis_cli("exists", node.id) == "1", 10)
    assert node.worker_pid()


# --- one part dies, or stands still ------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "victims"),
    [(OLD, "main"), (OLD, "worker"), (OLD, "both"), (NEW, "main"), (NEW, "worker")],
    indirect=["node"],
)
def test_whatever_is_killed_comes_back_whole(node: RealNode, victims: str) -> None:
    node.start()
    node.desire(document(node))
    main, worker = running(node)
    assert worker
    killed_at = time.monotonic()
    for pid in {"main": [main], "worker": [worker], "both": [main, worker]}[victims]:
        os.kill(pid, signal.SIGKILL)
    node.wait("another agent works", lambda: _is_another(node, main), START_S)
    print(f"{victims}: back after {time.monotonic() - killed_at:.1f} s")
    assert worker not in node.living()
    assert main not in node.living()


def _is_another(node: RealNode, main: int) -> bool:
    is_running = node.condition("Agent")["reason"] == "Running"
    return is_running and node.agent_pid not in (0, main) and node.worker_pid() > 0


def test_an_agent_that_a_signal_has_stopped_is_told(node: RealNode) -> None:
    node.start()
    node.desire(document(node))
    _, worker = running(node)
    os.kill(worker, signal.SIGSTOP)
    told = node.wait_reason("Agent", "Frozen", 15)
    assert (told["status"], str(worker) in told["message"]) == ("False", True)
    os.kill(worker, signal.SIGCONT)
    node.wait_reason("Agent", "Running", 15)


# --- the ways in which a start fails -----------------------------------------------------


def test_etcd_refuses(node: RealNode) -> None:
    node.start()
    node.desire(document(node).replace(f"port = {ETCD_PORT}", "port = 12399"))
    told = node.wait_reason("Agent", "EtcdUnreachable", START_S)
    assert "exit status 0" in told["message"]


@pytest.mark.parametrize(
    ("node", "reason"), [(OLD, "WaitingForRedis"), (NEW, "RedisUnreachable")], indirect=["node"]
)
def test_redis_refuses(node: RealNode, reason: str) -> None:
    node.lab.etcd.etcdctl("put", "/sorna/local/config/redis/addr", "127.0.0.1:16399")
    node.start()
    node.desire(document(node))
    node.wait_reason("Agent", reason, START_S)
    node.lab.publish()
    if reason == "WaitingForRedis":  # 23.09 reads the address once
        os.kill(node.agent_pid, signal.SIGKILL)
    running(node)


@pytest.mark.parametrize(
    ("node", "reason"), [(OLD, "WaitingForRedis"), (NEW, "RedisRefuses")], indirect=["node"]
)
def test_a_wrong_password_for_redis(node: RealNode, reason: str) -> None:
    key = "/sorna/local/config/redis/password"
    node.lab.redis_cli("config", "set", "requirepass", "right")
    node.lab.etcd.etcdctl("put", key, "wrong")
    try:
        node.start()
        node.desire(document(node))
        told = node.wait_reason("Agent", reason, START_S)
        assert "password" in told["message"]
    finally:
        node.lab.run(
            "redis-cli", "-p", str(REDIS_PORT), "-a", "right", "config", "set", "requirepass", ""
        )
        node.lab.etcd.etcdctl("del", key)


@both
def test_no_address_of_redis_in_etcd(node: RealNode) -> None:
    node.lab.etcd.etcdctl("del", "/sorna/local/config/redis/addr")
    node.start()
    node.desire(document(node))
    node.wait_reason("Agent", "NoRedisAddress", START_S)


def test_no_manager(node: RealNode) -> None:
    node.lab.etcd.etcdctl("del", "/sorna/local/nodes/manager/m1")
    node.start()
    node.desire(document(node))
    node.wait_reason("Agent", "WaitingForManager", START_S)
    node.lab.publish()
    running(node)


def test_docker_is_down(node: RealNode) -> None:
    node.start()
    node.desire(document(node).replace("docker.sock", "nowhere.sock"))
    node.wait_reason("Agent", "DockerUnreachable", START_S)


@pytest.mark.parametrize("port", [RPC_PORT, 40128])
def test_a_taken_port_is_told_by_whom_and_no_start_is_tried(node: RealNode, port: int) -> None:
    stranger = node.lab.listen(port)
    try:
        node.start()
        node.desire(document(node))
        told = node.wait_reason("Agent", "PortTaken", 10)
        assert f"port {port} by process {stranger.pid}" in told["message"]
        assert not (node.folder / "state/agent.log").exists()
    finally:
        stranger.kill()
        stranger.wait()
    running(node)
