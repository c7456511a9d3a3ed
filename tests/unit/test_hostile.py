"""Paths that others have a hand in. As root, a test gives folders away; else others' are root's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent.errors import Refused
from bai_nodeagent.machine import File
from bai_nodeagent.system import hostile
from bai_nodeagent.system.place import ACL

STRANGER = 61001
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away")


def reason_of(call: Callable[[], Any]) -> str:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.reason


def content(path: Path) -> bytes:
    file = hostile.read(path)
    assert file is not None
    return file.raw


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of somebody else's, in one of ours."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, STRANGER, STRANGER)
    return folder


def test_a_file_is_read_whole_with_mode_and_owner(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "a").chmod(0o640)
    file = hostile.read(tmp_path / "a")
    assert file == File(b"x", 0o640, (os.geteuid(), os.getegid()))


@pytest.mark.parametrize("name", ["a", "b/a"])
def test_what_is_not_there_is_none(tmp_path: Path, name: str) -> None:
    assert hostile.read(tmp_path / name) is None


@pytest.mark.parametrize(
    "lay",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/dev/tty"),
    ],
)
def test_only_regular_files_are_opened(tmp_path: Path, lay: Callable[[Path], Any]) -> None:
    lay(tmp_path / "a")
    assert reason_of(lambda: hostile.read(tmp_path / "a")) == "NotAFile"


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(3 << 30)
    assert reason_of(lambda: hostile.read(tmp_path / "a")) == "TooLarge"
    (tmp_path / "b").write_bytes(b"1234")
    assert hostile.read(tmp_path / "b", 4)
    assert reason_of(lambda: hostile.read(tmp_path / "b", 3)) == "TooLarge"


def test_a_file_of_proc_has_no_size_and_is_bounded_all_the_same() -> None:
    assert reason_of(lambda: hostile.read(Path("/proc/self/mountinfo"), 3)) == "TooLarge"


@pytest.mark.parametrize("target", ["b", "../{0}/b", "{1}/b", "../{0}/sub/../b", "inner"])
def test_our_own_links_are_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b").write_bytes(b"x")
    (tmp_path / "inner").symlink_to("b")
    (tmp_path / "a").symlink_to(target.format(tmp_path.name, tmp_path))
    with hostile.place(tmp_path / "a") as found:
        assert found.path == tmp_path / "b"
    assert content(tmp_path / "a") == b"x"


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(OSError, match="too many links"):
        hostile.read(tmp_path / "a")


def test_nothing_is_put_below_a_link_into_a_folder_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("gone/b")
    assert reason_of(lambda: hostile.replace(tmp_path / "a", b"", mode=0o600)) == "DanglingLink"


def test_a_link_to_a_file_that_is_missing_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    hostile.replace(tmp_path / "a", b"x", mode=0o600)
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "b").read_bytes() == b"x"


@needs_root
@pytest.mark.parametrize("owner", [0, STRANGER])
def test_no_link_in_a_folder_of_others_is_followed(theirs: Path, owner: int) -> None:
    (theirs.parent / "ours").write_bytes(b"x")
    link = theirs / "a"
    link.symlink_to(theirs.parent / "ours")
    os.lchown(link, owner, owner)
    assert reason_of(lambda: hostile.read(link)) == "Untrusted"
    assert reason_of(lambda: hostile.replace(link, b"", mode=0o600)) == "Untrusted"
    assert (theirs.parent / "ours").read_bytes() == b"x"


@needs_root
def test_no_link_below_a_folder_of_others_is_followed(theirs: Path) -> None:
    """Whose the folder around the link is doesn't matter: others may have moved it there."""
    (theirs / "ours").mkdir()
    (theirs / "ours" / "a").symlink_to("/etc/passwd")
    assert reason_of(lambda: hostile.read(theirs / "ours" / "a")) == "Untrusted"


@needs_root
def test_a_link_of_others_in_a_folder_of_ours_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/etc/passwd")
    os.lchown(tmp_path / "a", STRANGER, STRANGER)
    assert reason_of(lambda: hostile.read(tmp_path / "a")) == "Untrusted"


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_can_write_in_is_as_theirs(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    (tmp_path / "open" / "a").symlink_to("/etc/passwd")
    assert reason_of(lambda: hostile.read(tmp_path / "open" / "a")) == "Untrusted"
    assert reason_of(lambda: hostile.check(tmp_path / "open" / "a")) == "Untrusted"


def test_an_acl_that_lets_others_write_shows_in_the_mode(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(0o755)
    os.setxattr(folder, ACL, acl((0x02, 7, STRANGER)))
    (folder / "a").symlink_to("/etc/passwd")
    assert reason_of(lambda: hostile.read(folder / "a")) == "Untrusted"


def test_in_a_sticky_folder_what_is_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "a").symlink_to("/etc/passwd")
    assert hostile.read(tmp_path / "sticky" / "a")
    hostile.check(tmp_path / "sticky" / "a")
    assert reason_of(lambda: hostile.check(tmp_path / "sticky" / "nothing yet")) == "Untrusted"


@needs_root
def test_in_a_sticky_folder_what_is_theirs_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "a").symlink_to("/etc/passwd")
    os.lchown(tmp_path / "sticky" / "a", STRANGER, STRANGER)
    assert reason_of(lambda: hostile.read(tmp_path / "sticky" / "a")) == "Untrusted"


@needs_root
def test_a_regular_file_in_a_folder_of_others_is_read_and_replaced(theirs: Path) -> None:
    (theirs / "a").write_bytes(b"x")
    assert content(theirs / "a") == b"x"
    hostile.replace(theirs / "a", b"y", mode=0o640, owner=(STRANGER, STRANGER))
    assert (theirs / "a").read_bytes() == b"y"
    assert (theirs / "a").stat().st_uid == STRANGER
    assert names(theirs) == ["a"]


@needs_root
def test_what_is_put_lands_in_the_folder_that_was_opened(theirs: Path) -> None:
    (theirs / "in").mkdir()
    with hostile.place(theirs / "in" / "a") as found:
        (theirs / "in").rename(theirs / "moved")
        (theirs / "in").symlink_to("/etc")
        found.replace(b"x", mode=0o600)
    assert names(theirs / "moved") == ["a"]


@needs_root
def test_a_hard_link_that_others_may_have_laid_is_not_given_away(theirs: Path) -> None:
    (theirs.parent / "ours").write_bytes(b"x")
    (theirs / "a").hardlink_to(theirs.parent / "ours")
    with hostile.place(theirs / "a") as found:
        assert reason_of(lambda: found.overwrite(b"y", is_private=False)) == "HardLink"
        owner = (STRANGER, STRANGER)
        assert reason_of(lambda: found.set_access(mode=0o644, owner=owner)) == "HardLink"
    assert (theirs.parent / "ours").read_bytes() == b"x"
    assert (theirs.parent / "ours").stat().st_uid == 0


@needs_root
def test_a_place_in_doubt_is_reported_with_the_account(theirs: Path) -> None:
    with pytest.raises(Refused, match=f"theirs belongs to uid {STRANGER}"):
        hostile.check(theirs / "a" / "b")
    with pytest.raises(Refused, match=str(STRANGER)), hostile.folder(theirs / "a", make=0o755):
        pass
    assert names(theirs) == []


@needs_root
def test_a_folder_of_others_in_one_of_ours_is_where_it_is(theirs: Path) -> None:
    with hostile.folder(theirs) as found:
        assert found.fd is not None
        assert os.fstat(found.fd).st_ino == theirs.stat().st_ino


def test_folders_are_made_where_nobody_else_can(tmp_path: Path) -> None:
    with hostile.folder(tmp_path / "a" / "b", make=0o750) as found:
        assert found.fd is not None
        assert os.fstat(found.fd).st_ino == (tmp_path / "a" / "b").stat().st_ino
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError), hostile.folder(tmp_path / "a"):
        pass
    with pytest.raises(NotADirectoryError):
        hostile.read(tmp_path / "a" / "b")


@pytest.mark.skipif(os.geteuid() != 0, reason="as root others' descriptors are seen")
def test_what_is_written_into_a_file_does_not_show_in_a_pipe_that_had_its_pages(
    tmp_path: Path,
) -> None:
    """splice(2) copies nothing, and the file is closed again before the secret comes."""
    path = tmp_path / "a"
    path.write_bytes(b"old" * 1000)
    reader, writer = os.pipe()
    try:
        with path.open("rb") as file:
            count = os.splice(file.fileno(), writer, 3000)
        with hostile.place(path) as found:
            found.overwrite(b"new" * 1000, is_private=True)
        assert path.read_bytes() == b"new" * 1000
        assert os.read(reader, count) == b"old" * 1000
    finally:
        os.close(reader)
        os.close(writer)


def acl(*named: tuple[int, int, int]) -> bytes:
    """An access ACL of mode 0664 with some named entries: (tag, permissions, id)."""
    anybody = 0xFFFFFFFF
    plain = [(0x01, 6, anybody), (0x04, 4, anybody), (0x10, 7, anybody), (0x20, 4, anybody)]
    entries = sorted([*plain, *named])
    numbers = (2).to_bytes(4, "little")
    for tag, permissions, who in entries:
        numbers += tag.to_bytes(2, "little") + permissions.to_bytes(2, "little")
        numbers += who.to_bytes(4, "little")
    return numbers


def test_acl_and_attributes_are_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    os.setxattr(path, "user.note", b"mine")
    os.setxattr(path, ACL, acl((0x02, 4, STRANGER)))
    before = os.getxattr(path, ACL)
    hostile.replace(path, b"y", mode=stat.S_IMODE(path.stat().st_mode))
    assert path.read_bytes() == b"y"
    assert os.getxattr(path, "user.note") == b"mine"
    assert os.getxattr(path, ACL) == before


def test_the_folders_default_acl_is_not_added(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    os.setxattr(tmp_path, "system.posix_acl_default", acl((0x02, 6, STRANGER)))
    hostile.replace(path, b"y", mode=0o640)
    assert ACL not in os.listxattr(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
