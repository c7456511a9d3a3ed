"""Changes to single keys in the text of a TOML document (pure; the only importer of tomlkit).

Every character that does not belong to the changed key stays. Where things
stand is asked of text.py, not of tomlkit's document: that gives a silently
wrong file in some documents with dotted keys or out-of-order tables, takes
the next table's comment along when it deletes one, and refuses some valid
TOML. How a value is spelled is left to tomlkit.

The texts must be valid TOML. The one who calls checks the outcome by tomllib.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import tomlkit

from ..model import KeyPath
from .text import Node, Statement, nodes, replaced, scan

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def put(text: str, path: KeyPath, value: object) -> str:
    """Sets a key, and makes what it needs: what is no table on its way gives way to one.

    `value` may be a dict (becomes an inline table) or a list.
    """
    present = nodes(text)
    if node := present.get(path):
        return _splice(text, node.value, node.end, spelled(value))
    if any(place[: len(path)] == path for place in present):
        return put(remove(text, path), path, value)  # a table of dotted keys, or with a header
    for depth in range(len(path) - 1, 0, -1):
        if node := present.get(path[:depth]):
            if node.is_table:
                return _put_into(text, node, path[depth:], value)
            return _splice(text, node.value, node.end, spelled(_nested(path[depth:], value)))
    if obstacle := _obstacle(text, path):
        return put(remove(text, obstacle), path, value)
    return _insert(text, path, value)


def put_all(text: str, values: Mapping[KeyPath, object]) -> str:
    """As `put` for each, but reading the text once for all that stand and once for each table."""
    present = nodes(text)
    spans = [
        (node.value, node.end, spelled(value))
        for path, value in values.items()
        if (node := present.get(path)) and not _is_within(path, values)
    ]
    text = replaced(text, spans)
    tops = {place[0] for place in present} | {s.section[0] for s in scan(text) if s.section}
    missing = [path for path in values if path not in present or _is_within(path, values)]
    fresh = {
        path: values[path]
        for path in missing
        if len(path) > 1 and path[0] not in tops and not _is_within(path, values)
    }
    text = _append_tables(text, fresh)
    others = [path for path in missing if path not in fresh]
    for table, paths in groupby(others, key=lambda path: path[:-1]):
        first, *more = paths
        text = put(text, first, values[first])
        beside = _beside(text, table, first, more)
        text = _add_lines(text, first, {path: values[path] for path in beside})
        for path in more:
            if path not in beside:
                text = put(text, path, values[path])
    return text


def _is_within(path: KeyPath, others: Mapping[KeyPath, object]) -> bool:
    return any(path[:depth] in others for depth in range(1, len(path)))


def _beside(text: str, table: KeyPath, first: KeyPath, more: Sequence[KeyPath]) -> list[KeyPath]:
    """Those of which nothing stands yet, where `first` stands on a line below its own header."""
    if not more or _line_of(text, first).section != table:
        return []
    depth = len(table) + 1
    occupied = {place[:depth] for place in nodes(text)} | {s.section[:depth] for s in scan(text)}
    return [path for path in more if path not in occupied]


def _line_of(text: str, path: KeyPath) -> Statement:
    return next(s for s in scan(text) if s.node and path in {n.place for n in s.node.walk()})


def _add_lines(text: str, below: KeyPath, values: Mapping[KeyPath, object]) -> str:
    """Adds pairs to a table, below a line of it."""
    if not values:
        return text
    line = _line_of(text, below)
    indent = text[line.start : line.node.start if line.node else line.start]
    lines = (f"{indent}{_key(path[-1:])} = {spelled(value)}" for path, value in values.items())
    newline = _newline(text)
    return _add_at(text, line.end, newline.join([*lines, ""]))


def remove(text: str, path: KeyPath) -> str:
    """Takes out a key or a table with all below it. Comments on lines of their own stay."""
    depth = len(path)
    for s in reversed(scan(text)):
        place = s.node.place if s.node else s.section if s.is_header else ()
        if place[:depth] == path:
            text = _splice(text, s.start, s.end, "")
    # What is left stands in inline tables; a dotted key there may be one of several.
    while node := next((n for n in nodes(text).values() if n.place[:depth] == path), None):
        text = _without(text, node)
    return text


def spelled(value: object) -> str:
    """A value as TOML on one line. Only scalars are tomlkit's business: see the module's head."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key((name,))} = {spelled(v)}" for name, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(spelled(item) for item in value)}]"
    return str(tomlkit.item(value).as_string())


def _key(path: KeyPath) -> str:
    return ".".join(name if _BARE.fullmatch(name) else spelled(name) for name in path)


def _nested(path: KeyPath, value: object) -> object:
    for name in reversed(path):
        value = {name: value}
    return value


def _obstacle(text: str, path: KeyPath) -> KeyPath | None:
    """The header that is in the way of `path`: of an empty table, or of an array of tables."""
    for place in (statement.section for statement in scan(text)):
        for depth, name in enumerate(place):
            if isinstance(name, int) and place[:depth] == path[:depth]:
                return path[:depth]
        if place[: len(path)] == path:
            return path
    return None


def _put_into(text: str, table: Node, path: KeyPath, value: object) -> str:
    """Adds a pair to an inline table."""
    pair = _pair(path, [child.place[len(table.place) :] for child in table.children], value)
    if not table.children:
        return _splice(text, table.value, table.end, f"{{ {pair} }}")
    end = table.children[-1].end
    return _splice(text, end, end, f", {pair}")


def _pair(path: KeyPath, siblings: list[tuple[str | int, ...]], value: object) -> str:
    """A new pair. Where siblings spell a part of its way as a dotted key, so does it.

    TOML lets a table that dotted keys have made be extended by dotted keys alone.
    """
    shared = max((_common(path[:-1], sibling[:-1]) for sibling in siblings), default=0)
    return f"{_key(path[: shared + 1])} = {spelled(_nested(path[shared + 1 :], value))}"


def _common(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _insert(text: str, path: KeyPath, value: object) -> str:
    """Adds a pair to the table of its deepest part that stands, or a new table at the end."""
    statements = scan(text)
    for depth in range(len(path) - 1, 0, -1):
        prefix = path[:depth]
        home = _home(statements, prefix)
        if home is not None:
            return _add_line(text, statements, home, path, value)
        if any(s.section[:depth] == prefix for s in statements):
            return _append_table(text, prefix, path[depth:], value)
    if len(path) == 1:
        return _add_line(text, statements, (), path, value)
    return _append_table(text, path[:1], path[1:], value)


def _home(statements: tuple[Statement, ...], table: KeyPath) -> KeyPath | None:
    """The section whose lines define a table: its own, or one with dotted keys that lead there."""
    for s in statements:
        if s.is_header and s.section == table:
            return table
    for s in statements:
        if s.node and s.node.place[: len(table)] == table and len(s.section) < len(table):
            return table[: len(s.section)]
    return None


def _add_line(
    text: str, statements: tuple[Statement, ...], section: KeyPath, path: KeyPath, value: object
) -> str:
    """Adds a pair to a section: behind its last pair, else directly below its header."""
    inside = [s for s in statements if s.section == section]
    pairs = [s for s in inside if s.node]
    siblings = [s.node.place[len(section) :] for s in pairs if s.node]
    line = _pair(path[len(section) :], siblings, value) + _newline(text)
    if pairs:
        last = pairs[-1]
        indent = text[last.start : last.node.start if last.node else last.start]
        return _add_at(text, last.end, indent + line)
    if section:
        return _add_at(text, next(s.end for s in inside if s.is_header), line)
    # The comment lines directly above the first header belong to that.
    blank = [s.end for s in inside if not s.comments]
    at = blank[-1] if blank else 0
    return _add_at(text, at, line + (_newline(text) if text[at:] else ""))


def _append_table(text: str, table: KeyPath, path: KeyPath, value: object) -> str:
    newline = _newline(text)
    gap = newline if text and not text.endswith(("\n\n", "\n\r\n")) else ""
    line = _pair(path, [], value)
    return _add_at(text, len(text), f"{gap}[{_key(table)}]{newline}{line}{newline}")


def _append_tables(text: str, values: Mapping[KeyPath, object]) -> str:
    """Adds what lies in tables of which nothing stands yet, below a header each."""
    tables: dict[str, Any] = {}
    for path, value in values.items():
        here = tables
        for name in path[:-1]:
            here = here.setdefault(name, {})
        here[path[-1]] = value
    newline = _newline(text)
    blocks = []
    for name, table in tables.items():
        lines = [f"{_key((key,))} = {spelled(value)}" for key, value in table.items()]
        blocks.append(newline.join([f"[{_key((name,))}]", *lines, ""]))
    gap = newline if text and blocks and not text.endswith(("\n\n", "\n\r\n")) else ""
    return _add_at(text, len(text), gap + newline.join(blocks)) if blocks else text


def _add_at(text: str, at: int, line: str) -> str:
    """Adds whole lines; the last line of a text may lack its end."""
    gap = _newline(text) if at and text[at - 1] != "\n" else ""
    return _splice(text, at, at, gap + line)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _without(text: str, node: Node) -> str:
    """Takes a pair out of its inline table, with one of the commas around it."""
    table = next(n for n in nodes(text).values() if node in n.children)
    at = table.children.index(node)
    if at + 1 < len(table.children):
        return _splice(text, node.start, table.children[at + 1].start, "")
    if at:
        return _splice(text, table.children[at - 1].end, node.end, "")
    return _splice(text, table.value, table.end, "{}")


def _splice(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]
