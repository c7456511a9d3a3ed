"""Builds the status of the node, and writes it to the store when it changes.

The answer to a new desired state is written at once: the verdict on the
documents, and the first Ready, Degraded or Paused after it. Everything else
goes through a small budget, always the newest, so that a crash loop on a
thousand nodes is no load on etcd.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import anyio
import structlog

from ..errors import Unavailable
from ..model import Condition, Outcome, Scalar, Status, Verdict
from ..redact import Redactor
from ..store.base import Store, reconnect_s
from ..text import clean
from . import status
from .metrics import Metrics
from .schedule import WriteBudget, resync_s
from .status import Applied, InForce, NodeStatus

# A repair that is over within this time is reported as done, not as under way.
UNDER_WAY_S = 1.0
# Reasons of conditions before the first observation.
NOT_YET = ("Pending", "Connecting", "StoreUnreachable")
ANSWERS = ("Ready", "Degraded", "Paused", "Invalid", "Missing")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Origin:
    """The part of a status that stays."""

    node: str
    daemon: str
    boot_id: str
    started_at: str


class Reporter:
    """`newest` is always up to date; `run` writes it to the store.

    `applied` is called when the node has come wholly into line with a state.
    """

    def __init__(
        self,
        origin: Origin,
        store: Store,
        redactor: Redactor,
        metrics: Metrics,
        applied: Callable[[Applied], None],
    ) -> None:
        self._store = store
        self._redactor = redactor
        self._metrics = metrics
        self._notify_applied = applied
        self._key = f"node/{origin.node}/status"
        self._raw = b""  # as written last
        self._write_fault: str | None = None
        self._changed = anyio.Event()
        self._awaited_since_s: float | None = None  # a new desired state that is not applied yet
        self._last: tuple[InForce, dict[str, Outcome]] | None = None
        reading = status.Reading()
        self.newest = NodeStatus(
            origin.node,
            origin.daemon,
            origin.boot_id,
            origin.started_at,
            reading,
            None,
            "Progressing",
            (),
            {},
        )

    def update(
        self, in_force: InForce, outcomes: dict[str, Outcome], applied: Applied | None
    ) -> None:
        """Takes in the newest outcomes."""
        now = status.timestamp(datetime.now(UTC))
        self._last = (in_force, outcomes)
        digest = in_force.reading.digest
        if digest != self.newest.desired.digest:
            is_new = digest is not None and (applied is None or applied.digest != digest)
            self._awaited_since_s = time.monotonic() if is_new else None
        last, applied = applied, _applied(in_force, outcomes, applied, now)
        store = self._store_verdict(in_force)
        summary = status.summary(
            in_force.desired,
            store,
            outcomes.values(),
            is_paused=in_force.is_paused,
            is_applied=applied is not None and applied.digest == in_force.reading.digest,
        )
        verdicts = {
            status.DESIRED_STATE: in_force.desired,
            status.STORE: store,
            **{name: outcome.verdict for name, outcome in outcomes.items()},
        }
        masked = {
            name: replace(v, message=self._redactor(v.message)) for name, v in verdicts.items()
        }
        revision = in_force.spec.revision if in_force.spec else in_force.reading.revision
        before = self.newest
        self.newest = replace(
            before,
            desired=in_force.reading,
            applied=applied,
            summary=summary,
            conditions=status.updated(before.conditions, masked, now, revision),
            facts={k: self._shown(v) for o in outcomes.values() for k, v in o.facts.items()},
        )
        self._show(before)
        self._changed.set()
        if applied is not None and applied is not last:
            self._notify_applied(applied)  # last: it may come back with another update

    def _shown(self, fact: Scalar) -> Scalar:
        return clean(self._redactor(fact)) if isinstance(fact, str) else fact

    async def run(self) -> None:
        """Writes statuses until cancelled. A store that is away gets the newest once it is back."""
        budget = WriteBudget(at_s=time.monotonic())
        written: NodeStatus | None = None
        has_answered = False
        check_at_s = _next_check_s()
        while True:
            self._changed = anyio.Event()
            newest = self.newest
            if written is not None and newest.desired != written.desired:
                has_answered = False
            is_answer = written is None or _is_answer(newest, written, has_answered=has_answered)
            if written is not None and status.without_facts(newest) == status.without_facts(
                written
            ):
                if not await self._changes_within(check_at_s - time.monotonic()):
                    check_at_s = _next_check_s()
                    written = written if await self._is_still_stored() else None
                continue
            wait_s = 0.0 if is_answer else budget.wait_s(time.monotonic())
            if not is_answer and newest.summary == "Progressing":
                wait_s = max(wait_s, UNDER_WAY_S)
            if wait_s > 0 and await self._changes_within(wait_s):
                continue
            if await self._write(newest):
                budget = budget if is_answer else budget.spent(time.monotonic())
                has_answered = has_answered or newest.summary in ANSWERS
                written = newest

    async def _changes_within(self, within_s: float) -> bool:
        with anyio.move_on_after(max(0.0, within_s)):
            await self._changed.wait()
            return True
        return self._changed.is_set()

    async def farewell(self) -> None:
        """Writes the last status before the daemon ends."""
        await self._write(self.newest)

    async def _write(self, newest: NodeStatus) -> bool:
        try:
            now = status.timestamp(datetime.now(UTC))
            raw = status.to_json(replace(newest, reported_at=now))
            await self._store.put(self._key, raw)
            self._raw = raw
        except Unavailable as error:
            self._found_fault(str(error))
            await anyio.sleep(reconnect_s(random.random()))  # noqa: S311
            return False
        self._found_fault(None)
        return True

    async def _is_still_stored(self) -> bool:
        """Whether the last written status is still in the store; True if the store is away."""
        try:
            entry = (await self._store.read([self._key])).entries.get(self._key)
        except Unavailable:
            return True
        return entry is not None and entry.raw == self._raw

    def _found_fault(self, fault: str | None) -> None:
        """Reports at once that statuses can't be written, or can again: no other event does."""
        before, self._write_fault = self._write_fault, fault
        if (before is None) == (fault is None):
            return
        if fault is None:
            log.info("status.written_again")
        else:
            log.warning("status.not_written", error=fault)
        if self._last is not None:
            self.update(*self._last, self.newest.applied)

    def _store_verdict(self, in_force: InForce) -> Verdict:
        if in_force.store.status is Status.TRUE and self._write_fault is not None:
            text = f"the status can't be written: {self._write_fault}"
            return Verdict(Status.FALSE, "StatusNotWritten", text)
        return in_force.store

    def _show(self, before: NodeStatus) -> None:
        newest = self.newest
        self._metrics.conditions(newest.conditions, newest.facts)
        agent = self._last[1].get("Agent") if self._last else None
        is_known = agent is not None and agent.is_observed
        self._metrics.agent_up.set("agent-pid" in newest.facts if is_known else None)
        self._metrics.desired_revision.set(newest.desired.revision or None)
        self._metrics.applied_revision.set(newest.applied.revision if newest.applied else 0)
        _log_changes(before.conditions, newest.conditions)
        if newest.summary != before.summary:
            log.info("node.summary", summary=newest.summary, before=before.summary)
        if newest.summary == "Ready" and self._awaited_since_s is not None:
            self._metrics.converge.observe(time.monotonic() - self._awaited_since_s)
            self._awaited_since_s = None


def _next_check_s() -> float:
    return time.monotonic() + resync_s(random.random())  # noqa: S311


def _log_changes(before: Iterable[Condition], newest: Iterable[Condition]) -> None:
    """Transitions, not passes; and each new set of mistakes, as somebody waits for it."""
    old = {condition.type: condition for condition in before}
    for now in newest:
        was = old.get(now.type)
        is_new = was is None or (was.status, was.reason) != (now.status, now.reason)
        is_reported_anew = now.type == status.DESIRED_STATE and was and was.message != now.message
        if (is_new and now.reason not in NOT_YET) or is_reported_anew:
            level = log.warning if now.status is Status.FALSE else log.info
            level(
                "condition.changed",
                resource=now.type,
                status=str(now.status),
                reason=now.reason,
                message=now.message,
            )


def _applied(
    in_force: InForce, outcomes: dict[str, Outcome], last: Applied | None, now: str
) -> Applied | None:
    """What was applied last; just now, if everything is in line with what is in the store."""
    reading, spec = in_force.reading, in_force.spec
    if spec is None or reading.digest is None or reading.digest != spec.digest:
        return last
    if not all(outcome.verdict.status is Status.TRUE for outcome in outcomes.values()):
        return last
    if last and (last.revision, last.digest) == (reading.revision, reading.digest):
        return last
    return Applied(reading.revision, reading.digest, now)


def _is_answer(newest: NodeStatus, written: NodeStatus, *, has_answered: bool) -> bool:
    """Whether it is what somebody who has just changed the desired state waits for."""
    if newest.desired != written.desired or _verdict(newest) != _verdict(written):
        return True
    return not has_answered and newest.summary in ANSWERS


def _verdict(node_status: NodeStatus) -> tuple[object, ...]:
    return tuple(
        (c.status, c.reason, c.message)
        for c in node_status.conditions
        if c.type == status.DESIRED_STATE
    )
