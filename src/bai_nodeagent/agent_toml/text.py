"""Where things are in the text of a TOML document (pure, standard library alone).

tomllib says what a document means, and whether it is one; this module only
says where in its text each key, value and comment is. It is therefore
lenient: give it nothing that tomllib has not accepted.

The invariant that everything here rests on: the statements of a text, put
one after the other, are that text. Layout: https://toml.io/en/v1.0.0.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Place = tuple[str | int, ...]
"""As a KeyPath, but with the position of an array's item: ("mount", 0, "name")."""

Span = tuple[int, int]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_SCALAR = re.compile(
    # Up to two quotes may be directly before the three that close a string.
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    # A date and a time may be parted by one space.
    r"|(?:\d{4}-\d\d-\d\d (?=\d\d:))?[^\s,\]}#]+",
    re.DOTALL,
)
# Items of an array that hold no table, as many as stand in a row without a comment.
_PLAIN_ITEM = re.compile(
    r"""(?<=[\s,\[])(?:[^\s,\]}#\["'{]++|"(?!"")[^"\\\n]*+"|'(?!'')[^'\n]*+')"""
    r"""[ \t\r\n]*+,[ \t\r\n]*+"""
)
_PLAIN_ITEMS = re.compile(rf"(?:{_PLAIN_ITEM.pattern})*+")
_BLANKS = re.compile(r"[ \t]*")
_FILLING = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_COMMENT = re.compile(r"#[^\r\n]*")
_LINE_END = re.compile(r"[ \t]*(?P<comment>#[^\r\n]*)?\r?(?:\n|\Z)")


@dataclass(frozen=True, slots=True)
class Node:
    """A key with its value, or an array's item that is a table or holds one. An item has no key:
    start == value."""

    place: Place
    start: int
    value: int
    end: int
    is_table: bool = False
    children: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        """The node itself and all below it, in the order of the text."""
        left = [self]
        while left:
            node = left.pop()
            yield node
            left += reversed(node.children)


@dataclass(frozen=True, slots=True)
class Statement:
    """Whole lines of the text, line end included: a pair, a header, a comment or a blank line.

    section    place of the table that the statement stands in; of a header, its own
    node       the pair, if it is one
    is_header  the statement is [section] or [[section]]
    comments   where the comments are in it
    """

    start: int
    end: int
    section: Place
    node: Node | None = None
    is_header: bool = False
    comments: tuple[Span, ...] = ()


@dataclass
class _Scanner:
    text: str
    comments: list[Span] = field(default_factory=list)

    def value(self, at: int, place: Place, start: int | None = None) -> Node:
        first = at if start is None else start
        match self.text[at]:
            case "[":
                end, children = self._items(at, place)
            case "{":
                end, children = self._pairs(at, place)
            case _:
                end, children = _end(_SCALAR, self.text, at), ()
        return Node(place, first, at, end, self.text[at] == "{", children)

    def pair(self, at: int, table: Place) -> Node:
        path, end = self.key(at)
        # The equals sign, and the blanks on both of its sides.
        value = _end(_BLANKS, self.text, _end(_BLANKS, self.text, end) + 1)
        return self.value(value, table + path, at)

    def key(self, at: int) -> tuple[tuple[str, ...], int]:
        end = _end(_KEY, self.text, at)
        return path_of(self.text[at:end]), end

    def _items(self, at: int, place: Place) -> tuple[int, tuple[Node, ...]]:
        items: list[Node] = []
        count = 0
        at = self._filling(at + 1)
        while True:
            end = _end(_PLAIN_ITEMS, self.text, at)
            count += len(_PLAIN_ITEM.findall(self.text, at, end))
            at = self._filling(end)
            if self.text[at] == "]":
                return at + 1, tuple(items)
            item = self.value(at, (*place, count))
            count += 1
            items += [item] if item.is_table or item.children else []
            at = self._comma(item.end)

    def _pairs(self, at: int, place: Place) -> tuple[int, tuple[Node, ...]]:
        pairs: list[Node] = []
        at = self._filling(at + 1)
        while self.text[at] != "}":
            pairs.append(self.pair(at, place))
            at = self._comma(pairs[-1].end)
        return at + 1, tuple(pairs)

    def _comma(self, at: int) -> int:
        at = self._filling(at)
        return self._filling(at + 1) if self.text[at] == "," else at

    def _filling(self, at: int) -> int:
        end = _end(_FILLING, self.text, at)
        self.comments += [m.span() for m in _COMMENT.finditer(self.text, at, end)]
        return end


@functools.lru_cache(maxsize=16)
def scan(text: str) -> tuple[Statement, ...]:
    """The statements of a valid TOML document, in order."""
    statements: list[Statement] = []
    sections = _Sections()
    at = 0
    while at < len(text):
        statements.append(_statement(text, at, sections))
        at = statements[-1].end
    return tuple(statements)


def nodes(text: str) -> dict[Place, Node]:
    """Every pair, and every item that holds one, by its place, inline tables included."""
    pairs = (s.node for s in scan(text) if s.node)
    return {node.place: node for pair in pairs for node in pair.walk()}


def replaced(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """The text with other words in place of some spans (start, end, words), which don't overlap."""
    pieces, at = [], 0
    for start, end, new in sorted(spans):
        pieces += [text[at:start], new]
        at = end
    return "".join([*pieces, text[at:]])


@functools.lru_cache(maxsize=1024)
def path_of(key: str) -> tuple[str, ...]:
    """The names in a key as it is spelled: `a."b.c"` is ("a", "b.c")."""
    path: list[str] = []
    table: object = tomllib.loads(f"{key}=0")
    while isinstance(table, dict):
        ((name, table),) = table.items()
        path.append(name)
    return tuple(path)


@dataclass
class _Sections:
    """Resolves headers: after [[a]], [a.b] belongs to the latest item of a."""

    here: Place = ()
    latest: dict[Place, int] = field(default_factory=dict)

    def enter(self, path: tuple[str, ...], *, is_item: bool) -> None:
        place: Place = ()
        for depth, name in enumerate(path, start=1):
            place = (*place, name)
            if is_item and depth == len(path):
                self.latest[place] = self.latest.get(place, -1) + 1
            if place in self.latest:
                place = (*place, self.latest[place])
        self.here = place


def _statement(text: str, start: int, sections: _Sections) -> Statement:
    scanner = _Scanner(text)
    at = _end(_BLANKS, text, start)
    first = text[at : at + 1]
    node = None
    if first == "[":
        brackets = 2 if text[at + 1] == "[" else 1
        path, end = scanner.key(_end(_BLANKS, text, at + brackets))
        sections.enter(path, is_item=brackets == 2)
        at = _end(_BLANKS, text, end) + brackets
    elif first not in ("", "#", "\r", "\n"):
        node = scanner.pair(at, sections.here)
        at = node.end
    rest = _LINE_END.match(text, at)
    if rest is None:
        raise ValueError(f"no TOML document: something is left over at offset {at}")
    if rest["comment"]:
        scanner.comments.append(rest.span("comment"))
    return Statement(start, rest.end(), sections.here, node, first == "[", tuple(scanner.comments))


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    if match is None:
        raise ValueError(f"no TOML document: something else was expected at offset {at}")
    return match.end()
