"""A store that is replaced, restored or lost while it is watched."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.errors import Unavailable
from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.store import EtcdSettings, FileSettings
from bai_nodeagent.store.etcd import EtcdStore
from bai_nodeagent.store.files import FileStore
from node_under_test import Node
from servers import Etcd, EtcdServer

CLUSTER = "desired/cluster"
NO_RESYNC_S = 25.0  # an event takes seconds after an outage, the resync 48 s and more
WIPES = 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "m0") as server:
        yield server


def wipe(server: EtcdServer) -> None:
    """An empty etcd under the same port, name and cluster id."""
    server.kill()
    shutil.rmtree(server.folder)
    server.start()


@pytest.mark.anyio
async def test_no_watch_waits_for_a_revision_that_the_store_has_lost(server: EtcdServer) -> None:
    store = EtcdStore(EtcdSettings(EtcdAccess((server.endpoint,)), "local"))
    for n in range(20):
        await store.put(CLUSTER, f"{n}".encode())
    observed = await store.read([CLUSTER])
    await store.close()
    wipe(server)
    store = EtcdStore(EtcdSettings(EtcdAccess((server.endpoint,)), "local"))
    with anyio.fail_after(20), pytest.raises(Unavailable, match="is at revision 1; it was read"):
        await anext(store.changes([CLUSTER], observed))
    await store.close()


@pytest.mark.anyio
async def test_no_watch_goes_on_in_another_cluster(server: EtcdServer, tmp_path: Path) -> None:
    with EtcdServer(tmp_path / "other", options=["--initial-cluster-token=other"]) as other:
        store = EtcdStore(EtcdSettings(EtcdAccess((server.endpoint,)), "local"))
        observed = await store.read([CLUSTER])
        stranger = EtcdStore(EtcdSettings(EtcdAccess((other.endpoint,)), "local"))
        await stranger.put(CLUSTER, b"x")
        with anyio.fail_after(20), pytest.raises(Unavailable, match="answers the watch"):
            await anext(stranger.changes([CLUSTER], observed))
        await store.close()
        await stranger.close()


@pytest.mark.anyio
async def test_a_lost_count_of_a_folder_ends_its_watch(tmp_path: Path) -> None:
    store = FileStore(FileSettings(tmp_path / "store", tmp_path / "state"))
    for n in range(5):
        await store.put(CLUSTER, f"{n}".encode())
    observed = await store.read([CLUSTER])
    changes = store.changes([CLUSTER], observed)
    async with anyio.create_task_group() as tasks:

        async def lose() -> None:
            await anyio.sleep(0.5)
            (tmp_path / "state" / "store-count.json").unlink()
            await store.put(CLUSTER, b"new")

        tasks.start_soon(lose)
        with anyio.fail_after(20), pytest.raises(Unavailable, match="count of revisions"):
            await anext(changes)


def last_contact_s(node: Node) -> float:
    return node.metric("bai_nodeagent_store_last_contact_timestamp_seconds")


def desire_and_observe(node: Node, marker: str) -> None:
    node.desire(
        f"""\
api-version = 1
[agent-config]
path = "{node.agent_toml}"
[agent-config.values.agent]
marker = "{marker}"
"""
    )
    node.wait(f"{marker} by an event", lambda: marker in node.agent_toml.read_text(), NO_RESYNC_S)


def test_puts_into_a_store_that_was_replaced_are_observed_by_event(
    server: EtcdServer, tmp_path: Path, prefix: str
) -> None:
    node = Node(tmp_path / "node", server, prefix)
    try:
        node.start()
        desire_and_observe(node, "one")
        for n in range(WIPES):
            for _ in range(20):
                server.etcdctl("put", "/else", "x")
            server.kill()
            killed_s = time.time()
            server.start()
            node.wait("read again", lambda at=killed_s: last_contact_s(node) > at)  # type: ignore[misc]
            wipe(server)  # what was read is of the old one, and the watch comes to the new one
            desire_and_observe(node, f"wiped-{n}")
            desire_and_observe(
                node, f"watched-{n}"
            )  # the next round begins with a watch that stands
    finally:
        node.close()


def test_no_document_is_lost_while_addresses_and_orders_are_resolved(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    variables = "\n".join(f'K{n} = "${{agent-ip}}"' for n in range(1000))  # their checks take long
    stop = threading.Event()

    def give_orders() -> None:
        kept = node.folder / "state" / "agent-ip"
        while not stop.wait(0.02):
            kept.unlink(missing_ok=True)

    def taken() -> int:
        count: int = node.status_now()["desired"]["documents"].get("desired/cluster", 0)
        return count

    orders = threading.Thread(target=give_orders)
    try:
        node.start()
        orders.start()
        for n in range(20):
            before = taken() if n else 0
            node.desire(
                f"""\
api-version = 1
[node]
manager-ip = "127.0.0.1"
agent-ip = "auto"
[agent-config]
path = "{node.agent_toml}"
[agent]
supervisor = "child"
state = "stopped"
command = ["{sys.executable}", "-c", "{n}"]
[agent.env]
{variables}
"""
            )
            node.wait(f"document {n}", lambda before=before: taken() > before, NO_RESYNC_S)  # type: ignore[misc]
        assert "has not answered" not in node.log
    finally:
        stop.set()
        orders.join()
        node.close()


def test_what_a_node_writes_below_its_own_name_costs_nobody_else(
    etcd: Etcd, prefix: str, tmp_path: Path
) -> None:
    """More than one answer of etcd may hold, under keys that nobody reads."""
    node = Node(tmp_path / "node", etcd, prefix)
    node.desire()
    node.put("node/i-evil/status", '{"summary": "Ready"}')
    for number in range(50):
        node.put(f"node/i-evil/junk/{number}", "x" * 1_400_000)
    answer = node.run("nodes")
    assert (answer.returncode, answer.stdout.split()[:2]) == (0, ["i-evil", "Unknown"])
    changed = tmp_path / "cluster.toml"
    changed.write_text(node.document("two"))
    answer = node.run("put", "cluster", str(changed))
    assert answer.returncode == 0, answer.stderr
    etcd.etcdctl("del", "--prefix", f"{prefix}/local/node/i-evil/")


def test_an_alive_without_a_lease_stops_nobody(etcd: Etcd, prefix: str, tmp_path: Path) -> None:
    """Whoever has a node's password writes it once, and it would stay for ever."""
    node = Node(tmp_path / "node", etcd, prefix)
    node.put("node/i-test01/alive", '{"instance": "x", "machine-id": "y", "pid": 1}')
    node.desire()
    node.start()
    try:
        node.wait_ready("one")
        key = f"{prefix}/local/node/i-test01/alive"
        node.wait("ours", lambda: '"x"' not in etcd.etcdctl("get", key, "--print-value-only"))
    finally:
        node.close()
