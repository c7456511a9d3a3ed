"""The real agent as a unit, moved by systemd from one environment of the daemon's to another."""

from __future__ import annotations

import pwd
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_wheels import DEVICES, broken, document, upgraded, wheels_of
from debian_root import NotPossible
from plugin_environments import MOCK
from real_agent import NEW, OLD, Lab, Line, public_python
from real_unit import AGENT, ID, UnitNode, machine_with
from systemd_container import Container
from wheels import USER, public_folder

pytestmark = pytest.mark.root

BUILD_S = 300.0
VENV = Path("/srv/agent/venv")
# Twice as long as the agent takes to find and end a container that it doesn't know.
DESTROYED_S = 25.0


class InstalledUnitNode(UnitNode):
    """Its unit works as another account; its environment comes from the document."""

    def __init__(self, here: Container, servers: Lab, line: Line, folder: Path) -> None:
        super().__init__(here, servers, VENV / "bin/python")
        self.line = line
        self.interpreter = public_python(line.python, USER, folder)

    def install(self) -> None:
        super().install()
        self.here.write(f"/run/systemd/system/{AGENT}.d/user.conf", f"[Service]\nUser={USER}\n")
        self.here.run("systemctl", "daemon-reload")
        self.here.write(f"{self.home}/mock-accelerator.toml", DEVICES)
        self.own_home()

    def own_home(self) -> None:
        self.here.run("chown", "--recursive", f"{USER}:", str(self.home))

    def installed(self, mock: str, agent: str = "") -> str:
        agent = f"""\
supervisor = "systemd"
on-unhealthy = "rollback"
health-timeout = "15s"
{agent}"""
        return document(self.line, mock, self.home, self.interpreter, VENV, agent)

    def session(self) -> str:
        container = super().session()
        self.own_home()
        return container

    def kept(self) -> str:
        """What the agent was healthy with last."""
        return (self.here.root / "var/lib/bai-nodeagent/agent-healthy.toml").read_text()

    def clean(self) -> None:
        super().clean()
        self.here.run("rm", "-rf", str(VENV.parent), f"/run/systemd/system/{AGENT}.d/user.conf")


@pytest.fixture(scope="module")
def machine() -> Iterator[tuple[Container, Lab, Path]]:
    with public_folder() as folder:
        try:
            with machine_with(folder=folder) as (here, servers):
                (folder / "docker.sock").chmod(0o666)
                yield here, servers, folder
        except NotPossible as why:
            pytest.skip(f"no real agent to test with: {why}")


@pytest.fixture(params=[OLD, NEW], ids=lambda line: line.name)
def node(
    machine: tuple[Container, Lab, Path], request: pytest.FixtureRequest
) -> Iterator[InstalledUnitNode]:
    here, servers, folder = machine
    try:
        wheels_of(request.param)
        node = InstalledUnitNode(here, servers, request.param, folder)
    except NotPossible as why:
        pytest.skip(str(why))
    node.lab.publish()
    node.install()
    yield node
    node.clean()


def test_from_nothing_an_upgrade_held_by_a_session_and_a_way_back(node: InstalledUnitNode) -> None:
    first, second, bad = node.line.version, upgraded(node.line), broken(node.line)

    def reported(version: str) -> bool:
        return f"{MOCK} {version}" in node.condition("Plugins")["message"]

    node.start()
    node.desire(node.installed(first))
    node.wait("built", lambda: node.condition("AgentEnvironment")["reason"] == "InSync", BUILD_S)
    main, worker = node.running()
    assert worker
    assert (node.here.root / f"proc/{main}").stat().st_uid == pwd.getpwnam(USER).pw_uid
    assert node.lab.etcd.keys(f"/sorna/local/nodes/agents/{ID}")
    node.wait("told", lambda: reported(first))
    node.wait("healthy", node.kept)

    node.desire(node.installed(first, 'state = "stopped"'))
    node.wait_reason("Agent", "Stopped")
    session = node.session()
    node.desire(node.installed(second))
    node.wait("built", lambda: node.condition("AgentEnvironment")["reason"] == "Built", BUILD_S)
    why = node.wait_reason("Agent", "Blocked")["message"]
    assert "a change of environment would lose" in why
    node.wait("as it was, meanwhile", lambda: node.main_pid() and node.worker_pid())
    main = node.main_pid()
    # What systemd restarts by itself is no way around.
    node.kill("KILL", main)
    node.wait("back", lambda: node.main_pid() not in (0, main) and node.worker_pid())
    main = node.main_pid()
    assert reported(first)
    (permit,) = re.findall(r'allow-session-loss = "(sha256:[0-9a-f]{64})"', why)
    own = f'api-version = 1\n[agent]\nallow-session-loss = "{permit}"\n'
    node.lab.etcd.etcdctl("put", f"/bai-nodeagent/local/desired/node/{ID}", stdin=own.encode())
    node.wait("upgraded", lambda: node.runs_anew(main))
    node.wait("told", lambda: reported(second))
    time.sleep(DESTROYED_S)
    assert node.lab.is_running(session)
    node.lab.docker("rm", "--force", session)
    node.wait("healthy", lambda: second in node.kept())

    node.desire(node.installed(bad))
    node.wait("back", lambda: node.condition("AgentConfig")["reason"] == "RolledBack", BUILD_S)
    assert f"{MOCK}=={bad} instead of {MOCK}=={second}" in node.condition("AgentConfig")["message"]
    node.running()
    node.wait("told", lambda: reported(second))
