"""`[backendai] redis-addr`: what is written to Backend.AI's etcd, and when it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from bai_nodeagent import desired
from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.kinds import KINDS
from bai_nodeagent.kinds.backendai.kind import KIND
from bai_nodeagent.kinds.backendai.rules import Actual, Key, Publish, RedisAddressSpec, plan
from bai_nodeagent.model import Status, Verdict

from .fakes import host, node_spec

ADDR = "10.0.0.1:6379"
SPEC = RedisAddressSpec(EtcdAccess(("10.0.0.9:2379",)), "local", {"addr": ADDR}, (ADDR,))
SENTINELS = ("10.0.0.1:26379", "10.0.0.2:26379")
SENTINEL = {
    "sentinel": ",".join(SENTINELS),
    "service_name": "mymaster",
    "sentinel_password": "geheim",
}
WITH_SENTINELS = replace(SPEC, values=SENTINEL, servers=SENTINELS)


def keys(**values: str) -> Mapping[str, Key]:
    return {name: Key(value, 7) for name, value in values.items()}


@pytest.mark.parametrize(
    ("spec", "actual", "reason", "part"),
    [
        (SPEC, Actual(keys(addr=ADDR)), "InSync", ADDR),
        (SPEC, Actual(keys(addr=ADDR, service_name="left-over")), "InSync", ADDR),
        (SPEC, Actual(keys(addr=ADDR, sentinel="a:1")), "SentinelCounts", "mgr etcd delete"),
        (SPEC, Actual(keys(), silent=(ADDR,)), "Unreachable", "nobody answers"),
        (SPEC, Actual(keys(addr=ADDR), silent=(ADDR,)), "InSync", ADDR),
        (replace(SPEC, servers=("127.0.0.1:6379",)), Actual(), "Loopback", "itself"),
        (replace(SPEC, servers=("localhost:6379",)), Actual(), "Loopback", "itself"),
        (replace(SPEC, servers=("[::1]:6379",)), Actual(), "Loopback", "itself"),
        (replace(SPEC, access=None), Actual(), "NoEtcd", "folder"),
        (WITH_SENTINELS, Actual(keys(addr=ADDR, **SENTINEL)), "InSync", "10.0.0.2"),
        (WITH_SENTINELS, Actual(silent=SENTINELS), "Unreachable", "nobody answers"),
    ],
)
def test_nothing_is_written(spec: RedisAddressSpec, actual: Actual, reason: str, part: str) -> None:
    found = plan(spec, actual)
    assert (found.verdict.reason, found.actions) == (reason, ())
    assert part in found.verdict.message


def test_what_is_another_value_is_written_at_its_revision() -> None:
    found = plan(SPEC, Actual(keys(addr="127.0.0.1:8110")))
    key = "/sorna/local/config/redis/addr"
    assert found.actions == (Publish(key=key, value=ADDR, revision=7),)
    assert found.verdict.status is Status.UNKNOWN
    assert found.actions[0].summary == f"write {key} = {ADDR} to Backend.AI's etcd"


def test_what_is_not_there_is_made() -> None:
    assert [each.revision for each in plan(SPEC, Actual()).actions] == [0]


def test_one_sentinel_that_answers_is_enough_and_no_password_is_shown() -> None:
    found = plan(WITH_SENTINELS, Actual(keys(sentinel=SENTINEL["sentinel"]), SENTINELS[:1]))
    assert [each.value for each in found.actions] == ["mymaster", "geheim"]
    assert "geheim" not in repr(found) + "".join(each.summary for each in found.actions)


def test_an_address_that_is_not_known_is_waited_for() -> None:
    doubt = Verdict(Status.FALSE, "NoAddress", "no route")
    assert plan(replace(SPEC, doubt=doubt), Actual()).verdict == doubt


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ('redis-addr = "10.0.0.1:6379"', []),
        ('redis-addr = "${manager-host}:6379"', []),
        ('redis-addr = "10.0.0.1"', ["backendai.redis-addr"]),
        ("redis-addr = 6379", ["backendai.redis-addr"]),
        ('redis-sentinel = { addrs = ["a:1"], service-name = "m", password = "s" }', []),
        ('redis-sentinel = { addrs = [], service-name = "m" }', ["backendai.redis-sentinel.addrs"]),
        ('redis-sentinel = { addrs = ["a:1"] }', []),  # another layer may say the rest
        (
            'redis-addr = "a:1"\nredis-sentinel = { addrs = ["a:1"], service-name = "m" }',
            ["backendai.redis-sentinel"],
        ),
    ],
)
def test_the_document(section: str, expected: list[str]) -> None:
    text = f'api-version = 1\n[node]\nmanager-ip = "10.0.0.1"\n[backendai]\n{section}'
    found = desired.check_alone("cluster", text.encode(), KINDS, "0.1.0")
    assert [mistake.key for mistake in found] == expected


def test_the_resource_has_all_of_it() -> None:
    section = {
        "namespace": "prod",
        "etcd": {"endpoints": ["http://10.0.0.9:2379"]},
        "redis-sentinel": {
            "addrs": list(SENTINELS),
            "service-name": "mymaster",
            "password": "redis",
        },
    }
    node = replace(node_spec(), document={"backendai": section}, secrets={"redis": "geheim"})
    (found,) = KIND.resources(node, host())
    assert found.spec == replace(WITH_SENTINELS, namespace="prod")
    assert KIND.resources(replace(node, document={"backendai": {"namespace": "a"}}), host()) == []
