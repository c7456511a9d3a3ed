"""agent.toml as those lay it out who own its folder, or who break it: the real daemon as root."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent.kinds.agent.record import STARTING_S
from fuse_server import FuseServer
from node_under_test import WAIT_S, Node

STRANGER = 61001
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Lay = Callable[[Path], Any]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon that runs; each test gives it another path."""
    node = Node(tmp_path_factory.mktemp("node"))
    node.agent_toml.write_text("agent = {}\n")  # what the agent itself reads
    node.start()
    yield node
    assert node.stop() == 0
    node.close()


def desire(node: Node, path: Path, marker: str = "one") -> None:
    """An agent.toml at that path, and an agent that would read the node's own."""
    node.desire(node.document(marker).replace(str(node.agent_toml), str(path)))


def reported(node: Node, reason: str, within_s: float = WAIT_S) -> str:
    """By HTTP: changes without a new document are soon written only once in 30 s."""

    def found() -> list[str]:
        each = [c for c in node.status_now()["conditions"] if c["type"] == "AgentConfig"]
        return [c["message"] for c in each if c["reason"] == reason]

    node.wait(reason, found, within_s)
    return "".join(found())


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, STRANGER, STRANGER)
    return folder


def as_stranger(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


def test_no_file_of_root_is_changed_or_given_away_by_a_link(
    node: Node, tmp_path: Path, theirs: Path
) -> None:
    secret = tmp_path / "root-only"
    secret.write_text("[agent]\npassword = 'of root'\n")
    secret.chmod(0o600)
    before = secret.stat()
    (theirs / "agent.toml").symlink_to(secret)
    as_stranger(theirs / "agent.toml")
    desire(node, theirs / "agent.toml")
    assert str(STRANGER) in reported(node, "Untrusted")
    assert secret.stat() == before
    assert secret.read_text() == "[agent]\npassword = 'of root'\n"


def test_no_file_is_made_where_a_link_of_others_leads(
    node: Node, tmp_path: Path, theirs: Path
) -> None:
    (tmp_path / "root").mkdir(mode=0o700)
    (theirs / "agent.toml").symlink_to(tmp_path / "root" / "new")
    as_stranger(theirs / "agent.toml")
    desire(node, theirs / "agent.toml")
    reported(node, "Untrusted")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_regular_file_in_a_folder_of_others_is_kept_in_line(node: Node, theirs: Path) -> None:
    path = theirs / "agent.toml"
    path.write_text("[agent]\nmine = true\n")
    as_stranger(path)
    desire(node, path)
    node.wait("in line", lambda: "i-test01" in path.read_text())
    assert "mine = true" in path.read_text()
    assert path.stat().st_uid == STRANGER


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 << 29)


@pytest.mark.parametrize(
    ("lay", "reason"),
    [
        (os.mkfifo, "NotAFile"),
        (os.mkdir, "NotAFile"),
        (lambda path: path.symlink_to("/dev/zero"), "NotAFile"),
        (sparse, "TooLarge"),
    ],
)
def test_what_is_no_small_file_is_reported_and_stops_nothing(
    node: Node, tmp_path: Path, lay: Lay, reason: str
) -> None:
    lay(tmp_path / "agent.toml")
    desire(node, tmp_path / "agent.toml")
    node.wait_reason("AgentConfig", reason)
    assert node.http("/livez")[0] == 200
    desire(node, node.folder / "other.toml")
    reported(node, "InSync")


@pytest.mark.parametrize(
    "raw", [b"[agent\n", b"\xef\xbb\xbf[agent]\n", b"# f\xfcr\n[agent]\n", b"[container.<name>]\n"]
)
def test_a_broken_file_of_unknown_content_is_left_alone(
    node: Node, tmp_path: Path, raw: bytes
) -> None:
    (tmp_path / "agent.toml").write_bytes(raw)
    desire(node, tmp_path / "agent.toml", marker=f"m{len(raw)}")
    assert "at line" in reported(node, "Broken")
    starts = len(node.starts)
    time.sleep(1)  # a start takes a tenth of that
    assert (tmp_path / "agent.toml").read_bytes() == raw
    assert [p.name for p in tmp_path.iterdir()] == ["agent.toml"]
    assert len(node.starts) == starts


def test_the_content_of_another_path_is_not_used(node: Node, tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("[agent]\nof-one = 1\n")
    desire(node, one)
    node.wait("in line", lambda: "i-test01" in one.read_text())
    reported(node, "InSync")
    two.write_text("[agent\n")
    desire(node, two)
    reported(node, "Broken")
    assert two.read_text() == "[agent\n"


def test_ten_broken_files_are_kept_at_most(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    desire(node, path)
    node.wait("in line", lambda: "i-test01" in path.read_text())
    for i in range(11):
        name = f"agent.toml.broken-20250101T0000{i:02}Z"
        (tmp_path / name).write_text(f"old {i}")
    path.write_text("[agent")
    node.wait("mended", lambda: "i-test01" in path.read_text())
    kept = sorted(tmp_path.glob("agent.toml.broken-*"))
    assert len(kept) == 10
    assert kept[0].read_text() == "old 0"
    assert kept[-1].read_text() == "[agent"
    name = kept[-1].name
    node.wait("named", lambda: name in reported(node, "InSync"))


def test_thousands_of_copies_that_others_lay_are_not_all_read(node: Node, theirs: Path) -> None:
    path = theirs / "agent.toml"
    desire(node, path)
    node.wait("in line", lambda: "i-test01" in path.read_text())
    one = theirs / "agent.toml.broken-20240101T000000Z"
    one.write_bytes(b"[agent" + b" " * 900_000)
    for i in range(5_000):
        os.link(one, theirs / f"agent.toml.broken-2025{i // 60:04}T0000{i % 60:02}Z")
    path.write_bytes(b"[agent" + b"\t" * 900_000)
    node.wait("mended", lambda: "i-test01" in path.read_text())
    assert "Stuck" not in str(node.status_now()["conditions"])


def test_a_file_full_of_equal_lines_holds_up_nothing(tmp_path: Path) -> None:
    """What is compared line by line takes time by the square of those, if nobody minds."""
    node = Node(tmp_path / "node")
    node.desire()
    node.start()
    node.wait_ready("one")
    with node.agent_toml.open("a") as file:
        file.write("#\n" * 100_000)
    node.wait("remembered", lambda: (node.folder / "state/agent-config.last").stat().st_size > 2e5)
    node.agent_toml.write_text(node.agent_toml.read_text().replace('"one"', '"by hand"'))
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait_ready("one")
    assert node.agent_toml.read_text().count("#\n") == 100_000
    assert node.stop() == 0
    node.close()


@pytest.mark.parametrize(
    "more", ["x = inf", "x = [{ y = nan }]", f"x = 0x{'f' * 5000}"], ids=["inf", "nan", "huge"]
)
def test_a_number_that_nobody_can_print_keeps_no_agent_down(tmp_path: Path, more: str) -> None:
    node = Node(tmp_path / "node")
    node.desire()
    node.start()
    node.wait_ready("one")
    node.agent_toml.write_text(f"{more}\n{node.agent_toml.read_text()}")
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait("it is back", lambda: len(node.starts) == 2 and len(node.living()) == 1)
    node.stop()
    assert node.run("may-start").returncode == 0
    node.close()


def test_the_notes_of_an_agent_whose_file_has_many_keys_are_kept(tmp_path: Path) -> None:
    """Without them each repaired edit would be a restart."""
    node = Node(tmp_path / "node")
    node.desire()
    node.start()
    node.wait_ready("one")
    with node.agent_toml.open("a") as file:
        file.write("[mine]\n" + "".join(f"k{i} = 1\n" for i in range(12_000)))
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait("it is back", lambda: len(node.starts) == 2 and len(node.living()) == 1)
    node.wait_ready("one")
    text = node.agent_toml.read_text()
    time.sleep(2 * STARTING_S)  # what it finds later it has not read
    node.agent_toml.write_text(text.replace('"one"', '"by hand"'))
    node.wait("mended", lambda: node.agent_toml.read_text() == text)
    node.wait_ready("one")
    assert len(node.starts) == 2
    assert not [*(node.folder / "runtime").glob("*.unreadable-*")]
    assert node.stop() == 0
    node.close()


def test_a_file_that_is_truncated_by_path_is_mended_by_event(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    desire(node, path)
    node.wait("in line", lambda: "i-test01" in path.read_text())
    reported(node, "InSync")
    os.truncate(path, 0)
    node.wait("mended", lambda: "i-test01" in path.read_text(), 15)  # the next look is after 48 s


def test_a_share_that_freezes_holds_up_nothing_else(tmp_path: Path) -> None:
    share, path = tmp_path / "share", tmp_path / "agent.toml"
    share.mkdir()
    try:
        server = FuseServer(share)
    except OSError:
        pytest.skip("may not mount")
    node = Node(tmp_path / "node")
    try:
        path.symlink_to(share / "agent.toml")
        server.freeze()
        desire(node, path)
        node.start()
        reported(node, "Stuck", 30)
        assert "daemon.ready" in node.log
        assert node.http("/livez")[0] == 200
    finally:
        server.close()
        subprocess.run(["umount", "-l", str(share)], check=True)
    assert node.stop(signal.SIGTERM) == 0
    node.close()


def test_an_agent_is_not_restarted_since_its_file_could_not_be_read(tmp_path: Path) -> None:
    """At first contact it is taken over once it is known what it has read."""
    node = Node(tmp_path / "node")
    node.desire()
    node.start()
    node.wait_ready("one")
    node.stop()
    for notes in (node.folder / "runtime").glob("agent.json*"):
        notes.unlink()
    file = node.agent_toml.rename(tmp_path / "agent.toml")
    os.mkfifo(node.agent_toml)
    node.start()
    assert "no regular file" in node.wait_reason("Agent", "Adopting")["message"]
    file.replace(node.agent_toml)
    node.wait_ready("one")
    assert len(node.starts) == 1
    node.close()


def test_the_gate_answers_beside_a_pipe(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    desire(node, node.agent_toml)
    node.start()
    reported(node, "InSync")
    node.stop()
    node.agent_toml.unlink()
    os.mkfifo(node.agent_toml)
    assert node.run("may-start").returncode == 0
    node.close()


def test_a_state_folder_that_others_can_write_in_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    (node.folder / "state").mkdir()
    (node.folder / "state").chmod(0o777)
    done = node.run("run")
    assert done.returncode not in (0, 1)
    assert f"{node.folder}/state" in done.stderr
    assert "0777" in done.stderr


def test_a_password_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    password = tmp_path / "password"
    password.write_text("x")
    password.chmod(0o644)
    node.configure(store=f'user = "u"\npassword-file = "{password}"')
    node.start()
    node.wait("warned", lambda: "password-file.open" in node.log)
    node.close()
