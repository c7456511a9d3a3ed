"""Several layers to one document, and which layer set what in it.

Invariant: what `merge` gives holds no `unset` outside of agent-config.values,
no `meta`, and every named section as a list again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any

from ..model import UNSET
from .formats import is_name
from .places import is_marker, is_secret, is_unset
from .secrecy import Place, is_secret_place


@dataclass(frozen=True)
class Merged:
    """`layer_by_place` has the last layer that spoke of a place, for each place of `document`."""

    document: dict[str, Any] = field(repr=False)
    layer_by_place: Mapping[Place, str] = field(repr=False)


def layer_of(place: Place, layer_by_place: Mapping[Place, str]) -> str:
    """The layer to name for a mistake here; for what is missing, that of the table around."""
    inside = next(n for n in range(len(place), -1, -1) if place[:n] in layer_by_place)
    return layer_by_place[place[:inside]]


def merge(layers: Iterable[tuple[str, Mapping[str, Any]]], named: Collection[str]) -> Merged:
    """Merges documents, each with its layer, in this order. They need not be right."""
    document: dict[str, Any] = {}
    layer_by_place: dict[Place, str] = {}
    for layer, raw in layers:
        above = {key: value for key, value in raw.items() if key != "meta"}
        for section in named & above.keys():
            above[section] = _by_name(above[section])
        document = _over(document, above, (), layer, layer_by_place)
    return Merged(_as_lists(_without_unset(document, named), named), layer_by_place)


def _over(
    below: Any, above: Any, place: Place, layer: str, layer_by_place: dict[Place, str]
) -> Any:
    layer_by_place[place] = layer
    if not isinstance(above, dict):
        return above
    if not isinstance(below, dict) or is_marker(below) or is_marker(above):
        below = {}
    laid_over = {
        key: _over(below.get(key), item, (*place, key), layer, layer_by_place)
        for key, item in above.items()
    }
    return {**below, **laid_over}


def _by_name(items: Any) -> Any:
    """The items of a named section as a table; whatever is not right stays as it is."""
    if not isinstance(items, list):
        return items
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if not all(map(is_name, names)) or len(set(names)) < len(names):
        return items
    return dict(zip(names, items, strict=True))


def _without_unset(document: dict[str, Any], named: Collection[str]) -> dict[str, Any]:
    kept = {section: value for section, value in document.items() if not is_unset(value)}
    for section in named & kept.keys():
        if isinstance(kept[section], dict):
            kept[section] = {n: item for n, item in kept[section].items() if not is_unset(item)}
    return kept


def _as_lists(document: dict[str, Any], named: Collection[str]) -> dict[str, Any]:
    """A named section without any item left is gone, as if nobody had named it."""
    return {
        section: list(value.values()) if section in named and isinstance(value, dict) else value
        for section, value in document.items()
        if not (section in named and value in ({}, []))
    }


def canonical(value: object) -> bytes:
    """JSON that is equal for equal values only: the input of every digest.

    Keys are sorted; tuples count as lists. Dates, UNSET, NaN and infinity, which JSON
    lacks, become objects under a key with a control character, which no document
    can have. TypeError for other types.
    """
    text = json.dumps(
        _tagged(value),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return text.encode(errors="surrogatepass")


def _tagged(value: object) -> object:
    match value:
        case Mapping():
            return {key: _tagged(each) for key, each in value.items()}
        case list() | tuple():
            return [_tagged(each) for each in value]
        case float() if not math.isfinite(value):
            return {"\0number": str(value)}
        case str() | int() | float() | None:
            return value
        case date() | time():
            return {"\0time": value.isoformat()}
        case _ if value is UNSET:
            return {"\0unset": True}
        case _:
            raise TypeError(f"no canonical form for {type(value).__name__}")


def digest(document: Mapping[str, Any], seal: Callable[[object], str]) -> str:
    """Of what a document means. `seal` gives what is in it for a secret: whoever reads
    the digest could else try passwords until one fits."""
    return f"sha256:{hashlib.sha256(canonical(_sealed(document, seal, ()))).hexdigest()}"


def _sealed(value: Any, seal: Callable[[object], str], place: Place) -> Any:
    match value:
        case Mapping() if is_secret(value):
            return value  # the name of one
        case Mapping():
            return {key: _sealed(item, seal, (*place, key)) for key, item in value.items()}
        case list():
            return [_sealed(item, seal, place) for item in value]
        case _:
            return seal(value) if is_secret_place(place) else value
