"""Backend.AI's Redis as a real etcd publishes it: plain, with a password, behind a Sentinel."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.kinds.agent.record import Life, Notes
from bai_nodeagent.model import Action, Outcome, Plan, Status
from bai_nodeagent.system import process
from node_under_test import Node
from redis_bench import Bench, settled, watched
from redis_servers import RedisServer, SentinelServer
from servers import Etcd, free_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server on this machine"),
]

ELSEWHERE = "192.0.2.1"  # a manager that is not this node: RFC 5737
NO_RESYNC_S = 10.0  # an event takes milliseconds, the resync three quarters of a minute


@pytest.fixture
def bench(etcd: Etcd, tmp_path: Path) -> Bench:
    return Bench(etcd, tmp_path)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def locked_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "locked", password="wonderland") as server:
        yield server


async def test_right(bench: Bench, redis: RedisServer) -> None:
    bench.publish(addr=redis.address)
    found = await bench.observe()
    assert (found.verdict.status, found.verdict.reason) == (Status.TRUE, "InSync")
    assert found.facts == {"redis": redis.address}
    assert await bench.reason("127.0.0.1") == "InSync"


async def test_nothing_is_published(bench: Bench) -> None:
    assert await bench.reason() == "NoKey"


async def test_loopback_while_the_manager_is_elsewhere(bench: Bench, redis: RedisServer) -> None:
    bench.publish(addr=redis.address)
    found = await bench.observe(bench.spec(ELSEWHERE))
    assert found.verdict.reason == "Loopback"
    command = f"backend.ai mgr etcd put config/redis/addr {ELSEWHERE}:{redis.port}"
    assert command in found.verdict.message
    bench.publish(addr=f"localhost:{free_port()}")
    assert await bench.reason(ELSEWHERE) == "Loopback"


async def test_a_name_that_leads_nowhere(bench: Bench) -> None:
    bench.publish(addr="no-such-host.invalid:6379")
    assert await bench.reason() == "Unresolvable"


async def test_nobody_listens(bench: Bench) -> None:
    bench.publish(addr=f"127.0.0.1:{free_port()}")
    assert await bench.reason() == "Unreachable"


async def test_somebody_else_listens(bench: Bench) -> None:
    bench.publish(addr=bench.etcd.endpoint)
    assert await bench.reason() == "Unreachable"


async def test_one_that_hangs_is_unreachable_in_time(bench: Bench, redis: RedisServer) -> None:
    bench.publish(addr=redis.address)
    redis.freeze()
    started_s = time.monotonic()
    found = await bench.observe()
    assert found.verdict.reason == "Unreachable"
    assert "no answer within 3 s" in found.verdict.message
    assert time.monotonic() - started_s < 30
    redis.thaw()


async def test_the_right_password_is_learnt_as_a_secret(
    bench: Bench, locked_redis: RedisServer
) -> None:
    bench.publish(addr=locked_redis.address, password="wonderland")
    found = await bench.observe()
    assert found.verdict.reason == "InSync"
    assert bench.learnt == ["wonderland"]
    assert "wonderland" not in repr(found)


@pytest.mark.parametrize("password", ["wrong-one", ""])
async def test_a_wrong_or_missing_password(
    bench: Bench, locked_redis: RedisServer, password: str
) -> None:
    bench.publish(addr=locked_redis.address, password=password)
    found = await bench.observe()
    assert found.verdict.reason == "WrongPassword"
    assert "wrong-one" not in found.verdict.message


async def test_a_password_where_redis_has_none(bench: Bench, redis: RedisServer) -> None:
    bench.publish(addr=redis.address, password="wonderland")
    assert await bench.reason() == "WrongPassword"


async def test_a_replica(bench: Bench, redis: RedisServer) -> None:
    redis.cli("REPLICAOF", "127.0.0.1", str(free_port()))
    bench.publish(addr=redis.address)
    assert await bench.reason() == "NotMaster"


async def test_unreachable_etcd_proves_nothing_about_redis(bench: Bench) -> None:
    spec = replace(bench.spec(), access=EtcdAccess((f"127.0.0.1:{free_port()}",)))
    found = await bench.observe(spec)
    assert (found.verdict.status, found.verdict.reason) == (Status.UNKNOWN, "Unavailable")


async def test_a_store_in_a_folder_reports_what_to_set(bench: Bench) -> None:
    found = await bench.observe(replace(bench.spec(), access=None))
    assert found.verdict.reason == "NoEtcd"


# --- Sentinel ----------------------------------------------------------------------------


@pytest.fixture
def sentinel(tmp_path: Path, redis: RedisServer) -> Iterator[SentinelServer]:
    with SentinelServer(tmp_path / "sentinel", redis) as server:
        yield server


async def test_a_sentinel_leads_to_the_master(
    bench: Bench, redis: RedisServer, sentinel: SentinelServer
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    bench.publish(sentinel=f"{gone},{sentinel.address}", service_name="mymaster", addr=gone)
    found = await bench.observe()
    assert found.verdict.reason == "InSync"
    assert found.facts["redis"] == redis.address
    assert await bench.reason(ELSEWHERE) == "Loopback"


async def test_a_sentinel_knows_another_service(bench: Bench, sentinel: SentinelServer) -> None:
    bench.publish(sentinel=sentinel.address, service_name="othermaster")
    found = await bench.observe()
    assert found.verdict.reason == "SentinelNoMaster"
    assert f"{sentinel.address} knows no master othermaster" in found.verdict.message


async def test_no_sentinel_answers(bench: Bench) -> None:
    bench.publish(sentinel=f"127.0.0.1:{free_port()}", service_name="mymaster")
    assert await bench.reason() == "Unreachable"


async def test_what_is_called_a_sentinel_is_none(bench: Bench, redis: RedisServer) -> None:
    bench.publish(sentinel=redis.address, service_name="mymaster")
    assert await bench.reason() == "Unreachable"


async def test_one_password_for_sentinel_and_master(
    bench: Bench, tmp_path: Path, locked_redis: RedisServer
) -> None:
    open_one = SentinelServer(tmp_path / "open", locked_redis)
    locked_one = SentinelServer(tmp_path / "locked-sentinel", locked_redis, password="wonderland")
    with open_one, locked_one:
        bench.publish(sentinel=locked_one.address, service_name="mymaster", password="wonderland")
        assert await bench.reason() == "InSync"
        # Backend.AI's agent would fail there as well: it sends Redis's password to both.
        bench.publish(sentinel=open_one.address)
        assert await bench.reason() == "WrongPassword"


# --- the manager and the agent -----------------------------------------------------------


async def observed(bench: Bench) -> Plan[Action] | Outcome:
    return await bench.observe(bench.spec(is_seen_checked=True))


def note_agent(bench: Bench, running_s: float) -> None:
    life = Life({}, pid=1, started_s=process.now_s() - running_s)
    Notes.of(bench.host).update(lambda record: replace(record, life=life))


async def test_whether_the_manager_knows_the_agent(bench: Bench, redis: RedisServer) -> None:
    bench.publish(addr=redis.address)
    assert "no agent runs here" in (await observed(bench)).verdict.message
    note_agent(bench, running_s=20)
    assert "just been started" in (await observed(bench)).verdict.message
    note_agent(bench, running_s=100)
    assert (await observed(bench)).verdict.reason == "NotSeen"
    redis.cli("-n", "2", "HSET", "agent.last_seen", "i-node01", str(time.time() - 10))
    found = await observed(bench)
    assert found.verdict.reason == "InSync"
    assert found.observe_again_in_s is not None
    assert 25 < found.observe_again_in_s < 31
    redis.cli("-n", "2", "HSET", "agent.last_seen", "i-node01", str(time.time() - 50))
    assert (await observed(bench)).verdict.reason == "NotSeen"


async def test_redis_is_only_read(bench: Bench, redis: RedisServer) -> None:
    bench.publish(addr=redis.address)
    redis.cli("CONFIG", "RESETSTAT")
    async with watched(bench) as found:
        await settled(found)
        await observed(bench)
    asked = {
        line.partition("_")[2].partition(":")[0]
        for line in redis.cli("INFO", "commandstats").splitlines()
        if line.startswith("cmdstat_")
    }
    assert {"role", "hmget", "time"} <= asked
    assert {name.partition("|")[0] for name in asked} <= {
        *("role", "hmget", "time", "xread", "select", "client", "info", "config", "command"),
    }


async def test_what_is_no_time_is_never_unpickled(bench: Bench, redis: RedisServer) -> None:
    bench.publish(addr=redis.address)
    note_agent(bench, running_s=100)
    redis.cli("-n", "2", "HSET", "agent.last_seen", "i-node01", "cos\nsystem\n(S'exit 1'\ntR.")
    assert (await observed(bench)).verdict.reason == "NotSeen"


# --- wake-ups ----------------------------------------------------------------------------


async def test_a_key_that_changes_is_an_event(bench: Bench, redis: RedisServer) -> None:
    async with watched(bench) as observed:
        await observed.until(lambda reason: reason == "NoKey")
        await anyio.sleep(0.3)
        bench.publish(addr=redis.address)
        assert await observed.until(lambda reason: reason.startswith("InSync")) < NO_RESYNC_S


async def test_the_death_of_redis_and_its_return_are_events(
    bench: Bench, redis: RedisServer
) -> None:
    bench.publish(addr=redis.address)
    async with watched(bench) as observed:
        await settled(observed)
        redis.kill()
        died_s = await observed.until(lambda reason: reason == "Unreachable")
        redis.start()
        back_s = await observed.until(lambda reason: reason.startswith("InSync"))
        assert died_s < NO_RESYNC_S
        assert back_s < NO_RESYNC_S


async def test_one_that_hangs_is_noticed(bench: Bench, redis: RedisServer) -> None:
    bench.publish(addr=redis.address)
    async with watched(bench) as observed:
        await settled(observed)
        redis.freeze()
        await observed.until(lambda reason: reason == "Unreachable", within_s=15)
        redis.thaw()
        await observed.until(lambda reason: reason.startswith("InSync"))


async def test_a_master_that_becomes_a_replica_is_an_event(
    bench: Bench, redis: RedisServer
) -> None:
    bench.publish(addr=redis.address)
    async with watched(bench) as observed:
        await settled(observed)
        redis.cli("REPLICAOF", "127.0.0.1", str(free_port()))
        assert await observed.until(lambda reason: reason == "NotMaster") < NO_RESYNC_S
        redis.cli("REPLICAOF", "NO", "ONE")
        await observed.until(lambda reason: reason.startswith("InSync"), within_s=10)


async def test_the_switch_to_another_master_is_followed(
    bench: Bench, tmp_path: Path, redis: RedisServer
) -> None:
    replica = RedisServer(tmp_path / "replica", options=f"replicaof 127.0.0.1 {redis.port}")
    with replica, SentinelServer(tmp_path / "sentinel", redis) as sentinel:
        bench.publish(sentinel=sentinel.address, service_name="mymaster")
        await anyio.to_thread.run_sync(lambda: _wait_for_replica(sentinel))
        async with watched(bench) as observed:
            await settled(observed)
            redis.kill()
            assert await observed.until(lambda reason: reason == "Unreachable") < NO_RESYNC_S
            await observed.until(lambda reason: reason == f"InSync {replica.address}", within_s=30)


def _wait_for_replica(sentinel: SentinelServer) -> None:
    ends_at = time.monotonic() + 20
    while "flags\nslave" not in sentinel.cli("SENTINEL", "REPLICAS", "mymaster"):
        assert time.monotonic() < ends_at, "the Sentinel has not found the replica"
        time.sleep(0.1)


# --- under the daemon --------------------------------------------------------------------


@pytest.fixture
def node(etcd: Etcd, prefix: str, tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "node", etcd, prefix)
    yield made
    made.close()


async def test_the_daemon_reports_of_redis_and_never_its_password(
    bench: Bench, node: Node, locked_redis: RedisServer
) -> None:
    bench.publish(addr=locked_redis.address, password="not-wonderland")
    section = f'[redis]\ncheck = true\n[backendai]\nnamespace = "{bench.namespace}"\n'
    node.desire(node.document() + section)
    node.start()
    node.wait_reason("Redis", "WrongPassword")
    bench.publish(password="wonderland")
    node.wait_reason("Redis", "InSync")
    locked_redis.cli("-n", "2", "HSET", "agent.last_seen", node.id, str(time.time()))
    planned = node.run("plan")
    assert f"{locked_redis.address} answers; the manager sees {node.id}" in planned.stdout
    texts = [node.log, json.dumps(node.status()), node.http("/status")[1], node.http("/metrics")[1]]
    for text in (*texts, planned.stdout, planned.stderr):
        assert "wonderland" not in text
    kept = [path for path in node.folder.rglob("*") if path.is_file()]
    assert [path for path in kept if b"wonderland" in path.read_bytes()] == []
