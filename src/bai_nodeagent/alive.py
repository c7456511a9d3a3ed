"""What the `alive` key says: which daemon reports for the node, and whether it is still there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from .identity import first_line
from .system import process
from .text import clean
from .typed import json_value

Alive = Mapping[str, object]
_TOLD = ("machine-id", "pid", "since")


def mine(since: str) -> dict[str, object]:
    """The value for this very process."""
    me = process.born(os.getpid())
    return {
        "instance": str(uuid.uuid4()),
        "machine-id": first_line(Path("/etc/machine-id")),
        "boot-id": first_line(Path("/proc/sys/kernel/random/boot_id")),
        "pid": me.pid,
        "start-ticks": me.start_ticks,
        "pid-namespace": _pid_namespace(),
        "since": since,
    }


def parse(value: bytes) -> Alive:
    """Somebody's value; what is none says nothing."""
    try:
        data = json_value(value)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def is_predecessor(other: Alive, me: Alive) -> bool:
    """Whether it is of a daemon on this very boot whose process is gone.

    One in another container can't be looked for: its lease tells.
    """
    is_here = all(other.get(key) == me[key] for key in ("machine-id", "boot-id"))
    if not is_here or not me["boot-id"]:
        return False
    pid, ticks = other.get("pid"), other.get("start-ticks")
    if pid is None:
        return True  # of a version that did not say
    if other.get("pid-namespace") != me["pid-namespace"]:
        return False
    if not isinstance(pid, int) or not isinstance(ticks, int):
        return False
    return process.find(pid, ticks) is None


def described(value: bytes | None) -> str | None:
    """For people: who that is."""
    if value is None:
        return None
    other = parse(value)
    return clean(", ".join(f"{key} {other.get(key, '?')}" for key in _TOLD), 200)


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (its text, no path)
    except OSError:
        return ""
