"""A node for tests: the real daemon as a process of its own, an example agent, a folder.

Everything is seen from outside: files, processes, the store, HTTP.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from servers import Etcd, free_port, wait_until

PROGRAM = Path(sys.executable).with_name("bai-nodeagent")
CRASHING = Path(__file__).with_name("crashing_daemon.py")
WAIT_S = 30.0

# Appends a line at each start, tells what it read, forks a worker as the real
# agent does, and lives until it is told to end.
AGENT = """\
import os, signal, sys, time, tomllib
folder = sys.argv[1]
config = tomllib.load(open(f"{folder}/agent.toml", "rb"))
with open(f"{folder}/starts", "a") as starts:
    starts.write(f"{os.getpid()} {config['agent'].get('marker', '')}\\n")
if os.path.exists(f"{folder}/poison") or "poison" in config["agent"].get("marker", ""):
    print("poisoned: the agent gives up", flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
print("started handling RPC requests", flush=True)
while os.path.isdir(folder):
    time.sleep(0.2)
"""


class Node:
    """One node below `folder`; `daemon` runs it. The store is an etcd, or a folder below it."""

    def __init__(self, folder: Path, etcd: Etcd | None = None, prefix: str = "/t") -> None:
        self.folder = folder
        self.id = "i-test01"
        self.etcd, self.prefix = etcd, prefix
        self.port = free_port()
        self.inside: Sequence[str] = ()  # what goes before each command of the program
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent.py").write_text(AGENT)
        self.configure()

    def configure(self, store: str = "", more: str = "") -> None:
        """Writes the daemon's own configuration."""
        url = f"etcd://{self.etcd.endpoint}" if self.etcd else f"file:{self.folder}/store"
        self.config.write_text(
            f'node-id = "{self.id}"\n{more}\n'
            f'[store]\nurl = "{url}"\nprefix = "{self.prefix}"\n{store}\n'
            f'[paths]\nstate = "{self.folder}/state"\nruntime = "{self.folder}/runtime"\n'
            f'[http]\nlisten = "127.0.0.1:{self.port}"\n'
        )

    # -- the desired state

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def agent_toml(self) -> Path:
        return self.folder / "agent.toml"

    def document(
        self, marker: str = "one", agent: str = "", values: str = "", top: str = ""
    ) -> str:
        """A whole desired state: agent.toml and an agent that reads it."""
        return f"""\
api-version = 1
{top}
[node]
manager-ip = "127.0.0.1"
agent-ip = "auto"
[agent-config]
path = "{self.agent_toml}"
[agent-config.values.agent]
id = "${{node-id}}"
marker = "{marker}"
{values}
[agent]
supervisor = "child"
command = ["{sys.executable}", "{self.folder}/agent.py", "{self.folder}"]
stop-timeout = "3s"
{agent}
"""

    def put(self, key: str, text: str) -> None:
        """As an admin would: etcdctl put, or an editor on the file."""
        if self.etcd is not None:
            self.etcdctl_put(f"{self.prefix}/local/{key}", text)
        else:
            path = self.folder / "store" / key
            path = path.with_name(f"{path.name}.toml") if key.startswith("desired/") else path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def etcdctl_put(self, key: str, text: str) -> None:
        """From standard input (an argument ends at 128 KiB), which takes no empty value."""
        assert self.etcd is not None
        if text:
            self.etcd.etcdctl("put", key, stdin=text.encode())
        else:
            self.etcd.etcdctl("put", key, "")

    def desire(self, text: str | None = None) -> None:
        self.put("desired/cluster", self.document() if text is None else text)

    def remove(self, key: str) -> None:
        if self.etcd is not None:
            self.etcd.etcdctl("del", f"{self.prefix}/local/{key}")
        else:
            (self.folder / "store" / f"{key}.toml").unlink()

    # -- the daemon

    def start(self, *program: str) -> None:
        """`program` stands for the real one: a driver below tests/."""
        command = [*(program or [str(PROGRAM)]), "run", "--config", str(self.config)]
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def run_until_it_dies(
        self, when: str, within_s: float = WAIT_S, *, is_later: bool = False
    ) -> bool:
        """Runs a daemon that kills itself after its Nth action, or after the first of a verb.

        False: the node was in line before it came to that, unless the action is one
        that comes later: of a node that has been in line for a while.
        """
        self.start(*self.inside, sys.executable, str(CRASHING), when)
        process = self.process
        assert process is not None
        try:
            self.wait(
                "dead or in line",
                lambda: (
                    process.poll() is not None
                    or (not is_later and self.http("/readyz")[1].strip() == "Ready")
                ),
                within_s,
            )
            return process.poll() is not None
        finally:
            process.kill()
            process.wait()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(timeout=WAIT_S)
        self.process = None
        return code

    def close(self) -> None:
        """Ends daemon and agent; what hangs is killed."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(timeout=WAIT_S)
        for pid in self.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.living(), "processes of the agent live on")

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command of the program, with this node's configuration."""
        return subprocess.run(
            [*self.inside, str(PROGRAM), *arguments, "--config", str(self.config)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    # -- what is seen

    def http(self, path: str) -> tuple[int, str]:
        try:
            return self._fetched(f"http://127.0.0.1:{self.port}{path}")
        except http.client.HTTPException as error:  # killed in the middle of its answer
            raise OSError from error

    def _fetched(self, url: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> dict[str, Any]:
        """The status document as it is in the store."""
        key = f"node/{self.id}/status"
        if self.etcd is not None:
            text = self.etcd.etcdctl("get", "--print-value-only", f"{self.prefix}/local/{key}")
        else:
            path = self.folder / "store" / key
            text = path.read_text() if path.exists() else ""
        return json.loads(text) if text.strip() else {"summary": "", "conditions": []}

    def status_now(self) -> dict[str, Any]:
        """By HTTP: what is in the store may be half a minute behind."""
        try:
            status: dict[str, Any] = json.loads(self.http("/status")[1])
        except OSError:
            return {"summary": "", "conditions": []}
        return status

    def condition(self, name: str) -> dict[str, Any]:
        found = [c for c in self.status()["conditions"] if c["type"] == name]
        return found[0] if found else {"status": "", "reason": "", "message": ""}

    def metric(self, line: str) -> float:
        """The value of one series: 'bai_nodeagent_store_up'. 0 where it is not there."""
        for text in self.http("/metrics")[1].splitlines():
            if text.startswith(f"{line} "):
                return float(text.rpartition(" ")[2])
        return 0.0

    @property
    def starts(self) -> list[tuple[int, str]]:
        """Every start of the agent so far: pid and the marker that it read."""
        path = self.folder / "starts"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), line.partition(" ")[2]) for line in lines]

    def living(self) -> list[int]:
        """Pids of the agents of this node that run now; a pid may have come to others since."""
        found = []
        for pid in dict(self.starts):
            with contextlib.suppress(OSError):
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                is_daemon = b"--config" in command
                if state not in "ZX" and str(self.folder).encode() in command and not is_daemon:
                    found.append(pid)
        return found

    # -- waiting

    def wait(self, what: str, holds: Callable[[], object], within_s: float = WAIT_S) -> float:
        """Seconds until something is so; fails with the daemon's log when it never is."""
        started_s = time.monotonic()
        while time.monotonic() - started_s < within_s:
            with contextlib.suppress(OSError, KeyError, ValueError):
                if holds():
                    return time.monotonic() - started_s
            time.sleep(0.02)
        log = self.log[-6000:] if (self.folder / "daemon.log").exists() else ""
        raise AssertionError(f"not within {within_s} s: {what}\n{json.dumps(self.status())}\n{log}")

    def wait_summary(self, summary: str, within_s: float = WAIT_S) -> float:
        return self.wait(summary, lambda: self.status()["summary"] == summary, within_s)

    def wait_ready(self, marker: str) -> float:
        """In line, and the one agent runs with what is on disk."""
        return self.wait(
            f"Ready with {marker}",
            lambda: (
                self.status()["summary"] == "Ready"
                and len(self.living()) == 1
                and self.starts[-1] == (self.living()[0], marker)
            ),
        )

    def wait_reason(self, name: str, reason: str, within_s: float = WAIT_S) -> dict[str, Any]:
        self.wait(f"{name} {reason}", lambda: self.condition(name)["reason"] == reason, within_s)
        return self.condition(name)
