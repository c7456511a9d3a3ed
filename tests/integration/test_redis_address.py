"""Redis's address in Backend.AI's etcd: a real etcd and a real Redis in a network of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bai_nodeagent.errors import Overtaken, Unavailable
from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.kinds.backendai.kind import RedisAddress
from bai_nodeagent.kinds.backendai.rules import RedisAddressSpec, due
from networks import Network, fresh_network
from node_under_test import Node
from redis_servers import RedisServer
from servers import EtcdServer

HERE = "192.0.2.2"
KEY = "/sorna/local/config/redis/"
NO_RESYNC_S = 25.0  # the resync comes after 48 s at the earliest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("redis-server"),
    reason="needs root, iproute2 and redis-server",
)


@pytest.fixture
def network() -> Iterator[Network]:
    with fresh_network() as network:
        yield network


@pytest.fixture
def etcd(tmp_path: Path, network: Network) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd", inside=network.enter[:-1]) as server:
        yield server


@pytest.fixture
def redis(tmp_path: Path, network: Network) -> Iterator[RedisServer]:
    options = f"bind 127.0.0.1 {HERE}\nprotected-mode no"
    with RedisServer(tmp_path / "redis", options=options, inside=network.enter[:-1]) as server:
        yield server


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.close()


def value(etcd: EtcdServer, name: str) -> str:
    return etcd.etcdctl("get", "--print-value-only", KEY + name).strip()


def says(node: Node, reason: str) -> bool:
    """By its log: what is in the store may be half a minute behind."""
    lines = (node.folder / "daemon.log").read_text().splitlines()
    return any("RedisAddress" in line and reason in line for line in lines)


def desire(node: Node, etcd: EtcdServer, section: str) -> None:
    node.put(
        "desired/cluster",
        f'api-version = 1\n[node]\nmanager-ip = "{HERE}"\n[redis]\n[backendai]\n{section}\n'
        f'[backendai.etcd]\nendpoints = ["http://{etcd.endpoint}"]\n',
    )


def test_the_address_is_kept_in_etcd_and_never_one_where_nobody_answers(
    node: Node, etcd: EtcdServer, redis: RedisServer, network: Network
) -> None:
    address = f"{HERE}:{redis.port}"
    etcd.etcdctl("put", f"{KEY}addr", "127.0.0.1:8110")  # what a single-node installer leaves
    desire(node, etcd, f'redis-addr = "${{manager-host}}:{redis.port}"')
    node.start(*network.enter)
    node.wait("written", lambda: value(etcd, "addr") == address)
    node.wait_summary("Ready")

    etcd.etcdctl("put", f"{KEY}addr", "127.0.0.1:8110")
    node.wait("back by its event", lambda: value(etcd, "addr") == address, NO_RESYNC_S)
    etcd.etcdctl("del", f"{KEY}addr")
    node.wait("back by its event", lambda: value(etcd, "addr") == address, NO_RESYNC_S)

    redis.kill()
    etcd.etcdctl("put", f"{KEY}addr", "127.0.0.1:8110")
    node.wait("said", lambda: says(node, "Unreachable"))
    assert value(etcd, "addr") == "127.0.0.1:8110"
    redis.start()
    node.wait("written", lambda: value(etcd, "addr") == address, NO_RESYNC_S)

    etcd.etcdctl("put", f"{KEY}sentinel", "192.0.2.9:26379")
    node.wait("said", lambda: says(node, "SentinelCounts"))
    assert value(etcd, "sentinel") == "192.0.2.9:26379"


def test_sentinels_their_service_and_their_password_are_written(
    node: Node, etcd: EtcdServer, redis: RedisServer, network: Network
) -> None:
    node.put("secret/cluster/sentinel", "geheim")
    address = f"{HERE}:{redis.port}"  # it takes connections as a Sentinel does
    desire(
        node,
        etcd,
        "[backendai.redis-sentinel]\n"
        f'addrs = ["{address}", "192.0.2.9:1"]\nservice-name = "m"\npassword = "sentinel"',
    )
    node.start(*network.enter)
    node.wait("written", lambda: value(etcd, "sentinel_password") == "geheim")
    assert value(etcd, "sentinel") == f"{address},192.0.2.9:1"
    assert value(etcd, "service_name") == "m"
    assert value(etcd, "addr") == ""
    assert "geheim" not in (node.folder / "daemon.log").read_text()


@pytest.mark.anyio
async def test_nobody_elses_write_is_lost_and_a_missing_right_is_named(tmp_path: Path) -> None:
    with EtcdServer(tmp_path / "etcd") as etcd:
        spec = RedisAddressSpec(EtcdAccess((etcd.endpoint,)), "local", {"addr": "192.0.2.1:1"})
        one = RedisAddress(spec)
        (write,) = due(spec, (await one.observe()).keys)
        etcd.etcdctl("put", f"{KEY}addr", "192.0.2.3:1")
        with pytest.raises(Overtaken):
            await one.apply(write)
        assert value(etcd, "addr") == "192.0.2.3:1"
        etcd.turn_on_auth({})
        with pytest.raises(Unavailable, match=r"user \(none\) may not|user name is empty"):
            await one.observe()
