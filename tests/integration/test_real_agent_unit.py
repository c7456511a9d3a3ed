"""The real agent as the unit that is shipped, under a real systemd, with both lines."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from debian_root import NotPossible
from real_agent import (
    AGENTS,
    ETCD_PORT,
    NEW,
    OLD,
    REGISTER,
    RPC_PORT,
    START_S,
    Lab,
    Line,
    agent_python,
    lab,
)
from systemd_container import Container, systemd_container

pytestmark = pytest.mark.root

DAEMON, AGENT = "bai-nodeagent.service", "backendai-agent.service"
ID = "i-unit01"
TOML = "/etc/backend.ai/agent.toml"
PORT = 9431
# The agent looks for containers that it doesn't know every 10 s, and takes some to end one.
DESTROYED_S = 25.0


class UnitNode:
    """A node that is a container with systemd; etcd, Redis and dockerd live in its network."""

    def __init__(self, here: Container, servers: Lab, python: Path) -> None:
        self.here, self.lab, self.python = here, servers, python
        # Where dockerd sees it as well.
        self.home = servers.folder / "home"

    def install(self) -> None:
        """As an admin does: the shipped units, paths by drop-in, and where the store is."""
        self.here.run("mkdir", "--parents", str(self.home))
        docker = f"Environment=DOCKER_HOST={self.lab.docker_host}"
        command = f"{self.python} -m ai.backend.agent.server"
        self.here.write(
            f"/run/systemd/system/{AGENT}.d/paths.conf",
            f"[Service]\nExecStart=\nExecStart={command}\nWorkingDirectory={self.home}\n{docker}\n",
        )
        self.here.write(f"/run/systemd/system/{DAEMON}.d/docker.conf", f"[Service]\n{docker}\n")
        url = f'url = "etcd://127.0.0.1:{ETCD_PORT}"'
        self.here.write(
            "/etc/bai-nodeagent/config.toml",
            f'node-id = "{ID}"\n[store]\n{url}\n[http]\nlisten = "127.0.0.1:{PORT}"\n',
        )
        self.here.run("systemctl", "daemon-reload")

    def document(self, values: str = "", agent: str = "") -> str:
        return f"""\
api-version = 1
[node]
manager-ip = "127.0.0.1"
agent-ip = "127.0.0.1"
[agent-config.values.etcd.addr]
port = {ETCD_PORT}
[agent-config.values.agent]
id = "${{node-id}}"
var-base-path = "{self.home}/var"
ipc-base-path = "{self.home}/ipc"
{values}
[agent]
supervisor = "systemd"
{agent}
"""

    def desire(self, text: str) -> None:
        self.lab.etcd.etcdctl("put", "/bai-nodeagent/local/desired/cluster", stdin=text.encode())

    def start(self) -> None:
        self.here.run("systemctl", "start", DAEMON)

    def status(self) -> dict[str, Any]:
        get = ("curl", "--silent", f"http://127.0.0.1:{PORT}/status")
        status: dict[str, Any] = json.loads(self.lab.run(*get))
        return status

    def condition(self, name: str) -> dict[str, Any]:
        found = [c for c in self.status()["conditions"] if c["type"] == name]
        return found[0] if found else {"status": "", "reason": "", "message": ""}

    def main_pid(self) -> int:
        show = ("systemctl", "show", "--value", "--property=MainPID", AGENT)
        return int(self.here.run(*show).strip() or 0)

    def worker_pid(self) -> int:
        """The agent's worker; 0 when there is none."""
        main = self.main_pid()
        path = self.here.root / f"proc/{main}/task/{main}/children"
        for pid in path.read_text().split():
            title = (self.here.root / f"proc/{pid}/cmdline").read_bytes()
            if title.startswith(b"backend.ai: agent worker"):
                return int(pid)
        return 0

    def kill(self, how: str, *pids: int) -> None:
        self.here.run("kill", f"-{how}", *map(str, pids))

    def session(self) -> str:
        """With a container that the agent's registry has, before the agent starts."""
        kernel_id = str(uuid.uuid4())
        container = self.lab.session(ID, kernel_id)
        folders = (f"{self.home}/var", f"{self.home}/scratches")
        self.here.write("/run/register.py", REGISTER.read_text())
        self.here.run(str(self.python), "/run/register.py", ID, kernel_id, container, *folders)
        return container

    def wait(self, what: str, holds: Callable[[], object], limit_s: float = START_S) -> None:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            try:
                if holds():
                    return
            except (AssertionError, OSError, ValueError):
                pass
            time.sleep(0.1)
        log = self.here.run("journalctl", "--no-pager", "--lines=80", "--output=cat")
        raise AssertionError(f"not within {limit_s} s: {what}\n{json.dumps(self.status())}\n{log}")

    def wait_reason(self, name: str, reason: str) -> dict[str, Any]:
        self.wait(f"{name} {reason}", lambda: self.condition(name)["reason"] == reason)
        return self.condition(name)

    def running(self) -> tuple[int, int]:
        """Main process and worker of an agent that really works."""
        self.wait_reason("Agent", "Running")
        return self.main_pid(), self.worker_pid()

    def runs_anew(self, main: int) -> bool:
        new = self.main_pid()
        return self.condition("Agent")["reason"] == "Running" and new not in (0, main)

    def clean(self) -> None:
        self.here.run("systemctl", "stop", DAEMON, AGENT, check=False)
        self.here.run("systemctl", "reset-failed", DAEMON, AGENT, check=False)
        for container in self.lab.docker("ps", "--all", "--quiet", "--filter=name=kernel").split():
            self.lab.docker("rm", "--force", container)
        self.here.run(
            "rm", "-rf", str(self.home), TOML, "/var/lib/bai-nodeagent", "/run/bai-nodeagent"
        )
        for key in ("/bai-nodeagent/", "/sorna/"):
            self.lab.etcd.etcdctl("del", "--prefix", key)
        self.lab.redis_cli("flushall")


@pytest.fixture(scope="module")
def machine() -> Iterator[tuple[Container, Lab]]:
    # The agent runs Docker's own command.
    volumes = [f"{AGENTS}:{AGENTS}:ro", f"{shutil.which('docker')}:/usr/bin/docker:ro"]
    with tempfile.TemporaryDirectory(prefix="bai-ru-", dir="/tmp") as folder:
        try:
            # What the interpreters need that the environments were made from.
            homes = {agent_python(line).resolve().parent.parent for line in (OLD, NEW)}
            volumes += [f"{home}:{home}:ro" for home in homes if home != Path("/usr")]
            with (
                systemd_container([*volumes, f"{folder}:{folder}"]) as here,
                lab(Path(folder), here.pid) as servers,
            ):
                yield here, servers
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


def test_one_that_a_signal_has_stopped_is_told(node: UnitNode) -> None:
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
            seen = set()
            for _ in range(40):
                seen.add(node.condition("Agent")["reason"])
                time.sleep(0.25)
            assert seen == {reason}
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
    node.wait("restarted", lambda: node.runs_anew(main))
    main, _ = node.running()
    before = (node.here.root / TOML.lstrip("/")).read_bytes()

    node.desire(
        node.document('region = "held"').replace(f"{node.home}/var", f"{node.home}/elsewhere")
    )
    told = node.wait_reason("AgentConfig", "Blocked")["message"]
    node.wait_reason("Agent", "Blocked")
    assert "agent.var-base-path" in told
    assert "sessions run: 1" in told
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

    found = re.search(r"sha256:[0-9a-f]{64}", told)
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
    told = node.wait_reason("AgentConfig", "RolledBack")["message"]
    assert 'etcd.namespace: "nowhere" instead of "local"' in told
    node.running()
    node.here.run("systemctl", "restart", DAEMON)
    node.wait("daemon is back", lambda: node.condition("AgentConfig")["reason"] == "RolledBack")
    node.running()
