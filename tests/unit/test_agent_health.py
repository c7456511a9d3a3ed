"""What follows from how long an agent has been well or unwell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bai_nodeagent.kinds.agent.process.actual import Actual
from bai_nodeagent.kinds.agent.process.health import (
    COUNT_MOST_S,
    NoteHealthy,
    NoteUnhealthy,
    RollBack,
    counted,
    watched,
)
from bai_nodeagent.kinds.agent.record import Life, Record, UnhealthyTime
from bai_nodeagent.kinds.agent.rollback import Change, Healthy, RollbackState
from bai_nodeagent.kinds.agent.sessions import HeldChange
from bai_nodeagent.kinds.agent.spec import AgentSpec
from bai_nodeagent.model import Action, Plan, Status, Verdict

NOW_S = 1000.0
WANTS = {"command": "c", "agent.toml agent.id": "i"}
BEFORE = Healthy({"agent": {"id": "old"}})
PRESENT = Healthy({"agent": {"id": "new"}})
CHANGES = (Change("agent.toml agent.id", 'agent.id: "new" instead of "old"'),)
UP = Verdict(Status.TRUE, "Connected")
DOWN = Verdict(Status.FALSE, "Unreachable", "refused")
RUNNING: Plan[Any] = Plan(Verdict(Status.TRUE, "Running"))
DIED: Plan[Any] = Plan(Verdict(Status.FALSE, "CrashLoop", "it died; its last lines:\nboom"))

SPEC = AgentSpec(
    supervisor="child",
    on_unhealthy="rollback",
    health_timeout_s=30.0,
    relies_on=("Store", "Redis", "Mount/vfroot"),
)
WELL = {"Store": UP, "Redis": UP, "Mount/vfroot": UP}
LIFE = Life(WANTS, pid=7, started_s=NOW_S - 100)


def observation(
    life: Life | None = LIFE, unhealthy: UnhealthyTime | None = None, **rollback: Any
) -> Actual:
    found = {"healthy": BEFORE, "present": PRESENT, "changes": CHANGES, "verdicts": WELL}
    return Actual(
        now_s=NOW_S,
        epoch_s=0.0,
        record=Record("boot", life, unhealthy=unhealthy),
        desired=WANTS,
        found=WANTS,
        rollback=RollbackState(**{**found, "digest": "sha256:d", "inputs": "of", **rollback}),
    )


def first(plan: Plan[Any]) -> Action | None:
    return plan.actions[0] if plan.actions else None


def counting(unhealthy_s: float, ago_s: float = 5.0, of: str = "of") -> UnhealthyTime:
    return UnhealthyTime(of, unhealthy_s, NOW_S - ago_s, is_counting=True)


# --- healthy -----------------------------------------------------------------------------


def test_what_is_well_for_long_enough_is_kept() -> None:
    assert first(watched(SPEC, observation(), RUNNING)) == NoteHealthy(healthy=PRESENT)


@pytest.mark.parametrize(("timeout_s", "after_s"), [(300.0, 60.0), (30.0, 30.0)])
def test_not_before_it_has_been_well_for_a_while(timeout_s: float, after_s: float) -> None:
    spec = replace(SPEC, health_timeout_s=timeout_s)
    plan = watched(spec, observation(replace(LIFE, well_s=NOW_S - 10)), RUNNING)
    assert not plan.actions
    assert plan.observe_again_in_s == after_s - 10


def test_what_is_kept_already_is_not_written_again() -> None:
    assert watched(SPEC, observation(healthy=PRESENT), RUNNING) == RUNNING


def test_health_ends_the_count() -> None:
    plan = watched(SPEC, observation(healthy=PRESENT, unhealthy=counting(20)), RUNNING)
    assert isinstance(first(plan), NoteHealthy)


def test_an_agent_with_other_inputs_than_desired_proves_nothing_about_these() -> None:
    other = replace(LIFE, inputs={"command": "other"})
    pending: Plan[Any] = Plan(Verdict(Status.UNKNOWN, "RestartPending"))
    for life in (other, None):
        assert watched(SPEC, observation(life, counting(300)), pending) == pending
        assert watched(SPEC, observation(life), RUNNING) == RUNNING


# --- unhealthy ---------------------------------------------------------------------------


def test_time_is_counted_and_reported() -> None:
    plan = watched(SPEC, observation(unhealthy=counting(10)), DIED)
    note = first(plan)
    assert isinstance(note, NoteUnhealthy)
    assert note.unhealthy == UnhealthyTime("of", 15.0, NOW_S, is_counting=True)
    assert "rolled back at 1970-01-01T00:16:55Z unless" in plan.verdict.message
    assert plan.verdict.reason == "CrashLoop"
    assert plan.observe_again_in_s == 2.0


def test_a_clock_that_does_not_move_is_not_noted_again() -> None:
    verdicts = {**WELL, "Store": DOWN}
    unhealthy = replace(counting(10), is_counting=False)
    assert not watched(SPEC, observation(unhealthy=unhealthy, verdicts=verdicts), DIED).actions


def test_a_fresh_count_is_not_noted_again() -> None:
    plan = watched(SPEC, observation(unhealthy=counting(10, ago_s=0.5)), DIED)
    assert not plan.actions


def test_when_the_time_is_over_the_last_healthy_inputs_come_back() -> None:
    action = first(watched(SPEC, observation(unhealthy=counting(26)), DIED))
    assert isinstance(action, RollBack)
    assert action.order.digest == "sha256:d"
    assert action.order.healthy == BEFORE
    assert action.order.changes == ('agent.id: "new" instead of "old"',)
    assert action.order.why == (
        "the agent was not healthy for 30 s (CrashLoop: it died; its last lines:\nboom)"
    )


@pytest.mark.parametrize(
    ("change", "rollback"),
    [
        ({"on_unhealthy": "hold"}, {}),
        ({"rolled_back": "given up"}, {}),
        ({"state": "stopped"}, {}),
        ({}, {"healthy": None}),
        ({}, {"changes": ()}),
    ],
)
def test_no_way_back(change: dict[str, Any], rollback: dict[str, Any]) -> None:
    assert (
        watched(replace(SPEC, **change), observation(unhealthy=counting(300), **rollback), DIED)
        == DIED
    )


def test_sessions_are_worth_more_than_health() -> None:
    held = HeldChange(("agent.toml agent.id",), "sha256:p", None)
    plan = watched(SPEC, observation(unhealthy=counting(300), held=held), DIED)
    assert not any(isinstance(action, RollBack) for action in plan.actions)
    assert "not rolled back" in plan.verdict.message
    assert "sessions" in plan.verdict.message


@pytest.mark.parametrize("broken", ["Store", "Redis", "Mount/vfroot"])
@pytest.mark.parametrize("how", [DOWN, Verdict(Status.UNKNOWN, "Stuck"), None])
def test_the_count_rests_while_a_need_is_unhealthy(broken: str, how: Verdict | None) -> None:
    verdicts = {name: verdict for name, verdict in {**WELL, broken: how}.items() if verdict}
    plan = watched(SPEC, observation(unhealthy=counting(29), verdicts=verdicts), DIED)
    note = first(plan)
    assert isinstance(note, NoteUnhealthy)
    assert (note.unhealthy.unhealthy_s, note.unhealthy.is_counting) == (29.0, False)
    assert f"does not count, since {broken} is not well" in plan.verdict.message


def test_an_agent_unknown_to_the_manager_is_no_fault_of_redis() -> None:
    unseen = {**WELL, "Redis": Verdict(Status.FALSE, "NotSeen")}
    assert isinstance(
        first(watched(SPEC, observation(unhealthy=counting(26), verdicts=unseen), DIED)), RollBack
    )


@pytest.mark.parametrize(
    ("reason", "part", "is_its_fault"),
    [
        ("WaitingForManager", "agent.toml agent.id", False),
        ("WaitingForManager", "agent.toml etcd.namespace", True),
        ("WaitingForRedis", "env", False),
        ("RedisUnreachable", "agent.toml etcd.addr.host", True),
        ("EtcdUnreachable", "agent.toml etcdx", False),
        ("DockerUnreachable", "agent.toml agent.id", False),
        ("DockerUnreachable", "env", True),
        ("PortTaken", "agent.toml agent.id", False),
        ("PortTaken", "agent.toml agent.rpc-listen-addr.port", True),
        ("Frozen", "command", False),
        ("Blocked", "command", False),
        ("CrashLoop", "agent.toml agent.id", True),
        ("StartHangs", "plugin x", True),
    ],
)
def test_only_a_trouble_that_the_change_may_have_caused_counts(
    reason: str, part: str, is_its_fault: bool
) -> None:
    plan: Plan[Any] = Plan(Verdict(Status.FALSE, reason, "text"))
    actual = observation(unhealthy=counting(26), changes=(Change(part, "line"),))
    found = watched(SPEC, actual, plan)
    assert isinstance(first(found), RollBack) is is_its_fault


def test_nothing_is_given_up_while_the_clock_does_not_move() -> None:
    """Its time may be over, held back by sessions that have ended since."""
    verdicts = {**WELL, "Store": DOWN}
    plan = watched(SPEC, observation(unhealthy=counting(300), verdicts=verdicts), DIED)
    assert not any(isinstance(action, RollBack) for action in plan.actions)


# --- the count ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "is_counting", "after_s"),
    [
        (None, True, 0.0),
        (counting(10, of="others"), True, 0.0),
        (counting(10), True, 15.0),
        (counting(10), False, 10.0),
        (replace(counting(10), is_counting=False), True, 10.0),
        (counting(10, ago_s=3600), True, 10.0 + COUNT_MOST_S),
        (counting(10, ago_s=-5), True, 10.0),
    ],
)
def test_time_counts_between_two_observations_that_count(
    before: UnhealthyTime | None, is_counting: bool, after_s: float
) -> None:
    after = counted(before, "of", NOW_S, is_counting=is_counting)
    assert after == UnhealthyTime("of", after_s, NOW_S, is_counting)
