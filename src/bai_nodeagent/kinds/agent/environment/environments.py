"""Virtual environments beside each other, and the link that says which one is in use.

    /opt/backend.ai/venv      -> venv.d/3f9a12bc04de-1
    /opt/backend.ai/venv.d/3f9a12bc04de-1/...

All that is done here is done by other processes under the account that the
environment is for, never as root: pip runs whatever a package brings along,
and in a folder that belongs to somebody else root may be led astray by links.
The one exception is a missing parent folder, see `_make_parent`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from ....model import Refused, Stuck, Unavailable
from ....system import helper, hostile, inotify, launch
from ....system.blocking import in_thread
from ....system.helper import Finished, Hangs, Outstanding
from ....system.launch import Account
from ....system.output import quoted
from ....system.programs import program
from ....system.survey import Survey
from . import environment_tool

OBSERVE_DEADLINE_S = 5.0
TOOL_DEADLINE_S = 120.0
TRY_DEADLINE_S = 5.0
INSTALL_DEADLINE_S = 1800.0
# The end of a build shows a moment before its last process is gone.
LOCK_PATIENCE_S = 5.0
# With less, nothing of an environment could be written.
ROOM_BYTES = 1 << 20
MARKER = environment_tool.MARKER
# Read now: the file may be gone or another one after an upgrade.
_TOOL = Path(environment_tool.__file__).read_text()
_LINES_QUOTED = 5
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
    """What stands at a path, and in the folder beside it.

    link        the environment in use; "": none
    linked_s    since when, in Unix time
    strange     what stands at the path and is none of ours, for people; "": nothing
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where environments are kept, by whom, and who keeps two from working there at once."""

    path: Path
    user: str
    lock: Path = field(compare=False)

    @property
    def folder(self) -> Path:
        return folder_of(self.path)


def folder_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.d")


async def observe(path: Path, asker: str) -> Environments:
    """Raises Unavailable, Stuck, and Refused: Untrusted where others may lead the way to it
    elsewhere, TooLarge where there is too much to look at.

    `asker` tells apart who asks at the same time.
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
    real = python.resolve()
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


async def build(
    place: Place, name: str, python: Path, packages: Sequence[str], source: Sequence[str]
) -> None:
    """Makes an environment, fills it, verifies it, and only then marks it as whole.

    `packages` are requirements, `source` options of pip that say where from.
    What an earlier try has left is made anew. Raises Refused, Stuck, Unavailable.
    """
    run_as = await _account(place)
    await in_thread(
        f"make {place.path.parent}",
        lambda: _make_parent(place.path.parent, run_as),
        OBSERVE_DEADLINE_S,
    )
    environment = place.folder / name
    own = str(environment / "bin/python")
    pip = (own, "-m", "pip", "--disable-pip-version-check", "--no-input")
    what = f"{environment} can't be built"
    steps: tuple[tuple[str, tuple[str, ...], float], ...] = (
        ("NotBuilt", (str(python), "-m", "venv", "--clear", str(environment)), TOOL_DEADLINE_S),
        (
            "NotInstalled",
            (*pip, "install", "--progress-bar=off", *source, "--", *packages),
            INSTALL_DEADLINE_S,
        ),
        ("NotVerified", (*pip, "check"), TOOL_DEADLINE_S),
        ("NotVerified", _tool(own, "verify", str(place.path), *packages), TOOL_DEADLINE_S),
    )
    try:
        for reason, argv, deadline_s in steps:
            await _run(place, run_as, argv, deadline_s, reason, what)
    except Refused as error:
        full = await in_thread(
            "environments: is a disk full", lambda: _full(environment, run_as), OBSERVE_DEADLINE_S
        )
        text = f"{full}{error.message}"
        try:
            await remove(place, (name,))
        except Refused as also:
            text = f"{text}; {also.message}"
        raise Refused(error.reason, text) from error


def _full(environment: Path, run_as: Account) -> str:
    """Which file system has no room for a build, as the beginning of a sentence. Blocks."""
    for path in (environment.parent, Path("/tmp"), Path(run_as.home)):  # noqa: S108
        if path.exists():
            found = os.statvfs(path)
            if found.f_bavail * found.f_frsize < ROOM_BYTES or not found.f_favail:
                mount = next(p for p in (path, *path.parents) if p.is_mount())
                return f"there is no space left on the file system at {mount}: "
    return ""


async def try_out(place: Place, name: str) -> str:
    """Why an agent could not be moved to an environment, as a clause; "" for nothing.

    Asked before the agent is stopped: its interpreter is run, under the lock that a
    switch needs.
    """
    python = str(place.folder / name / "bin/python")
    argv = (program("env"), python, "-I", "-c", "")
    try:
        run_as = await _account(place)
        done = await helper.run_kept(argv, TRY_DEADLINE_S, place.lock, 0.0, run_as)
    except Outstanding:
        return f"something of an earlier build in {place.folder} is still at work"
    except Hangs:
        return f"{python} has not answered within {TRY_DEADLINE_S:g} s"
    except (Refused, Stuck, Unavailable, OSError) as error:
        return str(error)
    return f"{python} does not run: {_why(done)}" if done.code else ""


async def switch(place: Place, name: str) -> None:
    """Puts the link on that environment, in one step. Raises Refused, Stuck, Unavailable."""
    argv = _tool(str(place.folder / name / "bin/python"), "switch", str(place.path), name)
    what = f"{place.path} can't be put on {name}"
    await _run(place, await _account(place), argv, TOOL_DEADLINE_S, "NotSwitched", what)


async def remove(place: Place, names: Sequence[str]) -> None:
    """Takes environments away. Raises Refused, Stuck, Unavailable."""
    doomed = [str(place.folder / name) for name in names]
    argv = (program("rm"), "-rf", "--one-file-system", "--", *doomed)
    what = f"{', '.join(names)} in {place.folder} can't be removed"
    await _run(place, await _account(place), argv, TOOL_DEADLINE_S, "NotRemoved", what)


def _tool(python: str, *words: str) -> tuple[str, ...]:
    # By its text: the account may not be allowed to read our own files.
    return (python, "-I", "-c", _TOOL, *words)


async def _account(place: Place) -> Account:
    run_as = await in_thread(
        "accounts: the agent's user", lambda: launch.account(place.user), OBSERVE_DEADLINE_S
    )
    if run_as.uid == 0:
        text = f"{place.user} is root, and packages are never installed as root; see [agent] user"
        raise Refused("RunsAsRoot", text)
    return run_as


async def _run(
    place: Place, run_as: Account, argv: Sequence[str], deadline_s: float, reason: str, what: str
) -> None:
    try:
        # By env, which is here for sure: an interpreter on a dead mount hangs elsewhere.
        words = (program("env"), *argv)
        done = await helper.run_kept(words, deadline_s, place.lock, LOCK_PATIENCE_S, run_as)
    except Outstanding as error:
        raise Stuck(f"{what}: an earlier try is still at work") from error
    except Hangs as error:
        raise Refused(reason, f"{what}: not done after {deadline_s:.0f} s") from error
    except OSError as error:
        raise Unavailable(f"{what}: {error}") from error
    if done.code:
        raise Refused(reason, f"{what}, as {run_as.name}: {_why(done)}")


def _why(done: Finished) -> str:
    """What a program said last; of pip's output its errors."""
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return quoted("\n".join(errors or lines), _LINES_QUOTED) or f"exit status {done.code}"


def _make_parent(parent: Path, run_as: Account) -> None:
    """Makes a missing folder and gives it to the account. Blocks.

    Only where nobody else could put a link in our way: from / on, each folder
    is one that root alone writes to. Elsewhere the account has to make its own.
    """
    if parent.exists() or os.geteuid() != 0:
        return
    try:
        with hostile.folder(parent, make=0o755) as made:
            os.chown(f"/proc/self/fd/{made.fd}", run_as.uid, run_as.gid)
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}") from error
    except Refused as error:
        if error.reason != "Untrusted":
            raise
