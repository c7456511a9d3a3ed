"""Walking through a document, and spelling a place in it for people."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from ..model import Kind
from .formats import is_name
from .secrecy import Place

UNSET_KEY = "unset"
SECRET_KEY = "secret"  # noqa: S105 - the key's name
VALUES: Place = ("agent-config", "values")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_SHOWN = 80


def walk(value: object, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value with its place, each container before what it holds."""
    yield place, value
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, (*place, index))


def spelled(place: Place) -> str:
    """As the mistakes show it: agent-config.values."a b".addr[0]"""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + _key(part)
    return text


def _key(key: str) -> str:
    if len(key) > _LONGEST_SHOWN:
        key = key[:_LONGEST_SHOWN] + "…"
    return key if _BARE.fullmatch(key) else literal(key)


def literal(value: object) -> str:
    """A value as a message may show it: nothing in it that a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else json.dumps(value, default=str)


def named(place: Place, document: Mapping[str, Any], sections: Collection[str]) -> Place:
    """The same place with an item's name instead of its position: ("mount", "vfroot", "source")."""
    match place:
        case (str(section), int(index), *rest) if section in sections:
            item = document[section][index]
            name = item.get("name") if isinstance(item, Mapping) else None
            return (section, name if is_name(name) else index, *rest)
        case _:
            return place


def is_marker(value: object) -> bool:
    """{unset = true} or {secret = NAME}: a table that stands for one value, never merged."""
    return isinstance(value, Mapping) and (UNSET_KEY in value or SECRET_KEY in value)


def is_unset(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and UNSET_KEY in value


def is_secret(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and SECRET_KEY in value


def secret_places(kinds: Iterable[Kind]) -> frozenset[Place]:
    """Where in a document a text is the name of a secret, although no table says so."""
    return frozenset((kind.section, *at) for kind in kinds for at in kind.secret_names)


def secret_uses(
    value: object, bare: Collection[Place] = frozenset()
) -> Iterator[tuple[Place, str]]:
    """Each place that names a secret, and the name; of any shape, checked or not.

    That is every `{secret = NAME}`, wherever it is, and the texts at the places `bare`.
    """
    for place, item in walk(value):
        name = item[SECRET_KEY] if is_secret(item) else item if place in bare else None
        if place[:1] != ("meta",) and isinstance(name, str):
            yield place, name


def secret_names(value: object, bare: Collection[Place] = frozenset()) -> frozenset[str]:
    """The names of all `secret_uses`."""
    return frozenset(name for _, name in secret_uses(value, bare))
