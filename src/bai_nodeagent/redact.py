"""Keeps secrets out of everything that leaves the process: logs, status, errors, terminals.

Three ways to know one: it was learnt (what documents and agent.toml hold, as
it is and in the forms in which programs write it), it stands in a URL as
`//user:password@`, or after a name that tells, as `--token=…` or `"password": "…"`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from .desired import MASK
from .text import clean

# A shorter text stands in too many innocent places: masking it everywhere
# would garble messages and give it away. It is masked where it stands as a value of its own.
SHORTEST_SEARCHED = 4

_USER_INFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_NAME = r"(?:password|passwd|passphrase|\bpass|\bpwd|secret|token|credentials?|[_.-]key|api_?key)"
# It is quoted, or ends where a word does. Stars are left: they are a mask already.
_VALUE = r"""(?P<quote>\\*["'])?+(?!\*\*\*)(?(quote)(?:(?!(?P=quote)).)+|[^\s"'&,]+)"""
_TELLING = tuple(
    re.compile(f"({before}){_VALUE}", re.IGNORECASE)
    for before in (
        rf"""{_NAME}\\*["']?[ \t]?=(?!=)[ \t]?""",
        rf"""{_NAME}\\*["'][ \t]?:[ \t]?(?=[\\"'\d])""",
        rf"--[\w-]{{0,40}}{_NAME}[ \t]+(?!-)",
        r"\bauthorization\b\W{1,5}(?:basic|bearer)[ \t]+",
    )
)
_REFERENCE = re.compile(r"{\s?\"?secret\"?\s?=\s?\Z")  # `{ secret = NAME }` names one


class Redactor:
    """Masks every secret that it has been told of, old ones included, in any text."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._needles: tuple[str, ...] = ()
        self._short: tuple[re.Pattern[str], ...] = ()

    def learn(self, secrets: Iterable[str]) -> None:
        """From now on masks these as well, in every form in which programs write them.

        Lines of a secret of several lines count each, since programs print line by line.
        """
        texts = {text for each in secrets for text in (each, *each.splitlines()) if text}
        if texts <= self._known:
            return
        self._known |= texts
        long = {text for text in self._known if len(text) >= SHORTEST_SEARCHED}
        forms = {form for text in long for form in _forms(text)}
        # Longest first: one secret may be part of another.
        self._needles = tuple(sorted(forms, key=len, reverse=True))
        self._short = tuple(map(_alone, sorted(self._known - long, key=len, reverse=True)))

    def __call__(self, text: str) -> str:
        for needle in self._needles:
            text = text.replace(needle, MASK)
        for pattern in self._short:
            text = pattern.sub(MASK, text)
        if "@" in text:
            text = _USER_INFO.sub(f"{MASK}@", text)
        for pattern in _TELLING:
            text = pattern.sub(_without_value, text)
        return text

    def value(self, value: Any) -> Any:
        """A value for JSON with every string in it masked; keys stay."""
        if isinstance(value, str):
            return MASK if value in self._known else self(value)
        if isinstance(value, dict):
            return {key: self.value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value


def _without_value(found: re.Match[str]) -> str:
    end = found.end(1)
    if _REFERENCE.search(found.string[max(0, end - 20) : end]):
        return found[0]
    return f"{found[1]}{found['quote'] or ''}{MASK}"


def _forms(text: str) -> Iterator[str]:
    """How programs write a text of some length: as it is, escaped, in URLs, encoded."""
    yield from (text, clean(text, len(text) * 10), repr(text)[1:-1])
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    yield from (quote(text), quote(text, safe=""), quote_plus(text))
    raw = text.encode(errors="surrogateescape")
    yield raw.hex()
    # Base64 of something that holds it: three bytes become four characters, so it
    # may begin at three places; what is made of other bytes as well is left off.
    for before in range(3):
        whole = len(raw) + before - (len(raw) + before) % 3
        encoded = base64.b64encode((b"\0" * before + raw)[:whole]).decode()
        core = encoded[4 if before else 0 :]
        if len(core) >= 2 * SHORTEST_SEARCHED:
            yield from (core, core.replace("+", "-").replace("/", "_"))


def _alone(short: str) -> re.Pattern[str]:
    """A short text as the whole of a value: after = or in quotes."""
    own = re.escape(short)
    return re.compile(rf"(?<==){own}(?=[\s\"',;&)\]}}]|\Z)|(?<=[\"']){own}(?=[\"'])|\A{own}\Z")


def strings_in(value: Any) -> Iterable[str]:
    """Every string in a nested value of a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings_in(each)
