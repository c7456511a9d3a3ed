"""`<state>/agent-config.writing`: a write of agent.toml in place that may be cut off.

It is there from before the first byte to after the last, so that a file which is neither
the old content nor the new one is known to be a part of each.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ....system import kept, own_file
from ....system.place import LIMIT
from ....typed import json_value, typed

NAME = "agent-config.writing"
_BYTES_AT_MOST = 8 * LIMIT  # as JSON


@dataclass(frozen=True, slots=True)
class Begun:
    """`before`: SHA-256 of the old content."""

    target: str
    before: str
    text: str = field(repr=False)

    def is_torn(self, target: Path, raw: bytes) -> bool:
        return (
            self.target == str(target)
            and raw != self.text.encode()
            and self.before != hashlib.sha256(raw).hexdigest()
        )


def read(state: Path) -> Begun | None:
    """Blocks. Raises OSError."""
    try:
        return kept.peek(state / NAME, lambda raw: typed(Begun, json_value(raw)), _BYTES_AT_MOST)
    except own_file.Unreadable:
        return None


def begin(state: Path, target: Path, before: bytes, data: bytes) -> None:
    """Blocks. Raises OSError."""
    begun = Begun(str(target), hashlib.sha256(before).hexdigest(), data.decode())
    kept.write(state / NAME, json.dumps(asdict(begun)).encode(), limit=_BYTES_AT_MOST)


def end(state: Path) -> None:
    """Blocks. Raises OSError."""
    kept.remove(state / NAME)
