"""Which release of Backend.AI's agent an environment holds, from its files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....errors import Refused
from ....system.interpreter import folders_of, interpreter_of
from ....system.survey import Survey

_METADATA = re.compile(r"backend[._-]ai[._-]agent-([^-]+)\.dist-info", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Release:
    """An installed agent: its version, its interpreter and the folder of its metadata."""

    version: str
    python: Path
    metadata: Path


def find(command: Sequence[str]) -> Release | None:
    """The release that a command line runs; None if that is not known. Blocks.

    A source checkout (`./backend.ai`) has none. Names: the installed-project
    layout of PyPA's recording specification.
    """
    try:
        python = interpreter_of(command)
        return next(_releases(python), None) if python and python.exists() else None
    except (OSError, Refused, ValueError):
        return None


def _releases(python: Path) -> Iterator[Release]:
    survey = Survey()
    for folder in folders_of(python, survey):
        for path in survey.glob(folder, "backend*-info"):
            if match := _METADATA.fullmatch(path.name):
                yield Release(match[1], python, path)
