"""Real servers for tests, on free ports of the loopback address, ended by pid."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(holds: object, what: str, limit_s: float = START_S) -> None:
    """Polls a callable until it gives something true; a fault counts as not yet."""
    assert callable(holds)
    ends_at = time.monotonic() + limit_s
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{what} after {limit_s} s")
        time.sleep(0.05)


def kill(*pids: int) -> None:
    """By SIGKILL; one may have ended with another."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def unmount(path: Path | str) -> None:
    """Once nobody uses it: a daemon's thread may just be writing a note there."""
    wait_until(
        lambda: not subprocess.run(["umount", str(path)], check=False).returncode,
        f"{path} is still in use",
    )


@dataclass(frozen=True)
class Tls:
    """Files of one party: its authority's certificate, its own, and the key."""

    ca: Path
    cert: Path
    key: Path


class Etcd:
    """An etcd that is there. `endpoint` is host:port; `tls` is what etcdctl shows.

    `inside` goes before each command: it leads into the network of the etcd.
    """

    def __init__(
        self, endpoint: str, tls: Tls | None = None, *, inside: Sequence[str] = ()
    ) -> None:
        self.endpoint = endpoint
        self.tls = tls
        self.inside = tuple(inside)

    def etcdctl(self, *args: str, user: str = "", stdin: bytes | None = None) -> str:
        """Output of etcdctl; `user` is name:password. Raises CalledProcessError."""
        program = [*self.inside, "etcdctl", f"--endpoints={self.endpoint}"]
        command = [*program, *self._options(user), *args]
        env = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(
            command, input=stdin, env=env, check=True, timeout=20, capture_output=True
        )
        return done.stdout.decode(errors="replace")

    def _options(self, user: str) -> Iterator[str]:
        if user:
            yield f"--user={user}"
        if self.tls:
            yield from (f"--cacert={self.tls.ca}", f"--cert={self.tls.cert}")
            yield f"--key={self.tls.key}"

    def turn_on_auth(self, users: dict[str, Sequence[tuple[str, str]]]) -> None:
        """Roles and users of the same name, password "pw-NAME", one grant per (right, key).

        A key that ends in "/" stands for all below it. root's password is "pw-root".
        """
        self.etcdctl("user", "add", "root:pw-root")
        self.etcdctl("user", "grant-role", "root", "root")
        for user, grants in users.items():
            self.etcdctl("role", "add", user)
            for right, key in grants:
                below = ["--prefix=true"] if key.endswith("/") else []
                self.etcdctl("role", "grant-permission", *below, user, right, key)
            self.etcdctl("user", "add", f"{user}:pw-{user}")
            self.etcdctl("user", "grant-role", user, user)
        self.etcdctl("auth", "enable")


class EtcdServer(Etcd):
    """One member. A context manager: started on entering, killed on leaving.

    It keeps its ports and its folder over stop and start. `tls` is the
    server's; `client_tls`, where given, is demanded from clients.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "m0",
        tls: Tls | None = None,
        client_tls: Tls | None = None,
        options: Sequence[str] = (),
        inside: Sequence[str] = (),
    ) -> None:
        super().__init__(f"127.0.0.1:{free_port()}", client_tls or tls, inside=inside)
        self.folder, self.name, self.options = folder, name, tuple(options)
        self.server_tls, self.wants_client = tls, client_tls is not None
        self.peer_url = f"http://127.0.0.1:{free_port()}"
        self.metrics_url = f"http://127.0.0.1:{free_port()}"
        self.initial_cluster = f"{name}={self.peer_url}"
        self.initial_state = "new"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        """Starts the process without waiting: members of a cluster wait for each other."""
        url = f"{'https' if self.server_tls else 'http'}://{self.endpoint}"
        command = [
            *self.inside,
            "etcd",
            f"--name={self.name}",
            f"--data-dir={self.folder}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self.initial_cluster}",
            f"--initial-cluster-state={self.initial_state}",
            f"--listen-metrics-urls={self.metrics_url}",
            *self.options,
        ]
        if self.server_tls:
            tls = self.server_tls
            command += [f"--cert-file={tls.cert}", f"--key-file={tls.key}"]
            if self.wants_client:
                command += ["--client-cert-auth", f"--trusted-ca-file={tls.ca}"]
        with self.folder.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        wait_until(self._is_healthy, f"etcd {self.name} is not healthy")

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(self._is_stopped, f"etcd {self.name} is not frozen")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self, snapshot: Path) -> None:
        """Replaces the (stopped) member's data by a backup; it becomes another cluster."""
        self.folder.rename(self.folder.with_suffix(f".{time.monotonic_ns()}"))
        restore = [
            "etcdctl",
            "snapshot",
            "restore",
            str(snapshot),
            f"--name={self.name}",
            f"--data-dir={self.folder}",
            f"--initial-cluster={self.initial_cluster}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster-token=restored-{time.monotonic_ns()}",
        ]
        env = {**os.environ, "ETCDCTL_API": "3"}
        subprocess.run(restore, env=env, check=True, capture_output=True)

    def _is_stopped(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def _is_healthy(self) -> bool:
        if self.inside:
            return self._answers()
        with urllib.request.urlopen(f"{self.metrics_url}/health", timeout=1) as answer:
            return b'"true"' in answer.read()

    def _answers(self) -> bool:
        try:
            self.etcdctl("endpoint", "health")
        except subprocess.SubprocessError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(timeout=20)
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class EtcdCluster:
    """Several members; entering waits until all are healthy."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        self.members = [EtcdServer(folder / f"m{i}", name=f"m{i}") for i in range(size)]
        together = ",".join(member.initial_cluster for member in self.members)
        for member in self.members:
            member.initial_cluster = together

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for member in self.members:
                stack.callback(member.kill)
                member.launch()
            for member in self.members:
                member.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


_numbers = itertools.count()


def fresh_prefix() -> str:
    """A prefix that no other test, nor an earlier run on the same server, has used."""
    return f"/test-{os.getpid()}-{time.time_ns()}-{next(_numbers)}"
