from __future__ import annotations

from dataclasses import dataclass

import pytest

from bai_nodeagent.core.reconcile import ACTIONS_AT_MOST, Objection, build, plan_or_fault, reconcile
from bai_nodeagent.errors import Overtaken, Refused, Stuck, Unavailable
from bai_nodeagent.model import Action, Kind, Outcome, Plan, Status, Verdict
from unit.fakes import Countdown, Step, host, node_spec

pytestmark = pytest.mark.anyio


class Silent:
    """Notes what a pass tells."""

    def __init__(self) -> None:
        self.reported: list[Outcome] = []
        self.done: list[Action] = []

    def begins(self, name: str, deadline_s: float) -> None:
        pass

    def applies(self, outcome: Outcome, action: Action) -> None:
        self.reported.append(outcome)

    def applied(self, name: str, action: Action) -> None:
        self.done.append(action)


class Note(Step):
    """A step in the daemon's own notes."""

    is_note = True


def never(_action: Action) -> Objection | None:
    return None


async def test_a_plan_is_applied_action_by_action_with_an_observation_before_each() -> None:
    resource, watcher = Countdown(left=3), Silent()
    outcome = await reconcile(resource, never, watcher)
    assert (outcome.result, outcome.verdict.reason, len(outcome.actions)) == (
        "changed",
        "InSync",
        3,
    )
    assert (resource.observations, len(watcher.done)) == (4, 3)
    assert all(each.is_progressing for each in watcher.reported)


async def test_what_is_in_line_is_left_alone() -> None:
    outcome = await reconcile(Countdown(), never, Silent())
    assert (outcome.result, outcome.actions) == ("in_sync", ())


async def test_an_objection_is_asked_before_each_action_and_reports_what_is_left() -> None:
    paused = Objection(Verdict(Status.FALSE, "Paused", "paused by X"))
    resource = Countdown(left=2)
    outcome = await reconcile(resource, lambda _: paused if resource.left == 1 else None, Silent())
    assert (outcome.result, outcome.verdict.reason, resource.left) == ("blocked", "Paused", 1)
    assert outcome.verdict.message == "paused by X; to do: take a step"
    assert len(outcome.pending) == 1


async def test_a_plan_that_never_empties_is_given_up_and_reported() -> None:
    resource = Countdown(left=1000)
    outcome = await reconcile(resource, never, Silent())
    assert (outcome.result, outcome.verdict.reason) == ("failed", "NotConverging")
    assert resource.left == 1000 - ACTIONS_AT_MOST


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Refused("DiskFull", "no room on /etc"), Status.FALSE, "DiskFull"),
        (Unavailable("docker: refused"), Status.UNKNOWN, "Unavailable"),
        (Stuck("statvfs /mnt"), Status.UNKNOWN, "Stuck"),
        (TimeoutError(), Status.UNKNOWN, "Timeout"),
        (ZeroDivisionError("a bug"), Status.UNKNOWN, "InternalError"),
    ],
)
async def test_every_fault_is_a_condition_and_none_is_raised(
    error: Exception, status: Status, reason: str
) -> None:
    for resource in (Countdown(raises=error), Countdown(left=1, applying=error)):
        outcome = await reconcile(resource, never, Silent())
        assert (outcome.result, outcome.verdict.status, outcome.verdict.reason) == (
            "failed",
            status,
            reason,
        )
        assert not outcome.is_progressing


async def test_an_observation_that_takes_too_long_is_a_timeout() -> None:
    outcome = await reconcile(Countdown(takes_s=5, deadline_s=0.01), never, Silent())
    assert outcome.verdict.reason == "Timeout"


async def test_a_false_verdict_without_anything_to_do_counts_as_failed() -> None:
    resource = Countdown(verdict=Verdict(Status.FALSE, "NoAddress"))
    assert (await reconcile(resource, never, Silent())).result == "failed"


async def test_an_observation_for_people_applies_nothing() -> None:
    resource = Countdown(left=2)
    found = await plan_or_fault(resource)
    assert isinstance(found, Plan)
    assert (len(found.actions), resource.left) == (2, 2)
    fault = await plan_or_fault(Countdown(raises=ZeroDivisionError()))
    assert isinstance(fault, Outcome)
    assert fault.verdict.reason == "InternalError"


async def test_a_kind_that_can_not_be_built_is_one_broken_resource() -> None:
    def broken(_spec: object, _host: object) -> list[object]:
        raise KeyError("x")

    kind = Kind("agent-config", {}, broken)  # type: ignore[arg-type]
    (resource,) = build(kind, node_spec(), host())
    assert resource.name == "AgentConfig"
    assert (await reconcile(resource, never, Silent())).verdict.reason == "InternalError"


async def test_a_note_is_made_also_when_nothing_may_be_changed() -> None:
    paused = Objection(Verdict(Status.FALSE, "Paused", "paused by X"))
    resource, watcher = Countdown(left=1, step=Note()), Silent()
    outcome = await reconcile(resource, lambda _: paused, watcher)
    assert (outcome.verdict.reason, resource.left, watcher.reported) == ("InSync", 0, [])


async def test_an_action_that_somebody_overtook_counts_as_none() -> None:
    @dataclass
    class Contested(Countdown):
        rivals: int = 2

        async def apply(self, action: Step) -> None:
            if self.rivals:
                self.rivals -= 1
                raise Overtaken("somebody was faster")
            await super().apply(action)

    watcher = Silent()
    outcome = await reconcile(Contested(left=1), never, watcher)
    assert (outcome.verdict.status, len(outcome.actions), len(watcher.done)) == (Status.TRUE, 1, 1)
    outcome = await reconcile(Contested(left=1, rivals=1000), never, watcher)
    assert outcome.verdict.reason == "Unavailable"
    assert "somebody was faster" in outcome.verdict.message


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        ([Unavailable("away")], "Unavailable"),
        ([Unavailable("away"), Unavailable("gone")], "Unavailable"),
        ([Unavailable("away"), Refused("No", "never")], "No"),
        ([ExceptionGroup("inner", [Stuck("hangs")])], "Stuck"),
        ([ValueError("a bug"), KeyError("another")], "InternalError"),
    ],
)
async def test_what_a_task_group_wraps_is_judged_as_itself(
    raised: list[Exception], reason: str
) -> None:
    outcome = await reconcile(Countdown(raises=ExceptionGroup("all", raised)), never, Silent())
    assert outcome.verdict.reason == reason
