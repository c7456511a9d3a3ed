"""Accelerator plugins in another interpreter's environment, from its files alone.

Nothing of that environment is run: the daemon is root, the environment often
belongs to the agent's user, and a plugin's import may take a GPU driver with
it. So where an interpreter looks is judged by the layout that the `site`
module describes: prefix, pyvenv.cfg, and the plain lines of .pth files. What
only code could tell (an editable install's import hook) is given the benefit
of the doubt. Its owner may have laid there whatever he likes: see `survey`.
Everything here blocks; call it through `look`.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from email.parser import HeaderParser
from glob import escape
from importlib.metadata import EntryPoint, PathDistribution
from itertools import islice
from os import PathLike
from os.path import realpath
from pathlib import Path
from typing import TypeVar

import anyio

from ..kinds.plugins.rules import QUIET_S, Environment, Plugin, PluginRules
from ..model import Refused, Stuck, Unavailable
from ..text import clean
from . import files, inotify
from .blocking import in_thread
from .executable import EXEC_LINE
from .survey import Survey

GROUP = "backendai_accelerator_v21"
LOOK_DEADLINE_S = 5.0
# Each of them is watched.
FOLDERS_AT_MOST = 100
PLUGINS_AT_MOST = 100
_NAME_AT_MOST = 200
_MODULE_AT_MOST = 200
_HEAD_BYTES = 1024
T = TypeVar("T")
_PYTHON = re.compile(r"python[0-9.]*")


async def look(rules: PluginRules, asker: str) -> Environment | None:
    """The environment that `[plugins]` is about; None where it can't be told which one that is.

    `asker` tells apart who asks at the same time. Raises Unavailable, Stuck, and Refused:
    NotAFile, TooLarge, Broken.
    """
    return await in_thread(
        f"{asker}: what is installed", lambda: environment(rules), LOOK_DEADLINE_S
    )


async def changes(
    rules: PluginRules, asker: str, *, are_settled: bool = False
) -> AsyncGenerator[None, None]:
    """Yields at the start of the watch, and when packages or a plugin's module come or go;
    if `are_settled`, then once nobody installs anything any more. Raises Unavailable.
    """
    try:
        while True:
            watched = _watched(await look(rules, asker), rules)
            async with aclosing(inotify.changes(watched, is_apart=True)) as events:
                async for _ in events:
                    if are_settled:
                        await _settle(rules, asker)
                    yield
                    if _watched(await look(rules, asker), rules) != watched:
                        break
    except (Refused, Stuck, OSError) as error:
        raise Unavailable(f"{asker}: {error}") from error


async def _settle(rules: PluginRules, asker: str) -> None:
    seen = await look(rules, asker)
    while seen is not None and not seen.is_quiet(time.time()):
        await anyio.sleep(seen.changed_s + QUIET_S - time.time())
        seen = await look(rules, asker)


def _watched(seen: Environment | None, rules: PluginRules) -> list[Path]:
    if seen is None:
        return [Path(program) for program in rules.command[:1]]
    venv = seen.python.parent.parent / "pyvenv.cfg"
    return [seen.python, venv, *seen.folders, *(plugin.file for plugin in seen.plugins)]


def environment(rules: PluginRules) -> Environment | None:
    """See `look`. Blocks."""
    survey = Survey()
    try:
        python = rules.python or interpreter_of(rules.command)
        if python is None:
            return None
        folders = folders_of(python, survey) if python.exists() else ()
        plugins = _at_most(PLUGINS_AT_MOST, _plugins(folders, survey), "plugins", python)
        return Environment(
            python,
            folders,
            tuple(sorted(plugins)),
            max((folder.stat().st_mtime for folder in folders), default=0.0),
        )
    except OSError as error:
        raise Unavailable(f"{files.shown(error.filename)}: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, a path with a null
        raise Unavailable(f"what stands beside {python} can't be made out: {error}") from error


def _at_most(number: int, found: Iterable[T], what: str, python: Path) -> tuple[T, ...]:
    taken = tuple(islice(found, number + 1))
    if len(taken) > number:
        raise Refused("TooLarge", f"{files.shown(python)} has more than {number} {what}")
    return taken


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
            found += _of_installed(home / python.resolve().name, survey)
    extended = (each for f in found for each in (f, *_named_in_pth(f, survey)))
    folders = _at_most(FOLDERS_AT_MOST, extended, "folders of packages", python)
    # lib64 is often a link to lib.
    return tuple({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


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


class _Distribution(PathDistribution):
    """One whose files are read within the bounds of a survey."""

    def __init__(self, metadata: Path, survey: Survey) -> None:
        super().__init__(metadata)
        self.metadata_folder, self._survey = metadata, survey

    def read_text(self, filename: str | PathLike[str]) -> str | None:
        return self._survey.text(self.metadata_folder / filename)

    def points(self) -> Iterable[EntryPoint]:
        """Those of plugins, parsed as the agent does: what it can't parse ends it."""
        try:
            found = [each for each in self.entry_points.select(group=GROUP) if each.module]
        except (AttributeError, TypeError) as error:
            text = f"{files.shown(self.metadata_folder)}/entry_points.txt can't be parsed"
            why = "the agent would die at its start; install its package anew"
            raise Refused("Broken", f"{text}: {why}") from error
        if any(len(each.module) > _MODULE_AT_MOST for each in found):
            text = f"{files.shown(self.metadata_folder)}/entry_points.txt names a module of more"
            raise Refused("Broken", f"{text} than {_MODULE_AT_MOST} characters")
        return found


def _plugins(folders: Sequence[Path], survey: Survey) -> Iterator[Plugin]:
    seen: set[str] = set()
    for metadata in _metadata_folders(folders, survey):
        distribution = _Distribution(metadata, survey)
        # Asking for the text first: of hundreds of distributions few have plugins.
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            continue
        # .metadata takes time by the square of its lines.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        told = HeaderParser().parsestr(text)
        name = clean(told.get("name", ""), _NAME_AT_MOST)
        if not name or name in seen:
            continue  # half removed, or hidden by one of the same name
        seen.add(name)
        for point in distribution.points():
            file = _file_of(point.module, folders, survey)
            yield Plugin(
                module=point.module,
                name=clean(point.name, _NAME_AT_MOST),
                distribution=name,
                version=clean(told.get("version", ""), _NAME_AT_MOST),
                file=file or metadata.parent.joinpath(*point.module.split(".")).with_suffix(".py"),
                is_found=file is not None or _is_editable(distribution),
                written_s=metadata.stat().st_mtime,
            )


def _metadata_folders(folders: Iterable[Path], survey: Survey) -> Iterator[Path]:
    for folder in folders:
        for name in survey.names(folder):
            # pip leaves "~name" behind when it is ended in the middle.
            is_named = name.endswith((".dist-info", ".egg-info")) and name[0] != "~"
            if is_named and (folder / name).is_dir():
                yield folder / name


def _is_editable(distribution: _Distribution) -> bool:
    origin = distribution.read_text("direct_url.json") or ""  # PEP 610
    return re.search(r'"editable"\s*:\s*true', origin) is not None


def _file_of(module: str, folders: Iterable[Path], survey: Survey) -> Path | None:
    """The file of a module; its parents may be namespace packages, spread over folders."""
    for folder in folders:
        place = folder.joinpath(*module.split("."))
        names = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        for file in names:
            if file.is_file():
                return file
        # Compiled: plugin.cpython-311-x86_64-linux-gnu.so, for another Python than ours.
        for file in survey.glob(place.parent, f"{escape(place.name)}.*so"):
            if file.is_file():
                return file
    return None
