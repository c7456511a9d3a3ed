"""The whole daemon while its etcd misbehaves, is guarded, or its own disk is full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_under_test import PROGRAM, Node
from servers import Etcd, EtcdCluster, EtcdServer, unmount


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "m0") as server:
        yield server


@pytest.fixture
def node(tmp_path: Path, server: EtcdServer) -> Iterator[Node]:
    node = Node(tmp_path / "node", server)
    yield node
    node.close()


def guard(node: Node, *rights: tuple[str, str]) -> None:
    """Turns authentication on, with these rights for the node's own user."""
    assert node.etcd is not None
    node.etcd.turn_on_auth({node.id: list(rights)})
    password = node.folder / "password"
    password.write_text(f"pw-{node.id}\n")
    node.configure(
        store=f'user = "{node.id}"\npassword-file = "{password}"\nallow-plaintext = true'
    )


def as_root(node: Node, *arguments: str) -> str:
    assert node.etcd is not None
    return node.etcd.etcdctl(*arguments, user="root:pw-root")


def test_one_grant_a_key_is_enough_and_a_missing_one_is_named(node: Node) -> None:
    below = f"{node.prefix}/local"
    node.desire(node.document(values='[agent-config.values.etcd]\npassword = { secret = "pw" }'))
    node.put("secret/cluster/pw", "hunter2-secret")
    guard(
        node,
        ("read", f"{below}/desired/cluster"),
        ("read", f"{below}/desired/node/{node.id}"),
        ("read", f"{below}/secret/cluster/pw"),
        ("readwrite", f"{below}/node/{node.id}/"),
    )
    node.start()
    key = f"secret/node/{node.id}/pw"
    node.wait("the denied key is named", lambda: key in node.http("/status")[1])
    as_root(node, "role", "grant-permission", node.id, "read", f"{below}/{key}")
    node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"), 30)
    assert "hunter2-secret" in node.agent_toml.read_text()
    shown = as_root(node, "get", f"{below}/node/{node.id}/status")
    assert '"summary": "Ready"' in shown
    for text in (node.log, shown, node.http("/status")[1]):
        assert "pw-i-test01" not in text
        assert "hunter2-secret" not in text


def test_a_status_that_can_not_be_written_stops_nothing_else(node: Node) -> None:
    below = f"{node.prefix}/local"
    node.desire()
    guard(node, ("read", f"{below}/desired/"), ("read", f"{below}/node/{node.id}/"))
    node.start()
    node.wait("in line", lambda: len(node.living()) == 1)
    node.wait("told", lambda: "StatusNotWritten" in node.http("/status")[1])
    # Readers will take it for Unknown: here stands why.
    assert f"may not write {below}/node/{node.id}/alive" in node.log
    assert node.log.count("alive.not_written") == 1
    good = node.agent_toml.read_bytes()
    node.agent_toml.unlink()
    node.wait("repaired", lambda: node.agent_toml.read_bytes() == good)
    as_root(
        node, "role", "grant-permission", node.id, "readwrite", f"{below}/node/{node.id}/status"
    )
    # Well within a resync: that it can be written again is an event of its own.
    node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"), 10)
    key = f"{below}/node/{node.id}/status"
    node.wait("written", lambda: '"summary": "Ready"' in as_root(node, "get", key))


def test_an_address_that_can_not_be_kept_is_reported_and_used_all_the_same(node: Node) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small tmpfs")
    small = node.folder / "state"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(small)]
    subprocess.run(mount, check=True)
    try:
        node.desire(node.document().replace('agent-ip = "auto"\n', ""))
        node.start()
        node.wait_ready("one")
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        node.desire()
        node.wait("told", lambda: f"{small}/agent-ip: No space left" in node.http("/status")[1])
        assert not (small / "agent-ip").exists()
        # By what is told: agent.toml itself can't be remembered in this folder either.
        assert node.process is not None
        assert node.process.poll() is None
        assert len(node.living()) == 1
        filler.unlink()
        node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"), 40)
        node.wait("kept", lambda: "127.0.0.1" in (small / "agent-ip").read_text())
        assert "bind-host" in node.agent_toml.read_text()
    finally:
        node.close()
        unmount(small)


def test_without_inotify_the_node_is_kept_all_the_same(node: Node) -> None:
    # As on a node whose containers use up root's instances: a limit of the user namespace.
    none_left = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$0" "$@"'
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", none_left]
    if subprocess.run([*inside, "true"], check=False).returncode != 0:
        pytest.skip("no user namespaces here")
    node.desire()
    node.start(*inside, str(PROGRAM))
    node.wait_ready("one")
    assert "fs.inotify.max_user_instances" in node.log
    node.agent_toml.unlink()
    assert node.run("pause").returncode == 0
    node.wait_summary("Paused")
    assert node.run("resume").returncode == 0
    # Without an event: by the look after the watch's own pause, half a minute at the most.
    node.wait("repaired", node.agent_toml.exists, 45)
    node.wait_summary("Ready", 45)
    assert node.log.count("orders.watch_broke") == 1


def test_tokens_lost_by_a_restart_of_etcd_are_renewed(node: Node, server: EtcdServer) -> None:
    below = f"{node.prefix}/local"
    node.desire()
    guard(node, ("read", f"{below}/desired/"), ("readwrite", f"{below}/node/{node.id}/"))
    node.start()
    node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"))
    server.restart()
    as_root(node, "put", f"{below}/desired/cluster", node.document("two"))
    node.wait("taken", lambda: [m for _, m in node.starts] == ["one", "two"], 30)


def test_a_frozen_member_is_left_for_another(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    with EtcdCluster(tmp_path / "cluster") as cluster:
        together = Etcd(",".join(cluster.endpoints))
        node = Node(tmp_path / "node", together)
        try:
            node.desire()
            node.start()
            node.wait_ready("one")
            frozen = cluster.members[0]
            frozen.freeze()
            node.etcd = Etcd(",".join(member.endpoint for member in cluster.members[1:]))
            node.wait("a new leader", lambda: _takes_a_put(node), 30)
            node.wait("taken", lambda: [m for _, m in node.starts] == ["one", "two"], 60)
            frozen.thaw()
            node.wait_ready("two")
        finally:
            node.close()


def _takes_a_put(node: Node) -> bool:
    try:
        node.desire(node.document("two"))
    except subprocess.CalledProcessError:
        return False
    return True


def test_a_restored_backup_is_a_new_epoch_and_no_crash(
    node: Node, server: EtcdServer, tmp_path: Path
) -> None:
    node.desire()
    backup = tmp_path / "backup"
    server.etcdctl("snapshot", "save", str(backup))
    node.start()
    node.wait_ready("one")
    for marker in ("two", "three"):
        node.desire(node.document(marker))
        node.wait_ready(marker)
    revision = node.status()["desired"]["revision"]
    server.stop()
    server.wipe(backup)
    server.start()
    node.wait_ready("one")
    assert node.status()["desired"]["revision"] < revision
    assert "restored" in node.condition("Store")["message"]


def test_a_full_disk_is_reported_and_healed(node: Node) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small tmpfs")
    small = node.folder / "state"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(small)]
    subprocess.run(mount, check=True)
    try:
        node.desire()
        node.start()
        node.wait_ready("one")
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        node.desire(node.document("two"))
        node.wait("told", lambda: "No space left" in node.http("/status")[1])
        assert node.http("/livez")[0] == 200
        filler.unlink()
        # By HTTP: after so many changes the store's status may be half a minute behind.
        node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"), 40)
        assert node.starts[-1][1] == "two"
    finally:
        node.close()
        unmount(small)


def test_a_spoilt_journal_on_a_read_only_disk_ends_no_daemon(node: Node) -> None:
    """As ext4 is after an error: what can't be noted is told, the node is kept all the same."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    node.desire()
    node.start()
    node.wait_ready("one")
    node.stop()
    state = node.folder / "state"
    (state / "journal.json").write_bytes(b"\xff\x00 spoilt")
    # Another mount of it: the agent has its log open in the first.
    subprocess.run(["mount", "--bind", str(state), str(state)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(state)], check=True)
        node.start()
        node.wait("told", lambda: "Read-only" in node.http("/status")[1])
        assert "file.unreadable" in node.log
        assert node.http("/livez")[0] == 200
    finally:
        unmount(state)
    node.desire(node.document("two"))
    # That the disk takes the old state again may be seen before the new one.
    node.wait("taken", lambda: node.starts[-1][1] == "two", 40)
    node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"), 40)
