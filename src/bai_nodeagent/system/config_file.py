"""A configuration file that others write as well: whose it is to be, and why it can't be used."""

from __future__ import annotations

import errno
import grp
import pwd
from pathlib import Path

from ..errors import Refused, Unavailable
from ..machine import Owner
from .files import shown


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


def fault(error: OSError, path: Path) -> Refused | Unavailable:
    """What an error of the file system means for somebody who keeps a file in line."""
    text = f"{shown(path)}: {error.strerror or error}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Unavailable(f"{text}; make room, and it is tried again")
        case errno.EROFS:
            return Refused("ReadOnly", f"{text}; make it writable, or name another path")
        case errno.EACCES | errno.EPERM:
            return Refused("NotPermitted", f"{text}; the daemon needs the right to read and write")
        case errno.ELOOP:
            return Refused("LinkLoop", f"{path}: the links on its way lead in a circle; mend them")
        case errno.EISDIR | errno.ENOTDIR:
            return Refused(
                "NotAFile",
                f"{shown(path)}, or something on its way, is no regular file; move it away",
            )
        case errno.EBUSY:
            return Refused("MountedFile", f"{text}; something is mounted on it: mount its folder")
        case errno.EAGAIN:
            return Unavailable(f"{shown(path)}: another program keeps it to itself (a lease)")
        case _:
            return Refused("FileError", f"{text}; see to the file, and it is tried again")
