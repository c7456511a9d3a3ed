from __future__ import annotations

import pytest

from bai_nodeagent.core import schedule
from bai_nodeagent.core.schedule import WriteBudget
from bai_nodeagent.model import Outcome, Status, Verdict


def outcome(status: Status = Status.TRUE, **more: object) -> Outcome:
    return Outcome("AgentConfig", "in_sync", Verdict(status, "Because", "of it"), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("chance", "expected_s"), [(0.0, 48.0), (0.5, 60.0), (1.0, 72.0)])
def test_resync_spreads_a_fleet_by_a_fifth(chance: float, expected_s: float) -> None:
    assert schedule.resync_s(chance) == pytest.approx(expected_s)


def test_backoff_doubles_to_its_most_and_is_never_a_busy_loop() -> None:
    assert [schedule.backoff_s(n, 1.0) for n in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert schedule.backoff_s(1000, 1.0) == 300
    assert schedule.backoff_s(1, 0.0) > 0


def test_a_resources_own_time_comes_before_backoff_but_never_after_the_resync() -> None:
    assert schedule.due_in_s(outcome(observe_again_in_s=0.2), 0, 0.5) == 0.2
    assert schedule.due_in_s(outcome(observe_again_in_s=9999), 0, 0.5) == 60
    failed = Outcome("Agent", "failed", Verdict(Status.FALSE, "Bad"))
    assert schedule.due_in_s(failed, 3, 1.0) == 4
    assert schedule.due_in_s(outcome(), 0, 0.5) == 60


def test_a_rollouts_shares_are_stable_even_and_within_the_span() -> None:
    shares = [schedule.spread_share_s(f"i-{n}", "sha256:x", 600) for n in range(500)]
    assert all(0 <= share < 600 for share in shares)
    assert shares[7] == schedule.spread_share_s("i-7", "sha256:x", 600)
    assert shares[7] != schedule.spread_share_s("i-7", "sha256:y", 600)
    assert 250 < sum(shares) / len(shares) < 350
    assert schedule.spread_share_s("i-7", "sha256:x", 0) == 0


def test_needs_hold_only_when_known_and_true() -> None:
    good = {"AgentConfig": outcome()}
    assert schedule.unmet_need((), {}) is None
    assert schedule.unmet_need(("AgentConfig",), good) is None
    assert schedule.unmet_need(("AgentConfig", "Mount/a"), good) == "Mount/a"
    bad = outcome(Status.FALSE)
    assert schedule.unmet_need(("AgentConfig",), {"AgentConfig": bad}) is bad


def test_a_plan_may_decide_whether_it_satisfies_its_dependents() -> None:
    serving = outcome(Status.FALSE, satisfies_dependents=True)
    assert schedule.unmet_need(("AgentConfig",), {"AgentConfig": serving}) is None
    in_line = outcome(satisfies_dependents=False)
    assert schedule.unmet_need(("AgentConfig",), {"AgentConfig": in_line}) is in_line


def test_waiting_names_what_is_waited_for_and_whether_it_is_a_fault() -> None:
    verdict, is_progressing = schedule.waiting_for(outcome(Status.FALSE))
    assert (verdict.status, verdict.reason, is_progressing) == (Status.FALSE, "Blocked", False)
    assert "AgentConfig (Because: of it)" in verdict.message
    verdict, is_progressing = schedule.waiting_for(outcome(Status.UNKNOWN, is_progressing=True))
    assert (verdict.status, verdict.reason, is_progressing) == (Status.UNKNOWN, "Waiting", True)
    assert schedule.waiting_for("Mount/a")[1] is True


def test_writes_come_in_a_burst_of_five_and_then_one_in_thirty_seconds() -> None:
    budget = WriteBudget(at_s=100.0)
    for _ in range(5):
        assert budget.wait_s(100.0) == 0
        budget = budget.spent(100.0)
    assert budget.wait_s(100.0) == pytest.approx(30)
    assert budget.wait_s(130.0) == 0
    budget = budget.spent(130.0)
    assert budget.wait_s(130.0) == pytest.approx(30)
    assert [budget.wait_s(10_000.0), WriteBudget(5, 0).spent(10_000.0).tokens] == [0, 4]
