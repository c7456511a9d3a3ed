"""With what an agent was healthy, and what going back makes of a desired state."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from bai_nodeagent.kinds.agent.rollback import (
    Healthy,
    Rollback,
    back,
    changes,
    decode_healthy,
    decode_rollback,
    encode,
    healthy_with,
    in_force,
)
from bai_nodeagent.kinds.agent.spec import as_read, part_of
from bai_nodeagent.model import UNSET, KeyPath, NodeSpec

FILE = tomllib.loads("""
[etcd]
namespace = "local"
addr = "10.0.0.1:2379"
password = "old-secret"
[agent]
id = "i-1"
region = "there"
[container]
since = 2026-01-02
[[peer]]
name = "one"
token = "old-token"
""")


def desired(values: dict[KeyPath, Any] | None = None, **fields: Any) -> NodeSpec:
    document = fields.pop("document", {"agent": {"supervisor": "child", "command": ["/new"]}})
    return NodeSpec("i-1", "local", 7, "sha256:new", {}, document, agent_values=values, **fields)


def healthy(**parts: Any) -> Healthy:
    return replace(healthy_with(desired({}), FILE), **parts)


def test_what_is_kept_holds_no_secret() -> None:
    agent = {
        "supervisor": "child",
        "command": ["/old"],
        "user": "bai",
        "env": {"LANG": "C", "API_TOKEN": "literal", "X": {"secret": "name"}},
    }
    node = desired(
        {("agent", "license"): "by reference"},
        secret_paths=frozenset({("agent", "license")}),
        document={"agent": agent, "plugins": {"allow": ["a"], "expect-devices": {"cuda": 8}}},
    )
    file = {**FILE, "agent": {**FILE["agent"], "license": "by reference"}}
    kept = healthy_with(node, file)
    assert kept.agent == {"command": ["/old"], "user": "bai", "env": {"LANG": "C"}}
    assert kept.plugins == {"allow": ["a"]}
    assert kept.file["etcd"] == {"namespace": "local", "addr": "10.0.0.1:2379"}
    assert kept.file["agent"] == {"id": "i-1", "region": "there"}
    assert kept.file["peer"] == [{"name": "one"}]
    text = encode(kept).decode()
    for secret in ("old-secret", "old-token", "literal", "by reference"):
        assert secret not in text


def test_what_is_kept_and_an_order_are_read_as_they_were_written() -> None:
    kept = healthy(agent={"command": ["/old", 'a "b" \n'], "env": {"LANG": "C"}})
    assert decode_healthy(encode(kept)) == kept
    assert kept.file["container"] == {"since": date(2026, 1, 2)}
    order = Rollback("sha256:new", "it died", ("agent.region: 1 instead of 2",), kept)
    assert decode_rollback(encode(order)) == order


@pytest.mark.parametrize("raw", [b"", b"\xff", b"x = 1", b"digest = 1\nhealthy = 2\nchanges = 3"])
def test_an_order_that_can_not_be_read_is_an_error(raw: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode_rollback(raw)


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ({("agent", "region"): "poison"}, {("agent", "region"): "there"}),
        ({("agent", "fresh"): 1}, {("agent", "fresh"): UNSET}),
        ({("agent", "region"): UNSET}, {("agent", "region"): "there"}),
        ({("etcd", "addr", "host"): "10.9.9.9"}, {("etcd", "addr", "host"): "10.0.0.1"}),
        ({("etcd", "addr"): "10.9.9.9:1"}, {("etcd", "addr"): "10.0.0.1:2379"}),
        ({("agent", "region", "deep"): 1}, {("agent", "region"): "there"}),
        ({("container",): {}}, {("container",): {}}),
        ({("container",): "text"}, {("container",): {"since": date(2026, 1, 2)}}),
    ],
)
def test_each_place_gets_what_stood_there(
    now: dict[KeyPath, Any], then: dict[KeyPath, Any]
) -> None:
    assert back(desired(now), healthy()).agent_values == then


def test_an_optional_place_whose_table_is_missing_changes_nothing() -> None:
    place = ("watcher", "service-addr", "host")
    node = desired({place: "10.0.0.2"}, optional=frozenset({place}))
    assert changes(node, healthy()) == ()
    assert back(node, Healthy({"watcher": {}})).agent_values == {place: UNSET}


def test_secrets_stay_as_they_are_desired_now() -> None:
    places: dict[KeyPath, Any] = {
        ("etcd", "password"): "new-secret",
        ("agent", "region"): "now a secret",
        ("agent", "id"): "i-2",
    }
    node = desired(places, secret_paths=frozenset({("etcd", "password"), ("agent", "region")}))
    assert back(node, healthy()).agent_values == {**places, ("agent", "id"): "i-1"}


def test_inputs_of_the_agent_go_back_and_policy_stays() -> None:
    env = {"LANG": "now", "NEW": "1", "API_TOKEN": "new", "X": {"secret": "newer"}}
    node = desired(
        document={
            "agent": {"supervisor": "child", "command": ["/new"], "restart": "idle", "env": env},
            "plugins": {"allow": ["new"], "block": [], "python": "/usr/bin/python3"},
            "mount": [{"name": "vfroot"}],
        }
    )
    kept = Healthy(
        agent={"command": ["/old"], "env": {"LANG": "then", "X": "was plain"}},
        plugins={"allow": ["old"]},
    )
    document = back(node, kept).document
    assert document["agent"] == {
        "supervisor": "child",
        "restart": "idle",
        "command": ["/old"],
        "env": {"LANG": "then", "API_TOKEN": "new", "X": {"secret": "newer"}},
    }
    assert document["plugins"] == {"python": "/usr/bin/python3", "allow": ["old"]}
    assert document["mount"] == [{"name": "vfroot"}]


def test_changes_name_place_and_both_values() -> None:
    node = desired({("agent", "region"): "poison", ("agent", "id"): "i-1", ("x",): 1})
    found = changes(node, healthy(agent={"command": ["/old"]}))
    assert [change.part for change in found] == [
        "agent.toml agent.region",
        "agent.toml x",
        "command",
    ]
    assert [change.line for change in found] == [
        'agent.region: "poison" instead of "there"',
        "x: 1 instead of nothing",
        "[agent] command",
    ]
    assert changes(desired({("agent", "id"): "i-1"}), healthy(agent={"command": ["/new"]})) == ()


def test_an_order_holds_for_its_digest_alone() -> None:
    node = desired({("agent", "region"): "poison"})
    order = Rollback("sha256:new", "it died", ("agent.region: …",), healthy())
    assert in_force(node, None) is node
    assert in_force(node, replace(order, digest="sha256:other")) is node
    rolled = in_force(node, order)
    assert rolled.digest == node.digest
    assert rolled.agent_values == {("agent", "region"): "there"}
    for part in ("sha256:new", "it died", "agent.region: …", "bai-nodeagent retry"):
        assert part in rolled.rolled_back


def test_only_what_the_agent_has_read_counts() -> None:
    inputs = {part_of(("a", "one")): "1", part_of(("a", "gone")): "5", part_of(("b",)): "{}"}
    text = "b = {}\n[a]\none = 1\nlater = 3\nchanged = 4\n"
    assert as_read(text, inputs, str) == {"a": {"one": 1}, "b": {}}
    assert as_read("no toml [", inputs, str) == as_read(None, inputs, str) == {}
