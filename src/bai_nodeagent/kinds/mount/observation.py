"""What is wanted of a mount, and its state by the kernel's table alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...paths import is_within
from .mountinfo import MountEntry, Table, mounted_at, way_to
from .options import differing, left_over, wants_write

NETWORK_TYPES = ("nfs4", "nfs")


@dataclass(frozen=True)
class MountSpec:
    """One item of `[[mount]]`."""

    name: str
    source: str
    target: str
    type: Literal["nfs4", "nfs", "bind", "tmpfs"]
    options: tuple[str, ...] = ()
    state: Literal["mounted", "unmounted"] = "mounted"
    expect_file: str = ""
    expect_uid: int | None = None
    expect_gid: int | None = None
    node_id: str = ""
    outer: tuple[MountSpec, ...] = ()  # the items that its target lies in
    others: tuple[MountSpec, ...] = ()  # all items but this one

    @property
    def is_writable(self) -> bool:
        return wants_write(self.options)

    @property
    def effective_options(self) -> tuple[str, ...]:
        """With "rw", which holds unless "ro" is said: a hand's remount may have taken it away."""
        return (*self.options, "rw") if self.is_writable else self.options

    @property
    def how(self) -> list[Any]:
        """What `mount` is called with."""
        return [self.type, self.source, list(self.options)]


@dataclass(frozen=True, slots=True)
class MountState:
    """The state of a target by the kernel's table alone.

    mount     what is seen there; None: nothing is mounted there
    is_share  it is the desired one
    differs   options that it should have and has not
    extra     options that we had given it, and that the document names no more
    cover     what hides the desired one, which is mounted there
    lacks     the name of an item that the target lies in and that is not mounted there
    rival     the name of an item whose target is the same folder: by variables, or by links
    """

    mount: MountEntry | None = None
    is_share: bool = False
    differs: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    cover: MountEntry | None = None
    lacks: str = ""
    rival: str = ""

    @property
    def is_right(self) -> bool:
        return self.mount is not None and self.is_share and not (self.differs or self.extra)


def state_of(
    spec: MountSpec, path: str, table: Table, made: Mapping[str, Any] | None = None
) -> MountState:
    """`path` is the target without links; `made` what was noted of our last mount there."""
    state = _state_of(spec, path, table, made)
    return replace(state, rival=_rival(spec, path, state, table))


def _rival(spec: MountSpec, path: str, state: MountState, table: Table) -> str:
    """Two items at one place would take each other away without end.

    Where a document names one place twice, `check` says so. Variables and links show only here.
    """
    found = [other for other in spec.others if other.target in (spec.target, path)]
    if path != spec.target and state.mount and not state.is_right:
        found += [other for other in spec.others if _shows(other, state.mount, table)]
    return found[0].name if found else ""


def _state_of(
    spec: MountSpec, path: str, table: Table, made: Mapping[str, Any] | None
) -> MountState:
    mount = mounted_at(path, table)
    hidden = [e for e in table if e.target == path and _shows(spec, e, table)]
    if mount is None:
        way = way_to(path, table)
        lacks = [o.name for o in spec.outer if not any(_shows(o, e, table) for e in way)]
        return MountState(cover=way[-1] if hidden and way else None, lacks="".join(lacks[:1]))
    is_ours = made == note(spec, mount)
    if is_ours or _shows(spec, mount, table):
        differs = () if is_ours else differing(spec.effective_options, mount)
        extra = left_over(_given(spec, mount, made), spec.effective_options, mount)
        return MountState(mount, is_share=True, differs=differs, extra=extra)
    return MountState(mount, cover=mount if hidden or mount.type == "autofs" else None)


def note(spec: MountSpec, mount: MountEntry) -> dict[str, Any]:
    """What says that a mount was made by us for this spec, and is as it was then."""
    options = [*mount.options, "|", *mount.super_options]
    return {"how": spec.how, "id": mount.id, "device": mount.device, "options": options}


def _given(spec: MountSpec, mount: MountEntry, made: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The options that we made this very mount with; () when it isn't ours."""
    match made:
        case {"id": mount.id, "device": mount.device, "how": [spec.type, spec.source, [*options]]}:
            return tuple(option for option in options if isinstance(option, str))
    return ()


def _shows(spec: MountSpec, mount: MountEntry, table: Table) -> bool:
    if spec.type == "bind":
        return (mount.device, mount.root) == _origin(spec.source, table)
    # What is asked for as "nfs" is reported as "nfs4" when that was negotiated.
    types = NETWORK_TYPES if spec.type == "nfs" else (spec.type,)
    return mount.type in types and _bare(mount.source) == _bare(spec.source)


def _origin(path: str, table: Table) -> tuple[str, str]:
    """Device and folder that a local path leads to."""
    way = way_to(path, table)
    if not way:
        return "", ""
    relative = path.removeprefix(way[-1].target.rstrip("/"))
    return way[-1].device, f"{way[-1].root.rstrip('/')}{relative}" or "/"


def _bare(source: str) -> str:
    """The kernel drops a trailing slash, but for the server's root."""
    return source if source.endswith(":/") else source.rstrip("/")


def entries_near(path: str, table: Table) -> Table:
    """The part of a table that decides the state of a target: what is above it, at it, below it."""
    return tuple(e for e in table if is_within(path, e.target) or is_within(e.target, path))
