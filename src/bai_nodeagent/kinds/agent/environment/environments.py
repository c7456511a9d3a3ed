"""Virtual environments beside each other, and the link that says which one is in use.

    /opt/backend.ai/venv      -> venv.d/3f9a12bc04de-1
    /opt/backend.ai/venv.d/3f9a12bc04de-1/...

This module only reads; `building` makes, moves and removes.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path

from ....errors import Refused, Stuck, Unavailable
from ....system import hostile, inotify
from ....system.blocking import in_thread
from ....system.survey import Survey
from . import environment_tool

OBSERVE_DEADLINE_S = 5.0
MARKER = environment_tool.MARKER
_PACKAGES = "lib/python3*/site-packages"
# Beside each other: a handful, and what nobody has finished.
KEPT_AT_MOST = 1000
_DIST_INFO = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)\.dist-info")


@dataclass(frozen=True, slots=True, order=True)
class Built:
    """An environment that was once whole and verified.

    now    versions of what was asked for, by normalised name, as they are installed
    then   as they were when it was verified
    fault  what is wrong with its interpreter, as a clause; "": nothing
    """

    name: str
    now: tuple[tuple[str, str], ...] = ()
    then: tuple[tuple[str, str], ...] = ()
    fault: str = ""

    @property
    def is_usable(self) -> bool:
        return not self.fault

    @property
    def is_whole(self) -> bool:
        return self.is_usable and self.now == self.then


@dataclass(frozen=True, slots=True)
class Environments:
    """What is at a path, and in the folder beside it.

    link        the environment in use; "": none
    linked_s    since when, in Unix time
    strange     what is at the path and is none of ours, for people; "": nothing
    built       environments that were whole once
    unfinished  names of what nobody has finished
    """

    link: str = ""
    linked_s: float = 0.0
    strange: str = ""
    built: tuple[Built, ...] = ()
    unfinished: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether the one in use has its interpreter still."""
        return any(each.name == self.link and each.is_usable for each in self.built)


def folder_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.d")


async def observe(path: Path, asker: str) -> Environments:
    """Raises Unavailable, Stuck, and Refused: Untrusted where others may lead the way to it
    elsewhere, TooLarge where there is too much to read.

    `asker` keeps concurrent callers apart.
    """
    what = f"{asker}: environments at {path}"
    return await in_thread(what, lambda: environments(path), OBSERVE_DEADLINE_S)


def environments(path: Path) -> Environments:
    """See `observe`. Blocks."""
    folder = folder_of(path)
    try:
        link, linked_s, strange = _link(path, folder)
        names = Survey(KEPT_AT_MOST).names(folder)
        survey = Survey()
        built = {name: found for name in names if (found := _built(folder / name, survey))}
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}") from error
    unfinished = tuple(name for name in names if name not in built)
    return Environments(link, linked_s, strange, tuple(built.values()), unfinished)


def _link(path: Path, folder: Path) -> tuple[str, float, str]:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "", 0.0, ""
    if not stat.S_ISLNK(status.st_mode):
        return "", 0.0, "a folder" if stat.S_ISDIR(status.st_mode) else "a file"
    target = path.parent / path.readlink()
    if target.parent != folder:
        return "", 0.0, f"a link to {target}"
    return target.name, status.st_mtime, ""


def _built(environment: Path, survey: Survey) -> Built | None:
    try:
        marker = hostile.read(environment / MARKER)
        then = json.loads(marker.raw if marker else b"")["packages"]
        wanted = tuple(sorted((str(name), str(version)) for name, version in then.items()))
    except Refused as error:
        if error.reason == "Untrusted":
            raise
        return None  # a pipe, a device, too large: none that we have finished
    except (NotADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    here = _installed(environment, survey)
    now = tuple((name, here[name]) for name, _ in wanted if name in here)
    return Built(environment.name, now, wanted, _fault(environment, survey))


def _fault(environment: Path, survey: Survey) -> str:
    python = environment / "bin/python"
    if not python.exists():
        return "is gone"
    version = version_of(python, survey)
    made_for = [p.parent.name for p in survey.glob(environment, _PACKAGES)]
    if version and f"python{version}" not in made_for:
        return f"is Python {version} now, and the packages are for {', '.join(made_for) or 'none'}"
    return ""


def version_of(python: Path, survey: Survey) -> str:
    """Such as "3.11", by names alone: of the interpreter itself, or of its library.

    "" where they don't tell. Blocks.
    """
    real = Path(realpath(python))  # which minds no loop of links
    named = re.fullmatch(r"python(3\.\d+)", real.name)
    libraries = {p.parent.name for p in survey.glob(real.parent.parent, "lib*/python3.*/os.py")}
    if named:
        return named[1]
    return libraries.pop().removeprefix("python") if len(libraries) == 1 else ""


def _installed(environment: Path, survey: Survey) -> dict[str, str]:
    """Versions by normalised name, from the names of metadata folders alone."""
    found = {}
    for folder in survey.glob(environment, f"{_PACKAGES}/*.dist-info"):
        if named := _DIST_INFO.fullmatch(folder.name):
            found[environment_tool.normalised(named["name"])] = named["version"]
    return found


async def changes(path: Path, asker: str) -> AsyncGenerator[None, None]:
    """Yields at the start of the watch, when the link is moved or an environment comes or goes,
    and when packages of the one in use do. Raises Unavailable.
    """
    try:
        while True:
            watched = await _to_watch(path, asker)
            async with aclosing(inotify.changes(watched, is_apart=True)) as events:
                async for _ in events:
                    yield
                    if await _to_watch(path, asker) != watched:
                        break
    except (Refused, Stuck, OSError) as error:
        raise Unavailable(f"{asker}: {error}") from error


async def _to_watch(path: Path, asker: str) -> list[Path]:
    observed = await observe(path, asker)
    return await in_thread(
        f"{asker}: what to watch of {path}", lambda: _watched(path, observed), OBSERVE_DEADLINE_S
    )


def _watched(path: Path, observed: Environments) -> list[Path]:
    folder = folder_of(path)
    inside = [folder / each.name for each in observed.built if each.name == observed.link]
    packages = [p for each in inside for p in Survey().glob(each, _PACKAGES)]
    # A new environment shows by the marker that it gets last.
    markers = [folder / name / MARKER for name in observed.unfinished]
    return [path, folder, *markers, *(each / "bin/python" for each in inside), *packages]
