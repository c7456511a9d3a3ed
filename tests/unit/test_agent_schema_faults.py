"""What each version makes of an agent.toml; see tests/integration/test_schema_faults.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bai_nodeagent.kinds.agent.backendai.schema_faults import (
    MINIMAL,
    Opinion,
    faults,
    opinion,
    version_of,
)
from bai_nodeagent.kinds.agent.backendai.validator import Answer
from bai_nodeagent.kinds.agent.config.rules import Write, plan
from bai_nodeagent.kinds.agent.config.state import Actual, AgentConfigSpec
from bai_nodeagent.machine import File
from bai_nodeagent.model import Status

OLD, NEW = "23.9.10", "26.8.3"
ADDRESS = 'addr = { host = "10.0.0.1", port = 2379 }'
GOOD = MINIMAL.replace("[etcd]", f"[etcd]\n{ADDRESS}")


def with_agent(line: str) -> str:
    return GOOD.replace("[agent]", f"[agent]\n{line}")


@pytest.mark.parametrize("version", [OLD, "24.9.14", "25.6.17", "25.15.12", "26.4.16", NEW, ""])
def test_the_minimal_file_is_one_for_every_version(version: str) -> None:
    assert faults(version, GOOD) == ()


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        ('scaling-group = "gpu"', False, True),
        ('initial-resource-group-name = "gpu"', False, False),
        ('rpc-listen-addr = "0.0.0.0:6001"', True, False),
        ('rpc-listen-addr = "node01:6001"', False, False),
        ('rpc-listen-addr = { host = "10.0.0.2" }', True, True),
        ('rpc-listen-addr = ["169.254.0.1", 6001]', True, True),
        ('rpc-listen-addr = ["10.0.0.2", 6001]', False, False),
        ('event-loop = "trio"', True, True),
        ("id = 5", True, True),
    ],
)
def test_keys_that_are_fatal(line: str, old: bool, new: bool) -> None:
    assert bool(faults(OLD, with_agent(line))) is old
    assert bool(faults(NEW, with_agent(line))) is new


@pytest.mark.parametrize("kind", ["compute", "network"])
@pytest.mark.parametrize(
    ("allowed", "blocked", "is_meant"),
    [
        ('"cuda"', "[]", False),
        ("[]", '"cuda"', False),
        ('["cuda"]', "[]", True),
        ('["a.b", "c"]', '["c"]', False),
        ('["a.b"]', '["a"]', True),
    ],
)
@pytest.mark.parametrize("accepts", [True, None])
def test_lists_of_plugins_that_are_not_what_their_name_implies(
    kind: str, allowed: str, blocked: str, is_meant: bool, accepts: bool | None
) -> None:
    """The agent accepts some of these, and starts without its devices, or not at all."""
    text = with_agent(f"allow-{kind}-plugins = {allowed}\nblock-{kind}-plugins = {blocked}")
    assert (not opinion(OLD, text, Answer(accepts)).faults) is is_meant


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        ('backend = "docker"', True, True),
        ('scratch-type = "hostdir"', True, False),
        ("[resource]", True, True),
        ('namespace = "local"', True, False),
    ],
)
def test_keys_that_must_be_there(line: str, old: bool, new: bool) -> None:
    without = GOOD.replace(line, "")
    assert bool(faults(OLD, without)) is old
    assert bool(faults(NEW, without)) is new


def test_the_agents_own_verdict_counts_and_a_guess_is_marked_as_one() -> None:
    wrong = with_agent('scaling-group = "gpu"')
    assert opinion(NEW, wrong, Answer(True)) == Opinion()
    assert opinion(NEW, GOOD, Answer(False, ("agent.id: no",))) == Opinion(("agent.id: no",))
    guess = opinion(NEW, wrong, Answer(None, ("it is not installed yet",)))
    assert (len(guess.faults), guess.guess) == (1, "it is not installed yet")


def test_what_is_not_toml_is_for_others_to_report() -> None:
    assert faults(NEW, "not = = toml") == ()


def test_versions_are_numbers() -> None:
    assert version_of("23.9.10") < version_of("26.8.0rc1") <= version_of("26.8.3+local")


SPEC = AgentConfigSpec(
    path=Path("/etc/agent.toml"),
    owner=None,
    mode=None,
    values={("etcd", "addr", "host"): "10.0.0.1", ("agent", "id"): "i-1"},
)


def observation(text: str | None, version: str) -> Actual:
    file = None if text is None else File(text.encode(), 0o640, (0, 0))
    return Actual(SPEC.path, "now", file, is_real=True, version=version)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_file_from_nothing_starts_the_agent(version: str) -> None:
    (write,) = plan(SPEC, observation(None, version)).actions
    assert isinstance(write, Write)
    assert faults(version, write.data.decode()) == ()


def test_an_item_that_the_file_blocks_already_is_not_allowed_as_well() -> None:
    allowing = replace(SPEC, values={("agent", "allow-compute-plugins"): ["a.b"]})
    found = plan(allowing, observation(with_agent('block-compute-plugins = ["a.b"]'), OLD))
    assert (found.verdict.reason, found.actions) == ("Incompatible", ())
    assert '"a.b" is in both' in found.verdict.message


def test_what_the_version_can_t_take_is_not_written() -> None:
    text = with_agent('scaling-group = "gpu"')
    old = plan(SPEC, observation(text, OLD))
    assert [action.verb for action in old.actions] == ["write"]
    new = plan(SPEC, observation(text, NEW))
    assert (new.verdict.status, new.verdict.reason) == (Status.FALSE, "Incompatible")
    assert "initial-resource-group-name" in new.verdict.message
    assert "guessed by rules of our own" in new.verdict.message
    assert not new.actions


def test_an_address_gets_the_form_that_the_version_takes() -> None:
    text = GOOD.replace(ADDRESS, 'addr = ["10.0.0.9", 2379]  # ours')
    (kept,) = plan(SPEC, observation(text, OLD)).actions
    assert isinstance(kept, Write)
    assert 'addr = ["10.0.0.1", 2379]  # ours' in kept.data.decode()
    (made,) = plan(SPEC, observation(text, NEW)).actions
    assert isinstance(made, Write)
    assert 'addr = { host = "10.0.0.1", port = 2379 }  # ours' in made.data.decode()


def test_an_address_in_line_whose_form_the_version_refuses_is_written_anew() -> None:
    text = GOOD.replace(ADDRESS, 'addr = ["10.0.0.1", 2379]').replace(
        "[agent]", '[agent]\nid = "i-1"'
    )
    made = plan(SPEC, observation(text, NEW))
    assert (made.verdict.reason, [a.verb for a in made.actions]) == ("Drift", ["write"])
    assert "the form of an address" in made.verdict.message


@pytest.mark.parametrize(
    ("version", "coming", "needs"),
    [(OLD, "", ()), (OLD, NEW, ("AgentEnvironment",)), (NEW, NEW, ()), ("", NEW, ())],
)
def test_what_only_a_coming_version_can_take_waits_for_it(
    version: str, coming: str, needs: tuple[str, ...]
) -> None:
    spec = replace(SPEC, values={**SPEC.values, ("agent", "rpc-listen-addr", "host"): "0.0.0.0"})
    listening = with_agent('rpc-listen-addr = { host = "127.0.0.1", port = 6001 }')
    made = plan(spec, replace(observation(listening, version), coming=coming))
    if coming:
        (write,) = made.actions
        assert write.needs == needs
    else:
        assert (made.verdict.reason, made.actions) == ("Incompatible", ())
