"""Regular files alone are read, and no more of them than was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bai_nodeagent.errors import Refused
from bai_nodeagent.system import files


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def lay(path: Path, what: str) -> Path:
    match what:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(what)
    return path


@pytest.mark.parametrize("what", ["pipe", "folder", "/dev/zero", "/dev/tty", "/"])
@pytest.mark.parametrize("is_followed", [True, False])
def test_no_other_thing_is_opened(tmp_path: Path, what: str, is_followed: bool) -> None:
    path = lay(tmp_path / "it", what)
    before = descriptors()
    with pytest.raises(Refused) as refused:
        files.read_bounded(path, 10, is_followed=is_followed)
    assert refused.value.reason == "NotAFile"
    assert str(path) in refused.value.message
    with pytest.raises(Refused):
        files.head(path, 10)
    assert descriptors() == before


def test_a_link_counts_only_where_it_may(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"content")
    link = lay(tmp_path / "link", "it")
    assert files.read_bounded(link, 7) == b"content"
    with pytest.raises(Refused):
        files.read_bounded(link, 7, is_followed=False)


def test_more_than_the_limit_is_refused_and_a_head_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(Refused) as refused:
        files.read_bounded(path, 7)
    assert refused.value.reason == "TooLarge"
    assert files.head(path, 2) == bytes(2)


def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_bounded(tmp_path / "it", 7)
