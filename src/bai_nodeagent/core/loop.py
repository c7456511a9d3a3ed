"""Keeps every resource in line: wake, observe, act, report, wait.

Each resource has a task of its own, so one that hangs or retries delays no
other. Resources depend on each other through outcomes only: an action waits
for its needs, and its resource is observed again when one of them changes.
An action that has begun is never cancelled; a newer desired state interrupts
waits, and is asked about before each further action.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from ..model import Action, AnyResource, Host, Kind, NodeSpec, Outcome, Status, Verdict
from . import schedule
from .metrics import Metrics
from .reconcile import Objection, build, reconcile, watch
from .status import PAUSED

# How much later than planned a resource may move before the loop counts as wedged.
MOVE_SLACK_S = 30.0
PENDING = Verdict(Status.UNKNOWN, "Pending", "not observed yet")
SUPERSEDED = Verdict(Status.UNKNOWN, "Progressing", "a newer desired state has arrived")


@dataclass
class _Keeper:
    """What the loop remembers of one resource between passes."""

    resource: AnyResource
    outcome: Outcome
    wake: anyio.Event = field(default_factory=anyio.Event)
    failures: int = 0
    moves_by_s: float = 0.0
    is_retired: bool = False
    was_in_line: bool = False


class Loop:
    """`changed` is called after every outcome; `outcomes` has the newest ones."""

    def __init__(
        self, kinds: Sequence[Kind], host: Host, metrics: Metrics, changed: Callable[[], None]
    ) -> None:
        self._kinds = kinds
        self._host = host
        self._metrics = metrics
        self._changed = changed
        self._keepers: dict[str, _Keeper] = {}
        self._tasks: TaskGroup | None = None
        self._spec: NodeSpec | None = None
        self._hold: Verdict | None = None
        self._disruptive_from_s = 0.0

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The newest outcome by condition type, in the order of the kinds."""
        return {name: keeper.outcome for name, keeper in self._keepers.items()}

    @property
    def is_moving(self) -> bool:
        """Every resource has moved when it had to. Proves progress for watchdog and /livez."""
        now = time.monotonic()
        return all(keeper.moves_by_s > now for keeper in self._keepers.values())

    async def run(self) -> None:
        """Keeps what `take` has given until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            for keeper in self._keepers.values():
                self._tasks.start_soon(self._keep, keeper)
            await anyio.sleep_forever()

    def take(self, spec: NodeSpec, hold: Verdict | None, *, is_new: bool) -> None:
        """Takes over a desired state. `hold`: observe and report only, and why; None: apply it.

        For another state than before, disruptive actions wait for it to settle and for this
        node's share of the rollout's spread. Which is another one `is_new` says of the first
        state after a start alone: not the one that the node was last in line with. Later ones
        are compared with the one before.
        """
        wanted = []
        for kind in self._kinds:
            made = build(kind, spec, self._host)
            for resource in made:
                self._metrics.expect(resource.name, {action.verb for action in kind.actions})
            wanted += made
        is_other = is_new if self._spec is None else self._differs(wanted)
        # A rollback is for an agent that does not work: it waits for no rollout.
        if is_other and not spec.rolled_back:
            share_s = schedule.spread_share_s(spec.node_id, spec.digest, spec.spread_s)
            self._disruptive_from_s = time.monotonic() + max(schedule.SETTLE_S, share_s)
        self._spec, self._hold = spec, hold
        self._retire({resource.name for resource in wanted})
        self._keepers = {r.name: self._keeper_of(r) for r in wanted}
        self.wake_all()
        self._changed()

    def wake_all(self) -> None:
        """Every resource is observed again now; waits for retries end."""
        for keeper in self._keepers.values():
            keeper.wake.set()

    def _differs(self, wanted: list[AnyResource]) -> bool:
        here = {name: keeper.resource.spec for name, keeper in self._keepers.items()}
        return here != {resource.name: resource.spec for resource in wanted}

    def _retire(self, names: set[str]) -> None:
        for name, keeper in self._keepers.items():
            if name not in names:
                keeper.is_retired = True
                keeper.wake.set()

    def _keeper_of(self, resource: AnyResource) -> _Keeper:
        keeper = self._keepers.get(resource.name)
        if keeper is None:
            keeper = _Keeper(resource, _pending(resource.name))
            keeper.moves_by_s = time.monotonic() + MOVE_SLACK_S
            if self._tasks is not None:
                self._tasks.start_soon(self._keep, keeper)
        elif keeper.resource.spec != resource.spec:
            keeper.resource = resource
            keeper.outcome = _pending(resource.name)
            keeper.failures = 0
            keeper.was_in_line = False
        return keeper

    async def _keep(self, keeper: _Keeper) -> None:
        while not keeper.is_retired:
            resource = keeper.resource
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch, resource, lambda: keeper.wake.set())
                while keeper.resource is resource and not keeper.is_retired:
                    keeper.wake = anyio.Event()  # later events need another observation
                    await self._pass(keeper, resource)
                    wait_s = schedule.due_in_s(keeper.outcome, keeper.failures, random.random())  # noqa: S311
                    keeper.moves_by_s = time.monotonic() + wait_s + MOVE_SLACK_S
                    with anyio.move_on_after(wait_s):
                        await keeper.wake.wait()
                tasks.cancel_scope.cancel()

    async def _pass(self, keeper: _Keeper, resource: AnyResource) -> None:
        started_s = time.monotonic()
        witness = _PassWitness(self, keeper)
        outcome = await reconcile(resource, lambda a: self._objection(keeper, resource, a), witness)
        self._metrics.passed(outcome, time.monotonic() - started_s)
        if keeper.resource is resource and not keeper.is_retired:
            keeper.failures = keeper.failures + 1 if outcome.result == "failed" else 0
            keeper.was_in_line = outcome.verdict.status is Status.TRUE
            self.report(keeper, outcome)

    def report(self, keeper: _Keeper, outcome: Outcome) -> None:
        """Makes an outcome known, and wakes those who may have waited for it."""
        before, keeper.outcome = keeper.outcome, outcome
        if before.verdict != outcome.verdict:
            for other in self._keepers.values():
                if any(outcome.name in action.needs for action in other.outcome.pending):
                    other.wake.set()
        self._changed()

    def began(self, keeper: _Keeper, deadline_s: float) -> None:
        keeper.moves_by_s = time.monotonic() + deadline_s + MOVE_SLACK_S

    def acted(self, keeper: _Keeper, action: Action) -> None:
        is_drift = keeper.was_in_line and not action.is_note
        self._metrics.acted(keeper.resource.name, action, is_drift=is_drift)
        keeper.was_in_line = keeper.was_in_line and action.is_note

    def _objection(
        self, keeper: _Keeper, resource: AnyResource, action: Action
    ) -> Objection | None:
        is_paused = self._hold is not None and self._hold.reason == PAUSED
        if self._hold is not None and (is_paused or not action.is_rescue):
            return Objection(self._hold)
        if keeper.resource is not resource or keeper.is_retired:
            return Objection(SUPERSEDED, 0.0, is_progressing=True)
        if unmet := schedule.unmet_need(action.needs, self.outcomes):
            verdict, is_progressing = schedule.waiting_for(unmet)
            return Objection(verdict, is_progressing=is_progressing)
        wait_s = self._disruptive_from_s - time.monotonic()
        if action.is_disruptive and wait_s > 0:
            text = f"waits {wait_s:.1f} s for the desired state to settle and its rollout to spread"
            return Objection(Verdict(Status.UNKNOWN, "Settling", text), wait_s, is_progressing=True)
        return None


@dataclass(frozen=True)
class _PassWitness:
    """Hands what happens in a pass to the loop, under the keeper it is about."""

    loop: Loop
    keeper: _Keeper

    def begins(self, name: str, deadline_s: float) -> None:
        self.loop.began(self.keeper, deadline_s)

    def applies(self, outcome: Outcome, action: Action) -> None:
        # A failure stays reported while it is retried: its reason says more
        # than "under way", and the condition does not flap with each try.
        if self.keeper.outcome.result != "failed":
            self.loop.report(self.keeper, outcome)

    def applied(self, name: str, action: Action) -> None:
        self.loop.acted(self.keeper, action)


def _pending(name: str) -> Outcome:
    return Outcome(name, "in_sync", PENDING, is_progressing=True, is_observed=False)
