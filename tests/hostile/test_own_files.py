"""Whatever lies in place of a file of our own, and whatever its disk refuses, the node is kept.

Kept means, here and below: a dead agent is started, a spoilt agent.toml is repaired,
and a new document is taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node_under_test import Node
from servers import unmount

DYING = Path(__file__).parent.parent / "dying_in_fsync.py"

STATE = (
    "journal.json", "agent-ip", "rollback.toml", "agent-launch.json", "agent-healthy.toml",
    "digest.key", "node-id", "store-count.json", "store.lock", "swarm.json",
    "agent.log", "agent-config.last", "agent-config.last.json",
)  # fmt: skip
RUNTIME = ("agent.json", "agent.json.lock", "agent.lock", "lock")


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("somebody's")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


HOW: dict[str, Callable[[Path], object]] = {
    "a folder": a_folder,
    "a pipe": os.mkfifo,
    "a link": lambda path: path.symlink_to("/etc/shadow"),
    "empty": lambda path: path.write_bytes(b""),
    "no UTF-8": lambda path: path.write_bytes(b'{"until": "\xff\xfe"}'),
    "too deep": lambda path: path.write_bytes(b'{"until":' * 100_000),
    "Infinity": lambda path: path.write_bytes(b'{"until": Infinity, "revision": 1e999}'),
    "wrong types": lambda path: path.write_bytes(b'{"format": 1, "until": [], "node": {}}'),
    "2 GB of nothing": sparse,
}


def spoil(path: Path, how: str) -> None:
    """A daemon that runs may write it in the same moment; then once more."""
    while True:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            HOW[how](path)
            return


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.close()


def files_of(node: Node) -> list[Path]:
    names = [f"state/{name}" for name in STATE] + [f"runtime/{name}" for name in RUNTIME]
    return [node.folder / name for name in names]


def kill_agents(node: Node) -> None:
    for pid in node.living():
        os.kill(pid, signal.SIGKILL)
    node.wait("dead", lambda: not node.living())


def assert_kept(node: Node, marker: str) -> None:
    """By what the node does: with a full disk the summary is Degraded, rightly so."""
    node.wait("an agent lives", lambda: len(node.living()) == 1, 30)
    kill_agents(node)
    node.wait("a dead agent is started", lambda: len(node.living()) == 1, 30)
    good = node.agent_toml.read_bytes()
    node.agent_toml.write_bytes(b"spoilt = 1\n" + good)
    node.wait("drift is repaired", lambda: b"marker" in node.agent_toml.read_bytes(), 30)
    node.desire(node.document(marker))
    node.wait("a document is taken", lambda: node.starts[-1][1] == marker, 30)
    node.wait("one agent", lambda: len(node.living()) == 1, 30)
    assert node.process is not None
    assert node.process.poll() is None
    assert "resource.bug" not in node.log
    assert "Traceback" not in node.log


@pytest.mark.parametrize("how", HOW)
def test_a_spoilt_file_of_our_own_ends_no_daemon_at_its_start(node: Node, how: str) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    node.stop(signal.SIGKILL)
    kill_agents(node)
    for path in files_of(node):
        spoil(path, how)
    node.start()
    node.wait_ready("one")
    assert_kept(node, "two")
    for name in ("journal.json", "digest.key", "node-id", "store-count.json"):
        path = node.folder / "state" / name
        assert path.is_file(), name
        assert not path.is_symlink()
        assert list(path.parent.glob(f"{name}.unreadable-*")), name
        assert path.name in node.log
    # Nothing was read or written through the links.
    assert "root:" not in (node.folder / "state" / "journal.json").read_text()


@pytest.mark.parametrize("how", ["a folder", "a pipe"])
def test_a_file_that_is_spoilt_under_a_running_daemon_ends_nothing(node: Node, how: str) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    for path in files_of(node):
        spoil(path, how)
    assert_kept(node, "two")
    node.wait("Ready", lambda: node.status_now()["summary"] == "Ready", 30)


@pytest.mark.parametrize("how", ["a folder", "a pipe", "Infinity"])
def test_a_pause_that_can_not_be_read_is_a_pause_until_resume(node: Node, how: str) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    pause = node.folder / "state" / "pause"
    spoil(pause, how)
    node.wait("paused", lambda: node.status_now()["summary"] == "Paused")
    assert str(pause) in node.http("/status")[1]
    node.agent_toml.unlink()
    node.stop()
    node.start()
    node.wait("paused", lambda: node.status_now()["summary"] == "Paused")
    assert not node.agent_toml.exists()
    done = node.run("resume")
    assert done.returncode == 0, done.stderr
    node.wait("Ready", lambda: node.status_now()["summary"] == "Ready", 30)
    assert node.agent_toml.exists()


@pytest.fixture
def small(node: Node) -> Iterator[Callable[[str], Path]]:
    """Puts a folder of the node on a disk of its own, of 96 kB."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small tmpfs")
    made = []

    def mounted(name: str) -> Path:
        folder = node.folder / name
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", "size=96k,mode=700", "tmpfs"]
        subprocess.run(["mount", *options, str(folder)], check=True)
        made.append(folder)
        return folder

    yield mounted
    node.close()
    for folder in made:
        unmount(folder)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


@pytest.mark.parametrize("name", ["state", "runtime"])
def test_a_full_disk_of_our_own_stops_nothing_and_is_named(
    node: Node, small: Callable[[str], Path], name: str
) -> None:
    folder = small(name)
    node.desire()
    node.start()
    node.wait_ready("one")
    filler = fill(folder)
    assert_kept(node, "two")
    node.wait("told", lambda: "No space left" in node.http("/status")[1])
    reported = [c for c in node.status_now()["conditions"] if "No space left" in c["message"]]
    assert reported
    for condition in reported:
        assert f"{folder}/" in condition["message"]
        assert f"{node.agent_toml}: No space" not in condition["message"]
    # A restart while it is full as well.
    node.stop()
    node.start()
    assert_kept(node, "three")
    filler.unlink()
    node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"), 60)


def test_a_node_that_has_never_had_a_disk_is_kept(node: Node, small: Callable[[str], Path]) -> None:
    fill(small("state"))
    node.desire()
    node.start()
    assert_kept(node, "two")
    assert node.run("status").returncode != 2


def test_a_state_folder_that_is_gone_is_made_again(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    (node.folder / "state").rename(node.folder / "away")
    assert_kept(node, "two")
    node.wait("Ready", lambda: node.status_now()["summary"] == "Ready", 30)
    node.wait("kept again", lambda: (node.folder / "state" / "journal.json").is_file(), 90)


def test_what_a_kill_in_the_middle_of_a_write_leaves_is_swept(node: Node) -> None:
    password = 'password = "hunter2-secret"'
    node.desire(node.document(values=f"[agent-config.values.etcd]\n{password}"))
    folders = [node.folder, node.folder / "state", node.folder / "runtime"]

    def left() -> list[Path]:
        own = [p for folder in folders if folder.is_dir() for p in folder.glob(".*.tmp")]
        return own + list((node.folder / "store").rglob(".*.tmp"))

    for name in ("journal.json", "agent.toml", "agent.json"):
        node.start(sys.executable, str(DYING), name)
        assert node.process is not None
        assert node.process.wait(30) == -signal.SIGKILL
        assert [path for path in left() if path.name.startswith(f".{name}.")]
        # Each daemon has swept what was left by the one before.
        assert len(left()) <= 2
    status = node.folder / "store" / "node" / node.id / "status"
    status.with_name(".status.abcd1234.tmp").touch()  # as one that dies later leaves it
    node.start()
    node.wait_ready("one")
    node.wait("swept", lambda: not left())
    assert "hunter2-secret" in node.agent_toml.read_text()


def test_two_daemons_of_one_boot_with_one_id_are_reported_and_only_one_acts(
    tmp_path: Path, etcd: object, prefix: str
) -> None:
    from servers import Etcd

    assert isinstance(etcd, Etcd)
    driver = (sys.executable, str(Path(__file__).parent.parent / "short_lease_daemon.py"))
    first = Node(tmp_path / "first", etcd, prefix)
    second = Node(tmp_path / "second", etcd, prefix)
    try:
        first.desire()
        first.start(*driver)
        first.wait_ready("one")
        second.start(*driver)
        second.wait("told", lambda: "DuplicateNode" in second.http("/status")[1], 30)
        store = next(c for c in second.status_now()["conditions"] if c["type"] == "Store")
        assert first.process is not None
        assert f"pid {first.process.pid}" in store["message"]
        alive = etcd.etcdctl("get", "--print-value-only", f"{prefix}/local/node/{first.id}/alive")
        assert json.loads(alive)["pid"] == first.process.pid
        # A successor of one that was killed takes its place at once.
        second.stop()
        first.stop(signal.SIGKILL)
        first.start(*driver)
        first.wait_ready("one")
        assert first.process is not None
        pid = first.process.pid
        first.wait(
            "the successor holds it",
            lambda: (
                json.loads(
                    etcd.etcdctl(
                        "get", "--print-value-only", f"{prefix}/local/node/{first.id}/alive"
                    )
                )["pid"]
                == pid
            ),
        )
    finally:
        second.close()
        first.close()
