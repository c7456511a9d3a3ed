"""Words of others, made fit to be shown: printable, bounded, and nothing that a terminal obeys.

Whatever comes from outside as *words* passes here where it enters: error texts,
output of programs, names for people, another node's status. A path that is still
to be opened stays as it is (`os.fsdecode`), and is cleaned where it is shown.

A character that is not printable is written as Python would escape it (`\\x1b`,
`\\n`, `\\u202e`), a byte that is no UTF-8 as `\\xff`. A backslash stays one: so cleaning
twice is cleaning once, and the result is for people, not to be read back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

LINE_AT_MOST = 2_000
TEXT_AT_MOST = 64_000
_CUT = "…"
_ODD = re.compile(r"[^\x20-\x7e]")


def clean(value: str | bytes, limit: int = LINE_AT_MOST) -> str:
    """One printable line of at most `limit` characters; "…" stands for what was cut off."""
    return _bounded(_shown(_characters(value, limit)), limit)


def clean_lines(value: str | bytes, limit: int = TEXT_AT_MOST) -> str:
    """The same for text of several lines: line feeds and tabs stay."""
    return _bounded(_shown(_characters(value, limit), kept="\n\t"), limit)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON of a value, equal to any other of it, in which nothing but line feeds of `indent`
    is not printable: JSON itself leaves C1, bidi marks and half pairs as they are."""
    text = json.dumps(value, ensure_ascii=False, default=str, indent=indent)
    return _ODD.sub(lambda odd: odd[0] if odd[0].isprintable() else _escaped(odd[0]), text)


def _escaped(odd: str) -> str:
    return odd if odd == "\n" else json.dumps(odd)[1:-1]


def _characters(value: str | bytes, limit: int) -> str:
    """A little more than `limit` characters at most: what a stranger sends costs no more."""
    if isinstance(value, bytes):
        value = value[: 4 * (limit + 2)].decode("utf-8", "surrogateescape")
    return value[: limit + 1]


def _shown(text: str, kept: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(_pieces(text, kept))


def _pieces(text: str, kept: str) -> Iterator[str]:
    for each in text:
        if each.isprintable() or each in kept:
            yield each
        elif "\udc80" <= each <= "\udcff":  # a byte, as surrogateescape keeps it
            yield f"\\x{ord(each) - 0xDC00:02x}"
        else:
            yield each.encode("unicode_escape").decode("ascii")


def _bounded(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + _CUT
