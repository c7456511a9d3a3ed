"""A survey of folders that others own, bounded in all that it takes.

Their owner may lay a pipe there, a link to a device, a file without an end or a
million entries. What is found is only ever parsed, so links count, his as well.
"""

from __future__ import annotations

import glob
import os
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import Refused
from . import files

# Of one survey. A large environment has 1,500 entries, and some 200 kB are read of it.
ENTRIES_AT_MOST = 50_000
BYTES_AT_MOST = 8 << 20
FILE_AT_MOST = 1 << 20


class Survey:
    """One such survey. All of it blocks, and raises OSError and Refused: NotAFile, TooLarge."""

    def __init__(self, entries: int = ENTRIES_AT_MOST) -> None:
        self._entries = self._entries_at_most = entries
        self._bytes = BYTES_AT_MOST

    def spend(self, entries: int, path: Path) -> None:
        """Counts what is to be read because of that path."""
        self._entries -= entries
        if self._entries < 0:
            most = self._entries_at_most
            text = f"with {files.shown(path)} more than {most} entries are to be read in all"
            raise Refused("TooLarge", f"{text}, so they are not; remove what is too much")

    def names(self, folder: Path) -> list[str]:
        """Sorted; none where there is no such folder."""
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self.spend(1, folder)
                    found.append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found)

    def glob(self, folder: Path, pattern: str) -> list[Path]:
        """As Path.glob, sorted; without `**`."""
        found = [folder]
        for part in pattern.split("/"):
            if glob.has_magic(part):
                names = ((each, name) for each in found for name in self.names(each))
                found = [each / name for each, name in names if fnmatchcase(name, part)]
            else:
                found = [each / part for each in found]
        return [path for path in found if path.exists()]

    def text(self, path: Path, errors: str = "strict") -> str | None:
        """A file as UTF-8; None: nothing is there, or a folder. Raises UnicodeDecodeError."""
        self.spend(1, path)
        try:
            raw = files.read_bounded(path, FILE_AT_MOST)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Refused:
            if path.is_dir():  # an interpreter passes it over as well
                return None
            raise
        self._bytes -= len(raw)
        if self._bytes < 0:
            text = f"with {files.shown(path)} more than {BYTES_AT_MOST} bytes are to be read in all"
            raise Refused("TooLarge", f"{text}, so they are not; remove what is too much")
        return raw.decode(errors=errors)
