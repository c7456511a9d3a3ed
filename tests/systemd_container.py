"""A real systemd for tests, as PID 1 of a container with cgroups of its own.

A systemd that sees the host's cgroup tree moves the host's processes into its
own groups. So the container's first process is a shell that waits until we
have seen, from outside, that the kernel put it into groups below ours; only
then it becomes systemd.

The dockerd belongs to the test: network and mount namespace of its own (it
touches no bridge, no firewall rule and no mount of the machine), and it ends
with the test run, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bai_nodeagent.system.systemd import Systemd
from debian_root import LAB, NotPossible, debian_root

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ["ca-certificates", "dbus", "libssl3", "procps", "python3-venv", "systemd"]
PROGRAMS = ["containerd", "docker", "dockerd", "nsenter", "runc", "setpriv", "unshare"]
VENV = Path("/opt/bai-nodeagent/venv")
"""Where the units expect the daemon; in the container it runs this checkout."""

_SYSTEMD = [
    *("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--cap-add=SYS_PTRACE"),
    *("--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined"),
    *("--tmpfs=/run:exec", "--tmpfs=/tmp:exec", "--cgroupns=private", "--network=none"),
    *("--stop-signal=RTMIN+4", "--env=container=docker"),
]
# Docker mounts the groups of version 1 read-only, where systemd notes each process too.
_WAIT_FOR_LEAVE = """\
until [ -e /run/go ]; do sleep 0.02; done
mount -o remount,bind,rw /sys/fs/cgroup/systemd 2>/dev/null
exec /lib/systemd/systemd
"""


@dataclass(frozen=True)
class Container:
    """`root` is its file system as we see it; `pid` its systemd, in our counting."""

    pid: int

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    @property
    def inside(self) -> tuple[str, ...]:
        """What goes before a command that is to run in the container."""
        return ("nsenter", f"--target={self.pid}", *["--mount", "--uts", "--ipc", "--net", "--pid"])

    def systemd(self, deadline_s: float = 5.0) -> Systemd:
        bus = self.root / "run/dbus/system_bus_socket"
        return Systemd(bus, (*self.inside, "journalctl"), deadline_s)

    def run(self, *command: str, check: bool = True) -> str:
        """What a command in the container prints, to both of its outputs."""
        done = subprocess.run(
            [*self.inside, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}: {done.stdout}")
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def add_unit(self, name: str, text: str) -> str:
        self.write(f"/run/systemd/system/{name}", text)
        self.run("systemctl", "daemon-reload")
        return name


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """Import it where it is used."""
    with contextlib.ExitStack() as stack:
        try:
            booted = stack.enter_context(systemd_container())
        except NotPossible as why:
            pytest.skip(f"no systemd to test with: {why}")
        yield booted


@contextlib.contextmanager
def systemd_container(volumes: Sequence[str] = ()) -> Iterator[Container]:
    """A booted systemd with this checkout's daemon and units in it; about 3 s.

    The first time 50 s more, for the image. `volumes` as `docker --volume` takes them.
    Raises NotPossible.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise NotPossible(f"missing: {', '.join(missing)}: apt-get install docker.io util-linux")
    tree = debian_root(PACKAGES)
    with _dockerd() as docker:
        image = f"bai-systemd:{tree.name}"
        if not docker("images", "--quiet", image):
            _import(docker, tree, image)
        shared = [*_mounts(), *(f"--volume={volume}" for volume in volumes)]
        name = docker("create", *_SYSTEMD, *shared, image, "/bin/sh", "-c", _WAIT_FOR_LEAVE)
        try:
            docker("start", name)
            container = Container(int(docker("inspect", "--format={{.State.Pid}}", name)))
            _check_cgroups(container.pid)
            _install(container)
            (container.root / "run/go").touch()
            bus = container.root / "run/dbus/system_bus_socket"
            eventually(bus.is_socket, f"no systemd after 30 s: {docker('logs', name)}", 30)
            container.run("systemctl", "is-system-running", "--wait", check=False)
            yield container
        finally:
            docker("rm", "--force", name)


def eventually(is_so: Callable[[], bool], otherwise: str, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(otherwise)
        time.sleep(0.02)


def _check_cgroups(pid: int) -> None:
    """Raises NotPossible unless the process has groups of its own where systemd would write."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        hierarchy, controllers, group = line.split(":", 2)
        if (hierarchy == "0" or controllers == "name=systemd") and group == "/":
            raise NotPossible(f"Docker gives containers no cgroup of their own here: {line}")


def _mounts() -> list[str]:
    """This checkout, its virtual environment, and the interpreter that it was made from."""
    folders = {PROJECT / "src", Path(sys.prefix)}
    if sys.base_prefix != "/usr":
        folders.add(Path(sys.base_prefix))
    return [f"--volume={folder}:{folder}:ro" for folder in folders]


def _install(container: Container) -> None:
    container.write(
        str(VENV / "bin/bai-nodeagent"),
        f"#!{sys.executable}\n"
        f"import sys\nsys.path.insert(0, {str(PROJECT / 'src')!r})\n"
        "from bai_nodeagent.cli import main\nsys.exit(main())\n",
        mode=0o755,
    )
    for unit in (PROJECT / "deploy/systemd").glob("*.service"):
        container.write(f"/usr/lib/systemd/system/{unit.name}", unit.read_text())


Docker = Callable[..., str]


@contextlib.contextmanager
def _dockerd() -> Iterator[Docker]:
    data = LAB / "systemd-docker"  # kept: it holds the image
    data.mkdir(parents=True, exist_ok=True)
    with (
        (LAB / "systemd-docker.lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="bai-sd-", dir="/tmp") as scratch,
        (Path(scratch) / "log").open("w") as log,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        host = f"unix://{scratch}/socket"

        def docker(*arguments: str) -> str:
            done = subprocess.run(
                ["docker", "--host", host, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise NotPossible(f"docker {arguments[0]}: {done.stderr.strip()}")
            return done.stdout.strip()

        daemon = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=TERM", "unshare", "--net", "--mount"),
                *("dockerd", "--data-root", str(data), "--exec-root", f"{scratch}/exec"),
                *("--pidfile", f"{scratch}/pid", "--host", host),
                *("--bridge=none", "--iptables=false", "--ip6tables=false"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for_docker(daemon, docker, Path(scratch))
            yield docker
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait_for_docker(daemon: subprocess.Popen[bytes], docker: Docker, scratch: Path) -> None:
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(NotPossible):
            docker("version")
            return
        if daemon.poll() is not None or time.monotonic() > end:
            last = (scratch / "log").read_text().splitlines()[-3:]
            raise NotPossible("dockerd doesn't start: " + " | ".join(last))
        time.sleep(0.1)


def _import(docker: Docker, tree: Path, image: str) -> None:
    with tempfile.TemporaryDirectory(dir=LAB) as scratch:
        tar = Path(scratch) / "image.tar"
        subprocess.run(["tar", "-C", tree, "-cf", tar, "."], check=True)
        docker("import", str(tar), image)
