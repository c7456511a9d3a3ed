"""What of Backend.AI's Redis is to be in its etcd, and what to do about it. Pure.

Backend.AI's own rules: `config/redis/addr` is "host:port"; where
`config/redis/sentinel` is given ("h1:p,h2:p"), that and `service_name` count
instead, and from 26.4.2 on `sentinel_password`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ...address import is_loopback
from ...etcd_access import EtcdAccess
from ...model import Action, Plan, Status, Verdict, in_sync

NAMES = ("addr", "sentinel", "service_name", "sentinel_password")
_MASKED = "sentinel_password"
OBSERVE_AGAIN_S = 10.0


@dataclass(frozen=True)
class RedisAddressSpec:
    """What `[backendai]` says of Redis.

    access   of the etcd with Backend.AI's keys; None: there is none
    values   by the last part of their key; others are left as they are
    servers  who answers there, "host:port"
    doubt    why an address is not known now
    """

    access: EtcdAccess | None
    namespace: str
    values: Mapping[str, str] = field(repr=False)
    servers: tuple[str, ...] = ()
    doubt: Verdict | None = None

    def key(self, name: str) -> str:
        return f"/sorna/{self.namespace}/config/redis/{name}"


@dataclass(frozen=True, slots=True)
class Key:
    """A key's value, and the revision of its last change; 0: it is not there."""

    value: str = field(default="", repr=False)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Actual:
    """What is there by the last part of the keys, and which servers do not answer: asked only
    where something is to be written."""

    keys: Mapping[str, Key] = field(default_factory=dict)
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Publish(Action):
    """Writes one key, if it is still what it was."""

    verb: ClassVar[str] = "publish"
    key: str
    value: str = field(repr=False)
    revision: int

    @property
    def summary(self) -> str:
        shown = "" if self.key.endswith(_MASKED) else f" = {self.value}"
        return f"write {self.key}{shown} to Backend.AI's etcd"


def due(spec: RedisAddressSpec, keys: Mapping[str, Key]) -> tuple[Publish, ...]:
    """What is to be written."""
    return tuple(
        Publish(key=spec.key(name), value=value, revision=there.revision)
        for name, value in spec.values.items()
        if (there := keys.get(name, Key())).value != value or not there.revision
    )


def plan(spec: RedisAddressSpec, actual: Actual) -> Plan[Publish]:
    if spec.access is None:
        text = "the daemon's store is a folder; say where Backend.AI's etcd is: [backendai.etcd]"
        return _fault("NoEtcd", text)
    if spec.doubt is not None:
        return Plan(spec.doubt)
    listed = ", ".join(spec.servers)
    if "addr" in spec.values and "sentinel" in actual.keys:
        key = spec.key("sentinel")
        text = f"{key} is there, so Backend.AI reads it instead of the address {listed}"
        remedy = "desire [backendai.redis-sentinel], or take the key out: on the manager, "
        command = "`backend.ai mgr etcd delete config/redis/sentinel`"
        return _fault("SentinelCounts", f"{text}; {remedy}{command}")
    writes = due(spec, actual.keys)
    if not writes:
        return Plan(in_sync(f"{listed} is what Backend.AI finds"))
    if local := [each for each in spec.servers if _is_loopback(each)]:
        text = f"{', '.join(local)} leads each node to itself; give one that all nodes reach"
        return _fault("Loopback", text)
    if set(actual.silent) == set(spec.servers):
        text = f"nobody answers at {listed}, so it is not written: agents would find nobody"
        return _fault("Unreachable", text)
    named = ", ".join(each.key for each in writes)
    return Plan(Verdict(Status.UNKNOWN, "Publishing", f"to be written: {named}"), writes)


def _is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]")
    try:
        return is_loopback(host)
    except ValueError:
        return host == "localhost"


def _fault(reason: str, text: str) -> Plan[Publish]:
    return Plan(Verdict(Status.FALSE, reason, text), observe_again_in_s=OBSERVE_AGAIN_S)
