"""Several real dockerds on one machine, each a node of its own: a swarm to test with.

Each node has its own network, mount, host name and process namespaces, and one
cable to a bridge in a namespace of its own: the machine's own network is never
touched. The first process of each is ours and ends with the test run, however
that ends; the kernel then ends all that is in its namespace.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = ["containerd", "docker", "dockerd", "ip", "nsenter", "runc", "setpriv", "unshare"]
IMAGE = "sleeper"
WAIT_S = 30.0
# A first process has to take in orphans: containers' shims outlive a dockerd that is killed.
_FIRST = "while :; do sleep 1000 & wait $!; done"


class NotPossible(Exception):
    """This machine can't run dockerds; the text says what is missing."""


def eventually(what: str, holds: Callable[[], object], within_s: float = WAIT_S) -> float:
    """Seconds until something is so."""
    started_s = time.monotonic()
    while time.monotonic() - started_s < within_s:
        if holds():
            return time.monotonic() - started_s
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s:g} s: {what}")


@dataclass
class DockerNode:
    """A dockerd at `ip`, with its socket and data below `folder`."""

    name: str
    ip: str
    folder: Path
    first: int  # its first process, in our counting
    dockerd: int = 0
    _launcher: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def host(self) -> str:
        """As DOCKER_HOST wants it."""
        return f"unix://{self.socket}"

    @property
    def in_network(self) -> tuple[str, ...]:
        """What goes before a command that is to use this node's network."""
        return ("nsenter", f"--target={self.first}", "--net")

    def docker(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", "--host", self.host, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{self.name}: docker {arguments[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    # -- its daemon

    def start(self) -> None:
        """Starts dockerd and waits until it answers."""
        # A dockerd that was killed leaves its number, which a later process may have by now.
        (self.folder / "pid").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._launcher = subprocess.Popen(
                [
                    *("nsenter", f"--target={self.first}"),
                    *("--net", "--mount", "--uts", "--pid"),
                    *("dockerd", "--data-root", str(self.data)),
                    *("--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid"),
                    *("--host", self.host),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.dockerd = self._child_of(self._launcher)
        eventually(f"dockerd of {self.name} answers\n{self.last_lines()}", self._answers)

    def _child_of(self, launcher: subprocess.Popen[bytes]) -> int:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        eventually("nsenter has a child", lambda: children.read_text().strip())
        return int(children.read_text().split()[0])

    def _answers(self) -> bool:
        assert self._launcher is not None
        if self._launcher.poll() is not None:
            raise NotPossible(f"dockerd doesn't start: {self.last_lines()}")
        return self.docker("version", "--format", "{{.Server.Version}}", check=False) != ""

    def send(self, how: signal.Signals) -> None:
        os.kill(self.dockerd, how)
        if how is signal.SIGCONT and self._launcher is not None:
            self._launcher.send_signal(how)  # nsenter stops itself when its child is stopped

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends dockerd, and waits for it."""
        assert self._launcher is not None
        with contextlib.suppress(ProcessLookupError):
            self.send(how)
        self._launcher.wait(timeout=WAIT_S)

    def last_lines(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if "module=grpc" not in line)[-2000:]

    # -- its place in a swarm

    def swarm(self, what: str) -> str:
        """A field of the swarm's part of `docker info`: "LocalNodeState"."""
        return self.docker("info", "--format", f"{{{{.Swarm.{what}}}}}", check=False)

    def init(self) -> None:
        self.docker("swarm", "init", "--advertise-addr", self.ip)

    def token(self) -> str:
        """For workers."""
        return self.docker("swarm", "join-token", "--quiet", "worker")

    def rotate(self) -> str:
        """A new token for workers; the old one is refused some seconds later."""
        self.docker("swarm", "join-token", "--rotate", "--quiet", "worker")
        return self.token()

    def forget_others(self, worker: str) -> None:
        """On a manager: removes all workers but one. Those that are gone hold up many things."""
        workers = self.docker("node", "ls", "--quiet", "--filter=role=worker").split()
        if gone := [each for each in workers if each != worker]:
            self.docker("node", "rm", "--force", *gone)

    def forget(self) -> None:
        """Leaves whatever swarm it is in, and removes containers."""
        if running := self.docker("ps", "--all", "--quiet", check=False).split():
            self.docker("rm", "--force", *running)
        self.docker("swarm", "leave", "--force", check=False)
        eventually(f"{self.name} is out", lambda: self.swarm("LocalNodeState") == "inactive")

    def run(self, name: str, network: str) -> str:
        """A container that sleeps, on a network."""
        self.import_image()
        return self.docker("run", "--detach", "--name", name, "--network", network, IMAGE)

    def import_image(self) -> None:
        if not self.docker("images", "--quiet", IMAGE):
            with tempfile.NamedTemporaryFile(suffix=".tar") as tar:
                tar.write(_sleeper())
                tar.flush()
                change = 'CMD ["/bin/sleep", "1000"]'
                self.docker("import", "--change", change, tar.name, IMAGE)


@contextlib.contextmanager
def docker_nodes(*names: str) -> Iterator[list[DockerNode]]:
    """Nodes that run and can reach each other. Raises NotPossible."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise NotPossible(f"missing: {', '.join(missing)}: apt-get install docker.io iproute2")
    if os.geteuid() != 0:
        raise NotPossible("namespaces and dockerd need root")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bai-dk-")))
        switch = stack.enter_context(_namespaces("--net"))
        _in(switch, "ip", "link", "add", "br0", "type", "bridge")
        _in(switch, "ip", "link", "set", "br0", "up")
        nodes = []
        for number, name in enumerate(names, start=1):
            first = stack.enter_context(_namespaces("--net", "--mount", "--uts"))
            node = DockerNode(name, f"10.77.0.{number}", scratch / name, first)
            node.folder.mkdir()
            _plug_in(switch, node, number)
            nodes.append(node)
        for node in nodes:
            stack.callback(_close, node)
            node.start()
        yield nodes


def _close(node: DockerNode) -> None:
    """Containers go first: what a dockerd leaves running keeps its groups and mounts."""
    with contextlib.suppress(ProcessLookupError):
        node.send(signal.SIGCONT)
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        node.forget()
    try:
        node.end()
    except subprocess.TimeoutExpired:
        node.end(signal.SIGKILL)


@contextlib.contextmanager
def _namespaces(*kinds: str) -> Iterator[int]:
    """New namespaces, with the number of their first process."""
    own = [*kinds, "--pid", "--mount-proc"]
    launcher = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig=KILL", "unshare", *own, "--fork", "--kill-child"),
            *("sh", "-c", _FIRST),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        eventually("the first process", lambda: children.read_text().strip())
        first = int(children.read_text().split()[0])
        command = Path(f"/proc/{first}/cmdline")
        eventually("its shell", lambda: command.read_bytes().startswith(b"sh\0"))
        yield first
    finally:
        launcher.kill()
        launcher.wait()


def _plug_in(switch: int, node: DockerNode, number: int) -> None:
    cable = f"v{number}"
    ours = ("ip", "link", "add", cable, "type", "veth")
    _in(switch, *ours, "peer", "name", "eth0", "netns", str(node.first))
    _in(switch, "ip", "link", "set", cable, "master", "br0", "up")
    _in(node.first, "ip", "address", "add", f"{node.ip}/24", "dev", "eth0")
    for link in ("lo", "eth0"):
        _in(node.first, "ip", "link", "set", link, "up")
    # To nowhere: dockerd wants one before it says which address is its own.
    _in(node.first, "ip", "route", "add", "default", "via", "10.77.0.254")


def _in(first: int, *command: str) -> None:
    subprocess.run(
        ["nsenter", f"--target={first}", "--net", *command], check=True, capture_output=True
    )


def _sleeper() -> bytes:
    """An image, as a tar, that can only sleep: this machine's own program with its libraries."""
    program = Path(shutil.which("sleep") or "/bin/sleep")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    words = (word for line in listed.splitlines() for word in line.split())
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", dereference=True) as tar:
        tar.add(program, "bin/sleep")
        for library in {word for word in words if word.startswith("/")}:
            tar.add(library, library.lstrip("/"))
    return content.getvalue()


@pytest.fixture(scope="module")
def swarm_nodes() -> Iterator[list[DockerNode]]:
    """A swarm's manager, a node, and another swarm's manager. Import it where it is used."""
    with contextlib.ExitStack() as stack:
        try:
            nodes = stack.enter_context(docker_nodes("manager", "node", "other"))
        except NotPossible as why:
            pytest.skip(f"no Docker to test with: {why}")
        yield nodes
