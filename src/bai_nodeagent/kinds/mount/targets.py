"""Where nothing is ever mounted, and what no mount's options may say. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .mountinfo import is_within

SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root",
    "/run", "/sbin", "/sys", "/usr", "/var/lib/apt", "/var/lib/dbus", "/var/lib/dpkg",
    "/var/lib/pam", "/var/lib/polkit-1", "/var/lib/rpm", "/var/lib/systemd", "/var/run",
    "/var/spool/at", "/var/spool/cron",
)  # fmt: skip
"""Whoever lays out what is seen there decides what root runs, and who is root."""

_PASSWORDS = frozenset(
    ("pass", "passwd", "password", "password2", "passphrase", "pwd", "secret", "token", "key")
)
_CREDENTIALS = frozenset(("cred", "credentials"))
_LOGIN = re.compile(r"(^|/)[^/@\s:]+:[^/@\s]+@")


def plain(path: str) -> str:
    """An absolute path without what says nothing in it: "/a//b/./" is "/a/b"."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def hidden_by(target: str, folders: Iterable[str]) -> str:
    """The first of these folders that a mount at a target would hide, or lie in; "" for none."""
    at = plain(target)
    return next((each for each in folders if is_within(at, each) or is_within(each, at)), "")


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
