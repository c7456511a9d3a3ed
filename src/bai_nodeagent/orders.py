"""Local orders to this node's daemon: pause, resume, rebind, roll back, retry. No store needed.

They are files in the state folder, so they hold across daemon restarts and
reboots; the daemon sees them by inotify, whether or not it runs when they are
given. All come from root, but for the rollback, which the daemon gives to itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .address import Kept
from .agent import rollback
from .agent.rollback import Rollback
from .system import files

PAUSE = "pause"
ADDRESS = "agent-ip"
ROLLBACK = "rollback.toml"


@dataclass(frozen=True, slots=True)
class Pause:
    """`until_s`: Unix time; None is until `resume`."""

    until_s: float | None = None


def pause(state: Path, until_s: float | None) -> None:
    files.replace(state / PAUSE, json.dumps({"until": until_s}).encode(), mode=0o600)


def resume(state: Path) -> None:
    files.remove(state / PAUSE)


def current_pause(state: Path, now_s: float) -> Pause | None:
    """The pause in force. One that can't be read counts as a pause without end: never a guess."""
    raw = files.read_if_there(state / PAUSE)
    if raw is None:
        return None
    try:
        until_s = json.loads(raw)["until"]
        order = Pause(None if until_s is None else float(until_s))
    except (ValueError, KeyError, TypeError):
        return Pause()
    return order if order.until_s is None or now_s < order.until_s else None


def rebind(state: Path) -> None:
    """Forgets the address once chosen: the next look chooses anew."""
    files.remove(state / ADDRESS)


def kept_address(state: Path) -> Kept | None:
    raw = files.read_if_there(state / ADDRESS)
    if raw is None:
        return None
    try:
        data = json.loads(raw)
        return Kept(str(data["rule"]), str(data["address"]))
    except (ValueError, KeyError, TypeError):
        return None


def keep_address(state: Path, kept: Kept) -> None:
    data = json.dumps({"rule": kept.rule, "address": kept.address}).encode()
    files.replace(state / ADDRESS, data, mode=0o600)


def roll_back(state: Path, order: Rollback) -> None:
    files.replace(state / ROLLBACK, rollback.encode(order), mode=0o600)


def retry(state: Path) -> None:
    """Takes a rollback back: what it gave up is tried again."""
    files.remove(state / ROLLBACK)


def current_rollback(state: Path) -> Rollback | None:
    raw = files.read_if_there(state / ROLLBACK)
    if raw is None:
        return None
    try:
        return rollback.decode_rollback(raw)
    except (ValueError, TypeError, KeyError):
        return None
