"""The programs of the operating system that the daemon runs, by their absolute paths.

Only from the system's own folders, and in a fixed order. The daemon is root, and
/usr/local is often the site's, or a user's: what lies there is never run by us.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import Unavailable

FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
SEARCH_PATH = ":".join(FOLDERS)
"""For what such a program itself runs by its name."""


def program(name: str, folders: tuple[str, ...] = FOLDERS) -> str:
    """The first one of that name that is root's and that nobody else can write to.

    Raises Unavailable when there is none.
    """
    paths = [Path(folder, name) for folder in folders]
    for path in paths:
        if _is_systems(path):
            return str(path)
    raise Unavailable(f"the program {name} is not in {', '.join(folders)}, or is not root's alone")


def _is_systems(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    is_roots = status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return is_roots and stat.S_ISREG(status.st_mode) and os.access(path, os.X_OK)
