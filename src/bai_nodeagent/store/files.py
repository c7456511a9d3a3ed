"""The store in a folder of this node: the same tree of keys, as files.

Files carry no revisions, so they are counted: whenever what is under a key
differs from what was there at the last reading, the count goes up and the key
gets its number. A key that is read for the first time counts as unchanged since 1.
A reading that finds nothing is remembered as well, so an absence has its revision.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import anyio

from ..errors import Unavailable
from ..system import files, inotify, kept, own_file
from ..typed import json_value, typed
from .base import Conflict, Entry, FileSettings, Snapshot, Superseded
from .presence import LEASE_S, Claim, held

SETTLE_S = 0.05  # between an event and the reading: a file that is created is empty at first
READ_AT_MOST = 2 << 20  # bytes; above the largest document, and what etcd takes
COUNT = "store-count.json"
COUNT_AT_MOST = 64 << 20  # bytes; a line a key
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUFFIXES = (".toml", ".json")


# --- names


def file_names(key: str) -> tuple[str, ...]:
    """The relative paths that can hold a key. Raises ValueError for what is no key."""
    if not all(_NAME.fullmatch(part) for part in key.split("/")):
        raise ValueError(f"{key!r} is not the name of a key")
    if key.startswith("desired/"):
        return (*(key + suffix for suffix in _SUFFIXES), key)
    return (key,)


def key_of(path: str) -> str | None:
    """The key that a relative path holds; None for the temporary files of editors and ours."""
    if not all(_NAME.fullmatch(part) for part in path.split("/")):
        return None
    stem, suffix = os.path.splitext(path)  # noqa: PTH122  (text, not a path of this machine)
    return stem if path.startswith("desired/") and suffix in _SUFFIXES else path


# --- revisions


@dataclass(frozen=True, slots=True)
class Count:
    """The revision, and for each key that was read its content and since when it has that.

    `seen`: key -> (digest of the content, "" for nothing; revision of that change)
    """

    epoch: str
    revision: int = 1
    seen: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def since(self, key: str) -> int:
        return self.seen[key][1]

    def advanced(self, now: Mapping[str, str]) -> Count:
        """With what is under some keys now, as digests."""
        changed = {k for k, digest in now.items() if k in self.seen and self.seen[k][0] != digest}
        if not changed and now.keys() <= self.seen.keys():
            return self
        revision = self.revision + bool(changed)
        fresh = {
            key: (digest, revision if key in changed else 1)
            for key, digest in now.items()
            if key in changed or key not in self.seen
        }
        return Count(self.epoch, revision, {**self.seen, **fresh})


def parse_count(raw: bytes) -> Count:
    """From its file's content. Raises whatever that asks for."""
    count: Count = typed(Count, json_value(raw))
    return count


# --- alive


def _process(pid: int) -> str | None:
    """Boot and start time of a living process: who it is, beside its number. None: dead.

    proc_pid_stat(5): state and start time are fields 3 and 22; the name before
    them is in parentheses and may hold anything.
    """
    try:
        stat_line = Path(f"/proc/{pid}/stat").read_bytes()
        fields = stat_line.rpartition(b")")[2].decode("ascii").split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def _sealed(value: bytes) -> bytes:
    pid = os.getpid()
    holder = {"pid": pid, "started": _process(pid), "value": value.decode()}
    return json.dumps(holder).encode()


def _unsealed(raw: bytes) -> bytes | None:
    """The value if the process that wrote it lives."""
    try:
        holder = json.loads(raw)
        pid, started = int(holder["pid"]), holder["started"]
        value = str(holder["value"]).encode()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return value if started is not None and started == _process(pid) else None


# --- the store


@dataclass(frozen=True, slots=True)
class _Found:
    """What is under a key: the file that holds it, if any, its content, or what is wrong."""

    path: Path | None = None
    raw: bytes | None = field(default=None, repr=False)
    fault: str = ""

    @property
    def digest(self) -> str:
        if self.raw is None and not self.fault:
            return ""
        return hashlib.sha256(self.fault.encode() + b"\0" + (self.raw or b"")).hexdigest()


class FileStore:
    """`base.Store` over a folder. Its files are local and small: they are read in the loop."""

    def __init__(self, settings: FileSettings, lease_s: float = LEASE_S) -> None:
        self._folder = settings.folder
        self._state = settings.state
        self._is_counted = settings.is_counted
        self._uncounted: Count | None = None
        self._lease_s = lease_s

    @property
    def where(self) -> str:
        return f"file:{self._folder}"

    async def read(self, keys: Iterable[str], at: int | None = None) -> Snapshot:
        with self._locked():
            found, count = self._observe(keys)
        if at is not None and (at > count.revision or any(count.since(k) > at for k in found)):
            raise Superseded(f"{self.where} is not at revision {at} any more")
        return Snapshot(
            revision=at or count.revision,
            entries={
                key: Entry(it.raw, count.since(key))
                for key, it in found.items()
                if it.raw is not None
            },
            epoch=count.epoch,
            faults={key: it.fault for key, it in found.items() if it.fault},
        )

    async def list(self, below: str) -> Snapshot:
        return await self.read(sorted(await self.names(below)))

    async def names(self, below: str) -> frozenset[str]:
        with self._locked():
            paths = (path.relative_to(self._folder) for path in self._folder.rglob("*"))
            keys = {key_of(str(path)) for path in paths if (self._folder / path).is_file()}
            known = self._load().seen.keys()
        return frozenset(k for k in keys | known if k and k.startswith(below))

    async def put(self, key: str, value: bytes, expected: int | None = None) -> int:
        with self._locked():
            found, count = self._observe([key])
            there = found[key]
            if there.fault:
                raise Conflict(there.fault)
            since = 0 if there.raw is None else count.since(key)
            if expected is not None and expected != since and there.raw != value:
                raise Conflict(f"{key} is not at revision {expected} any more")
            self._write(there.path or self._folder / _new_name(key, value), value)
            _, count = self._observe([key])
        return count.revision

    async def changes(self, keys: Iterable[str], since: Snapshot) -> AsyncGenerator[None, None]:
        after = since.revision
        wanted = list(keys)
        paths = [self._folder / name for key in wanted for name in file_names(key)]
        with self._translated():
            async with aclosing(inotify.changes(paths)) as events:
                async for _ in events:
                    await anyio.sleep(SETTLE_S)
                    with self._locked():
                        _, count = self._observe(wanted)
                    if count.epoch != since.epoch:
                        raise Unavailable(f"{self.where}: its count of revisions was lost")
                    newest = max(map(count.since, wanted), default=0)
                    if newest > after:
                        after = newest
                        yield

    def presence(
        self, key: str, value: Callable[[], bytes], replaces: Callable[[bytes, float], bool]
    ) -> AbstractAsyncContextManager[Claim]:
        claim = Claim(value, replaces, self._lease_s)
        path = self._folder / key

        async def observe() -> None:
            with self._locked():
                there = self._find(key).raw
                if claim.may_write(there, anyio.current_time()) and there != (now := value()):
                    self._write(path, _sealed(now))

        async def leave() -> None:
            with self._locked():
                there = self._find(key).raw
                if there is not None and (there == value() or replaces(there, 0.0)):
                    files.remove(path)

        return held(claim, observe, leave)

    async def close(self) -> None:
        """Nothing is open between calls."""

    def _observe(self, keys: Iterable[str]) -> tuple[dict[str, _Found], Count]:
        found = {key: self._find(key) for key in keys}
        before = self._load()
        count = before.advanced({key: it.digest for key, it in found.items()})
        if not self._is_counted:
            self._uncounted = count
        elif count is not before:
            text = json.dumps(asdict(count), sort_keys=True).encode()
            kept.keep(self._state / COUNT, text)
        return found, count

    def _find(self, key: str) -> _Found:
        paths = [self._folder / name for name in file_names(key)]
        there = [(path, raw) for path in paths if (raw := _read(path)) is not None]
        if not there:
            return _Found()
        if len(there) > 1:
            names = " and ".join(path.name for path, _ in there)
            return _Found(
                fault=f"two files for one layer: {names} in {paths[0].parent}; remove one"
            )
        path, raw = there[0]
        if _is_presence(key):
            return _Found(path, _unsealed(raw))
        return _Found(path, raw)

    def _load(self) -> Count:
        if self._uncounted is not None:
            return self._uncounted
        found = None
        if self._is_counted:
            found = kept.read(self._state / COUNT, parse_count, COUNT_AT_MOST)
        else:
            with contextlib.suppress(
                own_file.Unreadable
            ):  # for the daemon to set aside, and to tell
                found = kept.peek(self._state / COUNT, parse_count, COUNT_AT_MOST)
        return found or Count(epoch=secrets.token_hex(8))

    def _write(self, path: Path, value: bytes) -> None:
        """By rename; a file that is there keeps its owner and mode."""
        _make_private(path.parent)
        mode, owner = 0o600, None
        with contextlib.suppress(FileNotFoundError):
            old = path.stat()
            mode, owner = stat.S_IMODE(old.st_mode), (old.st_uid, old.st_gid)
        files.replace(path.resolve(), value, mode=mode, owner=owner)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes with this store out; held for milliseconds. flock(2)."""
        with self._translated():
            if not self._is_counted:
                yield
                return
            _make_private(self._state)
            lock = own_file.open_lock(self._state / "store.lock")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"{error.filename or self._folder}: {error.strerror}"
            raise Unavailable(f"{self.where}: {what}") from error


def _is_presence(key: str) -> bool:
    return key.startswith("node/") and key.endswith("/alive")


def _new_name(key: str, value: bytes) -> str:
    if not key.startswith("desired/"):
        return key
    return key + (".json" if value.lstrip().startswith(b"{") else ".toml")


def _read(path: Path) -> bytes | None:
    """None where no file is. A pipe must not stop the loop, hence O_NONBLOCK."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.read(fd, READ_AT_MOST) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _make_private(folder: Path) -> None:
    """As `mkdir -p`, with 0700 for every folder that it makes."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
