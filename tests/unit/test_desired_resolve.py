"""The merged document with a node's variables and secrets."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from bai_nodeagent import desired
from bai_nodeagent.errors import InvalidSpec
from bai_nodeagent.model import UNSET, KeyPath, Status, Verdict
from desired_kinds import HEAD, HERE, KINDS, judged, resolved

NODE = "[node]\nmanager-ip = '10.20.30.1'\nagent-ip = 'auto'\n"
AGENT = "[agent]\nsupervisor = 'systemd'\n"
VALUES = "[agent-config.values]\n"
NO_ADDRESS = replace(HERE, agent_ip=None, address=Verdict(Status.FALSE, "NoAddress", "none"))

ETCD_HOST = ("etcd", "addr", "host")
RPC_HOST = ("agent", "rpc-listen-addr", "host")
BIND_HOST = ("container", "bind-host")
WATCHER_HOST = ("watcher", "service-addr", "host")
DERIVED = {
    ETCD_HOST: "10.20.30.1",
    RPC_HOST: "10.20.30.11",
    BIND_HOST: "10.20.30.11",
    WATCHER_HOST: "10.20.30.11",
}


def test_a_spec_names_its_source() -> None:
    spec = resolved("", "[rollout]\nspread = '250ms'")
    assert spec.documents == {"desired/cluster": 1, "desired/group/g1": 2}
    assert (spec.node_id, spec.cluster, spec.revision) == ("i-node01", "local", 7)
    assert spec.digest.startswith("sha256:")
    assert spec.spread_s == 0.25
    assert spec.agent_config_path == Path("/etc/backend.ai/agent.toml")
    assert resolved("[agent-config]\npath = '/x/${node-id}'").agent_config_path == Path(
        "/x/i-node01"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${node-id}@${hostname} in ${cluster}", "i-node01@node01 in local"),
        ("${manager-ip} ${manager-host}:1 ${agent-ip}", "10.20.30.1 10.20.30.1:1 10.20.30.11"),
        ("$${node-id} $$${x}", "${node-id} $${x}"),
        ("$HOME $$ $", "$HOME $$ $"),
    ],
)
def test_variables_are_filled_in(text: str, value: str) -> None:
    spec = resolved(NODE + AGENT + f"unit = '{text}'")
    assert spec.document["agent"]["unit"] == value


def test_an_ipv6_manager_host_has_brackets() -> None:
    text = "[node]\nmanager-ip = 'fd00::1'\n" + AGENT + "unit = '${manager-host} ${manager-ip}'"
    assert resolved(text).document["agent"]["unit"] == "[fd00::1] fd00::1"


def test_what_a_variable_holds_is_not_expanded_again() -> None:
    spec = resolved(AGENT + "unit = '${hostname}'", variables=replace(HERE, hostname="${cluster}"))
    assert spec.document["agent"]["unit"] == "${cluster}"


def test_values_are_checked_again_once_they_are_known() -> None:
    verdict = judged(
        {
            "cluster": HEAD + AGENT + "workdir = '${hostname}'",
            "node/i-node01": HEAD + "[[mount]]\nname = 'a'\ntarget = '/x/${hostname}/..'\n"
            "[agent]\nstop-timeout = '${hostname}'",
        }
    )
    with pytest.raises(InvalidSpec) as caught:
        desired.resolve(verdict, HERE, {}, 1, KINDS)
    assert [str(mistake)[:50] for mistake in caught.value.mistakes] == [
        'cluster: agent.workdir: "node01" does not fit; all',
        'node/i-node01: agent.stop-timeout: "node01" does n',
        'node/i-node01: mount.a.target: "/x/node01/.." does',
    ]


def test_documents_with_mistakes_are_never_resolved() -> None:
    verdict = judged({"cluster": "["})
    with pytest.raises(InvalidSpec) as caught:
        desired.resolve(verdict, HERE, {}, 1, KINDS)
    assert caught.value.mistakes == verdict.mistakes


# -- secrets ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "nearest"),
    [
        (["secret/cluster/s"], "secret/cluster/s"),
        (["secret/cluster/s", "secret/group/g1/s"], "secret/group/g1/s"),
        (["secret/group/g1/s", "secret/group/g2/s"], "secret/group/g2/s"),
        (["secret/group/g2/s", "secret/node/i-node01/s"], "secret/node/i-node01/s"),
    ],
)
def test_the_secret_nearest_to_the_node_wins(keys: list[str], nearest: str) -> None:
    secrets = {key: key.encode() for key in [*keys, "secret/node/other/s", "secret/group/x/s"]}
    spec = resolved("[agent-config.values]\nx = { secret = 's' }", "", "", secrets=secrets)
    assert spec.agent_values == {("x",): nearest}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"x", "x"),
        (b"x\n", "x"),
        (b"x\r\n", "x"),
        (b"x\n\n", "x\n"),
        (b" ${node-id} ", " ${node-id} "),
        (b"-----\na\tb\n-----\n", "-----\na\tb\n-----"),
    ],
)
def test_a_secret_is_taken_as_it_is_but_for_one_newline(raw: bytes, text: str) -> None:
    spec = resolved(VALUES + "x = { secret = 's' }", secrets={"secret/cluster/s": raw})
    assert spec.secrets == {"s": text}
    assert spec.agent_values == {("x",): text}


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (
            None,
            "there is no secret s; looked for at secret/node/i-node01/s, secret/group/g1/s,"
            " secret/cluster/s",
        ),
        (b"", "the secret at secret/cluster/s is empty"),
        (b"\n", "the secret at secret/cluster/s is empty"),
        (b"GEHEIM\xff", "the secret at secret/cluster/s is not UTF-8"),
        (
            b"GEHEIM\x00",
            "the secret at secret/cluster/s holds a control character; allowed: of these only"
            " tab and newline",
        ),
    ],
)
def test_a_secret_that_can_not_be_had_reports_why(raw: bytes | None, sentence: str) -> None:
    secrets = {"secret/cluster/s": raw} if raw is not None else {}
    with pytest.raises(InvalidSpec) as caught:
        resolved(AGENT, VALUES + "x = [{ secret = 's' }]", secrets=secrets)
    assert [str(m) for m in caught.value.mistakes] == [
        f"group/g1: agent-config.values.x[0]: {sentence}"
    ]


def test_secrets_of_the_environment_stay_references() -> None:
    text = AGENT + "[agent.env]\nDB = { secret = 'db' }\nX = '${node-id}'"
    spec = resolved(text, secrets={"secret/cluster/db": b"GEHEIM"})
    assert spec.document["agent"]["env"] == {"DB": {"secret": "db"}, "X": "i-node01"}
    assert spec.secrets == {"db": "GEHEIM"}
    assert "GEHEIM" not in repr(spec)


# -- agent.toml ------------------------------------------------------------


def test_without_a_word_about_it_agent_toml_is_unmanaged() -> None:
    assert resolved(AGENT).agent_values is None
    assert resolved("[agent-config]").agent_values == {}


def test_tables_flatten_however_they_are_written() -> None:
    spec = resolved(
        VALUES
        + "a.b = 1\nc = { d = { e = 'x' } }\nlist = [{ f = '${node-id}' }, 2]\n"
        + "when = 1979-05-27\nempty = {}\n[agent-config.values.gone]\nunset = true"
    )
    assert spec.agent_values == {
        ("a", "b"): 1,
        ("c", "d", "e"): "x",
        ("list",): [{"f": "i-node01"}, 2],
        ("when",): date(1979, 5, 27),
        ("empty",): {},
        ("gone",): UNSET,
    }


def test_two_addresses_give_the_settings_of_a_second_node() -> None:
    spec = resolved(NODE)
    assert spec.agent_values == DERIVED
    assert spec.optional == {WATCHER_HOST}


@pytest.mark.parametrize(
    ("explicit", "replaced", "values"),
    [
        ("etcd.addr.host = 'x'", ETCD_HOST, {ETCD_HOST: "x"}),
        ("etcd.addr = 'x:1'", ETCD_HOST, {ETCD_HOST: "x", ("etcd", "addr", "port"): 1}),
        ("etcd.addr = ['x', 1]", ETCD_HOST, {ETCD_HOST: "x", ("etcd", "addr", "port"): 1}),
        ("etcd.addr = ['x:1', 'y:1']", ETCD_HOST, {("etcd", "addr"): ["x:1", "y:1"]}),
        ("etcd.addr.host.deep = 1", ETCD_HOST, {(*ETCD_HOST, "deep"): 1}),
        ("etcd.addr = { unset = true }", ETCD_HOST, {("etcd", "addr"): UNSET}),
        ("container.bind-host = { unset = true }", BIND_HOST, {BIND_HOST: UNSET}),
        ("watcher = { unset = true }", WATCHER_HOST, {("watcher",): UNSET}),
        ("etcd.addr.port = 2379", None, {("etcd", "addr", "port"): 2379}),
        ("etcd = {}", None, {}),
        ("resource = {}", None, {("resource",): {}}),
    ],
)
def test_an_explicit_value_wins_over_a_derived_one(
    explicit: str, replaced: KeyPath | None, values: dict[KeyPath, object]
) -> None:
    expected = {place: value for place, value in DERIVED.items() if place != replaced} | values
    assert resolved(NODE + VALUES + explicit).agent_values == expected


def test_a_table_that_values_create_takes_the_derived_value_too() -> None:
    assert resolved(NODE + VALUES + "watcher.token = 'x'").optional == frozenset()


def test_a_kind_may_derive_values_from_its_section() -> None:
    spec = resolved(AGENT + "unit = '${node-id}'")
    assert spec.agent_values == {("agent", "unit"): "i-node01"}
    spec = resolved(AGENT + "unit = 'x'\n" + VALUES + "agent.unit = 'y'")
    assert spec.agent_values == {("agent", "unit"): "y"}


def test_without_an_address_what_needs_it_is_left_as_it_is() -> None:
    text = (
        NODE + AGENT + "unit = '${agent-ip}'\non = '${agent-ip}'\n" + VALUES
        + "x = 'at ${agent-ip}'\ny = [{ z = '${agent-ip}' }]\ncontainer.bind-host = '${agent-ip}'\n"
        "id = '${node-id}'"
    )  # fmt: skip
    spec = resolved(text, variables=NO_ADDRESS)
    assert spec.agent_values == {ETCD_HOST: "10.20.30.1", ("id",): "i-node01"}
    assert spec.document["agent"]["unit"] == "${agent-ip}"
    assert spec.address == NO_ADDRESS.address


def test_agent_toml_is_managed_even_while_its_only_value_is_not_known() -> None:
    assert resolved("[node]\nagent-ip = 'auto'", variables=NO_ADDRESS).agent_values == {}


def test_an_address_without_a_rule_is_not_used() -> None:
    assert resolved("[node]\nmanager-ip = '10.20.30.1'").agent_values == {ETCD_HOST: "10.20.30.1"}


def test_secret_places_are_those_with_a_reference_or_a_telling_key() -> None:
    spec = resolved(
        VALUES
        + "a = { secret = 's' }\nb = [1, { secret = 's' }]\npassword = 'x'\ntokens.x.y = 1\n"
        + "c = [{ api-key = 1 }]\nd = 'x'\nold-password = { unset = true }",
        secrets={"secret/cluster/s": b"x"},
    )
    assert spec.secret_paths == {
        ("a",), ("b",), ("password",), ("tokens", "x", "y"), ("c",), ("old-password",),
    }  # fmt: skip


def test_the_addresses_that_a_document_gives() -> None:
    assert desired.addresses({}) == (None, None)
    assert desired.addresses({"node": {"manager-ip": "a", "agent-ip": "auto"}}) == ("a", "auto")
