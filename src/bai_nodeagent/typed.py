"""Plain data, as JSON and TOML have it, as typed values; whatever does not fit is refused. Pure."""

from __future__ import annotations

import json
import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def json_value(raw: bytes) -> Any:
    """Strict JSON in UTF-8. Raises ValueError, RecursionError."""
    return json.loads(raw.decode(), parse_constant=_no_number)


def toml_value(raw: bytes) -> dict[str, Any]:
    """Raises ValueError, RecursionError."""
    return tomllib.loads(raw.decode())


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def typed(kind: Any, value: Any) -> Any:
    """A value from JSON or TOML as that type: a dataclass, however nested; else TypeError.

    A field that the value lacks has its default, if it has one.
    """
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        fields = {key: typed(hints[key], each) for key, each in _a(dict, value).items()}
        return kind(**fields)  # type: ignore[operator]
    origin, inner = get_origin(kind), get_args(kind)
    if kind in (Any, object):
        return value
    if origin in (Union, types.UnionType):
        return _first(inner, value)
    if origin is Literal:
        if value not in inner or type(value) is not type(inner[0]):
            raise TypeError(f"a value is none of {inner}")
        return value
    if origin is tuple:
        parts = _a(list, value)
        kinds = [inner[0]] * len(parts) if inner[-1] is ... else inner
        return tuple(typed(each, part) for each, part in zip(kinds, parts, strict=True))
    if origin in (dict, Mapping):
        return {typed(str, key): typed(inner[1], each) for key, each in _a(dict, value).items()}
    return _scalar(kind, value)


def _first(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return typed(kind, value)
        except (TypeError, KeyError, ValueError):
            continue
    raise TypeError(f"a value is none of {kinds}")


def _scalar(kind: Any, value: Any) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if kind is float and not math.isfinite(_a(float, value)):
        raise TypeError("a value is no number")
    if kind is str:
        _a(str, value).encode()  # half a surrogate pair can't be said or written
    return _a(kind, value)


def _a(kind: Any, value: Any) -> Any:
    if type(value) is not kind:
        # Not which value: it may be a secret, and this is logged.
        raise TypeError(f"a {type(value).__name__} is no {getattr(kind, '__name__', kind)}")
    return value
