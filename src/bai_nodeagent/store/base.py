"""What the daemon asks of a store. `etcd.py` and `files.py` answer alike.

Names of keys here are relative to `<prefix>/<cluster>/`, as the contract
writes them: "desired/cluster", "secret/node/i-node01/agent-etcd",
"node/i-node01/status".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..etcd_access import EtcdAccess

RECONNECT_S = 3.0


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """The store in etcd: keys below `<prefix>/<cluster>/`."""

    access: EtcdAccess
    cluster: str
    prefix: str = "/bai-nodeagent"


@dataclass(frozen=True, slots=True)
class FileSettings:
    """The store in a folder.

    state       where the count of revisions is kept
    is_counted  False for commands that leave the node untouched: revisions are
                reported as the daemon would count them, and not kept
    """

    folder: Path
    state: Path
    is_counted: bool = True


class Superseded(Exception):
    """The store can no longer show the revision that was asked for: read again from the top."""


class Conflict(Exception):
    """Somebody else wrote the key since it was read. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stood. `raw` is exactly what was written, checked by nobody yet."""

    raw: bytes = field(repr=False)
    revision: int  # of its last change; 0 where the store can't tell


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Several keys at one revision of the store; a key that is not there is not in `entries`.

    `epoch` changes when the store is another one than before (etcd: its
    cluster id); a revision that goes back within an epoch is a restored
    backup. `faults` holds keys that are there but not to be had as one value
    ("two files for one layer: …"), with the sentence that says why.
    `is_journaled`: no store was asked, this is what the node has kept of one.
    """

    revision: int
    entries: Mapping[str, Entry]
    epoch: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)
    is_journaled: bool = False

    def goes_on_from(self, before: Snapshot) -> bool:
        """Whether it is of the same store as an earlier one, and not of a backup of it."""
        return self.epoch == before.epoch and self.revision >= before.revision


def raw_of(entries: Mapping[str, Entry]) -> dict[str, bytes]:
    """Key -> exact bytes."""
    return {key: entry.raw for key, entry in entries.items()}


class Store(Protocol):
    """Errors: `model.Unavailable` where the store can't be reached in time or
    denies access, with a sentence that names endpoint and, where it is about
    one, the key. No call takes longer than `CALL_DEADLINE_S`."""

    @property
    def where(self) -> str:
        """For people: the endpoints or the folder, without user or password."""
        ...

    async def read(self, keys: Iterable[str], at: int | None = None) -> Snapshot:
        """The keys, all at one revision; with `at` at just that one, else Superseded.

        A linearizable read: never older than what any writer has been answered.
        """
        ...

    def changes(self, keys: Iterable[str], since: Snapshot) -> AsyncIterator[None]:
        """Yields each time when one of the keys may have changed since that reading.

        Bursts may come as one. Before the first change it yields nothing.
        Raises Unavailable when it breaks (silent for too long, compacted,
        denied, or the store does not go on from that reading); the caller
        reads again and asks again. Close it (`aclose`) when done; cancelling
        it is enough as well.
        """
        ...

    async def put(self, key: str, value: bytes, expected: int | None = None) -> int:
        """Writes a key; gives the store's revision.

        `expected`: its last change as read (0: must not exist), else Conflict.
        After a time-out it is not known whether it was written: repeat it.
        """
        ...

    async def list(self, below: str) -> Snapshot:
        """All keys that start with `below` ("node/", "desired/")."""
        ...

    async def names(self, below: str) -> frozenset[str]:
        """The names of all keys that start with `below`; their values are not fetched."""
        ...

    def presence(
        self, key: str, value: Callable[[], bytes], replaces: Callable[[bytes, float], bool]
    ) -> AbstractAsyncContextManager[Presence]:
        """Holds `key` with `value()` alive while entered: bound to a lease (etcd)
        or to this process (files), written again whenever it is lost or that has
        changed, removed at exit. Entering does not wait for the store.

        Another value is overwritten where `replaces(value, seconds)` says that nobody
        lives who has left it unchanged for so long; else it is waited out, and reported as a rival
        when it is still there after one lease.
        """
        ...

    async def close(self) -> None: ...


class Presence(Protocol):
    """The `alive` key while the daemon lives. Never raises: the store may be away for hours."""

    @property
    def rival(self) -> bytes | None:
        """The value of another holder that was still there after one lease, else None."""
        ...


def reconnect_s(chance: float) -> float:
    """Wait before the store is asked again: a fleet must not come back in step."""
    return RECONNECT_S * (1 + chance) / 2
