"""Backend.AI's Redis as this node reaches it, and whether the manager sees this agent.

Observes and reports: what is wrong is mended on the manager. A connection is held
open all the time, so that the death of Redis, a switch of its master and its
return are events; the keys in etcd are watched.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio

from ...agent_toml.ids import agent_ids, id_values
from ...core.watching import Followed, together
from ...errors import Refused, Stuck
from ...etcd_access import EtcdAccess, backendai_access
from ...model import Action, AnyResource, Host, Kind, NodeSpec, Plan, Wake
from ...system import hostile, network
from ...system.blocking import in_thread
from .rules import (
    NAMES,
    Actual,
    Attempt,
    Published,
    RedisSpec,
    Server,
    Target,
    Unusable,
    plan,
    target_of,
)

# redis-py and grpc are loaded when a document asks for Redis: see the imports in functions.
if TYPE_CHECKING:
    from ...system.etcd import EtcdClient, Reading
    from .client import Link

RECONNECT_S = 2.0
SENTINELS_S = 10.0  # between questions to them while the master is well
READ_S = 5.0
# Where the manager notes when it last heard of each agent.
LIVE_DATABASE = 2
LAST_SEEN = "agent.last_seen"
YEAR_9999_S = 253402300800.0  # what datetime can say ends there


@dataclass(frozen=True, slots=True)
class Login:
    """Where Redis is, and what to say there."""

    target: Target
    password: str | None = field(default=None, repr=False)


class NotReached(Exception):
    """Nobody could be talked to; `attempt` says how far it came."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt.text)
        self.attempt = attempt


class Redis:
    name = "Redis"
    deadline_s = 30.0

    def __init__(self, spec: RedisSpec, host: Host) -> None:
        self.spec = spec
        self._host = host
        self._login = Followed[Login | None](None)
        self._last_attempt: Attempt | None = None  # by the newest observation

    async def observe(self) -> Actual:
        if self.spec.access is None:
            return Actual(None)
        from ...system import etcd

        async with etcd.connected(self.spec.access) as client:
            published, _ = await self._published(client)
        try:
            login = Login(target_of(self.spec, published), published.get("password"))
        except Unusable:
            self._login.become(None)
            return Actual(published)
        self._host.learn_passing([login.password] if login.password else [])
        self._login.become(login)
        actual = Actual(published, await self._is_manager_here())
        try:
            async with _master(login) as (attempt, _):
                actual = replace(actual, attempt=attempt)
            actual = await self._with_last_seen(actual, attempt.server, login)
        except NotReached as error:
            actual = replace(actual, attempt=error.attempt)
        self._last_attempt = actual.attempt
        return actual

    async def _published(self, client: EtcdClient) -> tuple[Published, Reading]:
        """The keys by their last part, and the reading that they are from."""
        keys = {self.spec.key(name): name for name in NAMES}
        reading = await client.get(keys)
        found = {keys[k]: kv.value.decode(errors="replace") for k, kv in reading.entries.items()}
        if not found.get("password"):
            found.pop("password", None)  # an empty one is none, for Backend.AI as well
        return found, reading

    async def _is_manager_here(self) -> bool:
        manager_ip = self.spec.manager_ip
        if manager_ip is None:
            return True
        return manager_ip in (await network.observe(None, [manager_ip])).local

    async def _with_last_seen(self, actual: Actual, server: Server, login: Login) -> Actual:
        if not self.spec.is_seen_checked:
            return actual
        async with _talk(server, login.password, LIVE_DATABASE) as (_, link):
            found = await link.texts(LAST_SEEN, await self._agent_ids())
            return replace(
                actual,
                now_s=await link.now_s(),
                last_seen={each: _seconds(text) for each, text in found.items()},
                agent_age_s=self._host.agent_running_s(),
            )

    async def _agent_ids(self) -> tuple[str, ...]:
        """All that agent.toml gives; one that can't be read, AgentConfig reports."""
        path = self.spec.config_path
        text = None
        with contextlib.suppress(OSError, Refused, Stuck):
            if path is not None:
                text = await in_thread("Redis: agent.toml", lambda: hostile.text(path), READ_S)
        with contextlib.suppress(ValueError):
            return agent_ids(text, self.spec.id_values, self.spec.agent_id)
        return agent_ids(None, self.spec.id_values, self.spec.agent_id)

    def plan(self, actual: Actual) -> Plan[Action]:
        return plan(self.spec, actual)

    async def apply(self, action: Action) -> None:
        raise NotImplementedError  # no plan has an action

    async def watch(self, wake: Wake) -> None:
        if self.spec.access is None:
            await anyio.sleep_forever()
        else:
            access = self.spec.access
            await together(
                lambda: self._wake_at_keys(access, wake),
                lambda: self._login.run(lambda login: self._hold(login, wake)),
            )

    async def _wake_at_keys(self, access: EtcdAccess, wake: Wake) -> None:
        from ...system import etcd

        async with etcd.connected(access) as client:
            _, reading = await self._published(client)
            wake()
            keys = [self.spec.key(name) for name in NAMES]
            watch = client.watch(keys, reading.revision, reading.cluster_id)
            async with aclosing(watch) as events:
                async for _ in events:
                    wake()

    async def _hold(self, login: Login | None, wake: Wake) -> None:
        """Holds a connection to what is published, if anything is. Wakes when Redis goes, when it
        changes its role, and when it is back: whenever what comes of a connection differs from
        the newest observation."""
        while login is not None:
            try:
                async with _master(login) as (attempt, link):
                    self._compare(attempt, wake)
                    await _until_other(login, attempt.server, link)
                    wake()
            except NotReached as error:
                self._compare(error.attempt, wake)
            await anyio.sleep(RECONNECT_S)

    def _compare(self, found: Attempt, wake: Wake) -> None:
        if self._last_attempt is not None and found.outcome != self._last_attempt.outcome:
            wake()


async def _until_other(login: Login, master: Server, link: Link) -> None:
    """Returns when the server has another role, or the Sentinels another master.

    Raises NotReached.
    """
    asked_s = anyio.current_time()
    while await link.keeps_role():
        if login.target.service and anyio.current_time() - asked_s > SENTINELS_S:
            asked_s = anyio.current_time()
            if await _asked_of_sentinels(login) != master:
                return


@asynccontextmanager
async def _master(login: Login) -> AsyncIterator[tuple[Attempt, Link]]:
    """A connection to Redis itself, by way of its Sentinels if it has some. Raises NotReached."""
    target = login.target
    server = await _asked_of_sentinels(login) if target.service else target.servers[0]
    async with _talk(server, login.password) as found:
        yield found


async def _asked_of_sentinels(login: Login) -> Server:
    """The first answer of a Sentinel. Raises NotReached: what the first one lacks."""
    faults: list[Attempt] = []
    for sentinel in login.target.servers:
        try:
            async with _talk(sentinel, login.password) as (attempt, link):
                master = await link.master_of(login.target.service)
        except NotReached as error:
            faults.append(error.attempt)
            continue
        if master is not None:
            return master
        text = f"{sentinel} knows no master {login.target.service}"
        faults.append(replace(attempt, reason="SentinelNoMaster", text=text))
    raise NotReached(replace(faults[0], text="; ".join(fault.text for fault in faults)))


@asynccontextmanager
async def _talk(
    server: Server, password: str | None, database: int = 0
) -> AsyncIterator[tuple[Attempt, Link]]:
    """A connection, and what is known by having it. Raises NotReached, also inside of it."""
    from . import client as redis

    reasons = {redis.Unresolvable: "Unresolvable", redis.Unauthorized: "WrongPassword"}
    addresses: tuple[str, ...] = ()
    try:
        addresses = await redis.resolve(server)
        async with redis.linked(server, password, database) as link:
            yield Attempt(server, addresses, role=link.role), link
    except redis.RedisFault as error:
        reason = reasons.get(type(error), "Unreachable")
        raise NotReached(Attempt(server, addresses, reason, str(error))) from error


def _seconds(text: str | None) -> float | None:
    """Unix time; None where there is none, or none of a manager that we know."""
    try:
        found = float(text) if text is not None else None
    except ValueError:
        return None
    return found if found is not None and 0 <= found < YEAR_9999_S else None


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    document = node.document
    if "redis" not in document:
        return []
    agent = document.get("agent")
    spec = RedisSpec(
        access=backendai_access(document, host.etcd),
        namespace=document.get("backendai", {}).get("namespace", "local"),
        manager_ip=document.get("node", {}).get("manager-ip"),
        agent_id=node.node_id,
        config_path=None if node.agent_values is None else node.agent_config_path,
        id_values=id_values(node.agent_values or {}),
        is_seen_checked=document["redis"].get("check", False),
        is_agent_managed=agent is not None,
        is_agent_desired=agent is not None and agent.get("state", "running") == "running",
    )
    return [Redis(spec, host)]


KIND = Kind(
    section="redis",
    schema={
        "type": "object",
        "properties": {"check": {"type": "boolean"}},
        "additionalProperties": False,
    },
    resources=_resources,
)
