"""The kernel's table of mounts, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bai_nodeagent.kinds.mount import mounts
from bai_nodeagent.kinds.mount.mountinfo import (
    MountEntry,
    Table,
    below,
    held_in,
    mounted_at,
    parse,
    way_to,
)
from bai_nodeagent.paths import is_within

FIXTURES = Path(__file__).parents[1] / "fixtures/mountinfo"
# As a node of the laboratory shows them, with two NFS mounts; udevd has a namespace of its own.
NODE = parse((FIXTURES / "node").read_text())
UDEVD = parse((FIXTURES / "udevd-of-the-node").read_text())


def entry(line: str) -> MountEntry:
    return parse(line)[0]


def table(*lines: str) -> Table:
    """Mounts on "/", as "ID PARENT TARGET SOURCE", device 0:ID."""
    root = "1 0 8:1 / / rw - ext4 /dev/sda rw"
    words = (line.split() for line in lines)
    rest = (f"{n} {up} 0:{n} / {at} rw shared:{n} - tmpfs {what} rw" for n, up, at, what in words)
    return parse("\n".join((root, *rest)))


def sources(path: str, mounts: Table) -> list[str]:
    return [each.source for each in way_to(path, mounts)]


def test_a_line_of_the_kernel_becomes_typed() -> None:
    vf = mounted_at("/mnt/vf", NODE)
    assert vf is not None
    assert (vf.id, vf.parent, vf.device, vf.root) == (126, 21, "0:35", "/")
    assert (vf.type, vf.source, vf.shared, vf.master) == ("nfs4", "10.0.2.2:/vfroot", 63, 0)
    assert vf.options == ("rw", "relatime")
    assert {"vers=4.2", "hard", "addr=10.0.2.2"} < set(vf.super_options)
    copy = mounted_at("/mnt/vf", UDEVD[1:]) or UDEVD[1]
    assert (copy.shared, copy.master) == (65, 63)


def test_octal_escapes_are_decoded() -> None:
    found = entry(r"5 1 0:9 /a\040b /mnt/x\011y\134z rw - fuse.x a\040b rw,o=\054")
    assert (found.root, found.target, found.source) == ("/a b", "/mnt/x\ty\\z", "a b")


@pytest.mark.parametrize("odd", ["\u2028", "\x0c", "\r", "\x85", "\x1c"])
def test_only_a_newline_ends_a_line(odd: str) -> None:
    lines = [f"5 1 0:9 / /a{odd}b rw - tmpfs t rw", "6 1 0:10 / /c rw - tmpfs t rw", ""]
    assert [each.target for each in parse("\n".join(lines))] == [f"/a{odd}b", "/c"]


def test_several_tags_or_none_may_precede_the_dash() -> None:
    line = "5 1 0:9 / /x rw shared:2 master:7 propagate_from:3 unbindable - tmpfs t rw"
    assert (entry(line).shared, entry(line).master) == (2, 7)
    assert entry("5 1 0:9 / /x rw - tmpfs t rw").shared == 0


@pytest.mark.parametrize("line", ["", "5 1 0:9 / /x rw tmpfs t rw", "x 1 0:9 / /x rw - t t rw"])
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is not as expected"):
        parse(f"5 1 0:9 / / rw - tmpfs t rw\n{line}\n")


@pytest.mark.parametrize(
    ("mounts", "path", "observed"),
    [
        (table(), "/x", ["/dev/sda"]),
        (table("2 1 /x a"), "/x", ["/dev/sda", "a"]),
        (table("2 1 /x a"), "/xy", ["/dev/sda"]),
        (table("2 1 /x a", "3 2 /x b"), "/x", ["/dev/sda", "a", "b"]),
        (table("2 1 /x/y a", "3 1 /x b"), "/x/y", ["/dev/sda", "b"]),
        (table("3 2 /x/y a", "2 1 /x b"), "/x/y", ["/dev/sda", "b", "a"]),
        (table("2 1 / a", "3 2 /x b"), "/x", ["/dev/sda", "a", "b"]),
        (parse("1 1 0:2 / / rw - rootfs rootfs rw"), "/x", ["rootfs"]),
        ((), "/x", []),
    ],
)
def test_the_way_to_a_path(mounts: Table, path: str, observed: list[str]) -> None:
    assert sources(path, mounts) == observed


def test_only_a_mount_at_the_path_itself_counts_as_mounted_there() -> None:
    mounts = table("2 1 /x a")
    assert mounted_at("/x/y", mounts) is None
    assert mounted_at("/x", mounts) == mounts[1]
    assert below(mounts[0], mounts) == [mounts[1]]


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [("/a", "/a", True), ("/a/b", "/a", True), ("/ab", "/a", False), ("/a", "/", True)],
)
def test_is_within(path: str, folder: str, expected: bool) -> None:
    assert is_within(path, folder) is expected


def test_copies_in_the_namespaces_of_services_go_with_the_mount() -> None:
    vf = mounted_at("/mnt/vf", NODE)
    assert vf is not None
    assert [(e.id, stays) for e, stays in held_in(vf, NODE, UDEVD)] == [(130, False)]


def test_a_services_copy_of_another_mount_of_the_same_file_system_is_no_use() -> None:
    """Two exports of one server are one device here."""
    two = "3 1 0:9 / /home rw shared:3 - nfs4 s:/home rw"
    here = parse(f"{HERE_TEXT}\n{two}")
    service = parse(
        "1 0 8:1 / / rw master:1 - ext4 d rw\n2 1 0:9 / /vf rw master:2 - nfs4 s:/x rw\n"
        "3 1 0:9 / /home rw master:3 - nfs4 s:/home rw"
    )
    assert [(e.target, stays) for e, stays in held_in(here[1], here, service)] == [("/vf", False)]
    container = parse("1 0 0:7 / / rw - overlay o rw\n2 1 0:9 /a /data rw - nfs4 s:/x rw")
    assert [stays for _, stays in held_in(here[1], here, container)] == [True]


HERE_TEXT = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n2 1 0:9 / /vf rw shared:2 - nfs4 s:/x rw"
HERE = parse(HERE_TEXT)


@pytest.mark.parametrize(
    ("there", "stays"),
    [
        # unshare --propagation private; a container's bind of the share, or of a folder in it
        ("1 0 8:1 / / rw - ext4 d rw\n2 1 0:9 / /vf rw - nfs4 s:/x rw", [True]),
        ("1 0 0:7 / / rw - overlay o rw\n2 1 0:9 / /data rw - nfs4 s:/x rw", [True]),
        ("1 0 0:7 / / rw - overlay o rw\n2 1 0:9 /a /data rw - nfs4 s:/x rw", [True]),
        # a slave of ours, and one that was mounted elsewhere on it by hand
        ("1 0 8:1 / / rw master:1 - ext4 d rw\n2 1 0:9 / /vf rw master:2 - nfs4 s:/x rw", [False]),
        ("1 0 8:1 / / rw master:1 - ext4 d rw\n2 1 0:9 / /else rw - nfs4 s:/x rw", [True]),
        # the place is compared in the parent's file system, wherever that is mounted
        ("1 0 8:1 / /host rw master:1 - ext4 d rw\n2 1 0:9 / /host/vf rw - nfs4 s:/x rw", [False]),
        ("1 0 8:1 / / rw - ext4 d rw\n2 1 0:8 / /vf rw - nfs4 s:/x rw", []),
    ],
)
def test_what_stays_in_another_namespace(there: str, stays: list[bool]) -> None:
    assert [stay for _, stay in held_in(HERE[1], HERE, parse(there))] == stays


def test_a_table_that_has_not_changed_is_parsed_once() -> None:
    """Each mount of a document asks at each event, and there may be a thousand lines."""
    assert mounts.table() is mounts.table()
