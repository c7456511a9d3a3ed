"""A node of the laboratory that the daemon keeps: its documents, its agent, what it says."""

from __future__ import annotations

import json
from typing import Any

from .lab import CommandFailed, Etcd, GuestUnreachable, Nfs, Node

TARGET = "/opt/backend.ai/vfroot/local"
AGENT_TOML = "/etc/backend.ai/agent.toml"
PROGRAM = "/opt/bai-nodeagent/venv/bin/bai-nodeagent"
DAEMON, AGENT = "bai-nodeagent.service", "backendai-agent.service"
AGENT_SAW = "/var/tmp/agent-saw"
ROOT = "/bai-nodeagent/local"
# bash alone: a Python, or the command itself, would need seconds to start.
ASK_STATUS = r"""
exec 3<>/dev/tcp/127.0.0.1/9431 && printf 'GET /status HTTP/1.0\r\n\r\n' >&3 && cat <&3
"""
# Everything takes ten times as long under TCG as on a real machine, and more beside other work.
SOON_S = 120.0

# An agent that notes whether the share was there when it started.
AGENT_DROP_IN = f"""\
[Service]
ExecStart=
ExecStart=/bin/sh -c 'grep -c " {TARGET} nfs4 " /proc/mounts >>{AGENT_SAW}; exec sleep infinity'
WorkingDirectory=/
"""


class Managed:
    """`node` with a daemon that takes its documents from `etcd`, and mounts from `nfs`."""

    def __init__(self, node: Node, etcd: Etcd, nfs: Nfs) -> None:
        self.node, self.etcd, self.nfs = node, etcd, nfs
        node.write(
            "/etc/bai-nodeagent/config.toml", f'node-id = "i-lab"\nstore.url = "{etcd.url}"\n'
        )
        node.write(f"/etc/systemd/system/{AGENT}.d/lab.conf", AGENT_DROP_IN)
        node.run("systemctl", "daemon-reload")
        (nfs.shares["vfroot"] / "version.txt").write_text("3\n")

    def document(self, mount: str = "", *, share: str = "vfroot", marker: str = "one") -> str:
        return f"""\
api-version = 1
[node]
manager-ip = "{self.node.host_address}"
agent-ip = "auto"
[agent-config.values.agent]
id = "${{node-id}}"
marker = "{marker}"
[[mount]]
name = "vfroot"
source = "{self.nfs.source(share)}"
target = "{TARGET}"
type = "nfs4"
options = {json.dumps(self.nfs.options)}
required = true
{mount}
[agent]
supervisor = "systemd"
"""

    def desire(self, mount: str = "", **more: str) -> None:
        self.etcd.put(f"{ROOT}/desired/cluster", self.document(mount, **more))

    def start(self) -> None:
        self.node.run("systemctl", "start", DAEMON, timeout_s=120)

    def start_ready(self, mount: str = "") -> None:
        self.desire(mount)
        self.start()
        self.wait_ready()

    # -- what is seen

    def status(self) -> dict[str, Any]:
        """As the daemon tells it itself: changes reach etcd at most once in 30 s, so later."""
        answer = self.node.run("bash", "-c", ASK_STATUS, check=False)
        _, _, text = answer.out.partition("\r\n\r\n")
        return json.loads(text) if answer.code == 0 else {"summary": "", "conditions": []}

    def status_in_etcd(self) -> dict[str, Any]:
        text = self.etcd.get(f"{ROOT}/node/i-lab/status")
        return json.loads(text) if text else {"summary": "", "conditions": []}

    def condition(self, name: str = "Mount/vfroot") -> dict[str, Any]:
        found = [c for c in self.status()["conditions"] if c["type"] == name]
        return found[0] if found else {"status": "", "reason": "", "message": ""}

    def mounted(self) -> str:
        """What PID 1 sees at the target: its source, "" for nothing."""
        lines = [line.split() for line in self.node.read("/proc/1/mounts").splitlines()]
        return next((line[0] for line in reversed(lines) if line[1] == TARGET), "")

    def property(self, unit: str, name: str) -> str:
        return self.node.run("systemctl", "show", f"--property={name}", "--value", unit).out.strip()

    def agent_saw(self) -> list[str]:
        """For each start of the agent so far, "1" if the share was mounted."""
        return self.node.read(AGENT_SAW).split() if self.node.exists(AGENT_SAW) else []

    def helpers(self) -> list[str]:
        """Pids of the processes that probe mounts."""
        return self.node.run("pgrep", "-f", "mount_questions", check=False).out.split()

    # -- waiting

    def wait_ready(self, within_s: float = SOON_S) -> None:
        self.wait("Ready", lambda: self.status()["summary"] == "Ready", within_s)

    def wait_reason(
        self, reason: str, within_s: float = SOON_S, name: str = "Mount/vfroot"
    ) -> dict[str, Any]:
        self.wait(reason, lambda: self.condition(name)["reason"] == reason, within_s)
        return self.condition(name)

    def wait(self, what: str, holds: Any, within_s: float = SOON_S) -> None:
        """Fails with what the node says of itself when it never holds."""
        try:
            self.node.wait_until(holds, within_s=within_s)
        except TimeoutError:
            try:
                log = self.node.journal(DAEMON)[-4000:]
            except (CommandFailed, GuestUnreachable) as fault:
                log = str(fault)
            reported = json.dumps(self.status(), indent=1)
            raise AssertionError(f"not within {within_s} s: {what}\n{reported}\n{log}") from None

    # -- times, measured on the node itself

    def seconds_until(self, first: str, condition: str) -> float:
        """Runs one shell command there, and tells how long a second one then takes to hold."""
        return self._seconds(f"{first}; s=$(date +%s%N); until {condition}; do :; done")

    def seconds_of(self, command: str) -> float:
        return self._seconds(f"s=$(date +%s%N); {command}")

    def _seconds(self, script: str) -> float:
        timed = f"{script}; e=$(date +%s%N); echo $((e - s))"
        return int(self.node.run("sh", "-c", timed).out) / 1e9

    def seconds_to_repair(self) -> float:
        """From a hand edit of agent.toml to the file being in line again."""
        spoil = f"sed -i s/one/spoilt/ {AGENT_TOML}"
        return self.seconds_until(spoil, f"grep -q one {AGENT_TOML}")
