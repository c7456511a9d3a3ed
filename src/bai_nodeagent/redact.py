"""Keeps secrets out of everything that leaves the process: logs, status, errors, terminals.

Three ways to know one: it was learnt (what documents and agent.toml hold, as
it is and in the forms in which programs write it), it is in a URL as
`//user:password@`, or after a telling name, as `--token=…` or `"password": "…"`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any
from urllib.parse import quote, quote_plus

from .desired import MASK
from .text import clean

# A shorter text is in too many innocent places: masking it everywhere
# would garble messages and give it away. It is masked where it is a value of its own.
SHORTEST_SEARCHED = 4
# Of one document or file, each line of one counted, and bytes of them: each costs time of every
# text that leaves. What has more is not shown, or refused.
SECRETS_AT_MOST = 500
BYTES_AT_MOST = 64 << 10
# What is kept of all documents, and of all files: the newest.
KEPT_AT_MOST = 1000
KEPT_BYTES_AT_MOST = 256 << 10

_USER_INFO = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")
_NAME = r"(?:password|passwd|passphrase|\bpass|\bpwd|secret|token|credentials?|[_.-]key|api_?key)"
# It is quoted, or ends where a word does. Stars are left: they are a mask already.
# Backslashes are few: what is searched again at each letter must not be long.
_QUOTE = r"""\\{0,16}["']"""
_VALUE = rf"""(?P<quote>{_QUOTE})?+(?!\*\*\*)(?(quote)(?:(?!(?P=quote)).)+|[^\s"'&,]+)"""
_TELLING = tuple(
    re.compile(f"({before}){_VALUE}", re.IGNORECASE)
    for before in (
        rf"""{_NAME}(?:{_QUOTE})?[ \t]?=(?!=)[ \t]?""",
        rf"""{_NAME}{_QUOTE}[ \t]?:[ \t]?(?=[\\"'\d])""",
        rf"(?<![\w-])--[\w-]{{0,40}}{_NAME}[ \t]+(?!-)",
        r"\bauthorization\b\W{1,5}(?:basic|bearer)[ \t]+",
    )
)
_REFERENCE = re.compile(r"{\s?\"?secret\"?\s?=\s?\Z")  # `{ secret = NAME }` names one


# Whatever is so short and stands as the whole of a value: after = or in quotes.
_SHORT = tuple(
    re.compile(
        rf"(?<==).{{{n}}}(?=[\s\"',;&)\]}}]|\Z)|(?<=[\"']).{{{n}}}(?=[\"'])|\A.{{{n}}}\Z", re.DOTALL
    )
    for n in range(SHORTEST_SEARCHED - 1, 0, -1)
)


def size(text: str) -> int:
    """In bytes, as a secret counts for bounds."""
    return len(text.encode(errors="replace"))


def texts(secrets: Iterable[str]) -> set[str]:
    """What is masked of them: programs print line by line.

    Of several lines those count that say something: an indented blank one is in every text.
    """
    found = {text for each in secrets for text in (each, *_lines(each))}
    return found - {""}


def _lines(text: str) -> list[str]:
    lines = text.splitlines()
    if len(lines) < 2:
        return lines
    return [each for each in lines if len(each.strip()) >= SHORTEST_SEARCHED]


def is_too_much(secrets: Iterable[str]) -> bool:
    """Whether one document or file has more of them than can be masked."""
    found = texts(secrets)
    return len(found) > SECRETS_AT_MOST or sum(map(size, found)) > BYTES_AT_MOST


class Redactor:
    """Masks every secret that it has learnt, old ones included, in any text.

    Those of documents and those that others lay down have a place each, so that neither kind
    makes the other forgotten; the newest are kept.
    """

    def __init__(self) -> None:
        self._of_documents: tuple[str, ...] = ()  # the newest last
        self._passing: tuple[str, ...] = ()
        self._known: frozenset[str] = frozenset()
        self._forms: dict[str, tuple[str, ...]] = {}
        self._needles: tuple[str, ...] = ()
        self._short: frozenset[str] = frozenset()

    def learn(self, secrets: Iterable[str]) -> None:
        """From now on masks these of the documents, in every form in which programs write them.

        Lines of a secret of several lines count each, since programs print line by line.
        """
        self._of_documents = _newest(self._of_documents, texts(secrets))
        self._make()

    def learn_passing(self, secrets: Iterable[str]) -> None:
        """The same of those that others lay down, in agent.toml or in etcd."""
        self._passing = _newest(self._passing, texts(secrets))
        self._make()

    def _make(self) -> None:
        known = frozenset((*self._of_documents, *self._passing))
        if known == self._known:
            return
        self._known = known
        long = {text for text in known if len(text) >= SHORTEST_SEARCHED}
        self._forms = {text: self._forms.get(text) or tuple(_forms(text)) for text in long}
        forms = {form for each in self._forms.values() for form in each}
        # Longest first: one secret may be part of another.
        self._needles = tuple(sorted(forms, key=len, reverse=True))
        self._short = known - long

    def __call__(self, text: str) -> str:
        for needle in self._needles:
            text = text.replace(needle, MASK)
        for pattern in _SHORT if self._short else ():
            text = pattern.sub(lambda found: MASK if found[0] in self._short else found[0], text)
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


def _newest(kept: Sequence[str], found: Collection[str]) -> tuple[str, ...]:
    """Of all, in the order in which they were found last, as many as there is room for."""
    newest = [*(text for text in kept if text not in found), *sorted(found)][-KEPT_AT_MOST:]
    sums = [*accumulate(map(size, reversed(newest)))]
    fitting = sum(total <= KEPT_BYTES_AT_MOST for total in sums)
    return tuple(newest[len(newest) - fitting :])


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
