"""The program of the helper process that touches paths on network mounts.

    python -I -S mount_questions.py look /mnt
    python -I -S mount_questions.py probe /mnt version.txt 1100 1100 ""

It prints one dict as a Python literal. Whatever it does may hang for ever:
only ever run it by `helper`. It is run as a file, without the package, and
imports next to nothing, since a mount that is gone by mistake waits for it:
json and contextlib alone would make its start three times as long.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = dict[str, str | int | bool | list[str]]

ENTRIES_SHOWN = 4
ENTRIES_COUNTED = 1000


def look(target: str) -> Answer:
    """A target where nothing is mounted: where it really is, and what lies in it."""
    path = os.path.realpath(target)
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry, _ in zip(entries, range(ENTRIES_COUNTED), strict=False)]
    except FileNotFoundError:
        return {"path": path, "kind": "missing"}
    except NotADirectoryError:
        return {"path": path, "kind": "other"}
    shown = sorted(names)[:ENTRIES_SHOWN]
    return {"path": path, "kind": "folder", "count": len(names), "entries": shown}


def make(target: str) -> Answer:
    """Makes the folder to mount on, and those above it."""
    os.makedirs(target, 0o755, exist_ok=True)  # noqa: PTH103
    return {}


def statvfs(target: str) -> Answer:
    """Goes to the server and back, and nothing else: the kernel has no cache for it."""
    return {"is_read_only": bool(os.statvfs(target).f_flag & os.ST_RDONLY)}


def probe(target: str, file: str, uid: str, gid: str, write: str) -> Answer:
    """A share that is mounted: whose it is, whether it can be read, and written. "" leaves out.

    Asked as that user where one is given: root is often nobody on the server.
    """
    os.chdir(target)  # what lies above the share is not asked about
    answer = statvfs(".")
    status = os.stat(".")  # noqa: PTH116
    answer["uid"], answer["gid"] = status.st_uid, status.st_gid
    _become(uid, gid)
    if file:
        answer["file_fault"] = _fault_of(_read, file)
    if write:
        answer["write_fault"] = _fault_of(_write, write)
    return answer


def _become(uid: str, gid: str) -> None:
    if os.geteuid() == 0 and (uid or gid):
        group = int(gid) if gid else os.getegid()
        os.setgroups([group])
        os.setegid(group)
        os.seteuid(int(uid) if uid else os.geteuid())


def _read(path: str) -> None:
    # Without waiting: a named pipe would hang until somebody writes to it.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.read(fd, 1)
    except IsADirectoryError:
        pass  # there, and that is all that can be asked of it
    finally:
        os.close(fd)


def _write(path: str) -> None:
    """The same name each time, so that a file left behind by SIGKILL is not one of many."""
    _remove(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"bai-nodeagent was here\n")
        os.fsync(fd)
    finally:
        os.close(fd)
        _remove(path)


def _remove(path: str) -> None:
    try:  # noqa: SIM105  (contextlib is an import)
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        pass


def _fault_of(call: Callable[[str], None], path: str) -> str:
    try:
        call(path)
    except OSError as error:
        return _name(error)
    return ""


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "EIO")


QUESTIONS: dict[str, Callable[..., Answer]] = {
    "look": look,
    "make": make,
    "statvfs": statvfs,
    "probe": probe,
}


def main(question: str, *arguments: str) -> None:
    try:
        answer = QUESTIONS[question](*arguments)
    except OSError as error:
        answer = {"fault": _name(error)}
    print(ascii(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
