"""What the command line does, one module an idea; `cli.py` parses and prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# No command waits for the store longer than this.
STORE_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command came to: `lines` for people or `value` for `--json` go to stdout,
    `notes` to stderr. `is_table`: on a terminal a line is cut at its width, and never goes on
    in the next."""

    code: int
    lines: Sequence[str] = ()
    value: Any = None
    notes: Sequence[str] = ()
    is_table: bool = False
