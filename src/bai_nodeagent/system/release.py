"""Which version of Backend.AI's agent an environment holds, from its files alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .distributions import folders_of, interpreter_of

_METADATA = re.compile(r"backend[._-]ai[._-]agent-([^-]+)\.dist-info", re.IGNORECASE)


def agent_version(command: Sequence[str]) -> str:
    """The version that a command line runs; "" where that can't be told. Blocks.

    A source checkout (`./backend.ai`) has none. Names: the installed-project
    layout of PyPA's recording specification.
    """
    try:
        python = interpreter_of(command)
        folders = folders_of(python) if python and python.exists() else ()
        return next((version for folder in folders for version in _versions(folder)), "")
    except OSError:
        return ""


def _versions(folder: Path) -> list[str]:
    matches = (_METADATA.fullmatch(path.name) for path in folder.glob("backend*-info"))
    return [match[1] for match in matches if match]
