"""Options as documents name them against what the kernel reports."""

from __future__ import annotations

import pytest

from bai_nodeagent.kinds.mount.mountinfo import MountEntry
from bai_nodeagent.kinds.mount.options import differing, wants_write

SHOWN = (
    "rw,vers=4.2,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp,port=20490,timeo=50,"
    "retrans=2,sec=sys,clientaddr=10.0.2.15,local_lock=none,addr=10.0.2.2"
)


def mount(shown: str = SHOWN, own: str = "rw,relatime") -> MountEntry:
    return MountEntry(
        2, 1, "0:9", "/", "/vf", tuple(own.split(",")), "nfs4", "s:/x", tuple(shown.split(","))
    )


@pytest.mark.parametrize(
    "option",
    [
        "hard", "nfsvers=4.2", "vers=4.2", "vers=4", "v4.2", "minorversion=2", "timeo=50",
        "proto=tcp",
        "proto=tcp6", "tcp", "sec=sys", "sec=krb5:sys", "rw", "relatime", "suid", "exec", "async",
        "acregmin=3", "acdirmax=60", "lookupcache=all", "lock", "ac", "cto", "rsize=1048576",
        "_netdev", "nofail", "x-systemd.automount", "retry=3", "bg", "defaults", "nconnect=4",
        "port=20490", "noauto", "nolazytime",
    ],
)  # fmt: skip
def test_what_the_kernel_has_done_is_no_difference(option: str) -> None:
    assert differing([option], mount()) == ()


@pytest.mark.parametrize(
    "option",
    [
        "soft", "nfsvers=4.1", "vers=3", "vers=4.20", "timeo=600", "proto=rdma", "sec=krb5", "ro",
        "noatime", "strictatime", "nosuid", "noexec", "sync", "acregmin=5", "actimeo=5", "noac",
        "rsize=65536", "port=2049", "lookupcache=none", "nolock", "minorversion=1",
    ],
)  # fmt: skip
def test_what_is_otherwise_is_a_difference(option: str) -> None:
    assert differing([option], mount()) == (option,)


@pytest.mark.parametrize(
    ("options", "shown", "own"),
    [
        (["actimeo=5"], "rw,acregmin=5,acregmax=5,acdirmin=5,acdirmax=5", "rw"),
        (["ro"], "ro", "ro,relatime"),
        (["ro"], "rw", "ro,relatime"),
        (["noatime", "nosuid", "nodev"], "rw", "rw,nosuid,nodev,noatime"),
        (["atime"], "rw", "rw"),
        (["vers=4.0"], "rw,vers=4", "rw"),
        (["port=2049"], "rw", "rw"),
        (["v3", "nolock"], "rw,vers=3,nolock,local_lock=all", "rw"),
    ],
)
def test_other_reports(options: list[str], shown: str, own: str) -> None:
    assert differing(options, mount(shown, own)) == ()


@pytest.mark.parametrize(
    ("options", "shown", "own", "differs"),
    [
        (["rw"], "rw", "ro", ("rw",)),
        (["rw"], "ro", "rw", ("rw",)),
        (["exec", "atime"], "rw", "rw,noexec,noatime", ("exec", "atime")),
        (["hard", "timeo=5", "size=1m"], "rw,soft", "rw", ("hard", "timeo=5", "size=1m")),
    ],
)
def test_all_differences_are_reported(
    options: list[str], shown: str, own: str, differs: tuple[str, ...]
) -> None:
    assert differing(options, mount(shown, own)) == differs


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], True), (["hard"], True), (["ro"], False), (["ro", "rw"], True), (["rw", "ro"], False)],
)
def test_of_ro_and_rw_the_last_one_counts(options: list[str], expected: bool) -> None:
    assert wants_write(options) is expected
