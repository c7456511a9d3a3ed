"""What is on a machine, as plain values: processes, accounts, files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Owner = tuple[int, int]


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One living process; `start_ticks` counts from boot, suspended time included."""

    pid: int
    start_ticks: int
    # Not part of who it is: these change while it lives.
    parent: int = field(default=0, compare=False)
    group: int = field(default=0, compare=False)
    session: int = field(default=0, compare=False)

    @property
    def started_s(self) -> float:
        """When it started, on the clock of `now_s`, rounded down to a tick."""
        return self.start_ticks / TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a process runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class File:
    """A regular file: its content, its permission bits, its (uid, gid).

    names     how many hard links it has
    is_mount  something is mounted on it, so that no other file can take its place
    has_acl   more accounts than the mode shows may read or write it, or fewer
    """

    raw: bytes = field(repr=False)
    mode: int
    owner: Owner
    names: int = 1
    is_mount: bool = False
    has_acl: bool = False
