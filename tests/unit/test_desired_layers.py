"""Which keys a node reads, and how its layers make one document."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from bai_nodeagent import desired
from bai_nodeagent.desired import Document
from desired_kinds import HEAD, KINDS, VERSION, documents, judged, merged

NODE = "desired/node/n1"


@pytest.mark.parametrize(
    ("local", "node", "groups"),
    [
        ([], None, []),
        (["a", "b", "a"], None, ["a", "b"]),
        (["a"], "api-version = 1", ["a"]),
        (["a"], "[node]\ngroups = ['c', 'b']", ["c", "b"]),
        (["a"], '{"node": {"groups": []}}', []),
        (["a"], "[node]\ngroups = ['c'", ["a"]),
        (["a"], "[node]\ngroups = 'c'", ["a"]),
        (["a"], "[node]\ngroups = ['../../etc']", ["a"]),
        (["a"], "node = 3", ["a"]),
        (["a"], "node = { unset = true }", ["a"]),
    ],
)
def test_a_node_document_replaces_the_local_groups(
    local: list[str], node: str | None, groups: list[str]
) -> None:
    raw = {NODE: node.encode()} if node is not None else {}
    wanted = ("desired/cluster", *(f"desired/group/{group}" for group in groups), NODE)
    assert desired.layer_keys("n1", local, raw) == wanted


def test_the_secrets_that_documents_name_are_read_from_every_layer() -> None:
    raw: dict[str, bytes] = {}
    assert desired.wanted_keys("n1", ["a"], raw, KINDS) == {
        "desired/cluster",
        "desired/group/a",
        NODE,
    }

    raw[NODE] = b"[node]\ngroups = ['b']"
    raw["desired/cluster"] = b"[agent-config.values.x]\ny = [{ z = { secret = 's' } }]"
    raw["desired/group/a"] = b"[agent.env]\nX = { secret = 'of-a-foreign-group' }"
    assert desired.wanted_keys("n1", ["a"], raw, KINDS) == {
        "desired/cluster",
        "desired/group/b",
        NODE,
        "secret/cluster/s",
        "secret/group/b/s",
        "secret/node/n1/s",
    }


@pytest.mark.parametrize("text", ["[x", "x = { secret = '../a' }", "[meta]\nx = { secret = 'a' }"])
def test_nothing_else_makes_a_key(text: str) -> None:
    keys = desired.wanted_keys("n1", [], {"desired/cluster": text.encode()}, KINDS)
    assert keys == {"desired/cluster", NODE}


def test_tables_merge_and_everything_else_replaces() -> None:
    assert merged(
        "[agent]\nsupervisor = 'systemd'\ncommand = ['a', 'b']\nunit = 'u'\n[agent.env]\nA = '1'",
        "[agent]\ncommand = ['c']\n[agent.env]\nB = '2'",
        "[agent]\nstate = 'stopped'\nenv = { A = '3' }",
    )["agent"] == {
        "supervisor": "systemd",
        "command": ["c"],
        "unit": "u",
        "env": {"A": "3", "B": "2"},
        "state": "stopped",
    }


@pytest.mark.parametrize(
    ("below", "above", "value"),
    [
        ("x = 1", "x = { y = 1 }", {"y": 1}),
        ("x = { y = 1 }", "x = 'leaf'", "leaf"),
        ("x = { y = 1 }", "x = { z = 2 }", {"y": 1, "z": 2}),
        ("x = { y = 1 }", "x = {}", {"y": 1}),
        ("x = [1, 2]", "x = [3]", [3]),
        ("x = [{ name = 'a' }]", "x = [{ name = 'b' }]", [{"name": "b"}]),
        ("x = { y = 1 }", "x = { unset = true }", {"unset": True}),
        ("x = { unset = true }", "x = { y = 1 }", {"y": 1}),
        ("x = { y = 1 }", "x = { secret = 's' }", {"secret": "s"}),
        ("x = { secret = 's' }", "x = { y = 1 }", {"y": 1}),
        ("x = { secret = 's' }", "x = { secret = 't' }", {"secret": "t"}),
    ],
)
def test_a_marker_replaces_and_is_replaced_as_a_whole(
    below: str, above: str, value: object
) -> None:
    head = "[agent-config.values]\n"
    assert merged(head + below, head + above)["agent-config"]["values"]["x"] == value


ITEM_A = "[[mount]]\nname = 'a'\ntarget = '/a'\n"
ITEM_B = "[[mount]]\nname = 'b'\ntarget = '/b'\n"
A = {"name": "a", "target": "/a"}
B = {"name": "b", "target": "/b"}


@pytest.mark.parametrize(
    ("texts", "items"),
    [
        ([ITEM_A, ITEM_B], [A, B]),
        ([ITEM_A + ITEM_B, "[[mount]]\nname = 'a'\nmode = '0700'"], [{**A, "mode": "0700"}, B]),
        ([ITEM_A + ITEM_B, "[[mount]]\nname = 'a'\nunset = true"], [B]),
        ([ITEM_A + ITEM_B, "[[mount]]\nname = 'a'\nunset = true", "[[mount]]\nname = 'a'\n"
          "target = '/c'"], [{"name": "a", "target": "/c"}, B]),
        ([ITEM_A, "mount = { unset = true }", ITEM_B], [B]),
    ],
)  # fmt: skip
def test_named_items_merge_by_name(texts: list[str], items: list[object]) -> None:
    assert merged(*texts)["mount"] == items


@pytest.mark.parametrize(
    "above",
    ["mount = { unset = true }", "[[mount]]\nname = 'a'\nunset = true"],
)
def test_what_is_unset_is_as_if_never_named(above: str) -> None:
    verdict = judged({"cluster": HEAD + ITEM_A, "node/n1": HEAD + above})
    assert verdict.merged == {"api-version": 1}
    assert verdict.digest == judged({"cluster": HEAD}).digest


def test_an_unset_section_needs_none_of_its_required_keys() -> None:
    assert "agent" not in merged("[agent]\nstate = 'stopped'", "agent = { unset = true }")


def test_required_keys_may_be_spread_over_layers() -> None:
    assert merged("[agent]\ntries = 1\nsupervisor = 'child'", "[agent]\nstop-timeout = '1s'\n"
                  "command = ['x']")  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "sentences"),
    [
        (
            {"cluster": "[agent]\nstate = 'running'", "group/a": "[agent]\nunit = 'x'"},
            ['group/a: agent.supervisor: is missing; allowed: "child", "systemd"'],
        ),
        (
            {"cluster": "[agent]\nsupervisor = 'child'", "group/a": "[agent]\nunit = 'x'"},
            [
                "group/a: agent.command: is missing",
                "group/a: agent.unit: is not allowed",
            ],
        ),
        (
            {"cluster": "[agent]\nsupervisor = 'systemd'\ntries = 3", "node/n1": "paused = true"},
            [
                "cluster: agent.stop-timeout: is missing, and tries needs it;"
                ' allowed: a duration such as "250ms", "10s", "5m" or "2h"'
            ],
        ),
        (
            {"cluster": ITEM_A, "group/a": "[[mount]]\nname = 'b'"},
            ['group/a: mount.b.target: is missing; allowed: an absolute path without ".."'],
        ),
        (
            {"cluster": "[agent]\nstat = 3", "node/n1": "[[mount]]\nname = 'b'"},
            [
                "cluster: agent.stat: is an unknown key; ",
                "cluster: agent.supervisor: is missing; ",
                "node/n1: mount.b.target: is missing; ",
            ],
        ),
        (
            {"cluster": "[agent]\nsupervisor = 'systemd'\nunit = '${manager-host} ${agent-ip}'"},
            [
                "cluster: agent.unit: uses ${agent-ip}, but no layer gives agent-ip in [node]",
                "cluster: agent.unit: uses ${manager-host}, but no layer gives manager-ip",
            ],
        ),
    ],
)
def test_mistakes_of_the_whole_name_the_layer_that_spoke_last(
    layers: Mapping[str, str], sentences: list[str]
) -> None:
    verdict = judged({layer: HEAD + text for layer, text in layers.items()})
    found = [str(mistake) for mistake in verdict.mistakes]
    assert len(found) == len(sentences), found
    assert all(line.startswith(start) for line, start in zip(found, sentences, strict=True)), found
    assert verdict.merged is None
    assert verdict.digest is None


def test_a_value_of_one_layer_is_not_reported_again_for_the_whole() -> None:
    verdict = judged({"cluster": HEAD + "[agent]\nsupervisor = 3", "node/n1": HEAD})
    assert len(verdict.mistakes) == 1


@pytest.mark.parametrize("text", ["[agent", "", "x" * (1 << 21)])
def test_what_seems_missing_is_not_reported_while_a_layer_can_not_be_read(text: str) -> None:
    verdict = judged({"cluster": text, "node/n1": HEAD + "[agent]\nstate = 'running'"})
    wanted = {"cluster"} if text else {"cluster", "node/n1"}  # an empty layer can be read
    assert {mistake.layer for mistake in verdict.mistakes} == wanted


def test_a_missing_layer_is_no_mistake_and_holds() -> None:
    layers = {"node/n1": HEAD + "[agent]\nstate = 'running'"}
    verdict = desired.evaluate(documents(layers), ["desired/cluster"], KINDS, VERSION)
    assert verdict.missing == ("desired/cluster",)
    assert verdict.mistakes == ()
    assert verdict.merged is None


def test_a_fault_of_the_store_is_a_mistake_of_its_layer() -> None:
    faults = {"group/a": "two files for one layer: a.toml, a.json"}
    layers = {"cluster": HEAD, "node/n1": HEAD + "x = 1"}
    verdict = desired.evaluate(documents(layers), (), KINDS, VERSION, faults)
    assert [str(mistake)[:30] for mistake in verdict.mistakes] == [
        "group/a: two files for one lay",
        "node/n1: x: is an unknown key;",
    ]


def test_nothing_at_all_is_never_valid() -> None:
    assert desired.evaluate([], (), KINDS, VERSION).merged is None


@pytest.mark.parametrize(
    ("layers", "is_paused"),
    [
        ({"cluster": HEAD}, False),
        ({"cluster": HEAD + "paused = false"}, False),
        ({"cluster": HEAD + "paused = true", "node/n1": HEAD + "paused = false"}, True),
        ({"cluster": HEAD + "paused = true\nx = 1", "node/n1": "["}, True),
        ({"cluster": "paused = true"}, True),
        ({"cluster": HEAD + "paused = 1"}, False),
        ({"cluster": HEAD + "paused = true\n["}, False),
        ({"cluster": HEAD + "paused = true\nx = " + "[" * 40 + "]" * 40}, True),
    ],
)
def test_paused_if_any_layer_that_parses_pauses(layers: Mapping[str, str], is_paused: bool) -> None:
    verdict = judged(layers)
    assert verdict.is_paused is is_paused
    if verdict.merged is not None:
        assert verdict.merged.get("paused", False) is is_paused


def test_the_digest_is_of_the_meaning() -> None:
    one = judged({"cluster": HEAD + "[agent]\nsupervisor = 'systemd'\nunit = 'x' # a\n[meta]\na=1"})
    same = judged(
        {
            "cluster": '{"agent": {"unit": "x"}, "api-version": 1, "meta": "other"}',
            "node/n1": HEAD + "[agent]\nsupervisor = 'systemd'",
        }
    )
    other = judged({"cluster": HEAD + "[agent]\nsupervisor = 'systemd'\nunit = 'y'"})
    assert one.digest == same.digest != other.digest
    assert one.digest is not None
    assert one.digest.startswith("sha256:")


def test_secret_names_are_those_of_the_merged_document() -> None:
    env = "[agent]\nsupervisor = 'systemd'\n[agent.env]\n"
    layers = {
        "cluster": HEAD + env + "A = { secret = 'a' }\nB = { secret = 'b' }",
        "node/n1": HEAD + "[agent.env]\nB = { secret = 'c' }",
    }
    assert judged(layers).secret_names == {"a", "c"}
    assert judged({"cluster": "["}).secret_names == frozenset()


def test_no_representation_shows_a_document() -> None:
    verdict = judged({"cluster": HEAD + "[agent-config.values]\npassword = 'GEHEIM'"})
    assert "GEHEIM" not in repr(verdict)
    assert "GEHEIM" not in repr(Document("cluster", "desired/cluster", 1, b"GEHEIM"))


def test_nobody_can_try_a_secret_against_the_digest() -> None:
    def of(password: object, seal: Callable[[object], str] = lambda _: "*") -> str | None:
        values = {"etcd": {"password": password, "tokens": ["a", password]}}
        raw = json.dumps({"api-version": 1, "agent-config": {"values": values}}).encode()
        document = Document("cluster", "desired/cluster", 1, raw)
        return desired.evaluate([document], (), KINDS, VERSION, seal=seal).digest

    assert of("hunter2") == of("hunter3") != of({"secret": "name"})
    keyed = of("hunter2", lambda secret: f"keyed {secret}")
    assert keyed not in (of("hunter2"), of("hunter3", lambda secret: f"keyed {secret}"))
    assert keyed == of("hunter2", lambda secret: f"keyed {secret}")
