"""The real agent in an environment that the daemon builds: from nothing, upgraded, and back."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_wheels import DEVICES, broken, document, upgraded, wheels_of
from debian_root import NotPossible
from plugin_environments import MOCK
from real_agent import START_S, Lab, Line, RealNode, both, cluster, public_python, running
from wheels import USER, public_folder

__all__ = ["cluster"]  # a fixture

pytestmark = pytest.mark.root

BUILD_S = 300.0


class InstalledRealNode(RealNode):
    """As another account, which finds in its environment what the document says."""

    def __init__(self, folder: Path, lab: Lab, line: Line) -> None:
        self.path, self.line = folder / "opt/venv", line
        wheels_of(line)  # or there is nothing to test with
        self.interpreter = public_python(line.python, USER, folder.parent)
        super().__init__(folder, lab, self.path / "bin/python")
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "mock-accelerator.toml").write_text(DEVICES)
        account = pwd.getpwnam(USER)
        os.chown(self.home, account.pw_uid, account.pw_gid)

    def installed(self, mock: str, policy: str = "") -> str:
        agent = f"""\
supervisor = "child"
command = ["{self.python}", "-m", "ai.backend.agent.server", "-f", "{self.agent_toml}"]
workdir = "{self.home}"
env = {{ DOCKER_HOST = "{self.lab.docker_host}" }}
stop-timeout = "8s"
{policy}"""
        config = f'path = "{self.agent_toml}"'
        return document(self.line, mock, self.home, self.interpreter, self.path, agent, config)

    def session(self, var: str = "home/var", scratches: str = "home/scratches") -> str:
        """Entered as root, and given to the account like all else there."""
        container = super().session(var, scratches)
        account = pwd.getpwnam(USER)
        for place in (self.home / "var", self.home / "scratches"):
            for path in (place, *place.rglob("*")):
                os.chown(path, account.pw_uid, account.pw_gid)
        return container

    def living(self) -> list[int]:
        """The agent's processes, and builders that a killed daemon has left."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_at_home = (process / "cwd").readlink() == self.home
                if is_at_home or str(self.path).encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
            except OSError:
                continue
        return found


@pytest.fixture
def node(cluster: Lab, request: pytest.FixtureRequest) -> Iterator[InstalledRealNode]:
    cluster.publish()
    cluster.forget_agents()
    cluster.folder.chmod(0o755)
    (cluster.folder / "docker.sock").chmod(0o666)
    with public_folder() as folder:
        try:
            node = InstalledRealNode(folder / "n", cluster, request.param)
        except NotPossible as why:
            pytest.skip(str(why))
        try:
            yield node
        finally:
            node.close()


@both
def test_from_nothing_an_upgrade_held_by_a_session_and_a_way_back(
    cluster: Lab, node: InstalledRealNode
) -> None:
    policy = 'on-unhealthy = "rollback"\nhealth-timeout = "15s"'
    first, second, bad = node.line.version, upgraded(node.line), broken(node.line)
    node.desire(node.installed(first, policy))
    node.start()
    node.wait("built", lambda: node.condition("AgentEnvironment")["reason"] == "InSync", BUILD_S)
    main, _ = running(node)
    assert cluster.etcd.keys(f"/sorna/local/nodes/agents/{node.id}")
    node.wait("seen in Redis", lambda: node.lab.redis_cli("exists", node.id) == "1", START_S)
    assert f"{MOCK} {first}" in node.condition("Plugins")["message"]
    assert Path(f"/proc/{main}").stat().st_uid == pwd.getpwnam(USER).pw_uid
    node.wait("healthy", (node.folder / "state/agent-healthy.toml").exists, START_S)

    node.desire(node.installed(first, f'{policy}\nstate = "stopped"'))
    node.wait_reason("Agent", "Stopped", START_S)
    session = node.session()
    node.desire(node.installed(second, policy))
    node.wait("built", lambda: node.condition("AgentEnvironment")["reason"] == "Built", BUILD_S)
    reported = node.wait_reason("Agent", "Blocked", START_S)["message"]
    assert "a change of environment would lose" in reported
    assert "sessions run: 1" in reported
    node.wait("as it was, meanwhile", lambda: node.agent_pid and node.worker_pid(), START_S)
    main = node.agent_pid
    (permit,) = re.findall(r'allow-session-loss = "(sha256:[0-9a-f]{64})"', reported)
    assert permit in node.run("plan").stdout
    node.put(
        f"desired/node/{node.id}",
        f'api-version = 1\n[agent]\nallow-session-loss = "{permit}"\n',
    )
    node.wait("upgraded", lambda: node.agent_pid not in (0, main), START_S)
    running(node)
    node.wait("told", lambda: f"{MOCK} {second}" in node.condition("Plugins")["message"], START_S)
    # Its registry is the same file: else the session would be gone within seconds.
    for _ in range(20):
        time.sleep(1)
        assert cluster.is_running(session)
    assert len(list((node.home / "var").glob("last_registry.*"))) == 1
    cluster.docker("rm", "--force", session)
    kept = node.folder / "state/agent-healthy.toml"
    node.wait("healthy", lambda: second in kept.read_text(), START_S)

    node.desire(node.installed(bad, policy))
    node.wait("back", lambda: node.condition("AgentConfig")["reason"] == "RolledBack", BUILD_S)
    reported = node.condition("AgentConfig")["message"]
    assert f"{MOCK}=={bad} instead of {MOCK}=={second}" in reported
    running(node)
    node.wait("told", lambda: f"{MOCK} {second}" in node.condition("Plugins")["message"], START_S)
