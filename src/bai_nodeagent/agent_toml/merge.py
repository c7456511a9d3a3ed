"""Drift undone by means of the last good text, so that bytes come back and not just values (pure).

A three-way merge by statements: what people did to lines of their own is
kept as they did it; lines of managed keys are taken from the reference,
where it has them and as it spells them. Both texts must be valid TOML.
Neither function promises a right outcome: the one who calls checks it.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .. import toml
from ..model import UNSET, KeyPath
from .compare import opcodes
from .places import addresses, is_same, rest
from .text import Place, Statement, nodes, replaced, scan


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    is_owned: bool


@dataclass(frozen=True, slots=True)
class _Section:
    """A header with what stands below it; the first section of a text has none."""

    header: str
    body: tuple[_Line, ...]

    @property
    def is_owned(self) -> bool:
        return any(line.is_owned for line in self.body) and all(
            line.is_owned or not line.text.strip() for line in self.body
        )


def merged(text: str, reference: str, places: Collection[KeyPath]) -> str:
    """`text` with the lines of managed keys as the reference has them."""
    is_owned = _owner(text, reference, places)
    theirs, ours = _sections(text, is_owned), _sections(reference, is_owned)
    document = toml.loads(text)
    lines: list[str] = []
    for place in _order([*theirs], [*ours]):
        mine, other = ours.get(place), theirs.get(place)
        if other and mine:
            lines += [other.header, *_body(mine.body, other.body)]
        elif other:
            lines += [other.header, *(line.text for line in other.body if not line.is_owned)]
        elif mine and mine.is_owned and _plain(document, place) is UNSET:
            lines += [mine.header, *(line.text for line in mine.body)]
    return _joined(lines)


def respelled(text: str, reference: str, paths: Collection[KeyPath]) -> str:
    """`text` with the values at `paths` in the reference's spelling, if that means the same there.

    Of an inline table around one the whole is taken, where it is equal as a whole.
    """
    here, there = nodes(text), nodes(reference)
    after, before = toml.loads(text), toml.loads(reference)
    comments = [start for s in scan(text) for start, _ in s.comments]
    spans: dict[int, tuple[int, int, str]] = {}
    for place in (path[:depth] for path in paths for depth in range(1, len(path) + 1)):
        node, model = here.get(place), there.get(place)
        if not node or not model or not is_same(_plain(after, place), _plain(before, place)):
            continue
        if bisect(comments, node.value) == bisect(comments, node.end):
            words = reference[model.value : model.end]
            spans.setdefault(node.value, (node.value, node.end, words))
    return replaced(text, _outermost(spans.values()))


def _outermost(spans: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    end = -1
    for span in sorted(spans):
        if span[0] >= end:
            end = span[1]
            yield span


def _owner(text: str, reference: str, places: Collection[KeyPath]) -> Callable[[Statement], bool]:
    """Says of a statement of either text whether it belongs to managed keys alone."""
    after, before = _pairs(text), _pairs(reference)
    now, then = toml.loads(text), toml.loads(reference)
    whole = addresses(places)
    ours = set(places)
    above = {path[:depth] for path in places for depth in range(len(path) + 1)}

    def is_owned(place: Place) -> bool:
        if after.get(place, set()) - before.get(place, set()):
            return False  # a comment that only the edited text has
        if any(place[:depth] in ours for depth in range(len(place) + 1)):
            return True
        if place not in above:
            return False
        found, earlier = _left(now, place, places), _left(then, place, places)
        if found is None:
            # An address is nothing without its port: both came and went together.
            return place in whole or not earlier
        return is_same(found, earlier or {})

    verdicts = {place: is_owned(place) for place in after.keys() | before.keys()}
    return lambda statement: statement.node is not None and verdicts[statement.node.place]


def _pairs(text: str) -> dict[Place, set[str]]:
    """The comments on the lines of each pair, by its place."""
    return {
        s.node.place: {text[start:end] for start, end in s.comments} for s in scan(text) if s.node
    }


def _left(document: dict[str, Any], place: Place, places: Collection[KeyPath]) -> Any:
    """What is at a place without what is managed there; None if nothing is there."""
    value = _plain(document, place)
    if value is UNSET:
        return None
    below = {path[len(place) :] for path in places if path[: len(place)] == place}
    return rest({"": value}, {("", *path) for path in below}).get("", {})


def _plain(document: dict[str, Any], place: Place) -> Any:
    here: Any = document
    for name in place:
        if not isinstance(here, dict) or name not in here:
            return UNSET
        here = here[name]
    return here


def _sections(text: str, is_owned: Callable[[Statement], bool]) -> dict[Place, _Section]:
    headers: dict[Place, str] = {}
    bodies: dict[Place, list[_Line]] = {(): []}
    for s in scan(text):
        line = text[s.start : s.end]
        body = bodies.setdefault(s.section, [])
        if s.is_header:
            headers[s.section] = line
        else:
            body.append(_Line(line, is_owned(s)))
    return {place: _Section(headers.get(place, ""), tuple(bodies[place])) for place in bodies}


def _order(theirs: list[Place], ours: list[Place]) -> Iterator[Place]:
    """Their order; a section that only we have comes behind the one that it followed.

    The first section is that of no header, which every text has.
    """
    known = set(theirs)
    behind = {before: place for before, place in pairwise(ours) if place not in known}
    for each in theirs:
        place: Place | None = each
        while place is not None:
            yield place
            place = behind.get(place)


def _body(ours: tuple[_Line, ...], theirs: tuple[_Line, ...]) -> list[str]:
    """Their lines, but the owned ones from ours, where they stand among the others there."""
    base: list[str] = []
    ahead: list[list[str]] = [[]]  # our owned lines that stand ahead of each line of base
    for line in ours:
        if line.is_owned:
            ahead[-1].append(line.text)
        else:
            base.append(line.text)
            ahead.append([])
    others = [line.text for line in theirs if not line.is_owned]
    lines: list[str] = []
    for tag, first, last, start, end in opcodes(base, others):
        for i in range(first, last):
            lines += ahead[i]
            lines += base[i : i + 1] if tag == "equal" else []
        lines += others[start:end] if tag != "equal" else []
    return lines + ahead[-1]


def _joined(lines: list[str]) -> str:
    """The lines as one text; one without an end gets one unless it is the last."""
    newline = "\r\n" if any(line.endswith("\r\n") for line in lines) else "\n"
    lines = [line for line in lines if line]
    return "".join(
        line if line.endswith("\n") else line + newline for line in lines[:-1]
    ) + "".join(lines[-1:])
