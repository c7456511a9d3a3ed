"""Changes of agent.toml for people to read, without its secrets (pure).

What came as a secret is hidden, and whatever is in the file under a key
that sounds like one, managed or not, with all below it. Where in doubt, more
is hidden: a diff goes to logs that many may read.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect
from collections.abc import Collection, Iterator, Sequence

from .. import toml
from ..desired.places import walk
from ..desired.secrecy import is_secret_key, is_secret_place
from ..model import KeyPath
from .compare import unified
from .places import is_same
from .text import Node, Place, nodes, replaced, scan

MASK = '"***"'
MASK_CHANGED = '"*** (another value)"'

# Characters.
LINE_AT_MOST = 2_000
DIFF_AT_MOST = 64 << 10
_WORD = re.compile(r"[\w-]+")
_NOTHING = ('""', "''", "true", "false")


def holds_secret(text: str, secret_paths: Collection[KeyPath] = ()) -> bool:
    """Whether a valid TOML text has a secret in it; empty strings and booleans are none."""
    found = _secrets(text, secret_paths)
    return any(text[node.value : node.end] not in _NOTHING for node in found)


def secrets(text: str, secret_paths: Collection[KeyPath] = ()) -> frozenset[str]:
    """Every string that came as a secret, or stands under a key that sounds like one.

    None where the text is not TOML.
    """
    try:
        found = walk(toml.loads(text))
    except ValueError:
        return frozenset()
    return frozenset(
        value
        for place, value in found
        if value and isinstance(value, str)
        if is_secret_place(place) or any(place[: len(path)] == path for path in secret_paths)
    )


def diff(old: str | None, new: str, secret_paths: Collection[KeyPath], name: str) -> str:
    """What turns `old` into `new`, as a unified diff with secrets masked on both sides.

    `old` is None for a file that is not there. A text that is not TOML is
    not quoted: nobody knows what in it is a secret.
    """
    try:
        before = _masked(old or "", secret_paths, {})
        after = _masked(new, secret_paths, _sources(old or "", secret_paths))
    except (ValueError, RecursionError):
        return f"--- {name}\n+++ {name}\n(not valid TOML, so its content is not shown)"
    there = name if old is not None else "/dev/null"
    return "\n".join(_bounded(unified(before.splitlines(), after.splitlines(), there, name)))


def _bounded(lines: Sequence[str]) -> Iterator[str]:
    """As much as somebody reads: whatever is shown is also searched for secrets, and kept."""
    left = DIFF_AT_MOST
    for number, line in enumerate(lines):
        if len(line) > LINE_AT_MOST:
            shown = f"{line[0]}(a line of {len(line)} characters, not shown)"
        else:
            shown = line
        left -= len(shown)
        if left < 0:
            yield f"({len(lines) - number} more lines, not shown)"
            return
        yield shown


def _masked(text: str, secret_paths: Collection[KeyPath], earlier: dict[Place, str]) -> str:
    """The text without its secrets; one that `earlier` has with another value is marked."""
    toml.loads(text)
    hidden = [
        (node.value, node.end, _mask(text[node.value : node.end], earlier.get(node.place)))
        for node in _secrets(text, secret_paths)
    ]
    starts = [start for start, _, _ in hidden]
    for start, end in (span for statement in scan(text) for span in statement.comments):
        before = bisect(starts, start)
        is_inside = before > 0 and start < hidden[before - 1][1]
        # A setting that somebody has commented out may still be in use elsewhere.
        if not is_inside and any(map(is_secret_key, _WORD.findall(text[start:end]))):
            hidden.append((start, end, "# ***"))
    return replaced(text, hidden)


def _mask(source: str, earlier: str | None) -> str:
    if earlier is None or is_same(tomllib.loads(f"_={source}"), tomllib.loads(f"_={earlier}")):
        return MASK
    return MASK_CHANGED


def _sources(text: str, secret_paths: Collection[KeyPath]) -> dict[Place, str]:
    toml.loads(text)
    return {n.place: text[n.value : n.end] for n in _secrets(text, secret_paths)}


def _secrets(text: str, secret_paths: Collection[KeyPath]) -> Iterator[Node]:
    """Keys with a secret as their value; of nested ones the outermost."""
    end = 0
    for node in nodes(text).values():
        if node.start >= end and _is_secret(node, secret_paths):
            end = node.end
            yield node


def _is_secret(node: Node, secret_paths: Collection[KeyPath]) -> bool:
    names = tuple(name for name in node.place if isinstance(name, str))
    return (
        any(is_secret_key(name) for name in names)
        or any(
            names[: len(path)] == path
            # The host of an address that stands as one string.
            or (path[: len(names)] == names and not node.is_table)
            for path in secret_paths
        )
    )
