"""mount_questions: the helper process that touches paths on network mounts, and mounts.

    python -I -S -c TEXT observe /mnt
    python -I -S -c TEXT probe /mnt 126 version.txt 1100 1100 ""

`ps` shows this text, so its name comes first. It prints one dict as a Python literal, whose keys
are the fields of `rules.Folder` and `rules.Health`.
Whatever it does may hang for ever: only ever run it by `helper`. It is run without the
package, and imports next to nothing, since a mount that is gone by mistake waits for it:
json and contextlib alone would make its start three times as long.

A path to a target may lead through folders of others, who can put a link in
it at any moment. So what is checked is a descriptor, and what is acted on is
the same descriptor. The rule for links is that of `hostile`.

Sources: openat(2), open_tree(2), move_mount(2), setns(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = dict[str, str | int | bool | list[str]]

ENTRIES_SHOWN = 4
ENTRIES_COUNTED = 1000
LINKS_AT_MOST = 40
OUTPUT_AT_MOST = 65536
_NO_MORE_THAN_FOUND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

# Of <fcntl.h>, <sched.h>, <sys/mount.h> and <linux/mount.h>, the same on every machine.
_AT_FDCWD = -100
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_SLAVE = 1 << 14, 1 << 19
_UMOUNT_NOFOLLOW = 8
_SYS_OPEN_TREE, _OPEN_TREE_CLONE = 428, 1
_SYS_MOVE_MOUNT, _FROM_EMPTY_PATH, _TO_EMPTY_PATH = 429, 0x4, 0x40


class Untrusted(Exception):
    """A link on the way that others than root could have put there."""


class Way:
    """The way from "/" to a path, opened part by part.

    A link is followed only if it is root's, or our own, and nobody else could
    put another one in its place: see `_is_out_of_reach`.
    """

    def __init__(self, path: str) -> None:
        self._ahead = path.split("/")[::-1]
        self._names: list[str] = []
        self._fds = [os.open("/", _NO_MORE_THAN_FOUND)]
        self._are_safe = [True]

    @property
    def path(self) -> str:
        """Without links; where it would be, when it is missing."""
        return "/" + "/".join([*self._names, *self._ahead[::-1]])

    def go(self, *, makes: bool = False) -> int:
        """Opens all of it, and gives the last descriptor; with `makes` missing folders are made.

        Raises Untrusted, OSError.
        """
        links = 0
        while self._ahead:
            name = self._ahead.pop()
            if name == "..":
                self._up()
            elif name not in ("", "."):
                links += self._step(name, makes)
            if links > LINKS_AT_MOST:
                raise OSError(errno.ELOOP, "too many links")
        return self._fds[-1]

    def _up(self) -> None:
        if self._names:
            del self._names[-1], self._fds[-1], self._are_safe[-1]

    def _step(self, name: str, makes: bool) -> bool:
        """True: it was a link, and what it leads to lies ahead now."""
        fd = self._opened(name, makes)
        status = os.fstat(fd)
        is_safe = self._are_safe[-1] and _is_out_of_reach(status, os.fstat(self._fds[-1]))
        if not stat.S_ISLNK(status.st_mode):
            self._names.append(name)
            self._fds.append(fd)
            self._are_safe.append(is_safe)
            return False
        if not is_safe or status.st_uid not in _ours():
            link = "/" + "/".join([*self._names, name])
            raise Untrusted(
                f"{link} is a link that uid {_culprit(status, self._fds)} could have put"
            )
        to = os.readlink("", dir_fd=fd)
        if to.startswith("/"):
            del self._names[:], self._fds[1:], self._are_safe[1:]
        self._ahead += to.split("/")[::-1]
        return True

    def _opened(self, name: str, makes: bool) -> int:
        above = self._fds[-1]
        try:
            # An automounter mounts for those alone who ask for a folder.
            return os.open(name, _NO_MORE_THAN_FOUND | os.O_DIRECTORY, dir_fd=above)
        except NotADirectoryError:
            return os.open(name, _NO_MORE_THAN_FOUND, dir_fd=above)
        except FileNotFoundError:
            if not makes:
                self._ahead.append(name)
                raise
        os.mkdir(name, 0o755, dir_fd=above)
        return os.open(name, _NO_MORE_THAN_FOUND | os.O_DIRECTORY, dir_fd=above)


def _ours() -> tuple[int, int]:
    return 0, os.geteuid()


def _is_out_of_reach(entry: os.stat_result, folder: os.stat_result) -> bool:
    """Whether nobody else can put another entry in this one's place. As in /tmp, a sticky
    folder keeps what is root's, though everybody writes to it."""
    is_closed = not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    is_kept = bool(folder.st_mode & stat.S_ISVTX) and entry.st_uid in _ours()
    return folder.st_uid in _ours() and (is_closed or is_kept)


def _culprit(link: os.stat_result, fds: list[int]) -> int:
    """Who could have put a link there: of all who own it, or a folder on the way, the first."""
    owners = [os.fstat(fd).st_uid for fd in fds]
    return next((uid for uid in (link.st_uid, *owners) if uid not in _ours()), link.st_uid)


def observe(target: str) -> Answer:
    """A target where nothing is mounted: where it really is, and what lies in it."""
    way = Way(target)
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=way.go())
        with os.scandir(fd) as entries:
            names = [entry.name for entry, _ in zip(entries, range(ENTRIES_COUNTED), strict=False)]
    except FileNotFoundError:
        return {"path": way.path, "kind": "missing"}
    except NotADirectoryError:
        return {"path": way.path, "kind": "other"}
    shown = sorted(names)[:ENTRIES_SHOWN]
    return {"path": way.path, "kind": "folder", "count": len(names), "entries": shown}


def mount(target: str, path: str, stage: str, bound: str, *argv: str) -> Answer:
    """Mounts at a target, which has to be found at `path`; missing folders are made.

    mount(8) and its helpers know paths alone. So they mount on a folder of
    root's, in a mount namespace that ends with this process, and from there
    the mount is put on the descriptor that was checked. `bound` is the folder that
    a bind shows, opened in the same way; `argv` mount(8) with the rest.
    """
    way = Way(target)
    fd = way.go(makes=True)
    if way.path != path:
        return {"fault": f"{target} leads to {way.path} now, not to {path} any more"}
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _call("unshare", _CLONE_NEWNS)
    # As a slave: what is unmounted outside meanwhile is unmounted in here as well.
    _call("mount", b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
    source = _source(bound) if bound else ()
    if fault := _run(*argv, *source, "--target", stage):
        return {"fault": fault.replace(stage, target)}
    made = _call("syscall", _SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(stage), _OPEN_TREE_CLONE)
    _call("setns", here, _CLONE_NEWNS)
    _call("syscall", _SYS_MOVE_MOUNT, made, b"", fd, b"", _FROM_EMPTY_PATH | _TO_EMPTY_PATH)
    return {}


def _source(bound: str) -> tuple[str, ...]:
    fd = Way(bound).go()
    os.set_inheritable(fd, True)
    return "--no-canonicalize", "--source", f"/proc/self/fd/{fd}"


def _run(*argv: str) -> str:
    """What a program says when it fails."""
    output = os.memfd_create("output")
    streams = [(os.POSIX_SPAWN_DUP2, output, number) for number in (1, 2)]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=streams)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = os.pread(output, OUTPUT_AT_MOST, 0).decode(errors="backslashreplace")
    return (" ".join(text.split()) or f"ended with {code}") if code else ""


def unmount(target: str, parent_id: str) -> Answer:
    """Unmounts what is mounted there on the mount of that number, without touching it.

    The folder above is held while it is done, and a mount point can't be renamed: so it
    is that very one, whatever becomes of the path. umount(8) would follow a link in it.
    """
    above, name = os.path.split(target)
    fd = os.open(above, os.O_PATH | os.O_DIRECTORY)
    if _mount_of(fd) != int(parent_id) or os.readlink(f"/proc/self/fd/{fd}") != above:  # noqa: PTH115
        return {"fault": "ESTALE"}
    os.fchdir(fd)
    _call("umount2", os.fsencode(name), _UMOUNT_NOFOLLOW)
    return {}


def _mount_of(fd: int) -> int:
    """The number of the mount that a descriptor lies in. proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith(b"mnt_id:"))


def _call(name: str, *arguments: bytes | int | None) -> int:
    import ctypes  # only to mount: it takes as long as all the rest

    libc = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def statvfs(target: str) -> Answer:
    """Goes to the server and back, and nothing else: the kernel has no cache for it."""
    return {"is_read_only": bool(os.statvfs(target).f_flag & os.ST_RDONLY)}


def probe(target: str, mount_id: str, file: str, uid: str, gid: str, write: str) -> Answer:
    """A share that is mounted: whose it is, whether it can be read, and written. "" leaves out.

    Asked as that user where one is given: root is often nobody on the server.
    """
    fd = os.open(target, os.O_PATH | os.O_DIRECTORY)
    if _mount_of(fd) != int(mount_id):
        return {"is_another": True}
    os.fchdir(fd)  # what lies above the share is not asked about
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
    # What is no regular file is there, and that is all that is asked of it: to open a
    # device, which a link in a share may lead to, can do anything.
    found = os.open(path, os.O_PATH)
    if stat.S_ISREG(os.fstat(found).st_mode):
        # Who has a lease on it is not waited for (fcntl(2)): it is there.
        with contextlib.suppress(BlockingIOError):
            os.read(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK), 1)


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
    "observe": observe,
    "mount": mount,
    "unmount": unmount,
    "statvfs": statvfs,
    "probe": probe,
}


def main(question: str, *arguments: str) -> None:
    try:
        answer = QUESTIONS[question](*arguments)
    except OSError as error:
        answer = {"fault": _name(error)}
    except Untrusted as error:
        answer = {"untrusted": str(error)}
    print(ascii(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
