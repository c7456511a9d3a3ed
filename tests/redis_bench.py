"""The resource that looks at Backend.AI's Redis, as tests watch it."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from bai_nodeagent.core.reconcile import plan_or_fault
from bai_nodeagent.errors import Unavailable
from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.kinds.agent.record import Notes
from bai_nodeagent.kinds.redis.kind import Redis
from bai_nodeagent.kinds.redis.rules import RedisSpec
from bai_nodeagent.model import Action, Host, Outcome, Plan
from servers import Etcd

_numbers = itertools.count()


@dataclass
class Bench:
    """One namespace of Backend.AI in etcd, and the resource that looks at it."""

    etcd: Etcd
    folder: Path
    namespace: str = field(default_factory=lambda: f"t{time.time_ns()}-{next(_numbers)}")
    learnt: list[str] = field(default_factory=list)

    def publish(self, **keys: str) -> None:
        for name, value in keys.items():
            self.etcd.etcdctl("put", "--", self.spec().key(name), value)

    def spec(self, manager_ip: str | None = None, *, is_seen_checked: bool = False) -> RedisSpec:
        return RedisSpec(
            EtcdAccess((self.etcd.endpoint,)),
            self.namespace,
            manager_ip,
            "i-node01",
            is_seen_checked=is_seen_checked,
            is_agent_managed=True,
            is_agent_desired=True,
        )

    def resource(self, spec: RedisSpec | None = None) -> Redis:
        return Redis(spec or self.spec(), self.host)

    @property
    def host(self) -> Host:
        host = Host(self.folder, self.folder, str, str, learn_passing=self.learnt.extend)
        return replace(host, agent_running_s=Notes.of(host).running_s)

    async def reason(self, manager_ip: str | None = None) -> str:
        return (await self.observe(self.spec(manager_ip))).verdict.reason

    async def observe(self, spec: RedisSpec | None = None) -> Plan[Action] | Outcome:
        return await plan_or_fault(self.resource(spec))


@dataclass
class Watched:
    """A resource under watch; it is looked at whenever it wakes, as the loop does."""

    resource: Redis
    reasons: list[str] = field(default_factory=list)
    wake: anyio.Event = field(default_factory=anyio.Event)

    async def follow(self) -> None:
        while True:
            self.wake = anyio.Event()
            found = await plan_or_fault(self.resource)
            server = f" {found.facts['redis']}" if found.facts else ""
            self.reasons.append(f"{found.verdict.reason}{server}")
            await self.wake.wait()

    async def watch(self) -> None:
        while True:
            try:
                await self.resource.watch(lambda: self.wake.set())
            except Unavailable:
                await anyio.sleep(0.2)

    async def until(self, holds: Callable[[str], bool], within_s: float = 15.0) -> float:
        """Seconds until the newest reason is so."""
        started_s = time.monotonic()
        with anyio.move_on_after(within_s):
            while not self.reasons or not holds(self.reasons[-1]):
                await anyio.sleep(0.002)
            return time.monotonic() - started_s
        raise AssertionError(f"not within {within_s} s: {self.reasons}")


@asynccontextmanager
async def watched(bench: Bench) -> AsyncIterator[Watched]:
    observed = Watched(bench.resource())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(observed.watch)
        tasks.start_soon(observed.follow)
        yield observed
        tasks.cancel_scope.cancel()


async def settled(observed: Watched) -> None:
    """The held connection is up: nothing wakes any more."""
    await observed.until(lambda reason: reason.startswith("InSync"))
    await anyio.sleep(0.3)
