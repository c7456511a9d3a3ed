"""The real servers beside the node: etcd and NFS, on this machine's loopback.

The node reaches them at `Node.host_address`. Each can be frozen (SIGSTOP: connections stay open and
nothing answers, as behind a dead switch), stopped (connections are refused) and brought back on
the same port with the same data.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from .machine import HOST_ADDRESS

LOOPBACK = "127.0.0.1"
START_DEADLINE_S = 30.0
STOP_PATIENCE_S = 5.0
ETCDCTL_DEADLINE_S = 10.0


class Server:
    """One process. Starts when made; `close()` when done, in whatever state it is."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def argv(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Returns when it answers, with the data that it had before."""
        with (self.folder / f"{self.name}.out").open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", *self.argv()]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self.is_answering():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"{self.name} did not start; see {self.folder}")
            time.sleep(0.05)

    def is_answering(self) -> bool:
        return _accepts(self.port)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """In good order if it can be had, so that its data are whole."""
        if self._process is None:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} is not running"
        self._process.send_signal(number)


class Etcd(Server):
    """One member, without authentication, holding the desired state and the status."""

    name = "etcd"

    def __init__(self, folder: Path) -> None:
        self._peer_port = _free_port()
        super().__init__(folder)

    def argv(self) -> list[str]:
        client, peer = f"http://{LOOPBACK}:{self.port}", f"http://{LOOPBACK}:{self._peer_port}"
        return [
            *("etcd", "--name", "lab", "--data-dir", str(self.folder / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"lab={peer}", "--log-level", "warn"),
        ]

    def is_answering(self) -> bool:
        return _accepts(self.port) and self._etcdctl("endpoint", "health").returncode == 0

    @property
    def url(self) -> str:
        """As the node's config.toml has it."""
        return f"etcd://{HOST_ADDRESS}:{self.port}"

    @property
    def endpoint(self) -> str:
        """For etcdctl on the node."""
        return f"http://{HOST_ADDRESS}:{self.port}"

    def put(self, key: str, value: str) -> None:
        """Plain `etcdctl put`, as an admin does it."""
        self._etcdctl("put", "--", key, value, check=True)

    def get(self, key: str) -> str | None:
        """The value, or None if there is no such key."""
        found = self._etcdctl("get", "--print-value-only", "--", key, check=True).stdout
        return found.removesuffix("\n") if found else None

    def keys(self, prefix: str) -> list[str]:
        listed = self._etcdctl("get", "--prefix", "--keys-only", "--", prefix, check=True).stdout
        return [line for line in listed.splitlines() if line]

    def delete(self, key: str) -> None:
        self._etcdctl("del", "--", key, check=True)

    def _etcdctl(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["etcdctl", f"--endpoints=http://{LOOPBACK}:{self.port}", *arguments],
            env={"ETCDCTL_API": "3", "PATH": os.defpath},
            capture_output=True,
            text=True,
            check=check,
            timeout=ETCDCTL_DEADLINE_S,
        )


GANESHA_EXPORT = """\
EXPORT {{
  Export_Id = {number};
  Path = {path};
  Pseudo = /{name};
  Access_Type = RW;
  Squash = No_Root_Squash;
  SecType = sys;
  Disable_ACL = true;
  FSAL {{ Name = VFS; }}
}}
"""
# Version 4 alone and no NLM or rquota: one TCP port and no portmapper. Graceless: without clients
# to wait for after a restart, a server that returns serves at once.
GANESHA_CORE = """\
NFS_CORE_PARAM {{
  Protocols = 4;
  NFS_Port = {port};
  Bind_addr = {address};
  Enable_NLM = false;
  Enable_RQUOTA = false;
  Enable_UDP = false;
}}
NFSV4 {{
  Graceless = true;
  RecoveryBackend = fs_ng;
  RecoveryRoot = {recovery};
}}
NFS_KRB5 {{ Active_krb5 = false; }}
"""


class Nfs(Server):
    """nfs-ganesha, serving one folder of this machine per share; root is not squashed."""

    name = "ganesha"

    def __init__(self, folder: Path, shares: tuple[str, ...] = ("vfroot", "other")) -> None:
        self.shares = {name: folder / "shares" / name for name in shares}
        for path in self.shares.values():
            path.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)

    def argv(self) -> list[str]:
        settings = self.folder / "ganesha.conf"
        settings.write_text(self._settings())
        log, pid_file = self.folder / "ganesha.log", self.folder / "ganesha.pid"
        return [
            *("ganesha.nfsd", "-F", "-N", "EVENT"),
            *("-f", str(settings), "-L", str(log), "-p", str(pid_file)),
        ]

    def replace(self, share: str) -> None:
        """A new empty folder in the share's place: what clients hold of the old one is stale.

        The old one has to be deleted for that. Moved away, its handles still lead to it.
        """
        self.stop()
        shutil.rmtree(self.shares[share])
        self.shares[share].mkdir()
        self.start()

    def source(self, share: str) -> str:
        return f"{HOST_ADDRESS}:/{share}"

    @property
    def options(self) -> list[str]:
        """For a hard mount that notices an outage in seconds (timeo is in tenths of one)."""
        return ["hard", "nfsvers=4.2", "timeo=50", "retrans=2", f"port={self.port}"]

    def _settings(self) -> str:
        recovery = self.folder / "recovery"
        recovery.mkdir(exist_ok=True)
        core = GANESHA_CORE.format(port=self.port, address=LOOPBACK, recovery=recovery)
        exports = (
            GANESHA_EXPORT.format(number=number, name=name, path=path)
            for number, (name, path) in enumerate(self.shares.items(), start=1)
        )
        return core + "".join(exports)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0
