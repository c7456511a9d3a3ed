"""A Redis that comes, goes and changes at the worst moment, and what only pretends to be one."""

from __future__ import annotations

import resource
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from redis_bench import Bench, settled, watched
from redis_servers import RedisServer, SentinelServer
from servers import Etcd, free_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server on this machine"),
]
NO_RESYNC_S = 25.0  # the resync comes after 48 s at the earliest
ELSEWHERE = "192.0.2.1"  # a manager that is not this node: RFC 5737
MEMORY_AT_MOST = 64 << 20


@pytest.fixture
def bench(etcd: Etcd, tmp_path: Path) -> Bench:
    return Bench(etcd, tmp_path)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


async def test_a_server_that_dies_after_its_clients_is_noticed(
    bench: Bench, redis: RedisServer
) -> None:
    bench.publish(addr=redis.address)
    async with watched(bench) as observed:
        await settled(observed)
        redis.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await anyio.sleep(0.5)
        redis.kill()
        await observed.until(lambda reason: reason == "Unreachable", NO_RESYNC_S)
        redis.start()
        await observed.until(lambda reason: reason.startswith("InSync"), NO_RESYNC_S)


async def test_a_role_that_changes_there_and_back_is_reported_as_it_is(
    bench: Bench, redis: RedisServer
) -> None:
    bench.publish(addr=redis.address)
    async with watched(bench) as observed:
        await settled(observed)
        for pause_s in (0.0, 0.3, 1.0):
            redis.cli("REPLICAOF", "127.0.0.1", str(free_port()))
            await anyio.sleep(pause_s)
            redis.cli("REPLICAOF", "NO", "ONE")
            await anyio.sleep(pause_s)
            redis.cli("REPLICAOF", "127.0.0.1", str(free_port()))
            await observed.until(lambda reason: reason == "NotMaster", NO_RESYNC_S)
            redis.cli("REPLICAOF", "NO", "ONE")
            await observed.until(lambda reason: reason.startswith("InSync"), NO_RESYNC_S)


@pytest.mark.parametrize("forbidden", ["-xread", "-xread -role"])
async def test_a_server_that_forbids_to_wait_is_polled(
    bench: Bench, tmp_path: Path, forbidden: str
) -> None:
    rule = f"user default on nopass ~* +@all {forbidden}"
    with RedisServer(tmp_path / "strict", options=rule) as redis:
        bench.publish(addr=redis.address)
        async with watched(bench) as observed:
            await settled(observed)
            await anyio.sleep(5)
            assert len(observed.reasons) <= 3  # it does not wake without a reason
            redis.kill()
            await observed.until(lambda reason: reason == "Unreachable", NO_RESYNC_S)
            redis.start()
            await observed.until(lambda reason: reason.startswith("InSync"), NO_RESYNC_S)


async def test_the_death_of_all_sentinels_is_noticed(
    bench: Bench, tmp_path: Path, redis: RedisServer
) -> None:
    one, other = (SentinelServer(tmp_path / name, redis) for name in ("one", "other"))
    with one, other:
        bench.publish(sentinel=f"{one.address},{other.address}", service_name="mymaster")
        async with watched(bench) as observed:
            await settled(observed)
            one.kill()
            other.kill()
            await observed.until(lambda reason: reason == "Unreachable", NO_RESYNC_S)
            one.start()
            await observed.until(lambda reason: reason.startswith("InSync"), NO_RESYNC_S)


# --- what is no Redis --------------------------------------------------------------------

CHUNK = b"x" * 65536


@contextmanager
def answering(answer: bytes, *, is_endless: bool = False) -> Iterator[str]:
    """A server that gives one answer to everything; endless: it never stops."""
    stop = threading.Event()

    def serve(client: socket.socket) -> None:
        with client:
            try:
                while client.recv(65536) and not stop.is_set():
                    # Several commands may come at once: each gets one.
                    client.sendall(answer if is_endless else answer * 4)
                    while is_endless and not stop.is_set():
                        client.sendall(CHUNK)
            except OSError:
                return  # it was hung up on, as it should

    def accept(server: socket.socket) -> None:
        while not stop.is_set():
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        stop.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"*0\r\n",
        b":5\r\n",
        b"$abc\r\n",
        b"$-7\r\n",
        b"*abc\r\n",
        b"+OK\r\n",
        b"*2\r\n$6\r\nmaster\r\n$-1\r\n" + b"*1\r\n" * 20000 + b":1\r\n",
        b"*1\r\n" * 20000 + b":1\r\n",
        b"*1\r\n*0\r\n",
        b"$10\r\n0123456789\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 100_000,
    ],
)
async def test_an_answer_of_another_form_is_of_something_else(bench: Bench, answer: bytes) -> None:
    with answering(answer) as address:
        bench.publish(addr=address)
        found = await bench.observe(bench.spec(is_seen_checked=True))
    assert found.verdict.reason == "Unreachable"
    assert f"{address}: something else than Redis answers there" in found.verdict.message


@pytest.mark.parametrize(
    "answer", [b"$100000000000\r\n", b"$500000000\r\n", b"*1000000000\r\n$1\r\n", b"+"]
)
async def test_an_endless_answer_costs_no_memory(bench: Bench, answer: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with answering(answer, is_endless=True) as address:
        bench.publish(addr=address)
        assert await bench.reason() == "Unreachable"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < MEMORY_AT_MOST


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "0", "127.1", "[::1]"])
async def test_loopback_is_loopback_by_any_spelling(bench: Bench, host: str) -> None:
    bench.publish(addr=f"{host}:{free_port()}")
    assert await bench.reason(ELSEWHERE) == "Loopback"
