"""A configuration file that others write as well: what stands there, and why it can't be used."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import signal
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ..model import Refused, Unavailable

Owner = tuple[int, int]


@dataclass(frozen=True, slots=True)
class File:
    """A regular file: its content, its permission bits, its (uid, gid)."""

    raw: bytes = field(repr=False)
    mode: int
    owner: Owner


def target_of(path: Path) -> Path:
    """The file that a path leads to, through links. It, and folders on its way, may be missing.

    Raises Refused for a link in a circle, and for one whose folder is missing:
    that may be a share that is not mounted yet, and nothing may be put below it.
    """
    target = Path(os.path.realpath(path))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        link = next((p for p in (path, *path.parents) if p.is_symlink() and not p.exists()), None)
        if link and not target.parent.is_dir():
            raise Refused(
                "DanglingLink",
                f"{link} is a link to {link.readlink()}, and the folder for that is missing: "
                f"create {target.parent}, or mend the link",
            ) from None
    except OSError as error:
        raise fault(error, path) from error
    return target


def read(path: Path) -> File | None:
    """The file; None if it, or its folder, is not there. Raises Refused, or Unavailable."""
    try:
        # Without waiting: opening a named pipe would hang until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise fault(error, path) from error
    with os.fdopen(fd, "rb", closefd=True) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _no_file(path)
        try:
            raw = file.read()
        except OSError as error:
            raise fault(error, path) from error
    return File(raw, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def is_being_written(path: Path) -> bool:
    """Whether somebody has the file open for writing; False also where nobody can tell.

    Asked by trying for a read lease, which the kernel grants only when no one
    has: fcntl(2), F_SETLEASE. It is given back at once.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Who opens the file while we have the lease makes the kernel send us a
        # signal. The default one would end this process; SIGURG is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(fd)
    return False


def ids(owner: str) -> Owner:
    """The numbers of "user:group", or of "user" and its own group. Names and numbers both do.

    Raises Refused for one that this node does not know.
    """
    user, _, group = owner.partition(":")
    try:
        if user.isdecimal() and group:
            uid, own_gid = int(user), -1
        else:
            entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
            uid, own_gid = entry.pw_uid, entry.pw_gid
        if not group:
            return uid, own_gid
        return uid, int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise Refused(
            "UnknownOwner", f"owner {owner!r}: this node has no such user or group"
        ) from error


def set_access(path: Path, *, mode: int, owner: Owner) -> None:
    """Sets mode and owner of a file that is there. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # The mode first: should the owner be refused, others are locked out all the same.
        os.fchmod(fd, mode)
        os.fchown(fd, *owner)
        os.fsync(fd)
    finally:
        os.close(fd)


def has_copy(path: Path, file: File | None, mark: str) -> bool:
    """Whether a file PATH<mark>… with the same content lies beside. Raises OSError."""
    beside = [p for p in path.parent.iterdir() if p.name.startswith(path.name + mark)]
    return file is not None and any(p.read_bytes() == file.raw for p in beside if p.is_file())


def fault(error: OSError, path: Path) -> Refused | Unavailable:
    """What an error of the file system means for somebody who keeps a file in line."""
    text = f"{path}: {error.strerror or error}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Unavailable(f"{text}; make room, and it is tried again")
        case errno.EROFS:
            return Refused("ReadOnly", f"{text}; make it writable, or move [agent-config] path")
        case errno.EACCES | errno.EPERM:
            return Refused("NotPermitted", f"{text}; the daemon needs the right to read and write")
        case errno.ELOOP:
            return Refused("LinkLoop", f"{path}: the links on its way lead in a circle; mend them")
        case errno.EISDIR | errno.ENOTDIR | errno.ENXIO:
            return _no_file(path)
        case _:
            return Refused("FileError", f"{text}; see to the file, and it is tried again")


def _no_file(path: Path) -> Refused:
    return Refused("NotAFile", f"{path}, or something on its way, is no regular file; move it away")
