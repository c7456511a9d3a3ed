"""The real agent in an environment that the daemon builds: from nothing, upgraded, and back."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from debian_root import NotPossible
from plugin_environments import MOCK, VERSION, WHEELS, fetch
from real_agent import AGENTS, OLD, START_S, Lab, Line, RealNode, cluster, find_python, running
from wheels import USER, public_folder, repacked

__all__ = ["cluster"]  # a fixture

pytestmark = pytest.mark.root

BUILD_S = 300.0
AGENT = f"backend.ai-agent=={VERSION}"
NEXT, BROKEN = f"{VERSION}.post1", f"{VERSION}.post2"
DEVICES = """\
slot_name = "cuda"
device_plugin_name = "CUDADevice"
[[devices]]
mother_uuid = "c59395cd-ac91-4cd3-a1b0-3d2568aa2d01"
model_name = "A100 (FAKE)"
numa_node = 0
subproc_count = 108
memory_size = "2G"
is_mig_device = false
[attributes]
nvidia_driver = "450.00.00"
cuda_runtime = "11.0"
[formats.device]
human_readable_name = "GPU"
description = "CUDA-capable GPU (FAKE)"
display_unit = "GPU"
number_format = { binary = false, round_length = 0 }
display_icon = "gpu1"
"""


class InstalledRealNode(RealNode):
    """As another account, which finds in its environment what the document says."""

    def __init__(self, folder: Path, lab: Lab, python: Path, wheels: Path) -> None:
        self.path, self.interpreter, self.wheels = folder / "opt/venv", python, wheels
        super().__init__(folder, lab, self.path / "bin/python")
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "mock-accelerator.toml").write_text(DEVICES)
        account = pwd.getpwnam(USER)
        os.chown(self.home, account.pw_uid, account.pw_gid)

    def installed(self, mock: str, policy: str = "") -> str:
        return f"""\
api-version = 1
[node]
manager-ip = "127.0.0.1"
agent-ip = "127.0.0.1"
[agent-config]
path = "{self.agent_toml}"
owner = "{USER}"
[agent-config.values.etcd.addr]
port = 12379
[agent-config.values.agent]
id = "${{node-id}}"
ipc-base-path = "{self.home}/ipc"
var-base-path = "{self.home}/var"
mount-path = "{self.home}/vfroot"
[agent-config.values.container]
scratch-root = "{self.home}/scratches"
[plugins]
allow = ["ai.backend.accelerator.mock"]
[agent]
supervisor = "child"
command = ["{self.python}", "-m", "ai.backend.agent.server", "-f", "{self.agent_toml}"]
workdir = "{self.home}"
user = "{USER}"
env = {{ DOCKER_HOST = "{self.lab.docker_host}" }}
stop-timeout = "8s"
{policy}
[agent.install]
path = "{self.path}"
python = "{self.interpreter}"
packages = ["{AGENT}", "{MOCK}=={mock}"]
wheels = "{self.wheels}"
"""

    def session(self, var: str = "home/var", scratches: str = "home/scratches") -> str:
        """Entered as root, and given to the account like all else there."""
        container = super().session(var, scratches)
        account = pwd.getpwnam(USER)
        for path in (self.home / "var").rglob("*"):
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


def wheels_of(line: Line) -> Path:
    """A folder with the agent, the plugin in three versions, and all that they need."""
    python = find_python(line.python)
    if python is None:
        raise NotPossible(f"needs Python {line.python}")
    folder = AGENTS / f"{line.name}-wheels"
    if not (folder / ".complete").exists():
        fetch()
        wanted = (line.requirement, f"{MOCK}=={VERSION}")
        command = [str(python), "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
        done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotPossible(f"{line.requirement} can't be fetched: {done.stderr[-300:]}")
        (mock,) = WHEELS.glob(f"*mock-{VERSION}-*.whl")
        repacked(mock, NEXT, folder)
        repacked(mock, BROKEN, folder, broken_at_its_start)
        (folder / ".complete").touch()
    return folder


def broken_at_its_start(path: str, text: str) -> str:
    """Can be imported, so that only the agent finds out."""
    start = "    def get_metadata(self) -> AcceleratorMetadata:\n"
    if not path.endswith("mock/plugin.py"):
        return text
    assert start in text
    return text.replace(start, f"{start}        raise RuntimeError('this plugin is no good')\n")


@pytest.fixture
def node(cluster: Lab) -> Iterator[InstalledRealNode]:
    python = Path("/usr/bin/python3.11")  # one that another account may run
    try:
        wheels = wheels_of(OLD)
    except NotPossible as why:
        pytest.skip(str(why))
    if not python.exists():
        pytest.skip(f"needs {python}")
    cluster.publish()
    cluster.forget_agents()
    cluster.folder.chmod(0o755)
    (cluster.folder / "docker.sock").chmod(0o666)
    with public_folder() as folder:
        node = InstalledRealNode(folder / "n", cluster, python, wheels)
        try:
            yield node
        finally:
            node.close()


def test_from_nothing_an_upgrade_held_by_a_session_and_a_way_back(
    cluster: Lab, node: InstalledRealNode
) -> None:
    policy = 'on-unhealthy = "rollback"\nhealth-timeout = "15s"'
    node.desire(node.installed(VERSION, policy))
    node.start()
    node.wait("built", lambda: node.condition("AgentEnvironment")["reason"] == "InSync", BUILD_S)
    main, _ = running(node)
    assert cluster.etcd.keys(f"/sorna/local/nodes/agents/{node.id}")
    node.wait("seen in Redis", lambda: node.lab.redis_cli("exists", node.id) == "1", START_S)
    assert f"{MOCK} {VERSION}" in node.condition("Plugins")["message"]
    assert Path(f"/proc/{main}").stat().st_uid == pwd.getpwnam(USER).pw_uid
    node.wait("healthy", (node.folder / "state/agent-healthy.toml").exists, START_S)

    node.desire(node.installed(VERSION, f'{policy}\nstate = "stopped"'))
    node.wait_reason("Agent", "Stopped", START_S)
    session = node.session()
    node.desire(node.installed(NEXT, policy))
    node.wait("built", lambda: node.condition("AgentEnvironment")["reason"] == "Built", BUILD_S)
    told = node.wait_reason("Agent", "Blocked", START_S)["message"]
    assert "a change of environment would lose" in told
    assert "sessions run: 1" in told
    node.wait("as it was, meanwhile", lambda: node.agent_pid and node.worker_pid(), START_S)
    main = node.agent_pid
    (permit,) = re.findall(r'allow-session-loss = "(sha256:[0-9a-f]{64})"', told)
    assert permit in node.run("plan").stdout
    node.put(
        f"desired/node/{node.id}",
        f'api-version = 1\n[agent]\nallow-session-loss = "{permit}"\n',
    )
    node.wait("upgraded", lambda: node.agent_pid not in (0, main), START_S)
    running(node)
    node.wait("told", lambda: f"{MOCK} {NEXT}" in node.condition("Plugins")["message"], START_S)
    # Its registry is the same file: else the session would be gone within seconds.
    for _ in range(20):
        time.sleep(1)
        assert cluster.is_running(session)
    assert len(list((node.home / "var").glob("last_registry.*"))) == 1
    cluster.docker("rm", "--force", session)
    kept = node.folder / "state/agent-healthy.toml"
    node.wait("healthy", lambda: NEXT in kept.read_text(), START_S)

    node.desire(node.installed(BROKEN, policy))
    node.wait("back", lambda: node.condition("AgentConfig")["reason"] == "RolledBack", BUILD_S)
    told = node.condition("AgentConfig")["message"]
    assert f"{MOCK}=={BROKEN} instead of {MOCK}=={NEXT}" in told
    running(node)
    node.wait("told", lambda: f"{MOCK} {NEXT}" in node.condition("Plugins")["message"], START_S)
