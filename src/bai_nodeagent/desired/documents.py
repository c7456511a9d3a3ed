"""Reading one document: bytes to a table, with every mistake that needs no schema.

Nothing here raises anything but `Unreadable`, whatever the bytes are: they
come from an editor, and the daemon has to live with them.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, time
from itertools import islice
from typing import Any

from .. import toml
from .secrecy import Place

LARGEST = 1 << 20
DEEPEST = 32
MOST_FAULTS = 100
"""Of one document. Somebody who has more of them has put the wrong file."""
_INT64 = range(-(1 << 63), 1 << 63)


class Unreadable(Exception):
    """The bytes are no document at all; the text says why, without the layer."""


@dataclass(frozen=True)
class Document:
    """One layer as it was read: `layer` "group/gpu", `key` "desired/group/gpu"."""

    layer: str
    key: str
    revision: int
    raw: bytes = field(repr=False)


@dataclass(frozen=True)
class Fault:
    """A mistake at a place of a document; the layer is known to the caller."""

    place: Place
    what: str


class _Twice(dict[str, Any]):
    """An object of a JSON document that has some key more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs)
        self.twice = sorted(key for key, count in counts.items() if count > 1)


def read(raw: bytes) -> tuple[dict[str, Any], list[Fault]]:
    """The table in a document, in TOML or JSON, and what no document may hold.

    What is nested too deeply is a fault and is cut off, so that whoever walks
    through the table needs no care. Raises Unreadable.
    """
    table = _parsed(raw)
    return _clipped(table), list(islice(_faults(table, ()), MOST_FAULTS + 1))


def parse(raw: bytes) -> dict[str, Any]:
    """The table alone. Raises Unreadable."""
    table: dict[str, Any] = _clipped(_parsed(raw))
    return table


def _parsed(raw: bytes) -> dict[str, Any]:
    if len(raw) > LARGEST:
        raise Unreadable(f"is {len(raw)} bytes long; allowed: at most {LARGEST} (1 MiB)")
    try:
        text = raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        raise Unreadable(f"is not UTF-8 at byte {exc.start}; save the file as UTF-8") from None
    try:
        return _json(text) if text.lstrip().startswith("{") else _toml(text)
    except RecursionError:
        raise Unreadable(f"is nested too deeply; allowed: {DEEPEST} levels") from None


def _json(text: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as exc:
        raise Unreadable(
            f"is not JSON: {exc.msg} (at line {exc.lineno}, column {exc.colno})"
        ) from None
    except ValueError:  # int() of more than 4300 digits
        raise Unreadable("holds a number beyond 64 bits") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    return table if len(table) == len(pairs) else _Twice(pairs)


def _toml(text: str) -> dict[str, Any]:
    try:
        return toml.loads(text)
    except toml.TooDeep:
        raise RecursionError from None
    except toml.TooComplex as exc:
        raise Unreadable(str(exc).removeprefix("it ")) from None
    except ValueError as exc:
        raise Unreadable(f"is not TOML: {exc}") from None


def _faults(value: object, place: Place) -> Iterator[Fault]:
    match value:
        case dict() | list() if len(place) >= DEEPEST:
            yield Fault(place, f"is nested too deeply; allowed: {DEEPEST} levels")
        case dict():
            yield from _faults_in_table(value, place)
        case list():
            for index, item in enumerate(value):
                yield from _faults(item, (*place, index))
        case _:
            what = _fault_of_leaf(value)
            if what:
                yield Fault(place, what)


def _faults_in_table(table: dict[str, Any], place: Place) -> Iterator[Fault]:
    for key in table.twice if isinstance(table, _Twice) else ():
        yield Fault((*place, key), "occurs more than once; allowed: once")
    for key, item in table.items():
        what = fault_of_text(key)
        if what:
            yield Fault((*place, key), f"the key {what}")
        yield from _faults(item, (*place, key))


def _fault_of_leaf(value: object) -> str | None:
    match value:
        case None:
            return "is null; leave the key out instead"
        case str():
            return fault_of_text(value)
        case bool() | date() | time():
            return None
        case int() if value not in _INT64:
            return "is a number beyond 64 bits"
        case float() if not math.isfinite(value):
            return "is not a finite number"
        case _:
            return None


def fault_of_text(text: str) -> str | None:
    """What is wrong with the characters of a text, quoting none of them."""
    if text.isprintable():
        return None
    for character in text:
        match unicodedata.category(character):
            case "Cc" if character not in "\t\n":
                return (
                    f"holds the control character U+{ord(character):04X};"
                    " allowed: of these only tab and newline"
                )
            case "Cs":
                return f"holds U+{ord(character):04X}, half of a pair; allowed: whole characters"
    return None


def _clipped(value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict):
        items = value.items() if depth < DEEPEST else ()
        return {key: _clipped(item, depth + 1) for key, item in items}
    if isinstance(value, list):
        return [_clipped(item, depth + 1) for item in value] if depth < DEEPEST else []
    return value
