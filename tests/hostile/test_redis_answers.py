"""A Redis that comes, goes and changes at the worst moment, and what only pretends to be one."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.kinds.agent.record import Life, Notes
from bai_nodeagent.system import process
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


ROLE = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Z]+)")


@contextmanager
def pretending(**answers: bytes) -> Iterator[tuple[str, Counter[str]]]:
    """A master that answers some commands in its own way; its address, and what it was asked."""
    asked = Counter[str]()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while received := self.request.recv(65536):
                    for name in map(bytes.decode, COMMAND.findall(received)):
                        asked[name] += 1
                        self.request.sendall({"ROLE": ROLE, **answers}.get(name, b"+OK\r\n"))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


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


async def test_one_that_never_lets_us_wait_is_asked_now_and_then(bench: Bench) -> None:
    with pretending(XREAD=b"$-1\r\n") as (address, asked):
        bench.publish(addr=address)
        async with watched(bench) as observed:
            await settled(observed)
            await anyio.sleep(3)
    assert 1 <= asked["XREAD"] <= 4


LONG = b"9" * 400


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"HMGET": b"*1\r\n$3\r\nnan\r\n"}, "NotSeen"),
        ({"HMGET": b"*1\r\n$3\r\ninf\r\n"}, "NotSeen"),
        ({"HMGET": b"*1\r\n$4\r\n1e18\r\n"}, "NotSeen"),
        ({"HMGET": b"*1\r\n$2\r\n-1\r\n"}, "NotSeen"),
        ({"TIME": b"*2\r\n$400\r\n" + LONG + b"\r\n$1\r\n0\r\n"}, "Unreachable"),
        ({"TIME": b"*2\r\n$1\r\n0\r\n$400\r\n" + LONG + b"\r\n"}, "Unreachable"),
    ],
)
async def test_numbers_that_no_redis_says(
    bench: Bench, answers: dict[str, bytes], reason: str
) -> None:
    answers = {"TIME": b"*2\r\n$1\r\n9\r\n$1\r\n0\r\n", "HMGET": b"*1\r\n$-1\r\n", **answers}
    begun_s = process.now_s() - 3600
    life = Life({}, pid=os.getpid(), started_s=begun_s)
    Notes.of(bench.host).update(lambda record: replace(record, life=life))
    with pretending(**answers) as (address, _):
        bench.publish(addr=address)
        found = await bench.observe(bench.spec(is_seen_checked=True))
    assert found.verdict.reason == reason


@pytest.mark.parametrize("port", [LONG, b"0", b"65536"])
async def test_a_port_that_no_sentinel_says(bench: Bench, port: bytes) -> None:
    answer = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port)
    with pretending(SENTINEL=answer) as (address, _):
        bench.publish(sentinel=address, service_name="mymaster")
        found = await bench.observe()
    assert "something else than Redis answers there" in found.verdict.message


@pytest.mark.parametrize(
    "keys",
    [
        {"password": "x" * 4097},
        {"password": "one line\nand another"},
        {"sentinel": "127.0.0.1:1," * 1000},
        {"addr": "x" * 4097},
    ],
)
async def test_values_that_nobody_means_are_neither_tried_nor_remembered(
    bench: Bench, keys: dict[str, str]
) -> None:
    """A password is masked in each text that leaves, and others may put as many as they like."""
    bench.publish(**{"addr": "127.0.0.1:1", **keys})
    found = await bench.observe()
    assert found.verdict.reason == "BadKey"
    assert len(found.verdict.message) < 400
    assert bench.learnt == []


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "0", "127.1", "[::1]"])
async def test_loopback_is_loopback_by_any_spelling(bench: Bench, host: str) -> None:
    bench.publish(addr=f"{host}:{free_port()}")
    assert await bench.reason(ELSEWHERE) == "Loopback"
