"""What each version makes of an agent.toml; the truth is in tests/integration/test_dialect.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bai_nodeagent.agent.config_plan import Actual, AgentConfigSpec, Write, plan
from bai_nodeagent.agent.dialect import MINIMAL, faults, version_of
from bai_nodeagent.model import Status
from bai_nodeagent.system.config_file import File

OLD, NEW = "23.9.10", "26.8.3"
ADDRESS = 'addr = { host = "10.0.0.1", port = 2379 }'
GOOD = MINIMAL.replace("[etcd]", f"[etcd]\n{ADDRESS}")


def with_agent(line: str) -> str:
    return GOOD.replace("[agent]", f"[agent]\n{line}")


@pytest.mark.parametrize("version", [OLD, NEW, ""])
def test_the_minimal_file_lacks_etcd_s_address_alone(version: str) -> None:
    assert faults(version, GOOD) == ()
    assert [fault.partition(" ")[0] for fault in faults(version, MINIMAL)] == ["etcd.addr"]


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        ('scaling-group = "gpu"', False, True),
        ('initial-resource-group-name = "gpu"', False, False),
        ('allow-compute-plugins = "cuda"', True, True),
        ('allow-compute-plugins = ["cuda"]', False, False),
        ('allow-compute-plugins = ["a.b", "c"]\nblock-compute-plugins = ["c"]', True, True),
        ('allow-compute-plugins = ["a.b"]\nblock-compute-plugins = ["a"]', False, False),
        ('rpc-listen-addr = "0.0.0.0:6001"', True, False),
        ('rpc-listen-addr = "node01:6001"', True, True),
        ('rpc-listen-addr = { host = "10.0.0.2" }', True, True),
        ('rpc-listen-addr = ["169.254.0.1", 6001]', True, True),
        ('rpc-listen-addr = ["10.0.0.2", 6001]', False, False),
        ('event-loop = "trio"', True, True),
        ("id = 5", True, True),
    ],
)
def test_keys_that_are_fatal_or_silently_wrong(line: str, old: bool, new: bool) -> None:
    assert bool(faults(OLD, with_agent(line))) is old
    assert bool(faults(NEW, with_agent(line))) is new


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        ('backend = "docker"', True, True),
        ('scratch-type = "hostdir"', True, False),
        ("[resource]", True, True),
        ("[debug]", True, False),
        ('namespace = "local"', True, False),
    ],
)
def test_keys_that_must_be_there(line: str, old: bool, new: bool) -> None:
    without = GOOD.replace(line, "")
    assert bool(faults(OLD, without)) is old
    assert bool(faults(NEW, without)) is new


def test_what_is_not_toml_is_for_others_to_tell() -> None:
    assert faults(NEW, "not = = toml") == ()


def test_versions_are_numbers() -> None:
    assert version_of("23.9.10") < version_of("26.8.0rc1") <= version_of("26.8.3+local")


SPEC = AgentConfigSpec(
    path=Path("/etc/agent.toml"),
    owner=None,
    mode=None,
    values={("etcd", "addr", "host"): "10.0.0.1", ("agent", "id"): "i-1"},
)


def looked(text: str | None, version: str) -> Actual:
    file = None if text is None else File(text.encode(), 0o640, (0, 0))
    return Actual(SPEC.path, "now", file, is_real=True, version=version)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_file_from_nothing_starts_the_agent(version: str) -> None:
    (write,) = plan(SPEC, looked(None, version)).actions
    assert isinstance(write, Write)
    assert faults(version, write.data.decode()) == ()


def test_an_item_that_the_file_blocks_already_is_not_allowed_as_well() -> None:
    allowing = replace(SPEC, values={("agent", "allow-compute-plugins"): ["a.b"]})
    found = plan(allowing, looked(with_agent('block-compute-plugins = ["a.b"]'), OLD))
    assert (found.verdict.reason, found.actions) == ("Incompatible", ())
    assert '"a.b" is in both' in found.verdict.message


def test_what_the_version_can_t_take_is_not_written() -> None:
    text = with_agent('scaling-group = "gpu"')
    old = plan(SPEC, looked(text, OLD))
    assert [action.verb for action in old.actions] == ["write"]
    new = plan(SPEC, looked(text, NEW))
    assert (new.verdict.status, new.verdict.reason) == (Status.FALSE, "Incompatible")
    assert "initial-resource-group-name" in new.verdict.message
    assert not new.actions


@pytest.mark.parametrize(
    ("version", "coming", "needs"),
    [(OLD, "", ()), (OLD, NEW, ("AgentEnvironment",)), (NEW, NEW, ()), ("", NEW, ())],
)
def test_what_only_a_coming_version_can_take_waits_for_it(
    version: str, coming: str, needs: tuple[str, ...]
) -> None:
    spec = replace(SPEC, values={**SPEC.values, ("agent", "rpc-listen-addr", "host"): "0.0.0.0"})
    listening = with_agent('rpc-listen-addr = { host = "127.0.0.1", port = 6001 }')
    made = plan(spec, replace(looked(listening, version), coming=coming))
    if coming:
        (write,) = made.actions
        assert write.needs == needs
    else:
        assert (made.verdict.reason, made.actions) == ("Incompatible", ())
