"""Which values are secret, by their place in a document alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MASK = "********"
_TELLING = ("password", "passwd", "secret", "token", "credential")

Place = tuple[str | int, ...]
"""Where a value is in a document: keys, and positions in lists."""


def is_secret_key(name: str) -> bool:
    """Whether a value of this name, with all below it, is a secret. Case does not count."""
    folded = name.casefold()
    return folded.endswith("key") or any(word in folded for word in _TELLING)


def is_secret_place(place: Sequence[str | int]) -> bool:
    return any(isinstance(part, str) and is_secret_key(part) for part in place)


def mask(value: object, place: Place = ()) -> object:
    """A copy that may be shown: every secret in it, below `place`, is replaced by stars.

    The name in `{secret = NAME}` is masked as well: somebody may have written
    the secret itself there.
    """
    if is_secret_place(place):
        return MASK
    if isinstance(value, Mapping):
        return {key: mask(item, (*place, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(item, (*place, index)) for index, item in enumerate(value)]
    return value
