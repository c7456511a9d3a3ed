"""What the `alive` key says: which daemon reports for the node, and whether it is still there.

A lease keeps the key. But etcd lets any of its users renew any lease, whoever holds it. So the
holder also writes the key anew now and then, and one that stays as it is has no holder.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .identity import first_line
from .system import process
from .text import clean
from .typed import json_value

Alive = Mapping[str, object]
_REPORTED = ("machine-id", "pid", "since")
ANEW_S = 600
STALE_S = 3.0 * ANEW_S


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


def value(me: Alive, now: datetime) -> bytes:
    """What is written of that process now: the same for ten minutes."""
    at = datetime.fromtimestamp(now.timestamp() // ANEW_S * ANEW_S, UTC)
    return json.dumps({**me, "at": at.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()


def silence(value: bytes | None, now: datetime) -> str:
    """Why a node with that value is not alive, as a clause; "" for one that is.

    `now` is of the clock here, and the value of the node's: one that does not say
    when it was written is believed, and so is one from the future.
    """
    if value is None:
        return "has not reached the store for a lease's time"
    at = parse(value).get("at")
    try:
        age = now - datetime.fromisoformat(str(at))
    except (ValueError, TypeError):
        return ""
    if age < timedelta(seconds=STALE_S):
        return ""
    return (
        f"has not written since {clean(str(at), 40)} by its own clock, which is wrong, or somebody "
        "else renews its lease"
    )


def parse(value: bytes) -> Alive:
    """Somebody's value; what is none says nothing."""
    try:
        data = json_value(value)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


PID_MOST = 1 << 22
"""PID_MAX_LIMIT: proc_sys_kernel(5)."""


def may_replace(value: bytes, me: Alive, unchanged_s: float) -> bool:
    """Whether a value that is there for so long is of nobody who lives but ourselves."""
    other = parse(value)
    is_mine = other.get("instance") == me["instance"]
    return is_mine or is_predecessor(other, me) or unchanged_s >= STALE_S


def is_predecessor(other: Alive, me: Alive) -> bool:
    """Whether it is of a daemon on this very boot whose process is gone.

    One in another container can't be searched for: its lease decides.
    """
    is_here = all(other.get(key) == me[key] for key in ("machine-id", "boot-id"))
    if not is_here or not me["boot-id"]:
        return False
    pid, ticks = other.get("pid"), other.get("start-ticks")
    if pid is None:
        return True  # of a version that did not say
    if other.get("pid-namespace") != me["pid-namespace"]:
        return False
    if not isinstance(pid, int) or not isinstance(ticks, int) or not 0 < pid <= PID_MOST:
        return False
    return process.find(pid, ticks) is None


def described(value: bytes | None) -> str | None:
    """For people: who that is."""
    if value is None:
        return None
    other = parse(value)
    return clean(", ".join(f"{key} {other.get(key, '?')}" for key in _REPORTED), 200)


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (its text, no path)
    except OSError:
        return ""
