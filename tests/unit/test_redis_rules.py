"""Where Backend.AI's Redis is published to be, and how that stands: tables of values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.kinds.redis.rules import (
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
from bai_nodeagent.model import Status

SPEC = RedisSpec(EtcdAccess(("10.20.30.1:2379",)), manager_ip="10.20.30.1", agent_id="i-node01")
CHECKED = replace(SPEC, is_seen_checked=True, is_agent_managed=True, is_agent_desired=True)
MASTER = Server("10.20.30.1", 6379)
MET = Attempt(MASTER, ("10.20.30.1",))
PUBLISHED = {"addr": "10.20.30.1:6379"}
SENTINELS = {"sentinel": "10.20.30.1:26379, 10.20.30.2:26379", "service_name": "mymaster"}
PUT = "`backend.ai mgr etcd put config/redis/"


@pytest.mark.parametrize(
    ("published", "target"),
    [
        ({"addr": "redis:6379"}, Target((Server("redis", 6379),))),
        ({"addr": "[fd00::1]:6379\n"}, Target((Server("fd00::1", 6379),))),
        (
            {**PUBLISHED, **SENTINELS},
            Target((Server("10.20.30.1", 26379), Server("10.20.30.2", 26379)), "mymaster"),
        ),
    ],
)
def test_where_it_is_published(published: Published, target: Target) -> None:
    assert target_of(SPEC, published) == target


@pytest.mark.parametrize(
    ("published", "reason", "words"),
    [
        ({}, "NoKey", f"{PUT}addr 10.20.30.1:6379`"),
        ({"password": "x"}, "NoKey", "/sorna/local/config/redis/addr is not there"),
        ({"sentinel": "a:1"}, "NoKey", f"{PUT}service_name NAME`"),
        ({"addr": "10.20.30.1"}, "BadKey", f"{PUT}addr 10.20.30.1:6379`"),
        ({"addr": "10.20.30.1:99999"}, "BadKey", "not of the form host:port"),
        ({"addr": "redis://10.20.30.1:6379"}, "BadKey", "not of the form host:port"),
        ({"sentinel": "a:1,b", "service_name": "m"}, "BadKey", f"{PUT}sentinel HOST1:26379"),
    ],
)
def test_what_is_published_wrongly(published: Published, reason: str, words: str) -> None:
    with pytest.raises(Unusable) as caught:
        target_of(SPEC, published)
    assert caught.value.reason == reason
    assert words in str(caught.value)
    found = plan(SPEC, Actual(published))
    assert (found.verdict.status, found.verdict.reason) == (Status.FALSE, reason)


def test_a_server_is_spelled_as_an_address_with_a_port() -> None:
    assert (str(Server("fd00::1", 1)), str(MASTER)) == ("[fd00::1]:1", "10.20.30.1:6379")


@pytest.mark.parametrize(
    ("actual", "reason", "words"),
    [
        (Actual(None), "NoEtcd", "[backendai.etcd] endpoints"),
        (Actual(PUBLISHED, attempt=MET), "InSync", "10.20.30.1:6379 answers"),
        (
            Actual(PUBLISHED, False, Attempt(Server("127.0.0.1", 8111), ("127.0.0.1",))),
            "Loopback",
            "the manager is 10.20.30.1: the first step of Backend.AI's multi-node guide, Redis's "
            f"address in etcd, is missing; on the manager: {PUT}addr 10.20.30.1:8111`",
        ),
        (
            Actual(PUBLISHED, False, Attempt(Server("redis", 6379), ("127.0.1.1", "::1"))),
            "Loopback",
            "redis:6379 is this node itself",
        ),
        (
            Actual(PUBLISHED, False, Attempt(Server("localhost", 1), (), "Unresolvable", "?")),
            "Loopback",
            "localhost:1 is this node itself",
        ),
        (Actual(PUBLISHED, True, Attempt(MASTER, ("127.0.0.1",))), "InSync", "answers"),
        (Actual(PUBLISHED, False, Attempt(MASTER, ("127.0.0.1", "10.0.0.1"))), "InSync", "answers"),
        (
            Actual(SENTINELS, False, Attempt(Server("127.0.0.1", 6379), ("127.0.0.1",))),
            "Loopback",
            "let the Sentinels monitor mymaster under an address that all nodes reach",
        ),
        (
            Actual(
                {**SENTINELS, "sentinel": "127.0.0.1:26379"},
                False,
                Attempt(Server("127.0.0.1", 26379), ("127.0.0.1",), "Unreachable", "refused"),
            ),
            "Loopback",
            f"{PUT}sentinel HOST1:26379",
        ),
        (
            Actual(PUBLISHED, attempt=Attempt(MASTER, (), "Unresolvable", "redis: no such name")),
            "Unresolvable",
            "redis: no such name; publish an address",
        ),
        (
            Actual(
                {"addr": "redis:8111"},
                attempt=Attempt(Server("redis", 8111), (), "Unresolvable", "no such name"),
            ),
            "Unresolvable",
            f"{PUT}addr 10.20.30.1:8111`",
        ),
        (
            Actual(PUBLISHED, attempt=Attempt(MASTER, (), "Unreachable", "it is refused")),
            "Unreachable",
            "it is refused; does Redis run there",
        ),
        (
            Actual(PUBLISHED, attempt=Attempt(MASTER, (), "WrongPassword", "invalid")),
            "WrongPassword",
            f"/sorna/local/config/redis/password differ; on the manager: {PUT}password PASSWORD`",
        ),
        (
            Actual(PUBLISHED, attempt=Attempt(MASTER, (), role="replica")),
            "NotMaster",
            "10.20.30.1:6379 is a replica; agents have to write there; publish the master: "
            f"on the manager: {PUT}addr MASTER_IP:PORT`",
        ),
        (
            Actual(SENTINELS, attempt=Attempt(MASTER, (), role="replica")),
            "NotMaster",
            "a failover may be under way",
        ),
        (Actual(PUBLISHED, attempt=Attempt(MASTER, (), role="")), "InSync", "answers"),
        (
            Actual(SENTINELS, attempt=Attempt(MASTER, (), "SentinelNoMaster", "knows none")),
            "SentinelNoMaster",
            "correct /sorna/local/config/redis/service_name",
        ),
    ],
)
def test_the_verdict(actual: Actual, reason: str, words: str) -> None:
    found = plan(SPEC, actual)
    assert found.verdict.reason == reason
    assert words in found.verdict.message
    assert (found.verdict.status is Status.TRUE) is (reason == "InSync")
    assert found.actions == ()


def at(last_seen_s: float | None, agent_age_s: float | None) -> Actual:
    return Actual(PUBLISHED, True, MET, 1000.0, {"i-node01": last_seen_s}, agent_age_s)


@pytest.mark.parametrize(
    ("actual", "reason", "words", "observe_again_in_s"),
    [
        (at(990.0, 300.0), "InSync", "the manager sees i-node01", 30.0),
        (at(990.0, None), "InSync", "the manager sees i-node01", 30.0),
        (
            at(959.0, 300.0),
            "NotSeen",
            "has not seen i-node01 since 1970-01-01T00:15:59Z",
            30.0,
        ),
        (
            at(None, 300.0),
            "NotSeen",
            "has not seen i-node01 ever; is the manager running",
            30.0,
        ),
        (at(959.0, 20.0), "InSync", "has just been started", 40.0),
        (at(959.0, None), "InSync", "no agent runs here", None),
    ],
)
def test_whether_the_manager_knows_the_agent(
    actual: Actual, reason: str, words: str, observe_again_in_s: float | None
) -> None:
    found = plan(CHECKED, actual)
    assert found.verdict.reason == reason
    assert words in found.verdict.message
    assert found.observe_again_in_s == observe_again_in_s
    assert ("agent-last-seen" in found.facts) is (actual.last_seen["i-node01"] is not None)


def test_each_of_several_agents_has_to_be_known_to_the_manager() -> None:
    both = replace(at(990.0, 300.0), last_seen={"i-a": 990.0, "i-b": 980.0})
    found = plan(CHECKED, both)
    assert "the manager sees i-a, i-b" in found.verdict.message
    assert found.observe_again_in_s == 20.0
    found = plan(CHECKED, replace(both, last_seen={"i-a": 990.0, "i-b": None}))
    assert found.verdict.reason == "NotSeen"
    assert "has not seen i-b ever" in found.verdict.message


def test_an_agent_that_is_to_be_stopped_need_not_be_known_to_the_manager() -> None:
    found = plan(replace(CHECKED, is_agent_desired=False), at(None, 300.0))
    assert found.verdict.status is Status.TRUE


def test_an_unmanaged_agent_is_never_reported_as_not_running() -> None:
    found = plan(replace(CHECKED, is_agent_managed=False), at(959.0, None))
    assert found.verdict.status is Status.TRUE
    assert "since 1970-01-01T00:15:59Z; whether an agent runs is not known" in found.verdict.message


def test_the_manager_s_ipv6_address_is_in_brackets() -> None:
    found = plan(replace(SPEC, manager_ip="fd00::1"), Actual({}))
    assert f"{PUT}addr [fd00::1]:6379`" in found.verdict.message


def test_last_seen_is_not_read_unless_it_is_desired() -> None:
    found = plan(SPEC, at(None, 300.0))
    assert found.verdict.message == "10.20.30.1:6379 answers"
    assert found.facts == {"redis": "10.20.30.1:6379"}
