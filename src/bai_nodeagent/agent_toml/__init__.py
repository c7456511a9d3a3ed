"""agent.toml as text: how it differs from what is desired, and the text that does not (pure).

What is *managed* are single places (`values`); everything else in the file
belongs to others and stays, byte by byte where possible. The invariants of
`edit`, each checked on its outcome before anybody may write it:

- tomllib reads it, and no managed place differs any more;
- what is not managed means the same as before.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from .. import toml
from ..errors import Refused
from ..model import UNSET, KeyPath
from . import splice
from .mask import diff, holds_secret, secrets
from .merge import merged, respelled
from .places import (
    DEFAULT_PORTS,
    Values,
    addresses,
    as_address,
    as_endpoints,
    is_met,
    is_of_an_address,
    is_same,
    joined,
    lookup,
    owned,
    present,
    rest,
)
from .splice import spelled

__all__ = [
    "DEFAULT_PORTS",
    "Drift",
    "Values",
    "as_address",
    "as_endpoints",
    "diff",
    "difference",
    "edit",
    "fault",
    "holds_secret",
    "is_readable",
    "is_same",
    "is_usable",
    "lookup",
    "lost_endpoints",
    "managed",
    "secrets",
    "spelled",
    "with_tables",
]


@dataclass(frozen=True, slots=True)
class Drift:
    """One managed place that is not as desired; UNSET stands for "not there"."""

    path: KeyPath
    found: Any = field(repr=False)
    desired: Any = field(repr=False)

    def __str__(self) -> str:
        return ".".join(self.path)


def is_usable(raw: bytes) -> bool:
    """Whether a file's content is TOML with anything in it at all, be it a comment."""
    return bool(raw.strip()) and not fault(raw)


def fault(raw: bytes) -> str:
    """Why a file's content is no TOML, with line and column; "" where it is."""
    if raw.startswith(codecs.BOM_UTF8):
        return "it begins with a byte order mark (at line 1, column 1); save it without"
    try:
        toml.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        return f"the byte 0x{raw[error.start]:02x} is no UTF-8 (at line {line}, column {column})"
    except ValueError as error:
        return str(error)
    return ""


def is_readable(text: str | None) -> bool:
    """Whether a text is TOML, be it an empty one; None stands for that."""
    return text is None or not text.strip() or is_usable(text.encode(errors="replace"))


def managed(text: str, values: Values) -> dict[KeyPath, Any]:
    """The values at the managed places of a text, addresses in one form. A place that is not in
    the text is not in the result."""
    document = toml.loads(text)
    found = {path: present(document, path, values) for path in sorted(values)}
    return {path: value for path, value in found.items() if value is not UNSET}


def difference(text: str, values: Values, optional: Collection[KeyPath] = ()) -> tuple[Drift, ...]:
    """The managed places that differ, type and all: 1 is neither True nor 1.0. Sorted by place.

    `optional` places differ only where the file has their top-level table.
    """
    document = toml.loads(text)
    asked = _asked(text, values, optional)
    pairs = [(p, present(document, p, values), v) for p, v in asked.items()]
    return tuple(Drift(*pair) for pair in pairs if not is_met(*pair[1:]))


def edit(
    text: str,
    values: Values,
    optional: Collection[KeyPath] = (),
    reference: str | None = None,
) -> str:
    """The text with every managed place as desired, and nothing else changed.

    `reference` is the last text that was in line. Where only managed keys
    have changed since, the outcome is the reference byte by byte.

    Raises Refused("EditFailed"). Both texts must be valid TOML.
    """
    drifts = difference(text, values, optional)
    if not drifts:
        return text
    starts = [text] if reference is None else [merged(text, reference, owned(values)), text]
    for start in starts:
        try:
            out = _repaired(start, values, optional, reference)
            if _is_right(out, text, values, optional):
                return out
        except (ValueError, RecursionError):
            continue
    raise Refused(
        "EditFailed",
        f"the file's layout does not let {', '.join(map(str, drifts))} be changed without "
        "touching other keys, so nothing was written; give these keys a [table] of their own",
    )


def lost_endpoints(text: str, values: Values) -> tuple[str, ...]:
    """Of lists of addresses that will give way to a single one: the others, for people."""
    document, changed = toml.loads(text), {d.path[:-1] for d in difference(text, values)}
    return tuple(
        f"{joined(each) or each['host']} of {'.'.join(place)}"
        for place in sorted(changed & addresses(values))
        for each in as_endpoints(lookup(document, place))
        if each["host"] != values.get((*place, "host"))
    )


def with_tables(text: str, values: Values) -> str:
    """The text with every managed address as a table, which is the form that all agents take."""
    out = text
    for place in sorted(addresses(values)):
        if address := as_address(lookup(toml.loads(out), place)):
            out = splice.put(out, place, address)
    places = addresses(values)
    is_right = is_same(rest(toml.loads(text), places), rest(toml.loads(out), places))
    return out if is_right else text


def _asked(text: str, values: Values, optional: Collection[KeyPath]) -> dict[KeyPath, Any]:
    tables = toml.loads(text).keys()
    return {p: values[p] for p in sorted(values) if p not in optional or p[0] in tables}


def _repaired(
    text: str, values: Values, optional: Collection[KeyPath], reference: str | None
) -> str:
    drifts = difference(text, values, optional)
    plain = {d.path: d.desired for d in drifts if _is_plain(d)}
    text = splice.put_all(text, plain)
    for drift in drifts:
        if drift.path not in plain:
            text = _set(text, drift.path, values)
    if reference is not None:
        text = respelled(text, reference, [drift.path for drift in drifts])
    return text


def _is_plain(drift: Drift) -> bool:
    """A value that is put where it belongs, whatever else changes."""
    return drift.desired is not UNSET and drift.desired != {} and not is_of_an_address(drift.path)


def _set(text: str, path: KeyPath, values: Values) -> str:
    value = values[path]
    if is_of_an_address(path):
        place = path[:-1]
        found = lookup(toml.loads(text), place)
        if address := as_address(found):
            whole = _present({**address, path[-1]: value})
            return splice.put(text, place, _in_form_of(found, whole))
        if many := as_endpoints(found):
            asked = {n: values[key] for n in ("host", "port") if (key := (*place, n)) in values}
            return splice.put(text, place, _present({**many[0], **asked}))
        if path[-1] == "host" and place in DEFAULT_PORTS and not isinstance(found, dict):
            port = values.get((*place, "port"), DEFAULT_PORTS[place])
            return splice.put(text, place, _present({"host": value, "port": port}))
    return splice.remove(text, path) if value is UNSET else splice.put(text, path, value)


def _present(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not UNSET}


def _in_form_of(found: object, address: dict[str, Any]) -> object:
    """An address in the form that is there, or as a table where that form can't say it."""
    if isinstance(found, str):
        return joined(address) or address
    whole = list(address.values())
    return whole if is_same(as_address(whole), address) else address


def _is_right(out: str, text: str, values: Values, optional: Collection[KeyPath]) -> bool:
    before, after = toml.loads(text), toml.loads(out)
    # An address that was missing as a whole comes with its port.
    found = {path: lookup(before, path) for path in addresses(values)}
    fresh = {p for p, v in found.items() if not isinstance(v, dict) and not as_address(v)}
    places = owned(values) | fresh
    is_untouched = is_same(rest(before, places), rest(after, places))
    return is_untouched and not difference(out, values, optional)
