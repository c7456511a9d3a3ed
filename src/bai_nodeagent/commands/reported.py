"""Another node's status document, for whoever has to show it. Pure.

Anybody who may write `node/` in the store can have written it: nothing in it is
trusted, its size, depth and types as little as its characters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.status import STATUS_BYTES_AT_MOST
from ..text import clean, clean_lines

# A newer daemon's status may be a little larger, and say more.
READ_AT_MOST = 4 * STATUS_BYTES_AT_MOST
_DEEPEST = 6
_WORD = 40
_INT64 = range(-(1 << 63), 1 << 63)


class Unreadable(Exception):
    """It is no status document; the text says why, quoting nothing of it."""


@dataclass(frozen=True, slots=True)
class ReportedStatus:
    """A status document in which every text is printable. `document` is the whole of it."""

    summary: str
    conditions: tuple[Mapping[str, str], ...]
    document: Mapping[str, Any]

    def part(self, name: str) -> Mapping[str, Any]:
        """A table of it; empty where there is none."""
        found = self.document.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups whose documents it was read from."""
        mark = "desired/group/"
        keys = self.part("desired").get("documents") or {}
        return tuple(key.removeprefix(mark) for key in keys if key.startswith(mark))


def read(raw: bytes, limit: int = READ_AT_MOST) -> ReportedStatus:
    """Raises Unreadable."""
    if len(raw) > limit:
        raise Unreadable(f"it has {len(raw)} bytes")
    try:
        document = _printable(json.loads(raw))
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON, or nested too deeply") from None
    if not isinstance(document, dict) or not isinstance(document.get("summary"), str):
        raise Unreadable("it has no summary")
    for name, kind in (("conditions", list), ("facts", dict), ("desired", dict), ("applied", dict)):
        if not isinstance(document.get(name), kind | None):
            raise Unreadable(f"its {name} are of another kind")
    conditions = [_condition(each) for each in document.get("conditions") or ()]
    status = ReportedStatus(clean(document["summary"], _WORD), tuple(conditions), document)
    if not isinstance(status.part("desired").get("documents"), dict | None):
        raise Unreadable("its documents are of another kind")
    return status


def _condition(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise Unreadable("a condition is of another kind")
    words = {name: clean(str(value.get(name, "?")), _WORD) for name in ("status", "reason")}
    kind = clean(str(value.get("type", "?")), 2 * _WORD)
    return {"type": kind, **words, "message": clean_lines(str(value.get("message") or ""))}


def _printable(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError
    match value:
        case str():
            return clean_lines(value)
        case dict():
            return {clean(key): _printable(each, depth + 1) for key, each in value.items()}
        case list():
            return [_printable(each, depth + 1) for each in value]
        case int() if value not in _INT64:
            raise ValueError
        case float() if not math.isfinite(value):
            raise ValueError
        case _:
            return value
