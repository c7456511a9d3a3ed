"""Absolute paths as text: what lies in what, and the folders that are the system's. Pure."""

from __future__ import annotations

from collections.abc import Iterable

SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root",
    "/run", "/sbin", "/sys", "/usr", "/var/lib/apt", "/var/lib/dbus", "/var/lib/dpkg",
    "/var/lib/pam", "/var/lib/polkit-1", "/var/lib/rpm", "/var/lib/systemd", "/var/run",
    "/var/spool/at", "/var/spool/cron",
)  # fmt: skip
"""Whoever lays out what is seen there decides what root runs, and who is root."""


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def plain(path: str) -> str:
    """An absolute path without what says nothing in it: "/a//b/./" is "/a/b"."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def hidden_by(target: str, folders: Iterable[str]) -> str:
    """The first of these folders that a mount at a target would hide, or lie in; "" for none."""
    at = plain(target)
    return next((each for each in folders if is_within(at, each) or is_within(each, at)), "")
