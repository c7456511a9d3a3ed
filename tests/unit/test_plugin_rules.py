"""Which plugins an agent loads, and for which it has to be restarted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bai_nodeagent.kinds.plugins.inputs import KNOWN, PluginInput
from bai_nodeagent.kinds.plugins.rules import (
    QUIET_S,
    Environment,
    Plugin,
    PluginRules,
    is_loaded,
    listed,
    matches,
    plugin_rules,
)

CUDA = Plugin("ai.backend.accelerator.cuda_open.plugin", "cuda", "cuda-open", "1", written_s=100.0)
MOCK = Plugin("ai.backend.accelerator.mock.plugin", "mock", "mock", "1", written_s=100.0)
BOTH = Environment(Path("/v/bin/python"), (Path("/v/lib"),), (CUDA, MOCK), changed_s=100.0)
CUDA_PART = "plugin ai.backend.accelerator.cuda_open.plugin"
MOCK_PART = "plugin ai.backend.accelerator.mock.plugin"
ALL = PluginRules()
CUDA_ALONE = PluginRules(allow=("ai.backend.accelerator.cuda_open",))
STARTED_S, NOW_S = 200.0, 1000.0


def digest(value: object) -> str:
    return f"d:{value}"


@pytest.mark.parametrize(
    ("item", "module", "is_match"),
    [
        ("ai.backend.accelerator.mock.plugin", MOCK.module, True),
        ("ai.backend.accelerator.mock", MOCK.module, True),
        ("ai.backend.accelerator", MOCK.module, True),
        ("ai.backend.accelerator.moc", MOCK.module, False),
        ("ai.backend.accelerator.mock.plugin.more", MOCK.module, False),
    ],
)
def test_an_item_matches_a_module_or_what_is_inside_it(
    item: str, module: str, is_match: bool
) -> None:
    assert matches(item, module) is is_match


@pytest.mark.parametrize(
    ("allow", "block", "loaded"),
    [
        (None, (), {"cuda", "mock"}),
        ((), (), set()),
        (("ai.backend.accelerator.mock",), (), {"mock"}),
        (None, ("ai.backend.accelerator.mock",), {"cuda"}),
        (("ai.backend.accelerator",), ("ai.backend.accelerator.cuda_open",), {"mock"}),
    ],
)
def test_absent_empty_and_a_list_are_three_things(
    allow: tuple[str, ...] | None, block: tuple[str, ...], loaded: set[str]
) -> None:
    rules = PluginRules(allow=allow, block=block)
    assert {p.name for p in (CUDA, MOCK) if is_loaded(rules, p.module)} == loaded


def test_the_section_becomes_typed() -> None:
    assert plugin_rules({"agent": {"command": ["/bin/agent"]}}) is None
    empty = plugin_rules({"plugins": {}, "agent": {"command": ["/bin/agent", "-v"]}})
    assert empty == PluginRules(command=("/bin/agent", "-v"))
    section = {"python": "/v/bin/python", "allow": [], "block": ["a.b"]}
    full = plugin_rules({"plugins": section})
    assert full == PluginRules(Path("/v/bin/python"), (), (), ("a.b",))


def test_an_environment_that_the_daemon_builds_is_the_one_that_counts() -> None:
    # A unit has no command here that could tell.
    agent = {"supervisor": "systemd", "install": {"path": "/opt/venv"}}
    assert plugin_rules({"plugins": {}, "agent": agent}) == PluginRules(
        Path("/opt/venv/bin/python")
    )
    named = plugin_rules({"plugins": {"python": "/v/bin/python"}, "agent": agent})
    assert named == PluginRules(Path("/v/bin/python"))


def wanted(
    rules: PluginRules,
    started_with: Environment | None,
    now: Environment,
    now_s: float = NOW_S,
) -> dict[str, str]:
    """What is not as it was at the start, by part: "absent", or another digest."""
    running = PluginInput(rules).found(started_with, digest)
    desired = PluginInput(rules).desired(now, running, STARTED_S, now_s, digest)
    return {part: rule for part, rule in desired.items() if running.get(part) != rule}


def upgraded(plugin: Plugin, at_s: float = 500.0) -> Environment:
    fresh = replace(plugin, version="2", written_s=at_s)
    others = tuple(p for p in BOTH.plugins if p != plugin)
    return replace(BOTH, plugins=(*others, fresh), changed_s=at_s)


def without(plugin: Plugin) -> Environment:
    return replace(BOTH, plugins=tuple(p for p in BOTH.plugins if p != plugin), changed_s=500.0)


def test_nothing_changed() -> None:
    assert wanted(ALL, BOTH, BOTH) == {}


def test_an_upgraded_plugin_counts() -> None:
    assert set(wanted(ALL, BOTH, upgraded(MOCK))) == {MOCK_PART}


def test_a_plugin_that_is_not_loaded_does_not_count() -> None:
    assert wanted(CUDA_ALONE, BOTH, upgraded(MOCK)) == {}
    assert wanted(CUDA_ALONE, BOTH, without(MOCK)) == {}
    assert wanted(CUDA_ALONE, without(MOCK), BOTH) == {}


def test_an_added_plugin_counts() -> None:
    assert set(wanted(ALL, without(CUDA), BOTH)) == {CUDA_PART}


def test_a_removed_plugin_counts() -> None:
    assert wanted(ALL, BOTH, without(MOCK)) == {MOCK_PART: "absent"}


def test_what_is_being_installed_is_waited_for() -> None:
    now = upgraded(MOCK, at_s=NOW_S - QUIET_S / 2)
    assert wanted(ALL, BOTH, now) == {}
    assert set(wanted(ALL, BOTH, now, NOW_S + QUIET_S)) == {MOCK_PART}


def test_a_folder_from_the_future_is_quiet() -> None:
    assert replace(BOTH, changed_s=NOW_S + 99).is_quiet(NOW_S)


def test_an_agent_whose_start_nobody_noted_found_what_was_there_before_it() -> None:
    assert wanted(ALL, None, BOTH) == {}
    assert set(wanted(ALL, None, upgraded(MOCK))) == {MOCK_PART}
    assert wanted(ALL, None, without(MOCK)) == {}


def test_what_is_noted_of_plugins_can_be_taken_out() -> None:
    plugins = PluginInput(ALL)
    assert KNOWN in plugins.found(BOTH, digest)
    assert plugins.found(None, digest) == {}
    parts = {"command": "d", **plugins.found(BOTH, digest)}
    assert [part for part in parts if not plugins.owns(part)] == ["command"]


def test_distributions_are_reported_once_with_their_versions() -> None:
    twin = replace(CUDA, module="other")
    assert listed([MOCK, CUDA, twin]) == "cuda-open 1, mock 1"
