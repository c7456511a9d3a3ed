"""The typed `[agent]`, and which inputs count as different."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_nodeagent import toml
from bai_nodeagent.agent_toml import spelled
from bai_nodeagent.desired import canonical
from bai_nodeagent.kinds.agent.backendai.log_patterns import Trouble
from bai_nodeagent.kinds.agent.gate import may_start, record_start
from bai_nodeagent.kinds.agent.record import Life, Notes, Record
from bai_nodeagent.kinds.agent.spec import (
    AgentSpec,
    agent_spec,
    as_read,
    desired_inputs,
    differing,
    found_inputs,
    unread,
)
from bai_nodeagent.kinds.plugins.inputs import PluginInput, agent_input
from bai_nodeagent.kinds.plugins.rules import Environment, Plugin, PluginRules
from bai_nodeagent.model import UNSET, Host, KeyPath, NodeSpec, Status, Verdict
from bai_nodeagent.system import output


def digest(value: object) -> str:
    return "hmac-sha256:" + hashlib.sha256(canonical(value)).hexdigest()


def node(agent: dict[str, Any], values: dict[KeyPath, Any] | None = None, **more: Any) -> NodeSpec:
    return NodeSpec(
        node_id="i-node01",
        cluster="local",
        revision=7,
        digest="sha256:d",
        documents={},
        document={"agent": agent, **more},
        agent_values=values,
        secrets={"token": "hunter2"},
    )


def test_the_document_becomes_typed() -> None:
    section = {
        "supervisor": "child",
        "command": ["/bin/agent", "-v"],
        "env": {"A": "b", "TOKEN": {"secret": "token"}},
        "stop-timeout": "250ms",
    }
    mounts = [
        {"name": "vfroot", "required": True},
        {"name": "scratch", "required": False},
        {"name": "home"},
    ]
    spec = agent_spec(node(section, {("agent", "id"): "i-other"}, mount=mounts))
    assert spec.command == ("/bin/agent", "-v")
    assert spec.env == {"A": "b", "TOKEN": "hunter2"}
    assert spec.stop_timeout_s == 0.25
    assert spec.agent_id == "i-other"
    assert spec.needs == ("AgentConfig", "Mount/vfroot")
    assert spec.config_path == Path("/etc/backend.ai/agent.toml")
    assert "hunter2" not in repr(spec)


def test_what_is_not_set_is_default() -> None:
    spec = agent_spec(node({"supervisor": "systemd"}))
    assert (spec.unit, spec.state, spec.restart) == ("backendai-agent.service", "running", "auto")
    assert (spec.agent_id, spec.needs, spec.config_path) == ("i-node01", (), None)
    assert spec.stop_timeout_s == 10


@pytest.mark.parametrize(
    ("command", "timeout", "patience_s"),
    [
        (["/v/python", "-m", "ai.backend.agent.server"], "3s", 7.0),
        (["/v/python", "-m", "ai.backend.agent.server"], "30s", 30.0),
        (["/bin/agent"], "3s", 3.0),
    ],
)
def test_the_real_agent_is_given_the_time_that_it_gives_its_worker(
    command: list[str], timeout: str, patience_s: float
) -> None:
    section = {"supervisor": "child", "command": command, "stop-timeout": timeout}
    assert agent_spec(node(section)).stop_timeout_s == patience_s


def test_plugins_are_managed_only_where_a_document_speaks_of_them() -> None:
    section = {"supervisor": "child", "command": ["/v/bin/python", "-m", "agent"]}
    made = replace(node(section), inputs_of=(agent_input,))
    assert agent_spec(made).inputs == ()
    managed = replace(made, document={**made.document, "plugins": {"allow": []}})
    rules = PluginRules(command=("/v/bin/python", "-m", "agent"), allow=())
    assert agent_spec(managed).inputs == (PluginInput(rules),)


# --- inputs ------------------------------------------------------------------------------

TEXT = '[agent]\nid = "i-one"\nmounts = ["/a"]\nday = 2026-01-02\n[etcd]\naddr = "10.0.0.1:2379"\n'
VALUES: dict[KeyPath, Any] = {
    ("agent", "id"): "i-one",
    ("agent", "mounts"): ["/a"],
    ("agent", "day"): date(2026, 1, 2),
    ("etcd", "addr", "host"): "10.0.0.1",
}
SPEC = AgentSpec(
    supervisor="systemd", config_path=Path("/etc/backend.ai/agent.toml"), values=VALUES
)


def differs(spec: AgentSpec, text: str | None, started: AgentSpec | None = None) -> set[str]:
    running = found_inputs(started or spec, text, digest)
    return {
        part.removeprefix("agent.toml ")
        for part in differing(spec, desired_inputs(spec, digest), running)
    }


_numbers = st.one_of(st.floats(), st.integers(-(1 << 5000), 1 << 5000))
_dates = st.one_of(st.dates(), st.times(), st.datetimes())
_leaves = st.one_of(st.text(), st.booleans(), _numbers, _dates)
_tables = st.dictionaries(
    st.text(),
    st.recursive(
        _leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
    ),
)


@given(_tables, st.sampled_from(["{}", "0x{:x}", "0b{:b}"]))
def test_whatever_toml_can_hold_has_inputs(table: dict[str, Any], notation: str) -> None:
    """A key that nobody manages is no reason to keep an agent down."""
    text = f"{TEXT}[other]\n" + "".join(
        f"{spelled(key)} = {notation.format(value) if type(value) is int else spelled(value)}\n"
        for key, value in table.items()
        if type(value) is not int or value >= 0
    )
    try:
        toml.loads(text)
    except ValueError:
        assert found_inputs(SPEC, text, digest) == {}
    else:
        found = found_inputs(SPEC, text, digest)
        assert not differing(SPEC, desired_inputs(SPEC, digest), found)
        assert as_read(text, found, digest)["agent"]["id"] == "i-one"


def test_keys_that_nobody_manages_are_recorded_one_by_one_up_to_a_bound() -> None:
    few = found_inputs(SPEC, f"{TEXT}[other]\na = 1\n", digest)
    assert "agent.toml other.a" in few
    for keys in ("".join(f"k{i} = 1\n" for i in range(12_000)), f"{'k' * 100_000} = 1\n"):
        text = f"{TEXT}[container]\nscratch-root = '/s'\n[other]\n{keys}"
        many = found_inputs(SPEC, text, digest)
        assert len(str(many)) < 10_000
        assert "agent.toml container.scratch-root" in many  # sessions hang on it
        assert not differing(SPEC, desired_inputs(SPEC, digest), many)
        assert as_read(text, many, digest) == tomllib.loads(text)
        changed = found_inputs(SPEC, text.replace("= 1", "= 2"), digest)
        assert unread({}, many, changed) == ("agent.toml (all other keys)",)
        assert "other" not in as_read(text.replace("= 1", "= 2"), many, digest)


def test_of_many_keys_as_well_it_is_known_which_tables_are_there() -> None:
    place = ("other", "name")
    spec = replace(SPEC, values={**VALUES, ("other",): {}, place: "x"}, optional=frozenset({place}))
    text = f"{TEXT}[other]\n" + "".join(f"k{i} = 1\n" for i in range(12_000))
    assert differs(spec, text) == {"other.name"}


def test_a_file_in_line_is_no_difference() -> None:
    assert differs(SPEC, TEXT) == set()


@pytest.mark.parametrize(
    ("place", "value", "part"),
    [
        (("agent", "id"), "i-two", "agent.id"),
        (("agent", "mounts"), [], "agent.mounts"),
        (("etcd", "addr", "host"), "10.0.0.2", "etcd.addr.host"),
        (("agent", "new"), 1, "agent.new"),
        (("agent", "id"), UNSET, "agent.id"),
        (("a.b", "c d"), True, '"a.b"."c d"'),
        (("container",), {}, "container"),
    ],
)
def test_each_managed_place_counts_by_itself(place: KeyPath, value: Any, part: str) -> None:
    assert differs(replace(SPEC, values={**VALUES, place: value}), TEXT) == {part}


def test_a_place_that_is_to_be_absent_and_is() -> None:
    assert differs(replace(SPEC, values={("agent", "gone"): UNSET}), TEXT) == set()


def test_a_table_that_only_has_to_be_there() -> None:
    assert differs(replace(SPEC, values={("agent",): {}, ("etcd",): {}}), TEXT) == set()


def test_an_upgraded_plugin_is_a_difference_by_its_name() -> None:
    plugins = PluginInput(PluginRules())
    plugin = Plugin("ai.mock", "mock", "mock", "1")
    before = Environment(Path("/v/bin/python"), plugins=(plugin,))
    after = replace(before, plugins=(replace(plugin, version="2"),))
    running = {**found_inputs(SPEC, TEXT, digest), **plugins.found(before, digest)}
    for installed, names in ((before, ()), (after, ("plugin ai.mock",)), (None, ())):
        more = plugins.desired(installed, running, 0.0, 100.0, digest)
        assert differing(SPEC, {**desired_inputs(SPEC, digest), **more}, running) == names


def test_a_key_is_taken_over_or_given_up_without_a_restart() -> None:
    fewer = replace(SPEC, values={("agent", "id"): "i-one"})
    assert (
        differs(SPEC, TEXT, started=replace(fewer, values={**fewer.values}))
        - {
            "etcd.addr.host"  # how an address is spelled is known of managed ones only
        }
        == set()
    )
    assert differs(fewer, TEXT, started=SPEC) == set()


def test_one_is_not_true() -> None:
    spec = replace(SPEC, values={("debug", "on"): True})
    assert differs(spec, "[debug]\non = 1\n") == {"debug.on"}


def test_an_optional_place_counts_only_with_its_table() -> None:
    place = ("watcher", "service-addr", "host")
    spec = replace(SPEC, values={**VALUES, place: "10.0.0.9"}, optional=frozenset({place}))
    assert differs(spec, TEXT) == set()
    assert differs(spec, TEXT + "[watcher]\n") == {"watcher.service-addr.host"}


@pytest.mark.parametrize("text", [None, "", "[agent"])
def test_an_empty_file_differs_in_everything(text: str | None) -> None:
    assert len(differs(SPEC, text)) == len(VALUES)


def test_with_a_child_our_own_part_counts_as_well() -> None:
    child = replace(SPEC, supervisor="child", command=("/bin/agent",))
    for change in (
        {"command": ("/bin/agent", "-v")},
        {"env": {"A": "b"}},
        {"user": "bai"},
        {"workdir": Path("/opt")},
    ):
        spec = replace(child, **change)
        assert differs(spec, TEXT, started=child) == set(change)


def test_an_unmanaged_file_is_not_observed() -> None:
    spec = AgentSpec(supervisor="child", command=("/bin/agent",))
    assert differs(spec, "not even TOML") == set()


def test_unread_are_the_keys_that_nobody_manages() -> None:
    desired = desired_inputs(SPEC, digest)
    running = found_inputs(SPEC, TEXT, digest)
    now = TEXT.replace("i-one", "drift").replace(":2379", ":2380") + "[debug]\non = true\n"
    assert unread(desired, running, found_inputs(SPEC, now, digest)) == ("agent.toml debug.on",)


# --- notes -------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(state=tmp_path, runtime=tmp_path, digest=digest, redact=str)


def test_notes_come_back_as_they_were_written(tmp_path: Path) -> None:
    why = Trouble("NoRedisAddress", "etcd has no address of Redis")
    life = Life({"command": "c"}, pid=7, start_ticks=9, started_s=1.5, desired_digest="d")
    record = Record("boot", life, "stopped", (1.0, 2.5), (3.0,), "exit status 1", why)
    notes = Notes(tmp_path, "boot")
    assert notes.update(lambda _none: record) == record
    assert notes.read() == record
    assert notes.path.stat().st_mode & 0o777 == 0o600


SPOILT = ["", "{", "[]", "null", '{"life": 7}', "[" * 9999]
WRONG = ('"deaths": 5', '"deaths": ["1"]', '"other": 1')
SPOILT += [f'{{"boot_id": "boot", {more}}}' for more in WRONG]


@pytest.mark.parametrize("text", SPOILT)
def test_unreadable_notes_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "agent.json").write_text(text)
    assert Notes(tmp_path, "boot").read() == Record("boot")


def test_notes_of_another_boot_are_none(tmp_path: Path) -> None:
    Notes(tmp_path, "before").update(lambda record: replace(record, deaths=(1.0,)))
    assert Notes(tmp_path, "after").read() == Record("after")


def test_of_notes_under_another_key_no_life_is_known(tmp_path: Path, host: Host) -> None:
    """As when the state folder is lost: what they say of inputs can't be compared any more."""
    life = Life({"command": "c"}, pid=7, start_ticks=9)
    Notes.of(host).update(lambda record: replace(record, life=life, deaths=(1.0,), wrote_s=2.0))
    other = Notes.of(replace(host, digest=lambda value: f"other {digest(value)}"))
    assert other.read() == replace(Notes.of(host).read(), key=other.key, life=None)
    assert Notes.of(host).read().life == life


@pytest.mark.parametrize(
    ("age_s", "changes", "is_real", "is_read"),
    [
        (0.5, {}, False, True),
        (5.0, {}, False, False),
        (50.0, {}, True, True),  # of the real one nothing has been heard yet
        (50.0, {"well_s": 8.0}, True, False),
        (50.0, {"is_adopted": True}, True, False),
        (0.5, {"is_over": True}, False, False),
        (0.5, {"inputs": {}}, False, False),  # nobody knows: nor after that
    ],
)
def test_what_an_agent_has_read_that_is_just_starting(
    age_s: float, changes: dict[str, Any], is_real: bool, is_read: bool
) -> None:
    running = {"command": "c", "agent.toml agent.id": "i1", "agent.toml agent.port": "p"}
    life = replace(Life(running, started_s=100.0), **changes)
    stood = {"command": "other", "agent.toml agent.id": "i2"}
    after = Record("boot", life=life).writes(100.0 + age_s, stood, is_real=is_real)
    assert after.wrote_s == 100.0 + age_s
    assert after.life is not None
    read = {"command": "c", "agent.toml agent.id": "i2"}
    assert after.life.inputs == (read if is_read else life.inputs)


def test_one_and_true_are_two_desired_states() -> None:
    one, true = (node({"supervisor": "systemd"}, {("debug", "on"): on}) for on in (1, True))
    assert agent_spec(one) == agent_spec(one)
    assert agent_spec(one) != agent_spec(true)


def test_the_gate_notes_what_the_unit_will_find(tmp_path: Path, host: Host) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(TEXT)
    desired = replace(node({"supervisor": "systemd"}, VALUES), agent_config_path=config)
    Notes.of(host).update(lambda record: replace(record, deaths=(1.0,), ending="changed"))
    record_start(host, desired, "abcd")
    record = Notes.of(host).read()
    assert record.life is not None
    assert record.life.invocation_id == "abcd"
    assert not differing(SPEC, desired_inputs(SPEC, digest), record.life.inputs)
    assert (record.ending, record.deaths) == ("", (1.0,))


@pytest.mark.parametrize(("supervisor", "invocation"), [("systemd", ""), ("child", "abcd")])
def test_asking_the_gate_changes_no_notes(
    tmp_path: Path, host: Host, supervisor: str, invocation: str
) -> None:
    record_start(host, node({"supervisor": supervisor, "command": ["/bin/agent"]}), invocation)
    assert Notes.of(host).read().life is None


# --- may-start ---------------------------------------------------------------------------

MOUNT = [{"name": "vfroot", "required": True}]
IN_LINE = Verdict(Status.TRUE, "InSync")
AWAY = Verdict(Status.FALSE, "ServerGone", "10.0.0.1 does not answer")


@pytest.mark.parametrize(
    ("desired", "verdicts", "why"),
    [
        (node({"supervisor": "systemd"}), {}, None),
        (node({"supervisor": "systemd"}, VALUES), {"AgentConfig": AWAY}, None),
        (node({"supervisor": "systemd"}, mount=MOUNT), {"Mount/vfroot": IN_LINE}, None),
        (node({"supervisor": "systemd"}, mount=MOUNT), {"Mount/vfroot": AWAY}, "does not answer"),
        (node({"supervisor": "systemd"}, mount=MOUNT), {}, "Mount/vfroot"),
        (
            node({"supervisor": "systemd"}, mount=[{**MOUNT[0], "state": "unmounted"}]),
            {"Mount/vfroot": IN_LINE},
            'desired state is "unmounted"',
        ),
        (node({"supervisor": "systemd", "state": "stopped"}), {}, "stopped"),
        (replace(node({}), document={}), {}, None),
    ],
)
def test_the_gate(desired: NodeSpec, verdicts: dict[str, Verdict], why: str | None) -> None:
    answer = may_start(desired, verdicts)
    if why is None:
        assert answer is None
    else:
        assert answer is not None
        assert why in answer


# --- output ------------------------------------------------------------------------------


def test_only_the_last_start_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    output.begin([log], "2026-11-23T10:00:00Z")
    with log.open("a") as file:
        file.write("of the first\n")
    output.begin([log], "2026-11-23T10:00:01Z")
    assert output.tail(log) == ""
    with log.open("a") as file:
        file.write("of the second\n")
    assert output.tail(log) == "of the second\n"


def test_a_quote_is_short_and_plain() -> None:
    text = "\n".join(f"line {n}" for n in range(30))
    assert output.quoted(text) == "\n".join(f"line {n}" for n in range(20, 30))
    assert output.quoted("\x1b[31mred\x1b[0m\x07 é\r\n") == "red é"
    assert len(output.quoted("é" * 5000).encode()) <= 1024


def test_rotation_keeps_the_end(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    output.rotate(log)
    log.write_bytes(b"0123456789")
    output.rotate(log, bytes_at_most=10)
    assert log.read_bytes() == b"0123456789"
    output.rotate(log, bytes_at_most=4)
    assert log.read_bytes() == b""
    assert (tmp_path / "agent.log.1").read_bytes() == b"6789"
