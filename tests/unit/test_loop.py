from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from bai_nodeagent.core import loop as loop_module
from bai_nodeagent.core import schedule
from bai_nodeagent.core.loop import Loop
from bai_nodeagent.core.metrics import Metrics
from bai_nodeagent.model import AnyResource, Kind, NodeSpec, Status, Verdict
from unit.fakes import Countdown, Step, host, node_spec

pytestmark = pytest.mark.anyio
PAUSED = Verdict(Status.FALSE, "Paused", "paused")


class Rig:
    """A loop over resources that the test holds, and a way to wait for what it does."""

    def __init__(self, *resources: Countdown) -> None:
        self.resources: list[AnyResource] = list(resources)
        self._moved = anyio.Event()
        kind = Kind("fake", {}, lambda _spec, _host: list(self.resources))
        self.metrics = Metrics("test", "i-1", "c")
        self.loop = Loop([kind], host(), self.metrics, self._append)

    def _append(self) -> None:
        self._moved.set()
        self._moved = anyio.Event()

    def take(self, spec: NodeSpec | None = None, hold: Verdict | None = None) -> None:
        self.loop.take(spec or node_spec(), hold, is_new=True)

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(5):
            while not holds():
                await self._moved.wait()

    def reason(self, name: str) -> str:
        outcome = self.loop.outcomes.get(name)
        return outcome.verdict.reason if outcome else ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.loop.run)
            yield
            tasks.cancel_scope.cancel()


async def test_what_was_taken_before_the_start_is_kept() -> None:
    rig = Rig(Countdown(left=2))
    rig.take()
    async with rig.running():
        await rig.until(lambda: rig.reason("AgentConfig") == "InSync")


async def test_one_that_hangs_delays_no_other() -> None:
    rig = Rig(Countdown("Slow", takes_s=60, deadline_s=60), Countdown("Quick", left=1))
    async with rig.running():
        rig.take()
        await rig.until(lambda: rig.reason("Quick") == "InSync")
        assert rig.reason("Slow") == "Pending"
        assert rig.loop.is_moving


async def test_an_action_waits_for_its_need_and_goes_on_by_itself() -> None:
    config = Countdown("AgentConfig", raises=OSError("disk"))
    agent = Countdown("Agent", left=1, step=Step(needs=("AgentConfig",)))
    rig = Rig(config, agent)
    async with rig.running():
        rig.take()
        await rig.until(lambda: rig.reason("Agent") == "Blocked")
        assert agent.left == 1
        config.raises = None
        rig.loop.wake_all()
        await rig.until(lambda: rig.reason("Agent") == "InSync")


async def test_a_hold_observes_and_reports_but_changes_nothing() -> None:
    resource = Countdown(left=1)
    rig = Rig(resource)
    async with rig.running():
        rig.take(hold=PAUSED)
        await rig.until(lambda: rig.reason("AgentConfig") == "Paused")
        assert resource.left == 1
        rig.take(hold=None)
        await rig.until(lambda: rig.reason("AgentConfig") == "InSync")


async def test_a_rescue_waits_for_a_pause_alone() -> None:
    resource = Countdown(left=1, step=Step(is_rescue=True))
    rig = Rig(resource)
    async with rig.running():
        rig.take(hold=PAUSED)
        await rig.until(lambda: rig.reason("AgentConfig") == "Paused")
        assert resource.left == 1
        rig.take(hold=Verdict(Status.FALSE, "DuplicateNode"))
        await rig.until(lambda: rig.reason("AgentConfig") == "InSync")


async def test_disruptive_actions_wait_for_the_state_to_settle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "SETTLE_S", 0.05)
    resource = Countdown("Agent", left=1, step=Step(is_disruptive=True))
    rig = Rig(resource)
    async with rig.running():
        rig.take()
        await rig.until(lambda: rig.reason("Agent") == "Settling")
        assert rig.loop.outcomes["Agent"].is_progressing
        await rig.until(lambda: rig.reason("Agent") == "InSync")


async def test_a_newer_state_ends_a_wait_for_a_retry_at_once() -> None:
    first = Countdown("Agent", spec=1, raises=OSError())
    rig = Rig(first)
    async with rig.running():
        rig.take()
        await rig.until(lambda: rig.reason("Agent") == "InternalError")
        rig.resources = [Countdown("Agent", spec=2, left=1)]
        rig.take(node_spec("sha256:b", 2))
        await rig.until(lambda: rig.reason("Agent") == "InSync")


async def test_an_equal_spec_keeps_its_resource_and_one_that_is_gone_is_retired() -> None:
    kept, gone = Countdown("Agent"), Countdown("Mount/a")
    rig = Rig(kept, gone)
    async with rig.running():
        rig.take()
        await rig.until(lambda: rig.reason("Mount/a") == "InSync")
        twin = Countdown("Agent")
        rig.resources = [twin]
        rig.take(node_spec("sha256:b", 2))
        await rig.until(lambda: list(rig.loop.outcomes) == ["Agent"])
        rig.loop.wake_all()
        await anyio.wait_all_tasks_blocked()
        assert twin.observations == 0


async def test_an_event_is_an_observation_and_drift_is_counted() -> None:
    resource = Countdown()
    rig = Rig(resource)
    async with rig.running():
        rig.take()
        await rig.until(lambda: rig.reason("AgentConfig") == "InSync")
        await anyio.wait_all_tasks_blocked()
        resource.left = 1
        assert resource.wake is not None
        resource.wake()
        await rig.until(lambda: resource.left == 0)
        await rig.until(lambda: rig.reason("AgentConfig") == "InSync")
    assert b'bai_nodeagent_drift_total{resource="agent_config"} 1.0' in rig.metrics.text()


async def test_a_resource_that_does_not_move_in_time_is_observed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_module, "MOVE_SLACK_S", -3600)
    rig = Rig(Countdown())
    rig.take()
    assert not rig.loop.is_moving


async def test_what_failed_stays_reported_while_it_is_tried_again() -> None:
    resource = Countdown(left=1, applying=OSError("no"))
    rig = Rig(resource)
    async with rig.running():
        rig.take()
        await rig.until(lambda: rig.reason("AgentConfig") == "InternalError")
        reported = []
        rig.loop._changed = lambda: reported.append(rig.reason("AgentConfig"))
        observations = resource.observations
        rig.loop.wake_all()
        with anyio.fail_after(5):
            while resource.observations == observations or not reported:
                await anyio.lowlevel.checkpoint()
        assert set(reported) == {"InternalError"}
