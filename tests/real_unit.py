"""A node whose agent is the real one as the unit that is shipped, under a real systemd."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from real_agent import AGENTS, ETCD_PORT, REGISTER, START_S, Lab, lab
from systemd_container import Container, systemd_container

DAEMON, AGENT = "bai-nodeagent.service", "backendai-agent.service"
ID = "i-unit01"
TOML = "/etc/backend.ai/agent.toml"
PORT = 9431


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
        for pid in pids:  # one may have ended with another
            self.here.run("sh", "-c", f"kill -{how} {pid} || test ! -d /proc/{pid}")

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


@contextlib.contextmanager
def machine_with(*interpreters: Path, folder: Path) -> Iterator[tuple[Container, Lab]]:
    """A container with these, and the servers of a lab in its network; what lies in `folder` they
    all see. Raises NotPossible."""
    # The agent runs Docker's own command.
    volumes = [f"{AGENTS}:{AGENTS}:ro", f"{shutil.which('docker')}:/usr/bin/docker:ro"]
    homes = {python.resolve().parent.parent for python in interpreters}
    volumes += [f"{home}:{home}:ro" for home in homes - {Path("/usr")}]
    volumes += [f"{folder}:{folder}"]
    with systemd_container(volumes) as here, lab(folder, here.pid) as servers:
        yield here, servers
