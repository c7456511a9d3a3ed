"""When an agent moves into another environment, under either supervisor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent.kinds.agent.environment.environments import Built, Environments
from bai_nodeagent.kinds.agent.environment.rules import PART
from bai_nodeagent.kinds.agent.environment.spec import InstallSpec
from bai_nodeagent.kinds.agent.guard import SessionRisk
from bai_nodeagent.kinds.agent.process.child import plan_child
from bai_nodeagent.kinds.agent.process.unit import plan_unit
from bai_nodeagent.kinds.agent.record import Life, Record
from bai_nodeagent.kinds.agent.sessions import HeldChange, Launch, Sessions
from bai_nodeagent.kinds.agent.spec import AgentSpec
from bai_nodeagent.model import Plan
from unit.test_agent_plan import ACTIVE, DOWN, MAIN, observation, unit_observation

INSTALL = InstallSpec(
    path=Path("/opt/venv"), python=Path("/usr/bin/python3"), packages=("p==2",), user="bai"
)
NEW = f"{INSTALL.recipe}-1"
OLD = "0123456789ab-1"
WANTED = {"command": "c1", PART: NEW}
BEFORE = {"command": "c1", PART: OLD}
NEEDS = ("AgentConfig", "AgentEnvironment", "Mount/vfroot")
NO_NEED_TO_START = ("AgentConfig", "Mount/vfroot")
HELD = SessionRisk(
    held=HeldChange((PART,), "sha256:x", Sessions(1)),
    before=Launch(("/opt/venv/bin/python",), "/", None, {}),
)

SPEC = AgentSpec(
    supervisor="child", command=("/opt/venv/bin/python",), install=INSTALL, needs=NEEDS
)
UNIT_SPEC = replace(SPEC, supervisor="systemd", command=())


def found_state(link: str, *names: str) -> Environments:
    return Environments(link, 0.0, "", tuple(Built(name) for name in names))


UNBUILT, READY, MOVED = (
    found_state(OLD, OLD),
    found_state(OLD, OLD, NEW),
    found_state(NEW, OLD, NEW),
)


def living(inputs: dict[str, str], observed: Environments, **more: Any) -> Plan[Any]:
    life = Life(inputs, pid=71, start_ticks=MAIN.start_ticks, started_s=MAIN.started_s)
    actual = observation(Record("boot", life), main=MAIN, environments=observed, **more)
    return plan_child(SPEC, replace(actual, desired=WANTED))


def living_unit(inputs: dict[str, str], observed: Environments, **more: Any) -> Plan[Any]:
    life = Life(inputs, invocation_id="ab", started_s=MAIN.started_s)
    actual = unit_observation(ACTIVE, Record("boot", life), environments=observed, **more)
    return plan_unit(UNIT_SPEC, replace(actual, desired=WANTED))


def dead(observed: Environments | None, spec: AgentSpec = SPEC, **more: Any) -> Plan[Any]:
    actual = observation(Record("boot"), environments=observed, **more)
    return plan_child(spec, replace(actual, desired=WANTED))


def dead_unit(observed: Environments | None, spec: AgentSpec = UNIT_SPEC, **more: Any) -> Plan[Any]:
    actual = unit_observation(DOWN, Record("boot"), environments=observed, **more)
    return plan_unit(spec, replace(actual, desired=WANTED))


def verbs(plan: Plan[Any]) -> list[str]:
    return [action.verb for action in plan.actions]


@pytest.mark.parametrize("plan_of", [living, living_unit])
def test_the_link_moves_between_a_stop_and_a_start(plan_of: Any) -> None:
    plan = plan_of(BEFORE, READY)
    assert verbs(plan) == ["stop", "switch", "start"]
    assert plan.actions[0].needs == NEEDS
    assert plan.actions[1].name == NEW


@pytest.mark.parametrize("plan_of", [living, living_unit])
def test_while_it_is_not_built_the_restart_waits_for_it(plan_of: Any) -> None:
    plan = plan_of(BEFORE, UNBUILT)
    assert "switch" not in verbs(plan)
    assert "AgentEnvironment" in plan.actions[0].needs


@pytest.mark.parametrize("plan_of", [living, living_unit])
def test_an_agent_that_runs_in_it_is_left_alone(plan_of: Any) -> None:
    assert verbs(plan_of(WANTED, MOVED)) == []


@pytest.mark.parametrize("plan_of", [living, living_unit])
def test_a_link_that_was_moved_under_it_is_put_back(plan_of: Any) -> None:
    plan = plan_of(WANTED, READY)
    assert plan.verdict.reason == "LinkMoved"
    assert verbs(plan) == ["switch"]


@pytest.mark.parametrize("plan_of", [living, living_unit])
def test_sessions_hold_the_move(plan_of: Any) -> None:
    plan = plan_of(BEFORE, READY, risk=HELD)
    assert plan.verdict.reason == "Blocked"
    assert verbs(plan) == []


@pytest.mark.parametrize("plan_of", [dead, dead_unit])
def test_a_dead_agent_moves_before_it_starts(plan_of: Any) -> None:
    assert verbs(plan_of(READY)) == ["switch", "start"]


@pytest.mark.parametrize("plan_of", [dead, dead_unit])
def test_a_dead_agent_comes_back_in_the_old_one_rather_than_not_at_all(plan_of: Any) -> None:
    (start,) = plan_of(UNBUILT).actions
    assert start.needs == NO_NEED_TO_START


@pytest.mark.parametrize("plan_of", [dead, dead_unit])
@pytest.mark.parametrize("observed", [found_state(""), None])
def test_without_any_it_waits(plan_of: Any, observed: Environments | None) -> None:
    (start,) = plan_of(observed).actions
    assert start.needs == NEEDS


@pytest.mark.parametrize("plan_of", [dead, dead_unit])
def test_one_that_dies_while_sessions_run_does_not_move(plan_of: Any) -> None:
    assert verbs(plan_of(READY, risk=HELD)) == ["start"]


@pytest.mark.parametrize(("plan_of", "spec"), [(dead, SPEC), (dead_unit, UNIT_SPEC)])
def test_a_stopped_one_moves_without_a_start(plan_of: Any, spec: AgentSpec) -> None:
    plan = plan_of(READY, replace(spec, state="stopped"))
    assert plan.verdict.reason == "Stopped"
    assert verbs(plan) == ["switch"]


def test_by_hand_means_another_thing_for_a_unit_that_has_to_move() -> None:
    spec = replace(UNIT_SPEC, restart="manual")
    life = Life(BEFORE, invocation_id="ab", started_s=MAIN.started_s)
    for observed, opinions in ((READY, "systemctl stop"), (UNBUILT, "systemctl restart")):
        actual = unit_observation(ACTIVE, Record("boot", life), environments=observed)
        plan = plan_unit(spec, replace(actual, desired=WANTED))
        assert opinions in plan.verdict.message


@pytest.mark.parametrize("plan_of", [living, living_unit])
def test_nothing_that_lives_is_stopped_for_a_start_that_would_fail(plan_of: Any) -> None:
    plan = plan_of(BEFORE, READY, obstacle="/opt/venv.d/x/bin/python does not run")
    assert plan.verdict.reason == "Blocked"
    assert "the agent is left running" in plan.verdict.message
    assert "does not run" in plan.verdict.message
    assert verbs(plan) == []
    assert plan.observe_again_in_s


@pytest.mark.parametrize("plan_of", [dead, dead_unit])
def test_after_a_switch_that_failed_it_starts_where_it_was(plan_of: Any) -> None:
    assert verbs(plan_of(READY)) == ["switch", "start"]
    assert verbs(plan_of(READY, not_switched=NEW)) == ["start"]


@pytest.mark.parametrize("after_s", [0.1, 100.0])
@pytest.mark.parametrize(
    ("observed", "moves"),
    [(READY, ["switch", "start"]), (UNBUILT, ["start"])],
    ids=["built", "not"],
)
def test_a_crash_loop_is_left_as_soon_as_there_is_another_environment(
    observed: Environments, moves: list[str], after_s: float
) -> None:
    now_s = observation(Record("boot")).now_s
    deaths = (now_s - after_s - 20, now_s - after_s - 10, now_s - after_s)
    life = Life(BEFORE, pid=71, is_over=True)
    actual = observation(Record("boot", life, deaths=deaths), environments=observed)
    plan: Plan[Any] = plan_child(SPEC, replace(actual, desired=WANTED))
    is_due = observed is READY or after_s > 10
    assert verbs(plan) == (moves if is_due else [])
    if observed is UNBUILT and plan.actions:
        assert plan.actions[0].cause == "died"
