"""TOML that others wrote, parsed within bounds and once (pure, standard library alone).

tomllib needs time and memory by the square of a key's parts: 200 kB of
"a.a.a…" end the process, a document of 1 MiB full of [a.b.b.b…] takes 37 s.
So keys are counted before it is asked. The text's size is bounded by whoever
reads it.
"""

from __future__ import annotations

import functools
import re
import tomllib
from typing import Any

# Of one key. A document or an agent.toml nests five or six deep.
PARTS_AT_MOST = 100
# The sum over all keys of the square of their parts: some 50,000 ordinary keys.
EFFORT_AT_MOST = 1_000_000
# TOML has 64, and agents take more. Far beyond, Python itself refuses to print a number.
NUMBER_BITS_AT_MOST = 4096

# From its beginning on alone: else a word of a megabyte is begun a million times.
_PART = r"""(?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
# A key of several parts. It may as well stand in a string: that only counts too much.
_CHAIN = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART})++")
_EACH = re.compile(_PART)


class TooComplex(ValueError):
    """More than anybody means to write; the text says what, without the file."""


class TooDeep(TooComplex):
    """Nested beyond what a parser can follow."""


@functools.lru_cache(maxsize=8)
def loads(text: str) -> dict[str, Any]:
    """What a text means. It is shared with others who ask for the same text: change nothing in it.

    Raises TooComplex, and tomllib.TOMLDecodeError (both are ValueErrors).
    """
    _bound(text)
    try:
        document = tomllib.loads(text)
        is_printable = _is_printable(document)
    except RecursionError:
        raise TooDeep("it is nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # int() of more than 4300 digits
        is_printable = False
    if not is_printable:
        raise TooComplex("it holds a number beyond 64 bits")
    return document


def _is_printable(value: object) -> bool:
    """False for what has a number that Python reads in hexadecimal, and never prints in decimal."""
    match value:
        case dict():
            return all(map(_is_printable, value.values()))
        case list():
            return all(map(_is_printable, value))
        case int():
            return value.bit_length() <= NUMBER_BITS_AT_MOST
    return True


def _bound(text: str) -> None:
    effort = 0
    for match in _CHAIN.finditer(text):
        # A dot in a quoted part counts as well; only what is near the bound is looked at closer.
        parts = match[0].count(".") + 1
        if parts > PARTS_AT_MOST and (parts := len(_EACH.findall(match[0]))) > PARTS_AT_MOST:
            raise TooComplex(f"it holds a dotted key of more than {PARTS_AT_MOST} parts")
        effort += parts * parts
    if effort > EFFORT_AT_MOST:
        raise TooComplex("it holds too many long dotted keys")
