"""Which release of Backend.AI's agent an environment holds, from its files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .distributions import folders_of, interpreter_of

_METADATA = re.compile(r"backend[._-]ai[._-]agent-([^-]+)\.dist-info", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Release:
    """An installed agent: its version, its interpreter and the folder of its metadata."""

    version: str
    python: Path
    metadata: Path


def find(command: Sequence[str]) -> Release | None:
    """The release that a command line runs; None where that can't be told. Blocks.

    A source checkout (`./backend.ai`) has none. Names: the installed-project
    layout of PyPA's recording specification.
    """
    try:
        python = interpreter_of(command)
        folders = folders_of(python) if python and python.exists() else ()
        return next((each for folder in folders for each in _releases(python, folder)), None)
    except OSError:
        return None


def _releases(python: Path | None, folder: Path) -> Iterator[Release]:
    for path in folder.glob("backend*-info"):
        if python and (match := _METADATA.fullmatch(path.name)):
            yield Release(match[1], python, path)
