"""The one way to keep a small file of our own."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from bai_nodeagent.system import files, kept, own_file
from bai_nodeagent.typed import json_value, typed


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("somebody's")


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b'{"a": 1}')
    path.symlink_to(path.parent / "elsewhere")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2 << 30)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a folder": a_folder,
    "a link": a_link,
    "a pipe": os.mkfifo,
    "a socket": a_socket,
    "empty": lambda path: path.write_bytes(b""),
    "no UTF-8": lambda path: path.write_bytes(b'{"a": "\xff"}'),
    "no JSON": lambda path: path.write_bytes(b'{"a": 1'),
    "Infinity": lambda path: path.write_bytes(b'{"a": Infinity}'),
    "too large a number": lambda path: path.write_bytes(b'{"a": 1e999}'),
    "too many digits": lambda path: path.write_bytes(b'{"a": ' + b"9" * 5000 + b"}"),
    "too deep": lambda path: path.write_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "another type": lambda path: path.write_bytes(b'{"a": "1"}'),
    "too large": sparse,
}


def parse(raw: bytes) -> int:
    return int(typed(dict[str, int], json_value(raw))["a"])


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    kept.flush(10)


@pytest.mark.parametrize("how", SPOILT)
def test_what_can_not_be_used_is_set_aside_and_counts_as_nothing(tmp_path: Path, how: str) -> None:
    path = tmp_path / "it.json"
    SPOILT[how](path)
    with pytest.raises(own_file.Unreadable, match=r"it\.json"):
        kept.peek(path, parse)
    assert os.path.lexists(path)
    before = path.lstat()
    assert kept.read(path, parse) is None
    assert not os.path.lexists(path)
    (aside,) = tmp_path.glob("it.json.unreadable-*")
    assert (aside.lstat().st_ino, aside.lstat().st_mode) == (before.st_ino, before.st_mode)
    kept.write(path, b'{"a": 2}')
    assert kept.read(path, parse) == 2


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert kept.read(tmp_path / "it", bytes) is None
    assert kept.peek(tmp_path / "no-folder" / "it", bytes) is None


def test_set_aside_is_a_bounded_number_with_the_first_and_the_last(tmp_path: Path) -> None:
    path = tmp_path / "it"
    for number in range(20):
        path.write_text(f"spoilt {number}")
        assert kept.read(path, parse) is None
    there = [p.read_text() for p in sorted(tmp_path.iterdir())]
    assert len(there) == own_file.SET_ASIDE_AT_MOST
    assert (there[0], there[-1]) == ("spoilt 0", "spoilt 19")


def test_a_folder_is_set_aside_in_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "it"
    for number in range(2 * own_file.SET_ASIDE_AT_MOST):
        if number % 3:
            path.write_text("spoilt")
        else:
            path.mkdir()
            (path / "file").touch()
        assert kept.read(path, parse) is None
        assert not os.path.lexists(path)
    assert len([*tmp_path.iterdir()]) == own_file.SET_ASIDE_AT_MOST


@pytest.mark.parametrize("how", ["a folder", "a link", "a pipe"])
def test_what_is_no_file_is_in_nobodys_way(tmp_path: Path, how: str) -> None:
    path = tmp_path / "it"
    SPOILT[how](path)
    kept.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    (tmp_path / "elsewhere").unlink(missing_ok=True)
    SPOILT[how](path)
    kept.remove(path)
    assert not os.path.lexists(path)
    assert len([*tmp_path.glob("it.unreadable-*")]) == 2


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "state" / "it"
    kept.write(path, b"new")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes() == b"new"


def test_equal_content_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "it"
    kept.write(path, b"one")
    before = path.stat()
    kept.write(path, b"one")
    now = path.stat()
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.chmod(0o644)
    kept.write(path, b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- what can't be written


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A folder that takes nothing, whoever asks: the file in its place is no folder."""
    (tmp_path / "full").write_text("")
    return tmp_path / "full"


def test_what_can_not_be_written_holds_in_memory_and_names_the_path(full: Path) -> None:
    path = full / "it"
    assert str(full) in kept.keep(path, b"one")
    assert kept.read(path, bytes) == b"one"
    assert str(full) in kept.faults()[path]
    assert str(full) in kept.keep(path, b"two")
    assert kept.read(path, bytes) == b"two"
    full.unlink()
    kept.retry()
    kept.flush(10)
    assert path.read_bytes() == b"two"
    assert path not in kept.faults()


def test_more_than_is_read_again_is_not_written(tmp_path: Path) -> None:
    """It would be set aside at the next read, and written, and set aside again."""
    path = tmp_path / "it"
    kept.write(path, b"one")
    large = b"x" * (own_file.LIMIT + 1)
    assert "too large" in kept.keep(path, large)
    assert kept.read(path, bytes) == large  # from memory
    assert path.read_bytes() == b"one"
    assert kept.keep(path, large, limit=2 * own_file.LIMIT) == ""
    assert kept.read(path, bytes, 2 * own_file.LIMIT) == large


def test_what_somebody_else_writes_meanwhile_counts(full: Path) -> None:
    path = full / "it"
    kept.keep(path, b"ours")
    full.unlink()
    full.mkdir()
    path.write_bytes(b"theirs")
    assert kept.read(path, bytes) == b"theirs"
    kept.retry()
    kept.flush(10)
    assert path.read_bytes() == b"theirs"
    kept.keep(path, None)
    assert kept.read(path, bytes) is None
    assert path not in kept.faults()


def test_soon_is_in_order_and_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "it"
    for number in range(50):
        kept.keep_soon(path, str(number).encode())
        for _ in range(20):  # while the one before is on its way to the disk
            assert kept.read(path, int) == number
    kept.flush(60)
    assert path.read_bytes() == b"49"
    kept.keep_soon(path, None)
    assert kept.read(path, int) is None
    kept.flush(10)
    assert not path.exists()


# --- types


@dataclass(frozen=True, slots=True)
class Inner:
    name: str
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["", "a"] = ""
    inner: Inner | None = None
    pair: tuple[str, int] = ("", 0)
    times: tuple[float, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)
    rest: Any = None


def test_typed_builds_dataclasses() -> None:
    value = {
        "count": 1,
        "kind": "a",
        "inner": {"name": "x", "share": 1},
        "pair": ["y", 2],
        "times": [1, 2.5],
        "more": {"k": "v"},
        "rest": [{}],
    }
    made = typed(Outer, value)
    assert made == Outer(1, "a", Inner("x", 1.0), ("y", 2), (1.0, 2.5), {"k": "v"}, [{}])
    assert typed(Outer, {"count": 1, "inner": None}) == Outer(1)


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        {},
        {"count": True},
        {"count": 1.0},
        {"count": "s3cret"},
        {"count": 1, "other": 1},
        {"count": 1, "kind": "b"},
        {"count": 1, "kind": 0},
        {"count": 1, "inner": {"name": 1}},
        {"count": 1, "inner": {"name": "\ud800"}},
        {"count": 1, "inner": {"name": "x", "share": float("nan")}},
        {"count": 1, "inner": {"name": "x", "share": float("inf")}},
        {"count": 1, "pair": ["x"]},
        {"count": 1, "pair": ["x", 1, 1]},
        {"count": 1, "times": {"0": 1}},
        {"count": 1, "times": "12"},
        {"count": 1, "more": {"k": 1}},
        {"count": 1, "more": ["k"]},
    ],
)
def test_typed_takes_no_other_type(value: object) -> None:
    with pytest.raises((TypeError, KeyError, ValueError)) as caught:
        typed(Outer, value)
    assert "s3cret" not in str(caught.value)


# --- what a crash leaves


def test_temporary_files_of_the_dead_are_swept_and_of_nobody_else(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from bai_nodeagent.system import files\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), 9)\n"
        "files.replace(Path(sys.argv[1]), b'password', mode=0o600)\n"
    )
    for name in ("agent.toml", "journal.json"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    left = {p.name for p in tmp_path.iterdir()}
    assert len(left) == 2
    others = [".agent.toml.swp", ".agent.toml.abc.tmp", "agent.toml.abcdefgh.tmp", ".x.tmp"]
    for name in others:
        (tmp_path / name).write_text("an editor's")
    (tmp_path / ".agent.toml.linklink.tmp").symlink_to("/etc/passwd")
    (tmp_path / ".agent.toml.folderxx.tmp").mkdir()
    with (tmp_path / ".agent.toml.atworkxx.tmp").open("wb") as living:
        files.claim(living.fileno())
        leased = (tmp_path / ".agent.toml.aaleased.tmp").open("wb")
        fcntl.fcntl(leased, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert len(files.sweep(tmp_path, ["agent.toml"])) == 1
        assert Path(leased.name).exists()
        leased.close()
        Path(leased.name).unlink()
        assert len(files.sweep(tmp_path)) == 1
        assert (tmp_path / ".agent.toml.atworkxx.tmp").exists()
    assert {p.name for p in tmp_path.iterdir()} >= {
        *others,
        ".agent.toml.linklink.tmp",
        ".agent.toml.folderxx.tmp",
    }
    assert not left & {p.name for p in tmp_path.iterdir()}


def test_a_fault_names_the_path_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "no-such-folder" / "it"
    with pytest.raises(FileNotFoundError) as caught:
        files.replace(path, b"", mode=0o600)
    assert caught.value.filename == str(path)
