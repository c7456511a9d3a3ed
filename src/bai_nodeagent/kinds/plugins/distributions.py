"""Accelerator plugins in another interpreter's environment, from its files alone.

Nothing of that environment is run: see system/interpreter.py; and a plugin's import
may take a GPU driver with it. What only code could tell (an editable install's
import hook) is given the benefit of the doubt. Everything here blocks.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from email.parser import HeaderParser
from glob import escape
from importlib.metadata import EntryPoint, PathDistribution
from os import PathLike
from pathlib import Path

import anyio

from ...errors import Refused, Stuck, Unavailable
from ...system import files, inotify
from ...system.blocking import in_thread
from ...system.interpreter import at_most, folders_of, interpreter_of
from ...system.survey import Survey
from ...text import clean
from .rules import QUIET_S, Environment, Plugin, PluginRules

GROUP = "backendai_accelerator_v21"
OBSERVE_DEADLINE_S = 5.0
PLUGINS_AT_MOST = 100
_NAME_AT_MOST = 200
_MODULE_AT_MOST = 200


async def observe(rules: PluginRules, asker: str) -> Environment | None:
    """The environment that `[plugins]` is about; None if it is not known which one that is.

    `asker` keeps concurrent callers apart. Raises Unavailable, Stuck, and Refused:
    NotAFile, TooLarge, Broken.
    """
    return await in_thread(
        f"{asker}: what is installed", lambda: environment(rules), OBSERVE_DEADLINE_S
    )


async def changes(
    rules: PluginRules, asker: str, *, are_settled: bool = False
) -> AsyncGenerator[None, None]:
    """Yields at the start of the watch, and when packages or a plugin's module come or go;
    if `are_settled`, then once nobody installs anything any more. Raises Unavailable.
    """
    try:
        while True:
            watched = _watched(await observe(rules, asker), rules)
            async with aclosing(inotify.changes(watched, is_apart=True)) as events:
                async for _ in events:
                    if are_settled:
                        await _settle(rules, asker)
                    yield
                    if _watched(await observe(rules, asker), rules) != watched:
                        break
    except (Refused, Stuck, OSError) as error:
        raise Unavailable(f"{asker}: {error}") from error


async def _settle(rules: PluginRules, asker: str) -> None:
    observed = await observe(rules, asker)
    while observed is not None and not observed.is_quiet(time.time()):
        await anyio.sleep(observed.changed_s + QUIET_S - time.time())
        observed = await observe(rules, asker)


def _watched(observed: Environment | None, rules: PluginRules) -> list[Path]:
    if observed is None:
        return [Path(program) for program in rules.command[:1]]
    venv = observed.python.parent.parent / "pyvenv.cfg"
    return [observed.python, venv, *observed.folders, *(plugin.file for plugin in observed.plugins)]


def environment(rules: PluginRules) -> Environment | None:
    """See `observe`. Blocks."""
    survey = Survey()
    try:
        python = rules.python or interpreter_of(rules.command)
        if python is None:
            return None
        folders = folders_of(python, survey) if python.exists() else ()
        plugins = at_most(PLUGINS_AT_MOST, _plugins(folders, survey), "plugins", python)
        return Environment(
            python,
            folders,
            tuple(sorted(plugins)),
            max((folder.stat().st_mtime for folder in folders), default=0.0),
        )
    except OSError as error:
        raise Unavailable(f"{files.shown(error.filename)}: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, a path with a null
        raise Unavailable(f"what is beside {python} can't be made out: {error}") from error


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
    names: set[str] = set()
    for metadata in _metadata_folders(folders, survey):
        distribution = _Distribution(metadata, survey)
        # Asking for the text first: of hundreds of distributions few have plugins.
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            continue
        # .metadata takes time by the square of its lines.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        headers = HeaderParser().parsestr(text)
        name = clean(headers.get("name", ""), _NAME_AT_MOST)
        if not name or name in names:
            continue  # half removed, or hidden by one of the same name
        names.add(name)
        for point in distribution.points():
            file = _file_of(point.module, folders, survey)
            yield Plugin(
                module=point.module,
                name=clean(point.name, _NAME_AT_MOST),
                distribution=name,
                version=clean(headers.get("version", ""), _NAME_AT_MOST),
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
