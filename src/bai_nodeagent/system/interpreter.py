"""Where a Python interpreter looks for packages, from files alone.

Nothing of that interpreter is run: the daemon is root, and an environment often
belongs to somebody else. So it is judged by the layout that the `site` module
describes: prefix, pyvenv.cfg, and the plain lines of .pth files. The owner may have
laid there whatever he likes: see `survey`. Everything here blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from os.path import realpath
from pathlib import Path
from typing import TypeVar

from ..errors import Refused
from . import files
from .executable import EXEC_LINE
from .survey import Survey

# Each of them is watched.
FOLDERS_AT_MOST = 100
_HEAD_BYTES = 1024
_PYTHON = re.compile(r"python[0-9.]*")
T = TypeVar("T")


def at_most(number: int, found: Iterable[T], what: str, python: Path) -> tuple[T, ...]:
    """What is found, as a tuple. Raises Refused("TooLarge") where that is more."""
    items = tuple(islice(found, number + 1))
    if len(items) > number:
        raise Refused("TooLarge", f"{files.shown(python)} has more than {number} {what}")
    return items


def interpreter_of(command: Sequence[str]) -> Path | None:
    """The interpreter that a command line runs with; None where it doesn't show.

    Blocks. Raises OSError, Refused: NotAFile.
    """
    if not command:
        return None
    program = Path(command[0])
    if _PYTHON.fullmatch(program.name):
        return program
    try:
        head = files.head(program, _HEAD_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None
    named = EXEC_LINE.search(head)
    path = Path(named[1] if named else _shebang(head))
    return path if path.is_absolute() and _PYTHON.fullmatch(path.name) else None


def _shebang(head: str) -> str:
    words = head.partition("\n")[0].removeprefix("#!").split()
    return words[0] if head.startswith("#!") and words else ""


def folders_of(python: Path, survey: Survey) -> tuple[Path, ...]:
    """Where an interpreter looks for distributions, in its order. Blocks."""
    prefix = python.parent.parent
    venv = _settings(prefix / "pyvenv.cfg", survey)
    if venv is None:
        found = _of_installed(python, survey)
    else:
        version = venv.get("version", venv.get("version_info", ""))
        found = _below(prefix, ".".join(version.split(".")[:2]), survey)
        if venv.get("include-system-site-packages", "").lower() == "true":
            home = Path(venv.get("home", "/usr/bin"))
            found += _of_installed(home / Path(realpath(python)).name, survey)
    extended = (each for f in found for each in (f, *_named_in_pth(f, survey)))
    folders = at_most(FOLDERS_AT_MOST, extended, "folders of packages", python)
    # lib64 is often a link to lib.
    return tuple({realpath(folder): folder for folder in reversed(folders)}.values())[::-1]


def _of_installed(python: Path, survey: Survey) -> list[Path]:
    """Of an interpreter that is no environment's."""
    real = Path(realpath(python))  # which minds no loop of links
    return _below(real.parent.parent, real.name.removeprefix("python"), survey)


def _settings(file: Path, survey: Survey) -> Mapping[str, str] | None:
    text = survey.text(file, errors="replace")
    if text is None:
        return None
    pairs = (line.partition("=") for line in text.split("\n"))
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _below(prefix: Path, version: str, survey: Survey) -> list[Path]:
    """Of a version such as "3.11"; of all that are there when it isn't known."""
    python = f"python{version}" if re.fullmatch(r"3\.\d+", version) else "python3.*"
    patterns = [f"lib*/{python}/site-packages"]
    if prefix == Path("/usr"):  # Debian's own interpreter
        patterns = [f"local/lib/{python}/dist-packages", *patterns, "lib/python3/dist-packages"]
    return [folder for pattern in patterns for folder in survey.glob(prefix, pattern)]


def _named_in_pth(folder: Path, survey: Survey) -> Iterator[Path]:
    for file in survey.glob(folder, "*.pth"):
        lines = (survey.text(file, errors="replace") or "").split("\n")
        survey.spend(len(lines), file)
        for line in lines:
            name = line.strip()
            is_path = name and not name.startswith(("#", "import ", "import\t"))
            if is_path and (folder / name).is_dir():
                yield folder / name
