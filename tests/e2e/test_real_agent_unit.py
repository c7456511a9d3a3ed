"""The real agent as the unit that is shipped, under a real systemd, with both lines."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from debian_root import NotPossible
from real_agent import ETCD_PORT, NEW, OLD, RPC_PORT, Lab, Line, agent_python
from real_unit import AGENT, DAEMON, ID, TOML, UnitNode, machine_with
from systemd_container import Container

pytestmark = pytest.mark.root

# The agent looks for containers that it doesn't know every 10 s, and takes some to end one.
DESTROYED_S = 25.0


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest) -> Iterator[tuple[Container, Lab]]:
    with tempfile.TemporaryDirectory(prefix="bai-ru-", dir="/tmp") as folder:
        try:
            # What the environments were made from: those that the tests to come need.
            tests = [item for item in request.session.items if item.path == request.path]
            lines = {test.callspec.params["node"] for test in tests if hasattr(test, "callspec")}
            pythons = [agent_python(line) for line in lines]
            with machine_with(*pythons, folder=Path(folder)) as here:
                yield here
        except NotPossible as why:
            pytest.skip(f"no real agent to test with: {why}")


@pytest.fixture(params=[OLD, NEW], ids=lambda line: line.name)
def node(machine: tuple[Container, Lab], request: pytest.FixtureRequest) -> Iterator[UnitNode]:
    line: Line = request.param
    node = UnitNode(*machine, agent_python(line))
    node.lab.publish()
    node.install()
    yield node
    node.clean()


def test_from_nothing_and_one_put_to_registered(node: UnitNode) -> None:
    assert not node.lab.etcd.keys("/sorna/local/nodes/agents/")
    node.start()
    node.desire(node.document())
    main, worker = node.running()
    assert worker
    assert node.lab.etcd.keys(f"/sorna/local/nodes/agents/{ID}")
    node.wait("seen in Redis", lambda: node.lab.redis_cli("exists", ID) == "1")
    node.here.run("systemctl", "restart", DAEMON)
    node.wait("daemon is back", lambda: node.status()["summary"] == "Ready")
    assert node.running() == (main, worker)


@pytest.mark.parametrize("victims", ["main", "worker", "both"])
def test_whatever_is_killed_comes_back_whole(node: UnitNode, victims: str) -> None:
    node.start()
    node.desire(node.document())
    main, worker = node.running()
    node.kill("KILL", *{"main": [main], "worker": [worker], "both": [main, worker]}[victims])
    node.wait("another agent works", lambda: node.runs_anew(main) and node.worker_pid())
    assert not (node.here.root / f"proc/{worker}").exists()


def test_one_that_a_signal_has_stopped_is_reported(node: UnitNode) -> None:
    node.start()
    node.desire(node.document())
    main, _ = node.running()
    node.kill("STOP", main)
    assert str(main) in node.wait_reason("Agent", "Frozen")["message"]
    node.kill("CONT", main)
    node.wait_reason("Agent", "Running")


@pytest.mark.parametrize("case", ["etcd", "docker", "no-redis", "no-manager", "port", "toml"])
def test_each_way_to_fail_has_its_own_reason(node: UnitNode, case: str) -> None:
    text, reason = node.document(), ""
    match case:
        case "etcd":
            text = text.replace(f"port = {ETCD_PORT}", "port = 12399")
            reason = "EtcdUnreachable"
        case "docker":
            drop_in = f"/run/systemd/system/{AGENT}.d/zz.conf"
            node.here.write(drop_in, "[Service]\nEnvironment=DOCKER_HOST=unix:///nowhere\n")
            node.here.run("systemctl", "daemon-reload")
            reason = "DockerUnreachable"
        case "no-redis":
            node.lab.etcd.etcdctl("del", "/sorna/local/config/redis/addr")
            reason = "NoRedisAddress"
        case "no-manager":
            node.lab.etcd.etcdctl("del", "/sorna/local/nodes/manager/m1")
            reason = "WaitingForManager"
        case "port":
            reason = "PortTaken"
        case "toml":
            node.here.write(TOML, "[etcd\n")
            text = 'api-version = 1\n[agent]\nsupervisor = "systemd"\n'
            reason = "BadConfig"
    stranger = node.lab.listen(RPC_PORT) if case == "port" else None
    try:
        node.start()
        node.desire(text)
        node.wait_reason("Agent", reason)
        if case in ("etcd", "docker", "no-redis", "toml"):  # and no other while it loops
            observed = set()
            for _ in range(40):
                observed.add(node.condition("Agent")["reason"])
                time.sleep(0.25)
            assert observed == {reason}
    finally:
        if stranger is not None:
            stranger.kill()
            stranger.wait()
        node.here.run("rm", "-f", f"/run/systemd/system/{AGENT}.d/zz.conf")
        node.here.run("systemctl", "daemon-reload")


def test_sessions_outlive_what_is_harmless_and_hold_back_what_is_not(node: UnitNode) -> None:
    session = node.session()
    node.start()
    node.desire(node.document())
    main, _ = node.running()
    node.desire(node.document('region = "other"'))
    if node.python == agent_python(OLD):  # which of them is a batch session nobody can tell
        why = node.wait_reason("Agent", "Blocked")["message"]
        assert "stopping agent 23.9.10 ends batch sessions" in why
        node.desire(node.document())
        node.wait("as before", lambda: node.condition("Agent")["reason"] == "Running")
        assert node.main_pid() == main
    else:
        node.wait("restarted", lambda: node.runs_anew(main))
    main, _ = node.running()
    before = (node.here.root / TOML.lstrip("/")).read_bytes()

    node.desire(
        node.document('region = "held"').replace(f"{node.home}/var", f"{node.home}/elsewhere")
    )
    reported = node.wait_reason("AgentConfig", "Blocked")["message"]
    node.wait_reason("Agent", "Blocked")
    assert "agent.var-base-path" in reported
    assert "sessions run: 1" in reported
    node.kill("KILL", main)
    node.wait("back", lambda: node.main_pid() not in (0, main) and node.worker_pid())
    # Whoever stops it, the sessions need their agent.
    node.here.run("systemctl", "stop", AGENT)
    node.wait("back", lambda: node.main_pid() and node.worker_pid())
    main = node.main_pid()
    node.kill("KILL", node.worker_pid())
    node.wait("back", lambda: node.main_pid() not in (0, main) and node.worker_pid())
    assert (node.here.root / TOML.lstrip("/")).read_bytes() == before
    time.sleep(DESTROYED_S)
    assert node.lab.is_running(session)

    found = re.search(r"sha256:[0-9a-f]{64}", reported)
    assert found
    permit = f'api-version = 1\n[agent]\nallow-session-loss = "{found[0]}"\n'
    key = f"/bai-nodeagent/local/desired/node/{ID}"
    node.lab.etcd.etcdctl("put", key, stdin=permit.encode())
    node.wait("permitted", lambda: (node.home / "elsewhere").is_dir())
    node.running()


def test_a_poisonous_value_is_rolled_back(node: UnitNode) -> None:
    policy = 'on-unhealthy = "rollback"\nhealth-timeout = "8s"'
    node.start()
    node.desire(node.document(agent=policy))
    node.running()
    kept = node.here.root / "var/lib/bai-nodeagent/agent-healthy.toml"
    node.wait("kept", kept.exists)
    poison = '[agent-config.values.etcd]\nnamespace = "nowhere"'
    node.desire(node.document(poison, policy))
    reported = node.wait_reason("AgentConfig", "RolledBack")["message"]
    assert 'etcd.namespace: "nowhere" instead of "local"' in reported
    node.running()
    node.here.run("systemctl", "restart", DAEMON)
    node.wait("daemon is back", lambda: node.condition("AgentConfig")["reason"] == "RolledBack")
    node.running()
