"""The real Backend.AI agent, with all that it needs, in a network of its own.

etcd, Redis, dockerd, the agent and the daemon under test run in one network
namespace and one mount namespace of this lab: real ports, and no port, bridge
or mount of the machine is touched. Everything ends with the test run, however
that ends; virtual environments and Docker's data are kept below `.lab/agents`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from debian_root import LAB, NotPossible
from node_under_test import PROGRAM, Node
from servers import Etcd, wait_until

AGENTS_PORTS = "6001-6009,30000-31000,38200-39200,48200-50200"
T = TypeVar("T")

AGENTS = LAB / "agents"
REGISTER = Path(__file__).with_name("registered_session.py")
PROGRAMS = ["dockerd", "docker", "etcd", "etcdctl", "ip", "nsenter", "redis-server", "setpriv"]
ETCD_PORT, REDIS_PORT, RPC_PORT = 12379, 16379, 6001
SERVERS_S = 30.0
# A few seconds, but for a machine that has much else to do.
START_S = 120.0


@dataclass(frozen=True)
class Line:
    """A line of releases: what pip installs, and the Python that it runs on."""

    name: str
    version: str
    python: str

    @property
    def requirement(self) -> str:
        return f"backend.ai-agent=={self.version}"


OLD = Line("23.09", "23.9.10", "3.11")
NEW = Line("26.8", "26.8.3", "3.13")


def agent_python(line: Line) -> Path:
    """The interpreter of a virtual environment with that agent; made on first use, in minutes.

    Raises NotPossible.
    """
    venv = AGENTS / line.name
    with alone(venv):
        if not (venv / ".complete").exists():
            _build(venv, line)
    return venv / "bin/python"


def _build(venv: Path, line: Line) -> None:
    interpreter = find_python(line.python)
    if interpreter is None:
        raise NotPossible(f"backend.ai-agent {line.name} needs Python {line.python}: none is here")
    shutil.rmtree(venv, ignore_errors=True)
    install = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", line.requirement]
    for command in ([str(interpreter), "-m", "venv", str(venv)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-3:]
            raise NotPossible(f"{line.requirement} can't be installed: {' | '.join(last)}")
    (venv / ".complete").touch()


def find_python(version: str, user: str | None = None) -> Path | None:
    """An interpreter of that minor version, which that account may run: on the path, of pyenv,
    of Debian."""
    on_path = [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(":")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    own = sorted(folder / "bin" for folder in pyenv.glob(f"{version}.*"))
    for folder in (*own, *on_path, Path("/usr/bin")):
        program = folder / f"python{version}"
        # pyenv's shims are there for versions that are not selected, and fail then.
        if program.exists() and _output(program, user) == version:
            return program
    return None


def _output(program: Path, user: str | None) -> str:
    ask = [str(program), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        done = subprocess.run(ask, user=user, cwd="/", capture_output=True, text=True, check=False)
    except PermissionError:
        return ""
    return done.stdout.strip()


def public_python(version: str, user: str, folder: Path) -> Path:
    """An interpreter that the account may run: one of the machine, else a copy below `folder`.

    Raises NotPossible.
    """
    found = find_python(version, user)
    if found is not None:
        return found
    private = find_python(version)
    if private is None:
        raise NotPossible(f"needs Python {version}: none is here")
    if shutil.which("patchelf") is None:
        raise NotPossible(f"{private} is closed to {user}, and a copy needs patchelf")
    home = private.resolve().parent.parent
    copy = folder / f"python{version}"
    program = copy / "bin" / f"python{version}"
    if not copy.exists():
        shutil.copytree(home, copy, symlinks=True)
        # pyenv's looks for its own library where it was built.
        own = ["patchelf", "--set-rpath", "$ORIGIN/../lib", str(program)]
        subprocess.run(own, check=True)
    return program


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Server:
    """One process in the lab. Its output goes to a file beside its data."""

    def __init__(self, inside: Sequence[str], command: Sequence[str], log: Path) -> None:
        self._command = ["setpriv", "--pdeathsig=TERM", *inside, *command]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def last_words(self) -> str:
        return " | ".join(self._log.read_text().splitlines()[-3:])


class LabEtcd(Etcd):
    """The lab's etcd: Backend.AI's, and the daemon's store as well."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(f"127.0.0.1:{ETCD_PORT}")
        self._lab = lab

    def etcdctl(self, *args: str, user: str = "", stdin: bytes | None = None) -> str:
        command = ("etcdctl", f"--endpoints={self.endpoint}", *args)
        return self._lab.run(*command, stdin=None if stdin is None else stdin.decode())

    def keys(self, prefix: str) -> list[str]:
        return self.etcdctl("get", "--prefix", "--keys-only", prefix).split()


class Lab:
    """One Backend.AI without a manager: what it publishes is put into etcd by `publish`."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid
        self.inside = ("nsenter", f"--target={pid}", "--net", "--mount")
        self.docker_host = f"unix://{folder}/docker.sock"
        etcd_url = f"http://127.0.0.1:{ETCD_PORT}"
        self.etcd = LabEtcd(self)
        self.etcd_server = self._server(
            "etcd",
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls={etcd_url}",
            f"--advertise-client-urls={etcd_url}",
            f"--listen-peer-urls=http://127.0.0.1:{ETCD_PORT + 1}",
            "--unsafe-no-fsync",
        )
        self.redis = self._server(
            *("redis-server", "--port", str(REDIS_PORT), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no", "--dir", str(folder)),
        )
        self.dockerd = self._server(
            *("dockerd", "--data-root", str(AGENTS / "docker"), "--exec-root", f"{folder}/exec"),
            *("--pidfile", f"{folder}/docker.pid", "--host", self.docker_host),
        )

    def _server(self, *command: str) -> Server:
        return Server(self.inside, command, self.folder / f"{command[0]}.log")

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Output of a command in the lab. Raises AssertionError with what it said."""
        done = subprocess.run(
            [*self.inside, *command],
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        if done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def in_network(self, call: Callable[[], T]) -> T:
        """The result of a call whose sockets are the lab's. A thread may be elsewhere: setns(2)."""

        def enter() -> T:
            with Path(f"/proc/{self.pid}/ns/net").open() as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            return call()

        with ThreadPoolExecutor(1) as elsewhere:
            return elsewhere.submit(enter).result()

    def docker(self, *arguments: str) -> str:
        return self.run("docker", "--host", self.docker_host, *arguments)

    def redis_cli(self, *arguments: str) -> str:
        return self.run("redis-cli", "-p", str(REDIS_PORT), *arguments)

    def forget_agents(self) -> None:
        """What earlier agents have left behind in etcd and Redis."""
        self.etcd.etcdctl("del", "--prefix", "/sorna/local/nodes/agents/")
        self.redis_cli("flushall")

    def publish(self) -> None:
        """What a manager writes into etcd."""
        self.etcd.etcdctl("put", "/sorna/local/nodes/manager/m1", "up")
        self.etcd.etcdctl("put", "/sorna/local/config/redis/addr", f"127.0.0.1:{REDIS_PORT}")

    def start(self) -> None:
        self.run("ip", "link", "set", "lo", "up")
        # 23.09 hangs at its start when a connection happens to leave from 48200 or 49200.
        ports = "/proc/sys/net/ipv4/ip_local_port_range"
        self.run("sh", "-c", f"echo 50000 60999 > {ports}")
        for server in (self.etcd_server, self.redis, self.dockerd):
            server.start()
        wait_for(lambda: self.etcd.etcdctl("get", "ready") is not None, "etcd")
        wait_for(lambda: self.redis_cli("ping"), "Redis")
        wait_for(lambda: self.docker("version"), f"dockerd: {self.dockerd.last_words}")
        self.publish()

    def stop(self) -> None:
        # Containers first: a dockerd that goes leaves their shims behind.
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            for container in self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", container)
        for server in (self.dockerd, self.redis, self.etcd_server):
            server.stop()

    def session(self, agent_id: str, kernel_id: str) -> str:
        """A running container that the agent takes for a session's, and destroys unless its
        registry has it."""
        if not self.docker("images", "--quiet", "session"):
            busybox = shutil.which("busybox") or ""
            tar = self.folder / "session.tar"
            link = "--transform=s,.*busybox,busybox,"
            self.run("tar", "--create", f"--file={tar}", "--absolute-names", link, busybox)
            self.docker("import", str(tar), "session")
        labels = {"owner": agent_id, "session-id": str(uuid.uuid4()), "kernelspec": "1"}
        return self.docker(
            *("run", "--detach", f"--name=kernel.session.{kernel_id}", "--network=none"),
            *(f"--label=ai.backend.{key}={value}" for key, value in labels.items()),
            "--mount=type=tmpfs,destination=/home/work",  # 23.09 looks at its mounts
            *("session", "/busybox", "sleep", "9999"),
        )

    def is_running(self, container: str) -> bool:
        return container in self.docker("ps", "--quiet", "--no-trunc")

    def listen(self, port: int) -> subprocess.Popen[bytes]:
        """A stranger on a port. To be killed by the caller."""
        program = (
            "import socket, time\n"
            f"s = socket.create_server(('0.0.0.0', {port}))\nprint(flush=True)\ntime.sleep(600)"
        )
        return self._saying(program)

    def connect_from(self, port: int) -> subprocess.Popen[bytes]:
        """A stranger whose connection to the lab's etcd has that port. To be killed likewise."""
        to = self.etcd.endpoint.rpartition(":")[2]
        program = (
            f"import socket, time\ns = socket.create_connection(('127.0.0.1', {to}), "
            f"source_address=('127.0.0.1', {port}))\nprint(flush=True)\ntime.sleep(600)"
        )
        return self._saying(program)

    def _saying(self, program: str) -> subprocess.Popen[bytes]:
        command = ["setpriv", "--pdeathsig=KILL", *self.inside, sys.executable, "-c", program]
        stranger = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert stranger.stdout is not None
        stranger.stdout.readline()
        stranger.stdout.close()
        return stranger


def wait_for(holds: object, what: str, limit_s: float = SERVERS_S) -> None:
    """Until a callable gives something true; a command that fails counts as not yet."""
    assert callable(holds)

    def is_so() -> object:
        try:
            return holds()
        except AssertionError as error:
            raise OSError from error

    wait_until(is_so, what, limit_s)


@contextlib.contextmanager
def lab(folder: Path | None = None, network_of: int | None = None) -> Iterator[Lab]:
    """Needs root. One at a time on a machine: the others wait. Raises NotPossible.

    `network_of` is a process whose network it is to live in, else one of its own.
    """
    if os.geteuid() != 0:
        raise NotPossible("namespaces and dockerd need root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise NotPossible(f"missing: {', '.join(missing)}: apt-get install docker.io redis-server")
    with (
        alone(AGENTS / "lab"),
        tempfile.TemporaryDirectory(prefix="bai-ra-", dir="/tmp") as own,
        _namespaces(network_of) as pid,
    ):
        here = Lab(folder or Path(own), pid)
        try:
            here.start()
            yield here
        except TimeoutError as error:
            raise NotPossible(str(error)) from error
        finally:
            here.stop()


@contextlib.contextmanager
def _namespaces(network_of: int | None) -> Iterator[int]:
    """The pid of a process that keeps the lab's namespaces."""
    network = (
        ["unshare", "--net"]
        if network_of is None
        else ["nsenter", f"--net=/proc/{network_of}/ns/net"]
    )
    command = ["setpriv", "--pdeathsig=KILL", *network, "unshare", "--mount", "sleep", "infinity"]
    keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        own = Path("/proc/self/ns/net").readlink()
        theirs = Path(f"/proc/{keeper.pid}/ns/net")
        wait_until(lambda: theirs.readlink() != own, "no network namespace")
        wait_until(
            lambda: Path(f"/proc/{keeper.pid}/comm").read_text() == "sleep\n", "no namespaces"
        )
        # An outgoing connection that gets one of them lets the agent hang at its start for ever.
        reserve = f"echo {AGENTS_PORTS} > /proc/sys/net/ipv4/ip_local_reserved_ports"
        inside = ["nsenter", f"--target={keeper.pid}", "--net"]
        subprocess.run([*inside, "sh", "-c", reserve], check=True)
        yield keeper.pid
    finally:
        keeper.kill()
        keeper.wait()


class RealNode(Node):
    """A node of the lab whose agent is the real one; the daemon's store is the lab's etcd."""

    def __init__(self, folder: Path, lab: Lab, python: Path) -> None:
        self.lab, self.python = lab, python
        super().__init__(folder, lab.etcd, prefix=f"/t{time.monotonic_ns()}")
        self.inside = (*lab.inside, "env", f"DOCKER_HOST={lab.docker_host}")

    def agent_document(self, values: str = "", agent: str = "", top: str = "") -> str:
        """A whole desired state for a node that has nothing yet."""
        return f"""\
api-version = 1
{top}
[node]
manager-ip = "127.0.0.1"
agent-ip = "127.0.0.1"
[agent-config]
path = "{self.agent_toml}"
[agent-config.values.etcd.addr]
port = {ETCD_PORT}
[agent-config.values.agent]
id = "${{node-id}}"
ipc-base-path = "{self.folder}/ipc"
{values}
{self.agent_section}{agent}
"""

    @property
    def agent_section(self) -> str:
        """`[agent]`, which takes more keys."""
        return f"""[agent]
supervisor = "child"
command = ["{self.python}", "-m", "ai.backend.agent.server", "-f", "{self.agent_toml}"]
workdir = "{self.folder}"
env = {{ DOCKER_HOST = "{self.lab.docker_host}" }}
stop-timeout = "20s"
"""

    def start(self, *program: str) -> None:
        super().start(*self.inside, *(program or [str(PROGRAM)]))

    def http(self, path: str) -> tuple[int, str]:
        return self.lab.in_network(lambda: super(RealNode, self).http(path))

    def status(self) -> dict[str, Any]:
        return self.status_now()

    @property
    def agent_pid(self) -> int:
        """The main process, as the status says; 0 when it says none."""
        return int(self.status().get("facts", {}).get("agent-pid", 0))

    def worker_pid(self, main: int = 0) -> int:
        """The agent's worker; 0 when there is none."""
        children = Path(f"/proc/{main or self.agent_pid}/task/{main or self.agent_pid}/children")
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"backend.ai: agent worker"):
                return int(pid)
        return 0

    def session(self, var: str = "var", scratches: str = "scratches") -> str:
        """A session of this agent, as it is before the agent starts: with a container that
        its registry below `var` has."""
        kernel_id = str(uuid.uuid4())
        container = self.lab.session(self.id, kernel_id)
        folders = (str(self.folder / var), str(self.folder / scratches))
        enter = [str(self.python), str(REGISTER), self.id, kernel_id, container, *folders]
        subprocess.run(enter, cwd=self.folder, check=True, timeout=60)
        return container

    def living(self) -> list[int]:
        """Every process of the agent: those that work in this node's folder."""
        found = []
        for cwd in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if cwd.readlink() == self.folder:
                    found.append(int(cwd.parent.name))
        return found

    def close(self) -> None:
        super().close()
        for session in self.lab.docker("ps", "--quiet", "--filter=label=ai.backend.owner").split():
            self.lab.docker("rm", "--force", session)


# --- for tests: import them where they are used


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    try:
        with lab() as here:
            yield here
    except NotPossible as why:
        pytest.skip(f"no real agent to test with: {why}")


@pytest.fixture
def node(cluster: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RealNode]:
    """Of the line that the test asks for, else of the old one."""
    line: Line = getattr(request, "param", OLD)
    try:
        python = agent_python(line)
    except NotPossible as why:
        pytest.skip(str(why))
    cluster.publish()
    cluster.forget_agents()
    node = RealNode(tmp_path / "n", cluster, python)
    try:
        yield node
    finally:
        node.close()


both = pytest.mark.parametrize("node", [OLD, NEW], indirect=True, ids=lambda line: line.name)


def running(node: RealNode) -> tuple[int, int]:
    """Main process and worker of an agent that really works."""
    node.wait("the agent works", lambda: node.condition("Agent")["reason"] == "Running", START_S)
    return node.agent_pid, node.worker_pid()
