"""How virtual environments are made, tried, switched to and taken away.

All of that is done by other processes under the account that the environment
is for, never as root: pip runs whatever a package brings along, and in a folder
that belongs to somebody else root may be led astray by links.
The one exception is a missing parent folder, see `_make_parent`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ....errors import Refused, Stuck, Unavailable
from ....machine import Account
from ....system import helper, hostile, launch
from ....system.blocking import in_thread
from ....system.helper import Finished, Hangs, Outstanding
from ....system.output import quoted
from ....system.programs import program
from . import environment_tool
from .environments import OBSERVE_DEADLINE_S, folder_of

TOOL_DEADLINE_S = 120.0
TRY_DEADLINE_S = 5.0
INSTALL_DEADLINE_S = 1800.0
# The end of a build shows a moment before its last process is gone.
LOCK_PATIENCE_S = 5.0
# With less, nothing of an environment could be written.
ROOM_BYTES = 1 << 20
# Read now: the file may be gone or another one after an upgrade.
_TOOL = Path(environment_tool.__file__).read_text()
_LINES_QUOTED = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where environments are kept, by whom, and who keeps two from working there at once."""

    path: Path
    user: str
    lock: Path = field(compare=False)

    @property
    def folder(self) -> Path:
        return folder_of(self.path)


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
