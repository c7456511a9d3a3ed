"""Local orders to this node's daemon: pause, resume, rebind. No store needed.

They are files in the state folder, so they hold across daemon restarts and
reboots. The daemon notices them by inotify, or at its next start. The order to roll back
is in kinds/agent/rollback_order.py.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..address import Kept
from ..kinds.agent import rollback_order
from ..system import kept, own_file
from ..typed import json_value, typed

PAUSE = "pause"
ADDRESS = "agent-ip"
# The clock may be set while a pause lasts, and no timer notices that.
PAUSE_INTERVAL_S = 60.0
_YEAR_10000_S = 253_402_300_800.0


@dataclass(frozen=True, slots=True)
class Pause:
    """`until_s`: Unix time; None is until `resume`. `fault`: why its end can't be read."""

    until_s: float | None = None
    fault: str = ""

    @property
    def end(self) -> str:
        """For people: " until 2026-11-27 07:09:04 UTC"; "" without one."""
        if self.until_s is None:
            return ""
        return time.strftime(" until %Y-%m-%d %H:%M:%S UTC", time.gmtime(self.until_s))

    def observe_in_s(self, now_s: float) -> float | None:
        """When to check whether it is over; None: it ends by `resume` alone."""
        left_s = None if self.until_s is None else self.until_s - now_s
        return None if left_s is None else min(max(0.0, left_s), PAUSE_INTERVAL_S)


def pause(state: Path, until_s: float | None) -> None:
    """Raises OSError, as all orders do."""
    kept.write(state / PAUSE, json.dumps({"until": until_s}).encode())


def resume(state: Path) -> None:
    kept.remove(state / PAUSE)


def current_pause(state: Path, now_s: float) -> Pause | None:
    """The pause in force. One that can't be read counts as a pause without end: never a guess."""
    try:
        order = kept.peek(state / PAUSE, _pause)
    except own_file.Unreadable as error:
        return Pause(fault=str(error))
    except OSError as error:
        return Pause(fault=f"{state / PAUSE}: {error.strerror}")
    return order if order and (order.until_s is None or now_s < order.until_s) else None


def _pause(raw: bytes) -> Pause:
    until_s = typed(dict[str, float | None], json_value(raw))["until"]
    if until_s is not None and not 0 <= until_s < _YEAR_10000_S:
        raise ValueError("its end is not a valid time")
    return Pause(until_s)


def rebind(state: Path) -> None:
    """Forgets the address once chosen: the next reading chooses anew."""
    kept.remove(state / ADDRESS)


def kept_address(state: Path) -> Kept | None:
    """None also where it can't be read: then one is chosen by rule. Raises OSError."""
    return kept.readable(state / ADDRESS, _address)


def keep_address(state: Path, address: Kept) -> None:
    """From now on; it may be on disk a little later."""
    kept.keep_soon(state / ADDRESS, json.dumps(asdict(address)).encode())


def tidy(state: Path) -> None:
    """Sets aside orders that can't be read."""
    with contextlib.suppress(OSError):  # short of descriptors: whoever needs them says so
        kept.read(state / ADDRESS, _address)
        rollback_order.tidy(state)


def _address(raw: bytes) -> Kept:
    found: Kept = typed(Kept, json_value(raw))
    return found
