"""Is a mount as its options want it, by what the kernel reports? What may they not say? Pure.

The kernel reports far more than was asked for (addresses, negotiated sizes,
defaults), leaves out what is its default, and spells some of it otherwise. So
only what a document names is compared, each option by its own rule.
Sources: nfs(5), mount(8), and what Linux 6.1 and 6.18 show in mountinfo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .mountinfo import MountEntry

# Read by mount(8), mount.nfs or systemd, or kept by the kernel to itself (nconnect
# counts for the first mount of a server alone): nothing shows whether they hold.
_UNSEEN = frozenset(
    [
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "nousers",
        "owner",
        "group",
        "_netdev",
        "nofail",
        "nonempty",
        "bg",
        "fg",
        "retry",
        "intr",
        "nointr",
        "rbind",
        "bind",
        "silent",
        "loud",
        "mand",
        "nomand",
        "comment",
        "nconnect",
        "max_connect",
    ]
)
# How the kernel says what stands on the left.
_ALIASES = {"nfsvers": "vers", "v3": "vers=3", "v4": "vers=4", "v4.0": "vers=4.0",
            "v4.1": "vers=4.1", "v4.2": "vers=4.2", "tcp": "proto=tcp", "udp": "proto=udp",
            "rdma": "proto=rdma"}  # fmt: skip
# Absent from the kernel's report as long as it has this value.
_SILENT = {
    "acregmin": "3", "acregmax": "60", "acdirmin": "30", "acdirmax": "60",
    "lookupcache": "all", "port": "2049", "local_lock": "none",
}  # fmt: skip
_DEFAULTS = frozenset(("hard", "relatime"))
# A flag that is the default is shown, if at all, by the absence of these. What nostrictatime
# leaves in force, the kernel decides.
_OPPOSITES = {
    "suid": ("nosuid",), "dev": ("nodev",), "exec": ("noexec",), "async": ("sync",),
    "atime": ("noatime", "relatime"), "diratime": ("nodiratime",), "nosync": ("sync",),
    "strictatime": ("noatime", "relatime"), "nostrictatime": (), "norelatime": ("relatime",),
    "ac": ("noac",), "cto": ("nocto",), "acl": ("noacl",), "lock": ("nolock",),
    "sharecache": ("nosharecache",), "resvport": ("noresvport",), "rdirplus": ("nordirplus",),
    "nofsc": ("fsc",), "nolazytime": ("lazytime",), "noiversion": ("iversion",),
    "symfollow": ("nosymfollow",), "rw": ("ro",), "nomigration": ("migration",),
}  # fmt: skip
_PASSWORDS = frozenset(
    ("pass", "passwd", "password", "password2", "passphrase", "pwd", "secret", "token", "key")
)
_CREDENTIALS = frozenset(("cred", "credentials"))
_LOGIN = re.compile(r"(^|/)[^/@\s:]+:[^/@\s]+@")


def differing(options: Iterable[str], mount: MountEntry) -> tuple[str, ...]:
    """The options that a mount was not made with, as the document spells them."""
    flags, values = _reported(mount)
    return tuple(o for o in options if not _holds(_kernels(o), flags, values))


def left_over(before: Iterable[str], options: Iterable[str], mount: MountEntry) -> tuple[str, ...]:
    """Of the options that a mount was made with before, those that still hold, and that are
    neither asked for any more nor in force anyway."""
    (flags, values), now = _reported(mount), {_kernels(o) for o in options}
    return tuple(
        o
        for o in before
        if _kernels(o) not in now and not _is_default(_kernels(o)) and not _is_unseen(o)
        if _holds(_kernels(o), flags, values)
    )


def _is_default(option: str) -> bool:
    key, _, value = option.partition("=")
    return key in _DEFAULTS or bool(_OPPOSITES.get(key)) or _SILENT.get(key) == value


def _is_unseen(option: str) -> bool:
    key = option.partition("=")[0]
    return key in _UNSEEN or key.startswith(("x-", "X-", "context"))


def wants_write(options: Iterable[str]) -> bool:
    """Whether a mount with these is writable: of "ro" and "rw" the last one counts."""
    return [o for o in options if o in ("ro", "rw")][-1:] != ["ro"]


def _reported(mount: MountEntry) -> tuple[set[str], dict[str, str]]:
    # The file system's own "rw" says nothing of this mount, which may be "ro".
    own = [o for o in mount.super_options if o != "rw"]
    flags, values = set[str](), dict[str, str]()
    for option in (*own, *mount.options):
        key, mark, value = option.partition("=")
        if mark:
            values[key] = value
        else:
            flags.add(key)
    return flags, values


def _kernels(option: str) -> str:
    key, mark, value = option.partition("=")
    return f"{_ALIASES.get(key, key)}{mark}{value}"


def _holds(option: str, flags: set[str], values: dict[str, str]) -> bool:
    key, mark, value = option.partition("=")
    if _is_unseen(option):
        return True
    if key == "actimeo":
        names = ("acregmin", "acregmax", "acdirmin", "acdirmax")
        return all(_holds(f"{name}={value}", flags, values) for name in names)
    if not mark:
        return key in flags if key not in _OPPOSITES else flags.isdisjoint(_OPPOSITES[key])
    if key == "minorversion":
        return values.get("vers", "").endswith(f".{value}")
    shown = values.get(key, _SILENT.get(key, ""))
    if key == "vers":
        return _same_version(value, shown)
    if key in ("proto", "mountproto"):
        return shown.removesuffix("6") == value.removesuffix("6")
    return shown in value.split(":") if key == "sec" else shown == value


def _same_version(asked: str, shown: str) -> bool:
    """ "4" asks for any 4.x, "4.0" for what older kernels show as "4"."""
    return asked == shown or shown.startswith(f"{asked}.") or asked == f"{shown}.0"


def holds_password(option: str) -> bool:
    key, mark, value = option.partition("=")
    name = key.lower()
    if name in ("user", "username"):
        return "%" in value  # NAME%PASSWORD
    return bool(mark) and (
        name in _PASSWORDS or (name in _CREDENTIALS and not value.startswith("/"))
    )


def holds_login(source: str) -> bool:
    """Whether a source is like "//user:password@server/share"."""
    return _LOGIN.search(source) is not None
