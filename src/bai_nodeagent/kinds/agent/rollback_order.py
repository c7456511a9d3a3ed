"""The order to run the agent with its last healthy inputs: `<state>/rollback.toml`.

The daemon gives it to itself; it holds across restarts and reboots, until something else is
desired, or an admin says `retry`.
"""

from __future__ import annotations

from pathlib import Path

from ...system import kept
from . import rollback
from .rollback import Rollback

NAME = "rollback.toml"
# It holds an agent.toml, whose strings may be longer as we spell them.
BYTES_AT_MOST = 8 << 20


def give(state: Path, order: Rollback) -> None:
    """Raises OSError."""
    kept.write(state / NAME, rollback.encode(order), limit=BYTES_AT_MOST)


def retry(state: Path) -> None:
    """Takes the order back: what it gave up is tried again. Raises OSError."""
    kept.remove(state / NAME)


def forget(state: Path) -> None:
    """The same by the daemon itself, from now on."""
    kept.keep_soon(state / NAME, None)


def current(state: Path) -> Rollback | None:
    """Raises OSError."""
    return kept.readable(state / NAME, rollback.decode_rollback, BYTES_AT_MOST)


def tidy(state: Path) -> None:
    """Sets it aside where nobody can read it. Raises OSError."""
    kept.read(state / NAME, rollback.decode_rollback, BYTES_AT_MOST)
