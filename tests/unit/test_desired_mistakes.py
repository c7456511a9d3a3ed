"""Every mistake is one sentence: where, what, what is allowed, and what was meant."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from bai_nodeagent import desired
from bai_nodeagent.kinds import KINDS as REAL_KINDS
from desired_kinds import HEAD, KINDS, VERSION, judged, reported

A_NAME = "a name of a-z, 0-9, '.', '_' and '-'"
NOT_UNSET = (
    "can't be unset; { unset = true } may replace a whole section, a named item,"
    " and a key below agent-config.values"
)
NOT_SECRET = (
    "can't be a secret; { secret = NAME } may replace a value below agent-config.values and in env"
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        # keys
        (
            "[agent]\nstat = 1",
            [
                "agent.stat: is an unknown key; allowed: command, env, on, share,"
                " state, stop-timeout, supervisor, token, tries, unit, workdir; did you mean state?"
            ],
        ),
        (
            "[rollout]\nsprad = '1s'",
            ["rollout.sprad: is an unknown key; allowed: spread; did you mean spread?"],
        ),
        ("[agent]\nhealth-timeout = 3", ["agent.health-timeout: is not supported yet"]),
        ("[swarm]\nstate = 'joined'", ["swarm: is not supported yet"]),
        ("[[service]]\nname = 'x'", ["service: is not supported yet"]),
        ("swarm = { unset = true }", ["swarm: is not supported yet"]),
        ("[backendai]\nx = { unset = 3 }", ["backendai: is not supported yet"]),
        # types
        ("paused = 'yes'", ["paused: is text; allowed: true or false"]),
        ("agent = 3", ["agent: is a whole number; allowed: a table"]),
        ("[mount]\nname = 'x'", ["mount: is a table; allowed: a list"]),
        (
            "[agent]\ncommand = 'a b'",
            ["agent.command: is text; allowed: a list (items: at least 1)"],
        ),
        ("[agent]\ncommand = ['a', 2]", ["agent.command[1]: is a whole number; allowed: text"]),
        (
            "[agent]\ntries = 1.0",
            ["agent.tries: is a number; allowed: a whole number (at least 1, at most 9)"],
        ),
        (
            "[agent]\nworkdir = 1979-05-27",
            ['agent.workdir: is a date or time; allowed: an absolute path without ".."'],
        ),
        (
            "agent-config.values = 3",
            ["agent-config.values: is a whole number; allowed: a table of agent.toml's keys"],
        ),
        # values
        (
            "[agent]\nstate = 'runing'",
            [
                'agent.state: "runing" is not allowed; allowed: "running", "stopped";'
                " did you mean running?"
            ],
        ),
        (
            "[agent]\ntries = 10",
            ["agent.tries: 10 does not fit; allowed: a whole number (at least 1, at most 9)"],
        ),
        ("[agent]\nshare = 0", ["agent.share: 0 does not fit; allowed: a number (above 0)"]),
        (
            "[agent]\ncommand = []",
            ["agent.command: the value does not fit; allowed: a list (items: at least 1)"],
        ),
        (
            "[agent]\nstop-timeout = '10 s'",
            [
                'agent.stop-timeout: "10 s" does not fit; allowed: a duration such as "250ms",'
                ' "10s", "5m" or "2h"'
            ],
        ),
        (
            "[agent]\nworkdir = '/a/../b'",
            ['agent.workdir: "/a/../b" does not fit; allowed: an absolute path without ".."'],
        ),
        (
            "[agent.env]\nlang = 'C'",
            ['agent.env: "lang" does not fit; allowed: a name of A-Z and _'],
        ),
        # one of several forms
        (
            "[agent.env]\nX = 3",
            ["agent.env.X: is a whole number; allowed: text or { secret = NAME }"],
        ),
        (
            "[agent]\non = { host = 'x', prt = 1 }",
            [
                'agent.on.host: "x" does not fit; allowed: an IPv4 or IPv6 address',
                "agent.on.prt: is an unknown key; allowed: host, port; did you mean port?",
            ],
        ),
        (
            "[agent]\non = 'x'",
            ['agent.on: "x" does not fit; allowed: an IPv4 or IPv6 address or a table or "any"'],
        ),
        # [node]
        (
            "[node]\nmanager-ip = 'manager'",
            [
                'node.manager-ip: "manager" does not fit; allowed: the IPv4 or IPv6 address of'
                " the manager's host"
            ],
        ),
        (
            "[node]\nagent-ip = 'fe80::1%eth0'",
            [
                'node.agent-ip: "fe80::1%eth0" does not fit; allowed: an IPv4 or IPv6 address,'
                ' "auto", or "interface:NAME"'
            ],
        ),
        (
            "[node]\nmanager-ip = '${agent-ip}'",
            [
                'node.manager-ip: "${agent-ip}" does not fit; allowed: the IPv4 or IPv6 address'
                " of the manager's host"
            ],
        ),
        (
            "[node]\ngroups = ['a', '../b']",
            [f'node.groups[1]: "../b" does not fit; allowed: {A_NAME}'],
        ),
        ('[node]\ngroups = ["a\\n"]', [f'node.groups[0]: "a\\n" does not fit; allowed: {A_NAME}']),
        (
            "[node]\ngroups = ['a', 'a']",
            ["node.groups: holds the same item twice; allowed: each one once"],
        ),
        # items
        ("[[mount]]\ntarget = '/x'", [f"mount[0].name: is missing; allowed: {A_NAME}"]),
        ("[[mount]]\nname = '${node-id}'", [f"mount[0].name: is not a name; allowed: {A_NAME}"]),
        (
            "mount = ['x']",
            [
                f"mount[0].name: is missing; allowed: {A_NAME}",
                "mount[0]: is text; allowed: a table",
            ],
        ),
        (
            "[[mount]]\nname = 'a'\n[[mount]]\nname = 'a'",
            ["mount.a: occurs more than once; allowed: each name once"],
        ),
        (
            "agent-config.values.x.y = [{ name = 'a' }, { name = 'b' }, { name = 'a' }]",
            [
                f"agent-config.values.x.y[{at}]: occurs more than once; allowed: each name once"
                for at in (0, 2)
            ],
        ),
        ("[[mount]]\nname = 'a'\nstate = 'lazy'", ["mount.a.state: is not supported yet"]),
        (
            "[[mount]]\nname = 'a'\nmode = '0888'",
            ['mount.a.mode: "0888" does not fit; allowed: an octal mode such as "0640"'],
        ),
        # unset
        ("paused = { unset = true }", ["paused: is a table; allowed: true or false"]),
        ("[agent]\nunit = { unset = true }", [f"agent.unit: {NOT_UNSET}"]),
        ("[agent-config]\nvalues = { unset = true }", [f"agent-config.values: {NOT_UNSET}"]),
        (
            "[agent-config.values]\nx = [{ unset = true }]",
            [f"agent-config.values.x[0]: {NOT_UNSET}"],
        ),
        (
            "agent = { unset = false }",
            ["agent: has unset with another value; allowed: { unset = true }, or a table"],
        ),
        (
            "agent = { unset = 1 }",
            ["agent: has unset with another value; allowed: { unset = true }, or a table"],
        ),
        (
            "[agent-config.values.a]\nunset = true\nb = 1",
            [
                "agent-config.values.a: has unset beside other keys; allowed: { unset = true },"
                " or a table without it"
            ],
        ),
        (
            "[[mount]]\nname = 'a'\nunset = true\ntarget = '/x'",
            [
                'mount.a: has unset beside other keys; allowed: { name = "NAME", unset = true },'
                " or a table without it"
            ],
        ),
        # secret
        ("[agent]\nunit = { secret = 'x' }", [f"agent.unit: {NOT_SECRET}"]),
        ("[agent-config.values]\nsecret = 'x'", [f"agent-config.values: {NOT_SECRET}"]),
        ("[agent.env]\nsecret = 'x'", [f"agent.env: {NOT_SECRET}"]),
        (
            "[agent.env]\nX = { secret = 'A B' }",
            [f"agent.env.X: has a wrong secret's name; allowed: {A_NAME}"],
        ),
        (
            "[agent.env]\nX = { secret = 'a', y = 1 }",
            ["agent.env.X: has secret beside other keys; allowed: { secret = NAME } alone"],
        ),
        # variables
        ("[agent]\nunit = '${NODE_ID}'", ["agent.unit: uses an unknown variable; allowed: "]),
        (
            "[agent-config.values.a]\nb = ['x ${agentip}']",
            ["agent-config.values.a.b[0]: uses an unknown variable; allowed: "],
        ),
        (
            "[agent]\nunit = 'a ${node-id'",
            ["agent.unit: has a ${ without }; allowed: ${name}, or "],
        ),
    ],
)
def test_a_mistake_names_its_place_and_what_is_allowed(text: str, sentences: list[str]) -> None:
    found = reported(HEAD + text)
    assert len(found) == len(sentences), found
    assert all(any(line.startswith(wanted) for line in found) for wanted in sentences), found


@pytest.mark.parametrize(
    "text",
    [
        "[agent]\nunit = '$HOME $5 $$x $${anything'",
        "[agent]\nworkdir = '${node-id}/x'\nstop-timeout = '${cluster}'\non = '${agent-ip}'",
        "[agent]\nstate = '${cluster}'",
        "[agent]\ntries = 3",  # what it depends on may be in another layer
        "[agent]\nunit = 'x'\nstop-timeout = '0s'",
        "[agent.env]\nDB_PASSWORD = { secret = 'db' }",
        "agent = { unset = true }\nnode = { unset = true }\nmount = { unset = true }",
        "[[mount]]\nname = 'a'\nunset = true\n[[mount]]\nname = 'b'",
        "[agent-config.values]\nx = { unset = true }\ny = [{ password = { secret = 'a' } }]",
        "[agent-config.values.a]\nwhen = 1979-05-27T07:32:00Z\nport = 1",
        "[meta]\nunset = 3\nsecret = [1]\nx = '${whatever'",
        "[node]\nmanager-ip = 'fd00::1'\nagent-ip = 'interface:eth1.7'",
        "[node]\nagent-ip = '10.0.0.1'",
        "[node]\nagent-ip = 'auto'",
    ],
)
def test_a_right_layer_has_no_mistakes(text: str) -> None:
    assert reported(HEAD + text) == []


@pytest.mark.parametrize(
    "text",
    [
        "[agent]\ntoken = 'GEHEIM'",
        "[agent.env]\nAPI_KEY = ['GEHEIM']",
        "[agent.env]\nX = { secret = 'GEHEIM' }",
        "[agent]\ntoken = { secret = 'GEHEIM' }",
        "[agent-config.values]\npassword = 'GEHEIM ${x}'",
        '[agent-config.values]\npassword = "GEHEIM \\u0007"',
        "[agent-config.values.credentials]\nx = { unset = 'GEHEIM' }",
        "[agent]\npassword = 'GEHEIM'",
        "[agent]\ntoken = GEHEIM",
    ],
)
def test_no_mistake_quotes_a_secret(text: str) -> None:
    found = reported(HEAD + text)
    assert found
    assert not any("GEHEIM" in sentence for sentence in found)


def test_mistakes_of_all_layers_come_together_in_the_layers_order() -> None:
    verdict = judged(
        {
            "cluster": HEAD + "[agent]\nstat = 1",
            "group/a": HEAD + "paused = 1",
            "node/i-node01": "x",
        }
    )
    assert [(mistake.layer, mistake.key) for mistake in verdict.mistakes] == [
        ("cluster", "agent.stat"),
        ("group/a", "paused"),
        ("node/i-node01", ""),
    ]


def test_groups_are_allowed_in_a_node_document_only() -> None:
    text = f"{HEAD}[node]\ngroups = ['a']"
    verdict = judged({"cluster": text, "node/i-node01": text})
    assert [str(mistake) for mistake in verdict.mistakes] == [
        "cluster: node.groups: is allowed in a node's own document only"
    ]


@pytest.mark.parametrize(
    ("wanted", "is_old"),
    [
        (">=0.1", False),
        (">= 0.1.0 , <1", False),
        ("==0.1", False),
        ("!=0.1", True),
        (">0.1", True),
        (">=0.2", True),
        ("<0.1.1", False),
        ("<=0.0.9", True),
        (">=0.1, >=0.3", True),
    ],
)
def test_a_document_may_ask_for_a_newer_daemon(wanted: str, is_old: bool) -> None:
    text = f"{HEAD}requires-daemon = '{wanted}'"
    verdict = judged({"cluster": text})
    assert (verdict.too_old is not None) is is_old
    assert verdict.mistakes == ()
    assert bool(reported(text)) is is_old
    if is_old:
        sentence = f"requires-daemon: {wanted} is asked for; this daemon is {VERSION}"
        assert verdict.too_old == f"cluster: {sentence}"
        assert reported(text) == [sentence]


@pytest.mark.parametrize("wanted", ["", "0.1", ">=", ">=0.1,", "~=0.1", ">=0.1, x", ">=9x"])
def test_a_wrong_comparison_of_versions_is_a_mistake(wanted: str) -> None:
    assert reported(f"{HEAD}requires-daemon = '{wanted}'")[0].startswith(
        f'requires-daemon: "{wanted}" does not fit; allowed: versions such as '
    )


def test_the_layer_that_asks_is_named_even_if_another_one_is_wrong_or_newer() -> None:
    verdict = judged(
        {
            "cluster": f"{HEAD}requires-daemon = '>=3'\nkey-of-the-future = 1",
            "node/i-node01": f"{HEAD}requires-daemon = '>=0.1'",
        }
    )
    assert (
        verdict.too_old == f"cluster: requires-daemon: >=3 is asked for; this daemon is {VERSION}"
    )
    assert len(verdict.mistakes) == 1


def test_the_published_schema_is_one_and_fits_a_layer() -> None:
    schema = desired.json_schema(KINDS)
    json.dumps(schema)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    validator.validate(
        {
            "api-version": 1,
            "agent": {"unit": "no supervisor here"},
            "node": {"unset": True},
            "mount": [{"name": "a", "unset": True}, {"name": "b", "required": True}],
            "agent-config": {"values": {"a": {"unset": True}}},
        }
    )
    validator.validate({"api-version": 1, "agent": {"unset": True}})
    for wrong in ({}, {"api-version": 1, "swarm": {}}, {"api-version": 1, "agent": {"x": 1}}):
        assert not validator.is_valid(wrong)


def test_what_a_kind_finds_in_its_section_is_reported_of_one_layer_alone() -> None:
    raw = b'api-version = 1\n[plugins]\nallow = ["a.b"]\nblock = ["a.b"]'
    (found,) = desired.check_alone("cluster", raw, REAL_KINDS, "0.1.0")
    assert found.key.startswith("plugins.block")
