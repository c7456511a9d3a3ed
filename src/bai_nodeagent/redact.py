"""Keeps secrets out of everything that leaves the process: logs, status, errors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .desired import MASK

# A shorter text stands in too many innocent places: masking it everywhere
# would garble messages and give it away. Where it stands as a value of its
# own, it is masked by the name of its key.
SHORTEST_SEARCHED = 4


class Redactor:
    """Masks every secret that it has been told of, old ones included, in any text."""

    def __init__(self) -> None:
        self._needles: tuple[str, ...] = ()

    def learn(self, secrets: Iterable[str]) -> None:
        """From now on masks these as well, as they are and as JSON or TOML would write them.

        Lines of a secret of several lines count each, since programs print line by line.
        """
        known = set(self._needles)
        for secret in secrets:
            for text in (secret, *secret.splitlines()):
                known |= {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        # Longest first: one secret may be part of another.
        fit = (text for text in known if len(text) >= SHORTEST_SEARCHED)
        self._needles = tuple(sorted(fit, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        for needle in self._needles:
            text = text.replace(needle, MASK)
        return text

    def value(self, value: Any) -> Any:
        """A log event's value with every string in it masked."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {key: self.value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value


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
