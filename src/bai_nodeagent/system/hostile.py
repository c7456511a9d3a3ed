"""Paths that others have a hand in, walked by descriptors and never led astray.

Root goes wherever a path says, and whoever can write in a folder on the way can
lay a link there, a pipe or a device. So a path is walked from / one name at a
time, by descriptors, and the kernel follows no link for us. The rules:

- A link counts only if nobody but root and our own account can have laid it.
- A plain folder of somebody else's is entered, but from there on all is *in
  doubt*: no link counts any more. What is put there goes by the descriptor of
  that very folder, so it lands in it wherever it is moved to meanwhile.
- Regular files alone are opened, after the kernel has said that they are such,
  without waiting, and read up to a limit.

Whose a folder is, and its mode bits, tell who can write in it: an ACL grants no
more than the group's bits say, which are its mask. acl(5), path_resolution(7).

Everything blocks, also for ever where the way leads over a dead server: only
ever ask by `blocking.in_thread`. Raises Refused, and OSError for the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused
from ..machine import File, Owner
from .files import shown
from .place import LIMIT, Place, at

__all__ = ["LIMIT", "Place", "check", "folder", "place", "read", "replace", "text"]

_LINKS_AT_MOST = 40  # as the kernel: path_resolution(7)
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class NoFolder(FileNotFoundError):
    """A folder on the way is not there; `path` is where the whole way would lead."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ENOENT, "no such folder", str(path))
        self.path = path


@dataclass(frozen=True, slots=True)
class _Folder:
    """`doubt`: who else could have put another one at its place; "" nobody."""

    fd: int
    path: Path
    status: os.stat_result
    doubt: str = ""

    def doubt_of(self, entry: os.stat_result | None) -> str:
        """Who else can have put that entry, or could put one, in here."""
        mode, owner = self.status.st_mode, self.status.st_uid
        is_kept = mode & stat.S_ISVTX and entry is not None and entry.st_uid in _ours()
        if self.doubt:
            return self.doubt
        if owner not in _ours():
            return f"{shown(self.path)} belongs to uid {owner}"
        if mode & stat.S_IWOTH and not is_kept:
            return f"everybody can write in {shown(self.path)}"
        if mode & stat.S_IWGRP and not is_kept:
            writers = f"gid {self.status.st_gid}, or whom its ACL names,"
            return f"{writers} can write in {shown(self.path)}"
        return ""


@contextlib.contextmanager
def place(path: Path, *, make: int | None = None) -> Iterator[Place]:
    """Walks to an absolute path. `make`: the mode of missing folders on the way, which are made.

    Raises Refused: Untrusted for a link that others may have laid, DanglingLink
    for one that leads into a folder which is missing (that may be a share
    that is not mounted yet, and nothing may be put below it). Raises NoFolder.
    """
    with contextlib.ExitStack() as opened:
        yield _Walk(opened, path, make, is_strict=False).to_the_end()


@contextlib.contextmanager
def folder(path: Path, *, make: int | None = None) -> Iterator[Place]:
    """A folder at whose place nobody but us can put another: to mount on, to run from.

    Its `fd` is the folder's own. `make`: the mode of missing ones, this one included.
    Raises Refused: Untrusted, DanglingLink; NoFolder, NotADirectoryError.
    """
    with contextlib.ExitStack() as opened:
        yield _Walk(opened, path, make, is_strict=True).into()


def check(path: Path) -> None:
    """Raises Refused("Untrusted") where anybody but us could put something else at a path."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
        _Walk(opened, path, None, is_strict=True).to_the_end()


def read(path: Path, limit: int = LIMIT) -> File | None:
    """The file that a path leads to; None if it, or a folder on the way, is not there."""
    try:
        with place(path) as found:
            return found.read(limit)
    except FileNotFoundError:
        return None


def text(path: Path) -> str | None:
    """The same as text. Raises likewise."""
    file = read(path)
    return None if file is None else file.raw.decode(errors="replace")


def replace(path: Path, data: bytes, *, mode: int, owner: Owner | None = None) -> None:
    """Replaces the file that a path leads to, or puts one there; see Place.replace."""
    with place(path) as found:
        found.replace(data, mode=mode, owner=owner)


class _Walk:
    """One walk from / on. `..` goes back the way that was come, which nobody can bend."""

    def __init__(
        self, opened: contextlib.ExitStack, path: Path, make: int | None, *, is_strict: bool
    ) -> None:
        if not path.is_absolute():
            raise ValueError(f"{path} is not absolute")
        self._opened = opened
        self._make = make
        self._is_strict = is_strict
        self._way = [self._root()]
        self._todo = list(path.parts[1:])
        self._asked = path
        self._link: tuple[Path, str] | None = None
        self._links = 0

    def to_the_end(self) -> Place:
        """All folders on the way are entered; the last name is what counts."""
        while self._todo:
            here, name = self._way[-1], self._todo.pop(0)
            if name == "..":
                self._way = self._way[:-1] or self._way
                continue
            fd = at(self._opened, name, here.fd)
            status = None if fd is None else os.fstat(fd)
            doubt = here.doubt_of(status)
            path = here.path / name
            if self._is_strict and doubt:
                raise _untrusted(path, doubt)
            if fd is not None and status and stat.S_ISLNK(status.st_mode):
                self._follow(path, fd, doubt)
            elif not self._todo:
                return Place(here.fd, name, path, fd, doubt)
            else:
                self._enter(here, name, fd)
        raise IsADirectoryError(errno.EISDIR, "a folder", str(self._asked))

    def into(self) -> Place:
        """The last name is entered as well."""
        end = self.to_the_end()
        if end.fd is None or not stat.S_ISDIR(os.fstat(end.fd).st_mode):
            self._enter(self._way[-1], end.name, end.fd)
            return dataclasses.replace(end, fd=self._way[-1].fd)
        return end

    def _enter(self, here: _Folder, name: str, fd: int | None) -> None:
        path = here.path / name
        if fd is None:
            fd = self._made(here, name)
        status = os.fstat(fd)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))
        self._way.append(_Folder(fd, path, status, here.doubt_of(status)))

    def _made(self, here: _Folder, name: str) -> int:
        path = here.path / name
        if self._link:
            link, target = self._link
            raise Refused(
                "DanglingLink",
                f"{shown(link)} is a link to {shown(target)}, and the folder for that is missing: "
                f"create {shown(path)}, or mend the link",
            )
        if self._make is None:
            raise NoFolder(path.joinpath(*self._todo))
        os.mkdir(name, self._make, dir_fd=here.fd)
        fd = at(self._opened, name, here.fd)
        if fd is None:
            raise FileNotFoundError(errno.ENOENT, "somebody has removed it again", str(path))
        return fd

    def _follow(self, path: Path, fd: int, doubt: str) -> None:
        owner = os.fstat(fd).st_uid
        if doubt or owner not in _ours():
            raise _untrusted(path, doubt or f"it belongs to uid {owner}")
        self._links += 1
        if self._links > _LINKS_AT_MOST:
            raise OSError(errno.ELOOP, "too many links", str(self._asked))
        text = os.readlink("", dir_fd=fd)
        target = Path(text)
        if target.is_absolute():
            self._way = self._way[:1]
        self._link = (path, text)
        self._todo = [*(p for p in target.parts if p != target.anchor), *self._todo]

    def _root(self) -> _Folder:
        fd = os.open("/", _ROOT)
        self._opened.callback(os.close, fd)
        return _Folder(fd, Path("/"), os.fstat(fd))


def _untrusted(path: Path, doubt: str) -> Refused:
    return Refused(
        "Untrusted",
        f"{shown(path)} may be somebody else's doing, so it is not used: {doubt}",
    )


def _ours() -> tuple[int, int]:
    return 0, os.geteuid()
