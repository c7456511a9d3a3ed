"""The etcds that the walk goes over: one member, three, and one with TLS and users."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from authority import Authority
from node_under_test import Node
from servers import Etcd, EtcdCluster, EtcdServer

KINDS = ("single", "three", "guarded")


class Servers:
    """The servers of one store, as the walk breaks and mends them."""

    def __init__(self, members: list[EtcdServer], admin: Etcd) -> None:
        self.members = members
        self.admin = admin
        self._down: set[int] = set()
        self._frozen: set[int] = set()

    def kill(self, index: int) -> None:
        self.members[index].kill()
        self._down.add(index)
        self._frozen.discard(index)

    def freeze(self, index: int) -> None:
        if index not in self._down | self._frozen:
            self.members[index].freeze()
            self._frozen.add(index)

    def mend(self) -> None:
        """All are up and answer."""
        for index in self._frozen:
            self.members[index].thaw()
        for index in self._down:
            self.members[index].launch()
        for member in self.members:
            member.wait_ready()
        self._down, self._frozen = set(), set()

    def replace(self) -> None:
        """An empty store under the same addresses."""
        for index, member in enumerate(self.members):
            self.kill(index)
            shutil.rmtree(member.folder, ignore_errors=True)
        self.mend()
        self.guard()

    def go_back(self, snapshot: Path) -> None:
        """A backup takes the place of what there is. Of a single member."""
        (member,) = self.members
        self.mend()
        member.kill()
        member.wipe(snapshot)
        member.start()

    def save(self, snapshot: Path) -> None:
        snapshot.unlink(missing_ok=True)
        self.admin.etcdctl("snapshot", "save", str(snapshot))

    def guard(self) -> None:
        """Turns on what a fresh store lacks."""


class _Admin(Etcd):
    """root's view of an etcd with users."""

    is_guarded = False

    def etcdctl(self, *args: str, user: str = "", stdin: bytes | None = None) -> str:
        user = user or ("root:pw-root" if self.is_guarded else "")
        return super().etcdctl(*args, user=user, stdin=stdin)


class _Guarded(Servers):
    """One member with TLS and users, of which the node has just the rights that it needs."""

    def __init__(self, member: EtcdServer, admin: _Admin, node_id: str, below: str) -> None:
        super().__init__([member], admin)
        self._admin, self._node_id, self._below = admin, node_id, below

    def guard(self) -> None:
        self._admin.is_guarded = False
        names = [f"secret/{scope}/pw" for scope in ("cluster", f"node/{self._node_id}")]
        reads = ["desired/cluster", f"desired/node/{self._node_id}", *names]
        rights = [("read", f"{self._below}/{key}") for key in reads]
        rights.append(("readwrite", f"{self._below}/node/{self._node_id}/"))
        self._admin.turn_on_auth({self._node_id: rights})
        self._admin.is_guarded = True


@contextmanager
def served(kind: str, folder: Path) -> Iterator[tuple[Servers, Node]]:
    """Servers of that kind, and a node that is configured for them."""
    if kind == "single":
        with EtcdServer(folder / "m0") as member:
            yield Servers([member], member), Node(folder / "node", member)
    elif kind == "three":
        with EtcdCluster(folder) as cluster:
            admin = Etcd(",".join(cluster.endpoints))
            yield Servers(cluster.members, admin), Node(folder / "node", admin)
    else:
        tls = Authority(folder / "ca").issue("server")
        with EtcdServer(folder / "m0", tls=tls) as member:
            admin = _Admin(member.endpoint, tls)
            node = Node(folder / "node", admin)
            servers = _Guarded(member, admin, node.id, f"{node.prefix}/local")
            servers.guard()
            password = node.folder / "password"
            password.write_text(f"pw-{node.id}\n")
            password.chmod(0o600)
            node.configure(
                store=f'user = "{node.id}"\npassword-file = "{password}"\nca = "{tls.ca}"'
            )
            yield servers, node
