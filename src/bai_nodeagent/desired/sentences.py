"""What jsonschema found, in our words: what is wrong; what is allowed; did you mean …

jsonschema's own messages quote whatever is in the document. These quote
a key, or a short value where no key on its way names a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time
from difflib import get_close_matches
from itertools import groupby
from typing import Any

from jsonschema import ValidationError

from .documents import Fault
from .places import literal
from .schema import is_reserved, resolved
from .secrecy import Place, is_secret_place

NOT_YET = "is not supported yet"
_LONGEST_QUOTED = 64
# A password, or a token in a query.
_LOGIN = re.compile(rf"://([^/\s@]{{1,{_LONGEST_QUOTED}}}@|\S{{0,{_LONGEST_QUOTED}}}[?#])")
_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "null",
}


def faults(errors: Iterable[ValidationError]) -> Iterator[Fault]:
    """One or more faults for each error that says something of its own.

    A value of the wrong type, or one that is reserved, has no other fault. A
    fault may come more than once.
    """
    by_place: dict[Place, list[ValidationError]] = {}
    for error in errors:
        by_place.setdefault(tuple(error.absolute_path), []).append(error)
    for place, found in by_place.items():
        for error in _telling(found):
            for below, what in _HANDLERS.get(str(error.validator), _other)(error, place):
                yield Fault((*place, *below), what)


def _telling(errors: list[ValidationError]) -> list[ValidationError]:
    for word in ("not", "type"):
        alone = [error for error in errors if error.validator == word]
        if alone:
            return alone
    return errors


Sentences = Iterator[tuple[Place, str]]
"""Sentences, each with the place below the error's own that it is about."""


def _unknown_keys(error: ValidationError, place: Place) -> Sentences:
    known = error.schema.get("properties", {})
    patterns = error.schema.get("patternProperties", {})
    allowed = sorted(key for key, schema in known.items() if not is_reserved(schema))
    allowed += [f"keys like {pattern}" for pattern in patterns]
    for key in error.instance:
        if key not in known and not any(re.search(pattern, key) for pattern in patterns):
            hint = _near(key, known)
            yield (key,), _sentence("is an unknown key", ", ".join(allowed), hint)


def _missing_keys(error: ValidationError, place: Place) -> Sentences:
    for key in error.validator_value:
        if key not in error.instance:
            wanted = allowed(error.schema.get("properties", {}).get(key, {}))
            yield (key,), _sentence("is missing", wanted)


def _missing_beside(error: ValidationError, place: Place) -> Sentences:
    for key, others in error.validator_value.items():
        for other in others if key in error.instance else ():
            if other not in error.instance:
                wanted = allowed(error.schema.get("properties", {}).get(other, {}))
                yield (other,), _sentence(f"is missing, and {key} needs it", wanted)


def _wrong_type(error: ValidationError, place: Place) -> Sentences:
    yield (), _sentence(f"is {_kind_of(error.instance)}", allowed(error.schema))


def _wrong_value(error: ValidationError, place: Place) -> Sentences:
    choices = error.validator_value if error.validator == "enum" else [error.validator_value]
    hint = _near(error.instance, [choice for choice in choices if isinstance(choice, str)])
    what = f"{_quoted(error.instance, place)} is not allowed"
    yield (), _sentence(what, _choices(choices), hint if not is_secret_place(place) else "")


def _does_not_fit(error: ValidationError, place: Place) -> Sentences:
    yield (), _sentence(f"{_quoted(error.instance, place)} does not fit", allowed(error.schema))


def _not(error: ValidationError, place: Place) -> Sentences:
    is_later = is_reserved(error.schema) or error.validator_value.keys() in ({"enum"}, {"const"})
    yield (), NOT_YET if is_later else _sentence("is not allowed", allowed(error.schema))


def _twice_in_list(error: ValidationError, place: Place) -> Sentences:
    yield (), "holds the same item twice; allowed: each one once"


def _no_branch(error: ValidationError, place: Place) -> Sentences:
    """Of several forms the one that was meant, judged by its type, else all of them."""
    context = sorted(error.context or (), key=_branch)
    branches = [list(errors) for _, errors in groupby(context, key=_branch)]
    meant = [errors for errors in branches if not any(_is_of_other_type(e) for e in errors)]
    if len(meant) == 1:
        for fault in faults(meant[0]):
            yield fault.place[len(place) :], fault.what
    elif meant:
        yield from _does_not_fit(error, place)
    else:
        yield from _wrong_type(error, place)


def _branch(error: ValidationError) -> int:
    return int(error.schema_path[0])


def _is_of_other_type(error: ValidationError) -> bool:
    if error.path:
        return False
    match error.validator:
        case "type":
            return True
        case "const" | "enum":
            choices = error.schema.get("enum", [error.schema.get("const")])
            return all(type(choice) is not type(error.instance) for choice in choices)
        case _:
            return False


def _other(error: ValidationError, place: Place) -> Sentences:
    yield (), _sentence("is not allowed", allowed(error.schema))


_HANDLERS: Mapping[str, Callable[[ValidationError, Place], Sentences]] = {
    "additionalProperties": _unknown_keys,
    "required": _missing_keys,
    "dependentRequired": _missing_beside,
    "type": _wrong_type,
    "enum": _wrong_value,
    "const": _wrong_value,
    "not": _not,
    "uniqueItems": _twice_in_list,
    "anyOf": _no_branch,
    "oneOf": _no_branch,
    **dict.fromkeys(
        (
            "format", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
            "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
        ),
        _does_not_fit,
    ),
}  # fmt: skip


def _sentence(what: str, wanted: str, hint: str = "") -> str:
    return "; ".join(part for part in (what, wanted and f"allowed: {wanted}", hint) if part)


def _near(word: object, known: Iterable[str]) -> str:
    if not isinstance(word, str) or len(word) > _LONGEST_QUOTED:
        return ""
    near = get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else ""


def _quoted(value: object, place: Place) -> str:
    """The value, or "the value" where it might be or hold a secret, or is long."""
    if isinstance(value, dict | list) or is_secret_place(place):
        return "the value"
    text = literal(value)
    is_fit = len(text) <= _LONGEST_QUOTED and not _LOGIN.search(text)
    return text if is_fit else "the value"


def _kind_of(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return "text"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "a table"
        case date() | time():
            return "a date or time"
        case _:
            return "null"


def allowed(schema: Any) -> str:
    """What a schema admits, in a few words: its `title`, else read off its keywords."""
    schema = resolved(schema)
    match schema:
        case {"title": str(title)}:
            return title
        case {"const": value}:
            return literal(value)
        case {"enum": values}:
            return _choices(values)
        case {"anyOf": branches} | {"oneOf": branches}:
            return " or ".join(dict.fromkeys(filter(None, map(allowed, branches))))
        case {"type": types}:
            names = [types] if isinstance(types, str) else types
            return " or ".join(_WORDS[name] for name in names) + _limits(schema)
        case _:
            return _limits(schema).strip()


_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "minLength": "characters: at least {}",
    "maxLength": "characters: at most {}",
    "minItems": "items: at least {}",
    "maxItems": "items: at most {}",
    "minProperties": "keys: at least {}",
    "maxProperties": "keys: at most {}",
    "pattern": "like {}",
}


def _limits(schema: Mapping[str, Any]) -> str:
    limits = [text.format(schema[word]) for word, text in _LIMITS.items() if word in schema]
    return f" ({', '.join(limits)})" if limits else ""


def _choices(values: Iterable[object]) -> str:
    return ", ".join(literal(value) for value in values)
