"""What is mounted where, from the text of /proc/PID/mountinfo. Pure.

The table is the kernel's own and answers while a server is dead; asking a
path itself may hang. What a path leads to follows from it alone: mounts form
a tree by their ids, and the kernel steps onto each mount that lies on its way.
Sources: proc_pid_mountinfo(5), path_resolution(7), mount_namespaces(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...paths import is_within

_ESCAPE = re.compile(r"\\([0-7]{3})")
_SHARED, _MASTER = "shared:", "master:"


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line.

    device         "major:minor" of the file system
    root           the folder of that file system which is mounted
    target         where, as the reader of the table sees it
    options        of this mount: "rw", "noatime"
    super_options  of its file system: "vers=4.2", "hard"
    shared         its peer group, master: the group it gets mounts from; 0 for none
    """

    id: int
    parent: int
    device: str
    root: str
    target: str
    options: tuple[str, ...]
    type: str
    source: str
    super_options: tuple[str, ...]
    shared: int = 0
    master: int = 0


Table = tuple[MountEntry, ...]


def parse(text: str) -> Table:
    r"""All mounts, in the order of the text. Octal escapes (\040) are decoded.

    Only a newline ends a line: the kernel escapes that one, and lets a form feed, a
    carriage return or U+2028 in a path stand. Raises ValueError with the line number if
    a line is not as the page says.
    """
    lines = text.removesuffix("\n").split("\n") if text else []
    return tuple(_entry(line, n) for n, line in enumerate(lines, start=1))


def _entry(line: str, number: int) -> MountEntry:
    try:
        left, right = line.split(" - ", 1)
        mount_id, parent, device, root, target, options, *tags = left.split(" ")
        kind, source, super_options = right.split(" ", 2)
        return MountEntry(
            int(mount_id),
            int(parent),
            device,
            _plain(root),
            _plain(target),
            tuple(options.split(",")),
            kind,
            _plain(source),
            tuple(_plain(super_options).split(",")),
            _group(tags, _SHARED),
            _group(tags, _MASTER),
        )
    except ValueError as error:
        raise ValueError(f"mountinfo: line {number} is not as expected: {line!r}") from error


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _group(tags: list[str], prefix: str) -> int:
    return next((int(tag.removeprefix(prefix)) for tag in tags if tag.startswith(prefix)), 0)


def way_to(path: str, table: Table) -> list[MountEntry]:
    """The mounts that the kernel steps onto on its way to an absolute path without links.

    The last one is what is seen there. A mount of the table that is not among
    them is covered by one that is, at its own place or further up.
    """
    ids = {entry.id for entry in table}
    here = next((e for e in table if e.target == "/" and e.parent not in ids - {e.id}), None)
    way: list[MountEntry] = []
    while here is not None:
        way.append(here)
        here = _next_on(path, here, table)
    return way


def _next_on(path: str, here: MountEntry, table: Table) -> MountEntry | None:
    children = [e for e in table if e.parent == here.id != e.id and is_within(path, e.target)]
    # Of two at one place the later line is the visible one.
    return min(reversed(children), key=lambda entry: len(entry.target), default=None)


def mounted_at(path: str, table: Table) -> MountEntry | None:
    """The mount that is seen at exactly that path; None: the path lies inside another one."""
    way = way_to(path, table)
    return way[-1] if way and way[-1].target == path else None


def below(mount: MountEntry, table: Table) -> list[MountEntry]:
    """The mounts that stand directly on this one: it can't be unmounted before them."""
    return [entry for entry in table if entry.parent == mount.id != entry.id]


def held_in(mount: MountEntry, here: Table, there: Table) -> Iterator[tuple[MountEntry, bool]]:
    """The mounts of another namespace that show what `mount` shows, and whether they stay.

    False: an unmount here takes that one along, as it does with the copies
    that every service with a namespace of its own gets (PrivateTmp= and the
    like). A container's own mount stays: its sessions would go on with the old share.

    Exports of one server often are one file system, and so one device. A copy
    of the mount of another export says nothing of this one.
    """
    siblings = [e for e in here if e.device == mount.device and e.id != mount.id]
    for entry in there:
        if entry.device == mount.device and is_within(entry.root, mount.root):
            other = _by_id(entry.parent, there)
            if not any(_follows(sibling, here, entry, other) for sibling in siblings):
                yield entry, not _follows(mount, here, entry, other)


def _follows(mount: MountEntry, here: Table, entry: MountEntry, other: MountEntry | None) -> bool:
    """Whether unmounting `mount`, an event on its parent, reaches `entry` on `other`."""
    parent = _by_id(mount.parent, here)
    if parent is None or other is None or not parent.shared:
        return False
    is_propagated = parent.shared in (other.shared, other.master)
    is_copy = entry.root == mount.root and _place(entry, other) == _place(mount, parent)
    return is_propagated and is_copy


def _place(mount: MountEntry, parent: MountEntry) -> str:
    """Where it stands in its parent's file system, however that is mounted."""
    relative = mount.target.removeprefix(parent.target.rstrip("/"))
    return f"{parent.root.rstrip('/')}{relative}"


def _by_id(number: int, table: Table) -> MountEntry | None:
    return next((entry for entry in table if entry.id == number), None)
