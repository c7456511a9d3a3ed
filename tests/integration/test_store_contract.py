"""What every store must do, asked of both: a real etcd and a folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.store import EtcdSettings, FileSettings
from bai_nodeagent.store.base import Conflict, Snapshot, Store, Superseded
from bai_nodeagent.store.etcd import EtcdStore
from bai_nodeagent.store.files import FileStore
from servers import Etcd

pytestmark = [pytest.mark.anyio, pytest.mark.etcd]

CLUSTER, NODE = "desired/cluster", "desired/node/i-node01"
ALIVE = "node/i-node01/alive"
LEASE_S = 2
PATIENCE_S = 10.0


class Place:
    """Where a store keeps its keys, and how an admin gets at them without it."""

    def open(self) -> Store:
        raise NotImplementedError

    def write(self, key: str, value: bytes) -> None:
        raise NotImplementedError

    def delete(self, key: str) -> None:
        raise NotImplementedError


@dataclass
class EtcdPlace(Place):
    etcd: Etcd
    prefix: str

    def open(self) -> Store:
        access = EtcdAccess((self.etcd.endpoint,))
        return EtcdStore(EtcdSettings(access, "local", self.prefix), lease_s=LEASE_S)

    def write(self, key: str, value: bytes) -> None:
        self.etcd.etcdctl("put", f"{self.prefix}/local/{key}", stdin=value)

    def delete(self, key: str) -> None:
        self.etcd.etcdctl("del", f"{self.prefix}/local/{key}")


@dataclass
class FilePlace(Place):
    folder: Path
    state: Path

    def open(self) -> Store:
        return FileStore(FileSettings(self.folder, self.state), lease_s=LEASE_S)

    def _path(self, key: str) -> Path:
        return self.folder / (f"{key}.toml" if key.startswith("desired/") else key)

    def write(self, key: str, value: bytes) -> None:
        self._path(key).parent.mkdir(parents=True, exist_ok=True)
        self._path(key).write_bytes(value)

    def delete(self, key: str) -> None:
        self._path(key).unlink()


@pytest.fixture(params=["etcd", "files"])
def place(request: pytest.FixtureRequest, prefix: str, tmp_path: Path) -> Place:
    if request.param == "files":
        return FilePlace(tmp_path / "store", tmp_path / "state")
    return EtcdPlace(request.getfixturevalue("etcd"), prefix)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = place.open()
    yield store
    await store.close()


@pytest.fixture
async def other(place: Place) -> AsyncIterator[Store]:
    """A second daemon's view of the same place."""
    other = place.open()
    yield other
    await other.close()


@asynccontextmanager
async def counted(store: Store, keys: list[str], since: Snapshot) -> AsyncIterator[list[None]]:
    """What `changes` has yielded so far."""
    observed: list[None] = []

    async def follow() -> None:
        async for _ in store.changes(keys, since):
            observed.append(None)

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        yield observed
        group.cancel_scope.cancel()


async def eventually(holds: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not holds():
            await anyio.sleep(0.02)


async def value_of(store: Store, key: str) -> bytes | None:
    entry = (await store.read([key])).entries.get(key)
    return entry.raw if entry else None


async def until_value(store: Store, key: str, value: bytes | None) -> None:
    with anyio.fail_after(PATIENCE_S):
        while await value_of(store, key) != value:
            await anyio.sleep(0.02)


def is_old(value: bytes, _unchanged_s: float) -> bool:
    return value == b"old me"


def never(_value: bytes, _unchanged_s: float) -> bool:
    return False


# --- reading


async def test_absent_keys_are_absent_not_empty(store: Store) -> None:
    snapshot = await store.read([CLUSTER, NODE])
    assert snapshot.entries == {}
    assert snapshot.revision >= 1
    assert snapshot.epoch


@pytest.mark.parametrize("raw", [b"api-version = 1\n", b"\xff\xfe\x01", b"x" * 1_000_000])
async def test_raw_is_what_was_written(store: Store, place: Place, raw: bytes) -> None:
    place.write(CLUSTER, raw)
    assert await value_of(store, CLUSTER) == raw


async def test_empty_value_is_there(store: Store) -> None:
    await store.put(CLUSTER, b"")
    assert await value_of(store, CLUSTER) == b""


async def test_revision_rises_with_a_change_and_with_a_deletion(store: Store, place: Place) -> None:
    first = await store.read([CLUSTER])
    place.write(CLUSTER, b"1")
    second = await store.read([CLUSTER])
    place.delete(CLUSTER)
    third = await store.read([CLUSTER])
    assert first.revision < second.revision < third.revision
    assert second.entries[CLUSTER].revision == second.revision
    assert first.epoch == second.epoch == third.epoch


async def test_revision_rests_while_nothing_changes(store: Store, other: Store) -> None:
    await store.put(CLUSTER, b"1")
    assert await store.read([CLUSTER, NODE]) == await other.read([CLUSTER, NODE])


async def test_read_at_a_revision_gives_that_one(store: Store, place: Place) -> None:
    await store.read([CLUSTER, NODE])
    place.write(CLUSTER, b"1")
    then = await store.read([CLUSTER])
    place.write(NODE, b"2")
    await store.read([NODE])
    again = await store.read([CLUSTER], at=then.revision)
    assert again == then


async def test_read_at_a_revision_that_was_overwritten_is_never_the_new_one(
    store: Store, place: Place
) -> None:
    place.write(CLUSTER, b"1")
    then = await store.read([CLUSTER])
    place.write(CLUSTER, b"2")
    try:
        assert (await store.read([CLUSTER], at=then.revision)).entries == then.entries
    except Superseded:
        assert isinstance(place, FilePlace)


async def test_read_at_a_revision_to_come_is_superseded(store: Store) -> None:
    now = await store.read([CLUSTER])
    with pytest.raises(Superseded):
        await store.read([CLUSTER], at=now.revision + 1000)


async def test_many_keys_come_at_one_revision(store: Store) -> None:
    """More than fit into one transaction of etcd."""
    keys = [f"secret/cluster/s{n}" for n in range(150)]
    await store.put(keys[-1], b"last")
    snapshot = await store.read(keys)
    assert {key: entry.raw for key, entry in snapshot.entries.items()} == {keys[-1]: b"last"}


async def test_list_gives_all_below_and_nothing_beside(store: Store) -> None:
    for key in ("node/a/status", "node/b/status", "desired/node/a"):
        await store.put(key, key.encode())
    listed = await store.list("node/")
    assert {key: entry.raw for key, entry in listed.entries.items()} == {
        "node/a/status": b"node/a/status",
        "node/b/status": b"node/b/status",
    }
    assert set((await store.list("desired/")).entries) == {"desired/node/a"}
    assert await store.names("node/") == frozenset(listed.entries)


# --- writing


async def test_put_returns_the_revision_of_the_change(store: Store) -> None:
    revision = await store.put(CLUSTER, b"1")
    assert (await store.read([CLUSTER])).entries[CLUSTER].revision == revision
    assert await store.put(CLUSTER, b"2") > revision


async def test_expected_admits_the_state_that_was_read(store: Store) -> None:
    await store.put(CLUSTER, b"1", expected=0)
    observed = (await store.read([CLUSTER])).entries[CLUSTER].revision
    await store.put(CLUSTER, b"2", expected=observed)
    assert await value_of(store, CLUSTER) == b"2"


async def test_expected_refuses_any_other_state(store: Store, place: Place) -> None:
    await store.put(CLUSTER, b"1")
    observed = (await store.read([CLUSTER])).entries[CLUSTER].revision
    place.write(CLUSTER, b"someone else's")
    with pytest.raises(Conflict):
        await store.put(CLUSTER, b"2", expected=observed)
    with pytest.raises(Conflict):
        await store.put(CLUSTER, b"2", expected=0)
    assert await value_of(store, CLUSTER) == b"someone else's"


async def test_expected_write_may_be_repeated(store: Store) -> None:
    """After a time-out nobody knows whether the first one was written."""
    await store.put(CLUSTER, b"1", expected=0)
    await store.put(CLUSTER, b"1", expected=0)
    assert await value_of(store, CLUSTER) == b"1"


# --- changes


async def test_changes_by_others_are_reported(store: Store, place: Place) -> None:
    start = await store.read([CLUSTER, NODE])
    async with counted(store, [CLUSTER, NODE], start) as observed:
        place.write(NODE, b"1")
        await eventually(lambda: len(observed) == 1)
        place.delete(NODE)
        await eventually(lambda: len(observed) == 2)


async def test_change_before_the_watch_is_reported(store: Store, place: Place) -> None:
    start = await store.read([CLUSTER])
    place.write(CLUSTER, b"1")
    async with counted(store, [CLUSTER], start) as observed:
        await eventually(lambda: observed)


async def test_what_was_read_already_is_not_reported_again(store: Store, place: Place) -> None:
    place.write(CLUSTER, b"1")
    start = await store.read([CLUSTER])
    async with counted(store, [CLUSTER], start) as observed:
        await anyio.sleep(0.3)
        assert observed == []


async def test_other_keys_are_not_reported(store: Store, place: Place) -> None:
    start = await store.read([CLUSTER, NODE])
    async with counted(store, [CLUSTER], start) as observed:
        place.write(NODE, b"1")
        await store.put("desired/clusterish", b"1")
        await store.put("node/i-node01/status", b"{}")
        await anyio.sleep(0.3)
        assert observed == []


async def test_flapping_ends_with_the_newest_value(store: Store, place: Place) -> None:
    start = await store.read([CLUSTER])
    latest: list[bytes | None] = []

    async def follow() -> None:
        async for _ in store.changes([CLUSTER], start):
            latest.append(await value_of(store, CLUSTER))

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        for n in range(100):
            await store.put(CLUSTER, f"{n}".encode())
        await eventually(lambda: latest and latest[-1] == b"99")
        group.cancel_scope.cancel()


async def test_changes_can_be_closed(store: Store) -> None:
    start = await store.read([CLUSTER])
    await store.put(CLUSTER, b"1")
    changes = store.changes([CLUSTER], start)
    with anyio.fail_after(PATIENCE_S):
        await anext(changes)
        await changes.aclose()  # type: ignore[attr-defined]


# --- alive


async def test_alive_is_there_while_entered(store: Store) -> None:
    async with store.presence(ALIVE, lambda: b"me", never):
        await until_value(store, ALIVE, b"me")
        assert set((await store.list("node/")).entries) == {ALIVE}
    assert await value_of(store, ALIVE) is None


async def test_alive_outlasts_its_lease(store: Store) -> None:
    async with store.presence(ALIVE, lambda: b"me", never) as presence:
        await until_value(store, ALIVE, b"me")
        await anyio.sleep(LEASE_S * 1.5)
        assert await value_of(store, ALIVE) == b"me"
        assert presence.rival is None


async def test_lost_alive_is_written_again(store: Store, place: Place) -> None:
    async with store.presence(ALIVE, lambda: b"me", never):
        await until_value(store, ALIVE, b"me")
        place.delete(ALIVE)
        await until_value(store, ALIVE, b"me")


async def test_predecessor_is_replaced_at_once(store: Store, other: Store) -> None:
    async with store.presence(ALIVE, lambda: b"old me", never):
        await until_value(store, ALIVE, b"old me")
        async with other.presence(
            ALIVE, lambda: b"new me", lambda there, _: there == b"old me"
        ) as presence:
            await until_value(store, ALIVE, b"new me")
            assert presence.rival is None


async def test_stranger_is_waited_out_and_then_a_rival(store: Store, other: Store) -> None:
    async with store.presence(ALIVE, lambda: b"stranger", never):
        await until_value(store, ALIVE, b"stranger")
        async with other.presence(ALIVE, lambda: b"me", never) as presence:
            await anyio.sleep(LEASE_S / 2)
            assert presence.rival is None
            await eventually(lambda: presence.rival == b"stranger")
            assert await value_of(store, ALIVE) == b"stranger"


async def test_rival_that_leaves_is_succeeded(store: Store, other: Store) -> None:
    leaves = anyio.Event()

    async def stranger() -> None:
        async with store.presence(ALIVE, lambda: b"stranger", never):
            await leaves.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(stranger)
        await until_value(store, ALIVE, b"stranger")
        async with other.presence(ALIVE, lambda: b"me", never) as presence:
            await eventually(lambda: presence.rival == b"stranger")
            leaves.set()
            await until_value(store, ALIVE, b"me")
            assert presence.rival is None
