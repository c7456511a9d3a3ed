"""How far our etcd client is from the floor: etcdctl's watch, and a process that only sleeps.

    .venv/bin/python bench/etcd_floor.py [--puts 300] [--idle 60]

Starts an etcd of its own. The latency from the start of a put to its event in
our process and on etcdctl's output is taken from the same puts, so load on the
machine falls on both. CPU time is the sum over all threads, from
/proc/PID/task/*/schedstat (ns on a core); a day's worth is extrapolated.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.store import EtcdSettings
from bai_nodeagent.store.etcd import EtcdStore
from servers import Etcd, EtcdServer

KEY = "desired/cluster"
SETTINGS = {"cluster": "bench", "prefix": "/bai-nodeagent"}
DAY_S = 86_400


def connected(etcd: Etcd) -> EtcdStore:
    return EtcdStore(EtcdSettings(EtcdAccess((etcd.endpoint,)), **SETTINGS))


async def latencies(etcd: Etcd, puts: int) -> tuple[list[float], list[float]]:
    """Seconds from a put to its event: ours, and etcdctl's."""
    store = connected(etcd)
    await store.put(KEY, b"-1")
    start = await store.read([KEY])
    full = f"{SETTINGS['prefix']}/{SETTINGS['cluster']}/{KEY}"
    command = ["etcdctl", f"--endpoints={etcd.endpoint}", "watch", full]
    env = {**os.environ, "ETCDCTL_API": "3"}
    floor = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=env)
    assert floor.stdout is not None
    ours, theirs = [], []

    async def seen_by_us(changes: AsyncIterator[None], began: float) -> None:
        await anext(changes)
        ours.append(time.perf_counter() - began)

    async def seen_by_etcdctl(began: float) -> None:
        assert floor.stdout is not None
        await floor.stdout.readline()
        theirs.append(time.perf_counter() - began)
        for _ in ("key", "value"):
            await floor.stdout.readline()

    await asyncio.sleep(1)  # for etcdctl to have its watch
    async with aclosing(store.changes([KEY], start)) as changes:
        for n in range(puts):
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                group.create_task(store.put(KEY, f"{n}".encode()))
                group.create_task(seen_by_us(changes, began))
                group.create_task(seen_by_etcdctl(began))
    floor.terminate()
    await floor.wait()
    await store.close()
    return ours, theirs


def cpu_s() -> float:
    tasks = Path("/proc/self/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


async def idle(endpoint: str, seconds: float) -> None:
    """Prints the CPU seconds of an open watch and lease, or of nothing for endpoint ""."""
    if not endpoint:
        await report(seconds)
        return
    store = connected(Etcd(endpoint))

    async def follow() -> None:
        async for _ in store.changes([KEY], start):
            pass

    start = await store.read([KEY])
    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        async with store.presence("node/n/alive", lambda: b"{}", lambda *_: True):
            await report(seconds)
        group.cancel_scope.cancel()
    await store.close()


async def report(seconds: float) -> None:
    await asyncio.sleep(2)  # the start is not idle
    before = cpu_s()
    await asyncio.sleep(seconds)
    print(cpu_s() - before)


async def idle_elsewhere(endpoint: str, seconds: float) -> float:
    """The same in a process of its own, in CPU seconds a day."""
    command = [sys.executable, __file__, "--measure", endpoint, "--idle", str(seconds)]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await child.communicate()
    return float(output) / seconds * DAY_S


def show(name: str, seconds: list[float]) -> float:
    median, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
    print(f"{name:28} median {median * 1e3:6.2f} ms   p99 {p99 * 1e3:6.2f} ms")
    return median


async def compare(puts: int, idle_s: float) -> None:
    with tempfile.TemporaryDirectory() as folder, EtcdServer(Path(folder) / "m0") as etcd:
        ours, floor = await latencies(etcd, puts)
        ratio = show("put to event, ours", ours) / show("put to event, etcdctl watch", floor)
        print(f"ratio {ratio:.2f}")
        watching, sleeping = await asyncio.gather(
            idle_elsewhere(etcd.endpoint, idle_s), idle_elsewhere("", idle_s)
        )
        print(
            f"idle for {idle_s:.0f} s: watch and lease {watching:.1f}, sleep {sleeping:.1f} s a day"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--puts", type=int, default=300)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure is not None:
        anyio.run(idle, asked.measure, asked.idle)
    else:
        anyio.run(compare, asked.puts, asked.idle)


if __name__ == "__main__":
    main()
