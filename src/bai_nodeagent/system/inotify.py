"""Wake-ups by inotify for paths that may not exist yet, or be links.

What leads to a path is watched, not the path: a watch on a file is blind
after the first rename over it, one on its folder misses writes through a
link, and `mkdir -p` shows its first level only. So every folder on the way,
through links as well, is watched for the one name that matters there, and
the way is walked again after every event. Source: inotify(7).
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import anyio
from inotify_simple import Event, INotify, flags

from ..errors import Stuck, Unavailable
from ..text import clean
from .blocking import in_thread

# MODIFY is left out on purpose: a file is judged after its writer has closed it. Where it
# counts all the same, the observation has to find out whether one is at it.
_EVENTS = (
    flags.CLOSE_WRITE
    | flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.ATTRIB
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)
_OF_THE_FOLDER = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.Q_OVERFLOW
WALK_S = 5.0
_LINKS_AT_MOST = 40  # as the kernel: path_resolution(7)
# Of one watch. Paths that others have laid may be as deep as they like, and root's watches
# are counted together: fs.inotify.max_user_watches.
_FOLDERS_AT_MOST = 2000
_WALKS_AT_MOST = 10
_PAUSE_S = 0.1

# Both limits are those of a user: containers that run as root count as well.
_HINTS = {
    errno.EMFILE: "; raise fs.inotify.max_user_instances (sysctl)",
    errno.ENOSPC: "; raise fs.inotify.max_user_watches (sysctl)",
}

_PATHS_LISTED = 300  # characters

_Way = dict[str, set[str]]


def way_to(path: Path) -> _Way:
    """Existing folders that decide what `path` leads to, and the names that matter in each.

    A folder itself as `path` matters with all its entries; that is the name "".
    """
    way: _Way = {}
    todo = list(path.parts[1:])
    here = "/"
    links = 0
    while todo:
        name = todo.pop(0)
        if name == "..":
            here = str(Path(here).parent)
            continue
        way.setdefault(here, set()).add(name)
        there = os.path.join(here, name)  # noqa: PTH118  (no normalising: links)
        try:
            target = Path(there).readlink() if Path(there).is_symlink() else None
        except OSError:
            break
        if target is not None and links < _LINKS_AT_MOST:
            links += 1
            todo = [*(target.parts[1:] if target.is_absolute() else target.parts), *todo]
            here = "/" if target.is_absolute() else here
        elif Path(there).is_dir():
            here = there
        else:
            return way
    way.setdefault(here, set()).add("")
    return way


async def changes(
    paths: Iterable[Path],
    *,
    of_names_alone: bool = False,
    is_written_by_others: bool = False,
    is_apart: bool = False,
) -> AsyncGenerator[None, None]:
    """Yields once at the start of the watch, and then when one of the paths may have changed.

    A path that is a folder counts with its direct entries. Bursts come as one.
    The first yield says that the watch is in place: what is read after it can't be missed.
    Raises Unavailable.

    `of_names_alone`: only what comes and goes counts. For /dev, where somebody
    closes /dev/null hundreds of times a second.

    `is_written_by_others`: each write counts, also that of truncate(2), which opens nothing.
    `is_apart`, then as well: the way is walked in a thread, since others have laid it. It may
    lead over a share that hangs, or through links without end.
    """
    wanted = list(paths)
    mask = _EVENTS & ~(flags.CLOSE_WRITE | flags.ATTRIB) if of_names_alone else _EVENTS
    mask |= flags.MODIFY if is_written_by_others else 0
    is_apart = is_apart or is_written_by_others
    try:
        async with aclosing(_changes(wanted, mask, is_apart=is_apart)) as events:
            async for _ in events:
                yield
    except Stuck as error:
        raise Unavailable(str(error)) from error
    except OSError as error:
        where = clean(", ".join(map(str, wanted)), _PATHS_LISTED)
        hint = _HINTS.get(error.errno or 0, "")
        raise Unavailable(f"inotify on {where}: {error.strerror}{hint}") from error


async def written(path: Path) -> AsyncGenerator[None, None]:
    """Yields when there is such a file and whenever somebody writes to it, closed or not.
    Raises Unavailable."""
    while True:
        try:
            with INotify(nonblocking=True) as inotify:
                inotify.add_watch(path, flags.MODIFY | flags.DELETE_SELF | flags.MOVE_SELF)
                gone = False
                while not gone:
                    yield
                    await anyio.wait_readable(inotify.fileno())
                    gone = any(event.mask & _OF_THE_FOLDER for event in inotify.read(timeout=0))
        except FileNotFoundError:
            async with aclosing(changes([path])) as events:
                async for _ in events:
                    if path.exists():
                        break
        except OSError as error:
            raise Unavailable(f"inotify on {path}: {error.strerror}") from error


async def _changes(wanted: list[Path], mask: int, *, is_apart: bool) -> AsyncGenerator[None, None]:
    with INotify(nonblocking=True) as inotify:
        watched: dict[int, set[str]] = {}

        async def again() -> None:
            if is_apart:
                what = f"watch {', '.join(map(str, wanted))} ({inotify.fileno()})"
                await in_thread(what, partial(_watch_again, inotify, watched, wanted, mask), WALK_S)
            else:
                _watch_again(inotify, watched, wanted, mask)

        await again()
        yield
        while True:
            await anyio.wait_readable(inotify.fileno())
            events = list(inotify.read(timeout=0))
            if not any(_matters(event, watched) for event in events):
                continue
            await again()
            yield
            if is_apart:  # whoever owns the way may change it as often as he likes
                await anyio.sleep(_PAUSE_S)


def _matters(event: Event, watched: dict[int, set[str]]) -> bool:
    names = watched.get(event.wd, set())
    return bool(event.mask & _OF_THE_FOLDER) or event.name in names or "" in names


def _ways_to(paths: list[Path]) -> _Way:
    ways: _Way = {}
    for path in paths:
        for folder, names in way_to(path).items():
            ways.setdefault(folder, set()).update(names)
        if len(ways) > _FOLDERS_AT_MOST:
            raise OSError(errno.E2BIG, f"more than {_FOLDERS_AT_MOST} folders lead there")
    return ways


def _watch_again(
    inotify: INotify, watched: dict[int, set[str]], paths: list[Path], mask: int
) -> None:
    fresh: dict[int, set[str]] = {}
    ways: _Way = {}
    # Walked until nothing new shows: a folder made between the walk and its
    # parent's watch emits no event. Links on the way may change without end; those tell.
    for _ in range(_WALKS_AT_MOST):
        if (now := _ways_to(paths)) == ways:
            break
        ways = now
        for folder, names in ways.items():
            try:
                fresh.setdefault(inotify.add_watch(folder, mask), set()).update(names)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone since the walk; its parent is watched and will tell
    for gone in watched.keys() - fresh.keys():
        try:
            inotify.rm_watch(gone)
        except OSError:
            continue  # the kernel has removed it with its folder: inotify_rm_watch(2), EINVAL
    watched.clear()
    watched.update(fresh)
