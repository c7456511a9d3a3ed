"""The program's own files, which an upgrade replaces or removes while the daemon runs.

So the daemon loads all of itself before it keeps a node: what is imported at
first use only would be missing, or of another version, in the middle of the
work. Each client of a third party is imported by one of our modules, so it is
loaded with them.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path

from . import __name__ as _name
from . import __path__ as _path


def load() -> None:
    """Imports every module of the package."""
    for module in pkgutil.walk_packages(_path, f"{_name}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


def stamp() -> tuple[int, int] | None:
    """Tells one installation from the next; None: the files are gone."""
    try:
        status = os.stat(Path(__file__).with_name("__init__.py"))  # noqa: PTH116
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
