"""A name in an opened folder: read, replaced, given away, by that folder's descriptor.

Nothing here walks: `hostile` does, and says who else may have a hand in a place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused, Unavailable
from ..machine import File, Owner
from . import files
from .files import shown

LIMIT = 1 << 20
ACL = "system.posix_acl_access"
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ACLS = frozenset((ACL, "system.nfs4_acl"))
_CARRIED = ("user.", "security.", *_ACLS)
_OF_THE_CONTENT = ("security.ima", "security.evm")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: a name in an opened folder. Good as long as `place` is open.

    path   without links, as it was walked
    fd     of what is there, opened for nothing (O_PATH); None: nothing does
    doubt  who else could have put that there, as a clause; "" nobody
    """

    folder: int
    name: str
    path: Path
    fd: int | None
    doubt: str

    def read(self, limit: int = LIMIT) -> File | None:
        """The file, whole; None: nothing is there. Raises Refused: NotAFile, TooLarge."""
        if self.fd is None:
            return None
        status = os.fstat(self.fd)
        return File(
            files.read_opened(self.fd, self.path, limit),
            stat.S_IMODE(status.st_mode) & 0o777,  # set-user-ID is nothing that is carried over
            (status.st_uid, status.st_gid),
            status.st_nlink,
            is_mount=_mount_of(self.fd) != _mount_of(self.folder),
            has_acl=not _ACLS.isdisjoint(_attributes(self.fd)),
        )

    def replace(self, data: bytes, *, mode: int, owner: Owner | None = None) -> None:
        """Puts a new file there, so that a crash at any moment leaves the old or the new one.

        It takes over the old one's ACL and extended attributes. `owner` None: whoever we are.
        What a crash leaves of it is for `sweep`.
        """
        temporary = f".{self.name}.{secrets.token_hex(4)}.tmp"
        fd = os.open(temporary, _FRESH, 0o600, dir_fd=self.folder)
        try:
            with os.fdopen(fd, "wb") as file:
                files.claim(fd)
                if owner is not None:
                    os.fchown(fd, *owner)
                if self.fd is not None and stat.S_ISREG(os.fstat(self.fd).st_mode):
                    _carry_attributes(self.fd, fd)
                os.fchmod(fd, mode)
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self.folder)
            raise
        self._sync()

    def overwrite(self, data: bytes, *, is_private: bool) -> None:
        """Writes into the file that is there; a crash in between leaves a part of each.

        `is_private`: not while anybody has it open, who may not any more. Raises Refused:
        NotAFile, HardLink; Unavailable.
        """
        with os.fdopen(os.open(self._own_file(), _WRITE), "wb") as file:
            if is_private and not _leased(file.fileno(), fcntl.F_WRLCK):
                text = (
                    f"{shown(self.path)} is open elsewhere, and is to hold what is not for others"
                )
                raise Unavailable(
                    f"{text}: it is written once that is closed (`fuser -v` says whose)"
                )
            if is_private:
                # A pipe may still hold pages of the file, and would show what is written into
                # them: splice(2). Those that leave the file are not written to any more.
                file.truncate(0)
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())

    def set_access(self, *, mode: int, owner: Owner) -> None:
        """Sets mode and owner of the file that is there. Raises Refused: NotAFile, HardLink."""
        with os.fdopen(os.open(self._own_file(), _READ), "rb") as file:
            # The mode first: should the owner be refused, others are locked out all the same.
            os.fchmod(file.fileno(), mode)
            os.fchown(file.fileno(), *owner)
            os.fsync(file.fileno())

    def is_being_written(self) -> bool:
        """Whether somebody has the file open for writing; False also where nobody can tell.

        Asked by trying for a read lease, which is given back at once.
        """
        if self.fd is None:
            return False
        self._regular(self.fd)
        with os.fdopen(os.open(_again(self.fd), _READ), "rb") as file:
            return not _leased(file.fileno(), fcntl.F_RDLCK)

    def names(self) -> list[str]:
        """Of what lies in the folder, this place's own name included: files.names_in."""
        fd = os.open(".", _READ | os.O_DIRECTORY, dir_fd=self.folder)
        try:
            return sorted(files.names_in(fd))
        finally:
            os.close(fd)

    def sweep(self, *owners: int) -> None:
        """Removes what crashes have left of `replace`, of ours or of these accounts."""
        fd = os.open(".", _READ | os.O_DIRECTORY, dir_fd=self.folder)
        try:
            files.sweep(fd, [self.name], owners)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def beside(self, name: str) -> Iterator[Place]:
        """Another name in the same folder, whatever is there; no link is followed."""
        with contextlib.ExitStack() as opened:
            fd = at(opened, name, self.folder)
            yield Place(self.folder, name, self.path.with_name(name), fd, self.doubt)

    def remove(self) -> None:
        """Removes what is no folder, for good also after a power cut; none there is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)
            self._sync()

    def _own_file(self) -> str:
        """The file, if it is this path's alone. Another's may have been linked here by others."""
        if self.fd is None:
            raise FileNotFoundError(errno.ENOENT, "it is gone", str(self.path))
        if self._regular(self.fd).st_nlink > 1 and self.doubt:
            raise Refused(
                "HardLink",
                f"{shown(self.path)} has another name as well (a hard link), which others may have "
                f"laid ({self.doubt}); make it a file of its own: cp -p, then mv",
            )
        return _again(self.fd)

    def _regular(self, fd: int) -> os.stat_result:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Refused("NotAFile", f"{shown(self.path)} is no regular file; move it away")
        return status

    def _sync(self) -> None:
        fd = os.open(".", _READ | os.O_DIRECTORY, dir_fd=self.folder)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def at(opened: contextlib.ExitStack, name: str, folder: int) -> int | None:
    """What is at a name, opened for nothing; None: nothing does.

    As a folder first: only then is what an automounter keeps there mounted.
    """
    for kind in (os.O_DIRECTORY, 0):
        with contextlib.suppress(NotADirectoryError):
            try:
                fd = os.open(name, _PATH | kind, dir_fd=folder)
            except FileNotFoundError:
                return None
            opened.callback(os.close, fd)
            return fd
    return None


def _leased(fd: int, kind: int) -> bool:
    """Takes a lease, until it is closed: whether nobody else has the file open for writing
    (F_RDLCK), or at all (F_WRLCK); True as well where nobody can tell. fcntl(2), F_SETLEASE."""
    try:
        # Who opens the file while we have the lease makes the kernel send us a signal. The
        # default one would end this process; SIGURG is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


def _again(fd: int) -> str:
    """The path by which what is open as O_PATH is opened for good: no name is looked up again."""
    return f"/proc/self/fd/{fd}"


def _mount_of(fd: int) -> str:
    """The id of the mount that something lies on. proc_pid_fdinfo(5)."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith("mnt_id:"))


def _carry_attributes(old: int, new: int) -> None:
    """Gives a new file the ACL and the extended attributes of the old one, and no others."""
    there, here = _attributes(old), _attributes(new)
    for name in {ACL} & here.keys() - there.keys():
        os.removexattr(new, name)  # the folder's default, which the old one has not
    for name, value in there.items():
        is_carried = name.startswith(_CARRIED) and name not in _OF_THE_CONTENT
        if is_carried and here.get(name) != value:
            os.setxattr(new, name, value)


def _attributes(fd: int) -> dict[str, bytes]:
    try:
        names = os.listxattr(_again(fd))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}  # this file system has none
        raise
    return {name: os.getxattr(_again(fd), name) for name in names}
