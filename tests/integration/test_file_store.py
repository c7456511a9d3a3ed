"""What the folder has beyond the common contract: names, editors, modes, processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.store import FileSettings, open_store
from bai_nodeagent.store.base import Conflict, Snapshot, Store

pytestmark = pytest.mark.anyio

CLUSTER, ALIVE = "desired/cluster", "node/n1/alive"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path, state: Path) -> Store:
    return open_store(FileSettings(folder, state))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_two_files_for_one_layer_are_a_fault(store: Store, folder: Path) -> None:
    write(folder / "desired/cluster.toml", "api-version = 1")
    write(folder / "desired/cluster.json", "{}")
    snapshot = await store.read([CLUSTER])
    assert snapshot.entries == {}
    assert "cluster.toml and cluster.json" in snapshot.faults[CLUSTER]
    with pytest.raises(Conflict, match="two files"):
        await store.put(CLUSTER, b"x")
    (folder / "desired/cluster.json").unlink()
    assert (await store.read([CLUSTER])).revision > snapshot.revision


@pytest.mark.parametrize("name", ["cluster.toml", "cluster.json", "cluster"])
async def test_document_has_any_of_three_names(store: Store, folder: Path, name: str) -> None:
    write(folder / "desired" / name, "x")
    assert (await store.read([CLUSTER])).entries[CLUSTER].raw == b"x"


async def test_leftovers_of_editors_are_nothing(store: Store, folder: Path) -> None:
    for name in (".cluster.toml.swp", "cluster.toml~", "#cluster.toml#", "4913"):
        write(folder / "desired" / name, "x")
    assert (await store.read([CLUSTER])).entries == {}
    assert set((await store.list("desired/")).entries) == {"desired/4913"}


async def test_new_documents_are_named_by_their_content(store: Store, folder: Path) -> None:
    await store.put("desired/group/a", b"api-version = 1")
    await store.put("desired/group/b", b' {"api-version": 1}')
    await store.put("secret/cluster/s", b"{}")
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {"desired/group/a.toml", "desired/group/b.json", "secret/cluster/s"}


async def test_folders_and_files_are_private(store: Store, folder: Path, state: Path) -> None:
    await store.put("node/n1/status", b"{}")
    made = [folder, *folder.rglob("*"), state, *state.rglob("*")]
    assert {mode(p) for p in made if p.is_dir()} == {0o700}
    assert {mode(p) for p in made if p.is_file()} == {0o600}


async def test_put_keeps_name_and_mode_of_what_is_there(store: Store, folder: Path) -> None:
    file = folder / "desired/cluster.toml"
    write(file, "1")
    file.chmod(0o644)
    await store.put(CLUSTER, b'{"api-version": 1}')
    assert file.read_text() == '{"api-version": 1}'
    assert mode(file) == 0o644


async def test_put_through_a_link_keeps_the_link(store: Store, folder: Path) -> None:
    write(folder / "elsewhere.toml", "1")
    (folder / "desired").mkdir()
    (folder / "desired/cluster.toml").symlink_to("../elsewhere.toml")
    await store.put(CLUSTER, b"2")
    assert (folder / "desired/cluster.toml").is_symlink()
    assert (folder / "elsewhere.toml").read_text() == "2"


async def test_folder_in_the_place_of_a_file_is_nothing(store: Store, folder: Path) -> None:
    (folder / "desired/cluster.toml").mkdir(parents=True)
    os.mkfifo(folder / "desired/cluster.json")
    with anyio.fail_after(5):
        assert (await store.read([CLUSTER])).entries == {}


async def test_change_below_folders_that_are_not_there_yet(store: Store, folder: Path) -> None:
    start = await store.read(["desired/node/n1"])
    observed = anyio.Event()

    async def follow() -> None:
        async for _ in store.changes(["desired/node/n1"], start):
            observed.set()

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        write(folder / "desired/node/n1.toml", "1")
        with anyio.fail_after(10):
            await observed.wait()
        group.cancel_scope.cancel()


async def test_count_goes_on_after_a_restart(store: Store, folder: Path, state: Path) -> None:
    await store.put(CLUSTER, b"1")
    before = await store.read([CLUSTER])
    again = open_store(FileSettings(folder, state))
    assert await again.read([CLUSTER]) == before
    write(folder / "desired/cluster.toml", "while nobody looked")
    assert (await again.read([CLUSTER])).revision == before.revision + 1


async def test_lost_count_is_a_new_epoch(store: Store, state: Path) -> None:
    await store.put(CLUSTER, b"1")
    before = await store.read([CLUSTER])
    for file in state.iterdir():
        file.unlink()
    after = await store.read([CLUSTER])
    assert after.epoch != before.epoch
    assert after.entries[CLUSTER].raw == b"1"


async def test_uncounted_observation_reports_the_same_and_leaves_no_trace(
    store: Store, folder: Path, state: Path
) -> None:
    await store.read([CLUSTER])
    write(folder / "desired/cluster.toml", "1")
    before = {p: p.read_bytes() for p in state.iterdir()}
    reported = await open_store(FileSettings(folder, state, is_counted=False)).read([CLUSTER])
    assert {p: p.read_bytes() for p in state.iterdir()} == before
    assert await store.read([CLUSTER]) == reported


async def test_uncounted_observation_makes_no_folder(tmp_path: Path) -> None:
    store = open_store(FileSettings(tmp_path / "a/store", tmp_path / "a", is_counted=False))
    assert (await store.read([CLUSTER])).entries == {}
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, anyio
from pathlib import Path
from bai_nodeagent.store import FileSettings, open_store
async def main():
    store = open_store(FileSettings(Path(sys.argv[1]), Path(sys.argv[2])))
    async with store.presence("node/n1/alive", lambda: b"another", lambda *_: False):
        while not (await store.read(["node/n1/alive"])).entries:
            await anyio.sleep(0.01)
        print("held", flush=True)
        await anyio.sleep(60)
anyio.run(main)
"""


async def test_killed_holder_is_not_alive(store: Store, folder: Path, state: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(folder), str(state)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    holder = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert raw(await store.read([ALIVE])) == b"another"
        holder.kill()
        with anyio.fail_after(10):
            while raw(await store.read([ALIVE])):  # dead once it is a zombie
                await anyio.sleep(0.01)
    finally:
        holder.kill()
        holder.communicate()
    assert (folder / ALIVE).exists()


def raw(snapshot: Snapshot) -> bytes | None:
    entry = snapshot.entries.get(ALIVE)
    return entry.raw if entry else None


async def test_alive_that_no_process_wrote_is_not_alive(store: Store, folder: Path) -> None:
    for text in ("{}", "[]", "", '{"pid": 1, "started": "x", "value": "v"}', '{"pid": -1}'):
        write(folder / ALIVE, text)
        assert (await store.read([ALIVE])).entries == {}
