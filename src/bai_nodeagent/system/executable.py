"""What the kernel runs for a command line, and whether a living process is a run of it.

Anyone may choose the arguments and the name of his process. Its account, the
file that it executes, its namespaces and its working directory are facts that
the kernel shows. Source: execve(2), proc_pid_exe(5). Everything here blocks:
call it through `blocking.in_thread`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import Refused
from ..machine import Process
from . import files, process

# What installers write into a script whose interpreter's path is too long, or
# has spaces: a line of shell that Python reads as a string.
EXEC_LINE = re.compile(r"""'''exec' "?([^"\n]+?)"? "\$0" """)
_HEAD_BYTES = 1024
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Executable:
    """
    named   what is executed, as the command or the first line of a script names it
    path    the same without links; a script's is its interpreter's
    file    its device and inode; None: it is not there
    before  what stands before a script's own words, by its first line; None: it is no script
    """

    named: str
    path: str
    file: tuple[int, int] | None
    before: tuple[str, ...] | None = None

    @property
    def is_python(self) -> bool:
        return is_python(self.path)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a process is, whatever it says. `uids`: process.uids_of; `is_here`: in our PID and
    mount namespaces."""

    uids: frozenset[int]
    path: str
    file: tuple[int, int] | None
    folder: str
    is_here: bool
    unit: str


def is_python(path: str) -> bool:
    return PurePath(path.removesuffix(_DELETED)).name.startswith("python")


def executable(command: Sequence[str], workdir: Path, search_path: str) -> Executable | None:
    """What runs for that command; None where it has no program."""
    program = program_of(command, workdir, search_path)
    if program is None:
        return None
    before = _before(_head(program), search_path)
    if not before:
        return _executable(str(program), None)
    return _executable(before[0], tuple(before))


def program_of(command: Sequence[str], workdir: Path, search_path: str) -> Path | None:
    """The file that a command names, by the search path or from its folder on."""
    if not command:
        return None
    if "/" in command[0]:
        return workdir / command[0]
    found = shutil.which(command[0], path=search_path)
    return Path(found) if found else None


def _executable(named: str, before: tuple[str, ...] | None) -> Executable:
    path = os.path.realpath(named)
    return Executable(named, path, _file(path), before)


def _file(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _head(program: Path) -> str:
    with contextlib.suppress(OSError, ValueError, Refused):
        return os.fsdecode(files.head(program, _HEAD_BYTES))
    return ""


def _before(head: str, search_path: str) -> list[str]:
    """The interpreter of a script and its options, as the kernel passes them; [] of no script."""
    line, _, rest = head.partition("\n")
    words = line.removeprefix("#!").strip().split(maxsplit=1)
    if not line.startswith("#!") or not words:
        return []
    if named := EXEC_LINE.match(rest):
        return [named[1]]
    if PurePath(words[0]).name != "env":
        return words
    after = (word for word in " ".join(words[1:]).split())
    arguments = [word for word in after if not word.startswith("-") and "=" not in word]
    found = shutil.which(arguments[0], path=search_path) if arguments else None
    return [found, *arguments[1:]] if found else []


def traits(of: Process) -> Traits | None:
    """None: it is gone, or we may not look into it. Follows no link but that of its executable,
    and that only where it leads to where it says: elsewhere may be a dead mount."""
    here = f"/proc/{of.pid}"
    try:
        uids = process.uids_of(of)
        path = os.readlink(f"{here}/exe")  # noqa: PTH115
        is_here = all(_is_shared(of.pid, kind) for kind in ("pid", "mnt"))
        folder = process.folder_of(of)
    except OSError:
        return None
    file = None if path.endswith(_DELETED) or not is_here else _file(f"{here}/exe")
    return Traits(uids, path, file, folder, is_here, process.unit_of(of))


def _is_shared(pid: int, kind: str) -> bool:
    one, own = (os.readlink(f"/proc/{pid_or_self}/ns/{kind}") for pid_or_self in (pid, "self"))  # noqa: PTH115
    return one == own


def runs(found: Traits, wanted: Executable) -> bool:
    """Whether a process executes that file. One that has been replaced since is known by its
    path: in our own mount namespace nobody but its owner had it there."""
    if found.path == wanted.path + _DELETED:
        return True
    return found.path == wanted.path and found.file == wanted.file is not None


def has_arguments_of(words: Sequence[str], command: Sequence[str], wanted: Executable) -> bool:
    """Whether these arguments are those of the command: exactly, or behind its interpreter."""
    if tuple(words) == tuple(command):
        return True
    if wanted.before is None:
        return False
    before = words[: len(words) - len(command)]
    if tuple(words[len(before) :]) != tuple(command) or not before:
        return False
    return tuple(before) == wanted.before or _is_bare(before, wanted)


def _is_bare(before: Sequence[str], wanted: Executable) -> bool:
    """Started by hand, as `bash SCRIPT`."""
    names = {PurePath(path).name for path in (wanted.named, wanted.path)}
    return len(before) == 1 and PurePath(before[0]).name in names


def topmost(among: Sequence[Process], everyone: Sequence[Process]) -> Iterator[Process]:
    """Those that descend from none of the others: a fork has the arguments of its parent."""
    parents = {each.pid: each for each in everyone}
    return (p for p in among if not set(among).intersection(process.ancestors(p, parents)))
