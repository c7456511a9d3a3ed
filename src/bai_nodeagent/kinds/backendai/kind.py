"""What the cluster is called, where it keeps its keys, and where it is to find its Redis.

The first two are no part of the node. The last one is for the node that the manager runs on: it
keeps the address in Backend.AI's etcd, where each agent reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from ...errors import Overtaken
from ...etcd_access import backendai_access
from ...model import AnyResource, Host, Kind, NodeSpec, Plan, Wake
from ...system import sockets
from .rules import NAMES, Actual, Key, Publish, RedisAddressSpec, due, plan

# grpc is loaded when a document asks for this: see the imports in functions.
if TYPE_CHECKING:
    from ...system.etcd import EtcdClient, Reading

SECTION = "backendai"


class RedisAddress:
    name = "RedisAddress"
    deadline_s = 30.0

    def __init__(self, spec: RedisAddressSpec) -> None:
        self.spec = spec

    async def observe(self) -> Actual:
        from ...system import etcd

        if self.spec.access is None or self.spec.doubt is not None:
            return Actual()
        async with etcd.connected(self.spec.access) as client:
            reading = await self._read(client)
        prefix = self.spec.key("")
        keys = {
            key.removeprefix(prefix): Key(kv.value.decode(errors="replace"), kv.mod_revision)
            for key, kv in reading.entries.items()
        }
        servers = self.spec.servers if due(self.spec, keys) else ()
        silent = [each for each in servers if not await sockets.is_answering(each)]
        return Actual(keys, tuple(silent))

    async def _read(self, client: EtcdClient) -> Reading:
        return await client.get([self.spec.key(name) for name in NAMES])

    def plan(self, actual: Actual) -> Plan[Publish]:
        return plan(self.spec, actual)

    async def apply(self, action: Publish) -> None:
        from ...system import etcd, etcd_faults

        if self.spec.access is None:
            return
        async with etcd.connected(self.spec.access) as client:
            try:
                await client.put(action.key, action.value.encode(), expected=action.revision)
            except etcd_faults.Mismatch as error:
                raise Overtaken(str(error)) from error

    async def watch(self, wake: Wake) -> None:
        from ...system import etcd

        if self.spec.access is None:
            await anyio.sleep_forever()
            return
        async with etcd.connected(self.spec.access) as client:
            reading = await self._read(client)
            wake()
            keys = [self.spec.key(name) for name in NAMES]
            watch = client.watch(keys, reading.revision, reading.cluster_id)
            async with aclosing(watch) as events:
                async for _ in events:
                    wake()


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    section = node.document.get(SECTION, {})
    sentinel = section.get("redis-sentinel")
    if sentinel is not None:
        servers = tuple(sentinel["addrs"])
        values = {"sentinel": ",".join(servers), "service_name": sentinel["service-name"]}
        if password := node.secrets.get(sentinel.get("password", "")):
            values["sentinel_password"] = password
    elif "redis-addr" in section:
        servers = (section["redis-addr"],)
        values = {"addr": servers[0]}
    else:
        return []
    spec = RedisAddressSpec(
        access=backendai_access(node.document, host.etcd),
        namespace=section.get("namespace", "local"),
        values=values,
        servers=servers,
        doubt=node.address if any("${" in each for each in servers) else None,
    )
    return [RedisAddress(spec)]


def _check(section: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if "redis-addr" in section and "redis-sentinel" in section:
        yield ("redis-sentinel",), "is given beside redis-addr; Backend.AI reads one of them"


_SERVER = {
    "title": 'HOST:PORT, such as "${manager-host}:6379"',
    "type": "string",
    "format": "endpoint",
    "pattern": ":[0-9]+$",
}

KIND = Kind(
    section=SECTION,
    schema={
        "type": "object",
        "properties": {
            "namespace": {"$ref": "#/$defs/name"},
            "etcd": {
                "type": "object",
                "properties": {
                    "endpoints": {
                        "title": 'a list such as ["http://10.20.30.1:2379"]',
                        "type": "array",
                        "items": {
                            "title": 'an endpoint such as "http://${manager-host}:2379"',
                            "type": "string",
                            "format": "http-endpoint",
                        },
                        "minItems": 1,
                    },
                },
                "additionalProperties": False,
            },
            "redis-addr": _SERVER,
            "redis-sentinel": {
                "type": "object",
                "properties": {
                    "addrs": {
                        "title": 'a list such as ["10.20.30.1:26379"]',
                        "type": "array",
                        "items": _SERVER,
                        "minItems": 1,
                        "maxItems": 32,
                    },
                    "service-name": {
                        "title": "the name by which the Sentinels know the master",
                        "type": "string",
                        "pattern": r"^[^\s,]+$",
                    },
                    "password": {"$ref": "#/$defs/name"},
                },
                "required": ["addrs", "service-name"],
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    },
    resources=_resources,
    check=_check,
    actions=(Publish,),
    secret_names=frozenset({("redis-sentinel", "password")}),
)
