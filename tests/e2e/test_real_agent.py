"""The real agent: from an empty folder to a member of the cluster, and every way to fail."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from real_agent import (
    ETCD_PORT,
    NEW,
    OLD,
    REDIS_PORT,
    RPC_PORT,
    START_S,
    RealNode,
    both,
    cluster,
    node,
    running,
)
from servers import kill

__all__ = ["cluster", "node"]  # fixtures

pytestmark = pytest.mark.root


@both
def test_from_an_empty_folder_and_one_put_to_registered(node: RealNode) -> None:
    node.start()
    node.desire(node.agent_document())
    node.wait_summary("Ready", START_S)
    agents = f"/sorna/local/nodes/agents/{node.id}"
    assert node.lab.etcd.keys(agents)
    node.wait("seen in Redis", lambda: node.lab.redis_cli("exists", node.id) == "1", START_S)
    assert node.worker_pid()


# --- one part dies, or stands still ------------------------------------------------------


@both
@pytest.mark.parametrize("victims", ["main", "worker", "both"])
def test_whatever_is_killed_comes_back_whole(node: RealNode, victims: str) -> None:
    node.start()
    node.desire(node.agent_document())
    main, worker = running(node)
    assert worker
    kill(*{"main": [main], "worker": [worker], "both": [main, worker]}[victims])
    node.wait("another agent works", lambda: _is_another(node, main), START_S)
    assert worker not in node.living()
    assert main not in node.living()


def _is_another(node: RealNode, main: int) -> bool:
    is_running = node.condition("Agent")["reason"] == "Running"
    return is_running and node.agent_pid not in (0, main) and node.worker_pid() > 0


@both
@pytest.mark.parametrize("victim", ["main", "worker"])
def test_an_agent_that_a_signal_has_stopped_is_reported(node: RealNode, victim: str) -> None:
    node.start()
    node.desire(node.agent_document())
    pid = running(node)[("main", "worker").index(victim)]
    os.kill(pid, signal.SIGSTOP)
    reported = node.wait_reason("Agent", "Frozen", START_S)
    assert (reported["status"], str(pid) in reported["message"]) == ("False", True)
    os.kill(pid, signal.SIGCONT)
    node.wait_reason("Agent", "Running", START_S)


# --- the ways in which a start fails -----------------------------------------------------


@both
def test_etcd_refuses(node: RealNode) -> None:
    node.start()
    node.desire(node.agent_document().replace(f"port = {ETCD_PORT}", "port = 12399"))
    reported = node.wait_reason("Agent", "EtcdUnreachable", START_S)
    assert "exit status 0" in reported["message"]


@pytest.mark.parametrize(
    ("node", "reason"), [(OLD, "WaitingForRedis"), (NEW, "RedisUnreachable")], indirect=["node"]
)
def test_redis_refuses(node: RealNode, reason: str) -> None:
    node.lab.etcd.etcdctl("put", "/sorna/local/config/redis/addr", "127.0.0.1:16399")
    node.start()
    node.desire(node.agent_document())
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
        node.desire(node.agent_document())
        reported = node.wait_reason("Agent", reason, START_S)
        assert "password" in reported["message"]
    finally:
        node.lab.run(
            "redis-cli", "-p", str(REDIS_PORT), "-a", "right", "config", "set", "requirepass", ""
        )
        node.lab.etcd.etcdctl("del", key)


@both
def test_no_address_of_redis_in_etcd(node: RealNode) -> None:
    node.lab.etcd.etcdctl("del", "/sorna/local/config/redis/addr")
    node.start()
    node.desire(node.agent_document())
    node.wait_reason("Agent", "NoRedisAddress", START_S)


@both
def test_no_manager(node: RealNode) -> None:
    node.lab.etcd.etcdctl("del", "/sorna/local/nodes/manager/m1")
    node.start()
    node.desire(node.agent_document())
    node.wait_reason("Agent", "WaitingForManager", START_S)
    node.lab.publish()
    running(node)


@both
def test_docker_is_down(node: RealNode) -> None:
    node.start()
    node.desire(node.agent_document().replace("docker.sock", "nowhere.sock"))
    node.wait_reason("Agent", "DockerUnreachable", START_S)


@both
@pytest.mark.parametrize("port", [RPC_PORT, 40128])
def test_an_occupied_port_is_reported_with_its_listener_and_no_start_is_tried(
    node: RealNode, port: int
) -> None:
    stranger = node.lab.listen(port)
    try:
        node.start()
        node.desire(node.agent_document())
        reported = node.wait_reason("Agent", "PortTaken", START_S)
        assert f"port {port} by process {stranger.pid}" in reported["message"]
        assert not (node.folder / "state/agent.log").exists()
    finally:
        stranger.kill()
        stranger.wait()
    running(node)


@both
def test_a_connection_that_has_a_port_of_the_agents_is_named(node: RealNode) -> None:
    """The kernel gives it aiomonitor's: the agent would hang at its start for ever."""
    strangers = [node.lab.connect_from(port) for port in (49200, 39200)]  # by version
    try:
        node.start()
        node.desire(node.agent_document())
        reported = node.wait_reason("Agent", "PortTaken", START_S)
        assert "9200 by a connection of process" in reported["message"]
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()
    running(node)


@both
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[etcd\n", "not valid TOML"),
        ('[agent]\nbackend = "docker"\n[container]\nscratch-type = "hostdir"\n', "etcd"),
    ],
    ids=["no-toml", "missing-key"],
)
def test_an_agent_toml_that_no_document_manages_is_refused_in_the_agents_words(
    node: RealNode, text: str, expected: str
) -> None:
    node.agent_toml.write_text(text)
    node.start()
    node.desire(f"api-version = 1\n{node.agent_section}")
    reported = node.wait_reason("Agent", "BadConfig", START_S)
    assert "exit status 1" in reported["message"]
    # Not while it starts again: it has said nothing then.
    node.wait(expected, lambda: expected in node.condition("Agent")["message"], START_S)
    assert node.agent_toml.read_text() == text


# --- without its share -------------------------------------------------------------------


@both
def test_without_its_share_no_agent_is_started(node: RealNode) -> None:
    # In the machine's mount namespace: one of our own would hide the mount from PID 1. Nothing is
    # ever mounted, as nobody listens there.
    node.inside = ("nsenter", f"--target={node.lab.pid}", "--net")
    share = node.folder / "vfroot"
    mount = f"""
[[mount]]
name = "vfroot"
source = "127.0.0.1:/srv/vfroot"
target = "{share}"
type = "nfs4"
options = ["port=2", "retry=0"]
required = true
"""
    node.start()
    node.desire(node.agent_document(f'mount-path = "{share}"') + mount)
    node.wait_reason("Mount/vfroot", "MountFailed", START_S)
    reported = node.wait_reason("Agent", "Blocked", START_S)
    assert reported["status"] == "False"
    assert "Mount/vfroot (MountFailed: mount" in reported["message"]
    assert not (node.folder / "state/agent.log").exists()
    assert not list(share.iterdir())


# --- found again -------------------------------------------------------------------------


@both
def test_an_agent_without_notes_is_adopted_whatever_it_calls_itself(node: RealNode) -> None:
    node.start()
    node.desire(node.agent_document())
    main, worker = running(node)
    node.stop(signal.SIGKILL)
    (node.folder / "runtime/agent.json").unlink()
    (node.folder / "runtime/agent.lock").unlink()
    node.start()
    node.wait("adopted", lambda: node.agent_pid == main, START_S)
    assert running(node) == (main, worker)


@both
def test_an_orphan_of_an_earlier_life_is_ended_before_a_start(node: RealNode) -> None:
    node.start()
    node.desire(node.agent_document())
    main, worker = running(node)
    node.stop(signal.SIGKILL)
    os.kill(main, signal.SIGKILL)
    (node.folder / "runtime/agent.json").unlink()
    (node.folder / "runtime/agent.lock").unlink()
    node.start()
    node.wait("another agent works", lambda: _is_another(node, main), START_S)
    assert worker not in node.living()
    assert "end what is left of the agent" in node.log


# --- what its version can't take ---------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "line"),
    [(OLD, 'allow-compute-plugins = "cuda"'), (NEW, 'scaling-group = "gpu"')],
    indirect=["node"],
)
def test_a_bad_key_is_refused_before_it_does_harm(node: RealNode, line: str) -> None:
    node.start()
    node.desire(node.agent_document())
    main, _ = running(node)
    before = node.agent_toml.read_bytes()
    node.desire(node.agent_document(line))
    reported = node.wait_reason("AgentConfig", "Incompatible", START_S)
    assert line.partition(" ")[0] in reported["message"]
    assert node.agent_toml.read_bytes() == before
    assert main in node.living()
    os.kill(main, signal.SIGKILL)  # it comes back with what is there
    node.wait("back", lambda: node.agent_pid not in (0, main) and node.worker_pid(), START_S)
    assert node.condition("AgentConfig")["reason"] == "Incompatible"

    # As after a reboot: nothing of it lives, and what was noted of this boot is gone.
    node.stop(signal.SIGKILL)
    kill(*node.living())
    shutil.rmtree(node.folder / "runtime")
    node.start()
    node.wait("back", lambda: node.agent_pid and node.worker_pid(), START_S)
    assert node.condition("AgentConfig")["reason"] == "Incompatible"
    main = node.agent_pid
    node.desire(node.agent_document())
    node.wait_summary("Ready", START_S)
    assert node.agent_pid == main
