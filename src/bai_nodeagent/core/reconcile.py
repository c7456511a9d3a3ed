"""One pass over one resource: observe, plan, apply the first action, observe again.

The only place that owns deadlines of resources and catches everything, so
that one resource's fault, or bug, is its own condition and nobody else's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import anyio
import structlog

from ..errors import Overtaken, Refused, Stuck, Unavailable
from ..model import (
    Action,
    AnyResource,
    Host,
    Kind,
    NodeSpec,
    Outcome,
    Plan,
    Scalar,
    Status,
    Verdict,
)
from ..system.blocking import in_thread

# A plan that is still not empty after so many actions does not converge:
# somebody else changes the node as fast as we do, or the plan is wrong.
ACTIONS_AT_MOST = 20
# A watch that held this long was a good one: its next break starts counting anew.
WATCH_STABLE_S = 60.0
WATCH_PAUSE_MOST_S = 30.0
# An edit of a whole MiB of empty lines took 14 s on a loaded machine; of a real file, milliseconds.
PLAN_DEADLINE_S = 15.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an action may not be applied now."""

    verdict: Verdict
    observe_again_in_s: float | None = None
    is_progressing: bool = False


class Witness(Protocol):
    """Receives the events of a pass: for metrics, status and the watchdog."""

    def begins(self, name: str, deadline_s: float) -> None: ...

    def applies(self, outcome: Outcome, action: Action) -> None: ...

    def applied(self, name: str, action: Action) -> None: ...


async def reconcile(
    resource: AnyResource,
    objection: Callable[[Action], Objection | None],
    witness: Witness,
) -> Outcome:
    """Brings a resource into line as far as `objection` lets it. Never raises.

    `objection` is asked before each action, so what it says may change in the
    middle of a plan: a pause, a newer desired state, a need that broke.
    """
    applied: list[Action] = []
    overtaken = 0
    observed: Mapping[str, Scalar] | None = None
    try:
        while True:
            plan = await _planned_in_a_pass(resource, witness)
            observed = plan.facts
            outcome, action = _judged(resource.name, plan, tuple(applied), objection)
            if action is None:
                return outcome
            if not action.is_note:
                witness.applies(outcome, action)
            try:
                await _apply(resource, action, witness)
            except Overtaken as error:
                overtaken += 1
                if overtaken >= ACTIONS_AT_MOST:
                    raise Unavailable(f"{error}, again and again") from error
                continue
            applied.append(action)
            observed = None
    except Exception as error:
        fault = _fault(resource.name, error, tuple(applied))
        return replace(fault, facts=observed or {}, is_observed=observed is not None)


def build(kind: Kind, spec: NodeSpec, host: Host) -> list[AnyResource]:
    """The resources that a kind makes of a desired state; a bug in it is one broken resource."""
    try:
        return kind.resources(spec, host)
    except Exception as error:
        name = "".join(part.capitalize() for part in kind.section.split("-"))
        return [_Broken(name, error)]


async def watch(resource: AnyResource, wake: Callable[[], None]) -> None:
    """Runs a resource's watch for ever. If it breaks, starts it again and wakes the resource."""
    failures = 0
    while True:
        started_s = time.monotonic()
        try:
            await resource.watch(wake)
        except Exception as error:
            plain = _plain(error)
            if isinstance(plain, Unavailable):
                log.debug("watch.unavailable", resource=resource.name, error=str(plain))
            else:
                log.exception("resource.bug", resource=resource.name, exc_info=error)
        failures = 1 if time.monotonic() - started_s > WATCH_STABLE_S else failures + 1
        await anyio.sleep(min(2.0 ** min(failures - 1, 10), WATCH_PAUSE_MOST_S))
        wake()


@dataclass(frozen=True)
class _Broken:
    """Stands for resources that could not be built, so that the fault shows as a condition."""

    name: str
    spec: Exception
    deadline_s: float = 1.0

    async def observe(self) -> None:
        raise self.spec

    def plan(self, actual: None) -> Plan[Action]:
        raise self.spec

    async def apply(self, action: Action) -> None:
        raise self.spec

    async def watch(self, wake: Callable[[], None]) -> None:
        await anyio.sleep_forever()


async def plan_or_fault(resource: AnyResource) -> Plan[Action] | Outcome:
    """The plan of a resource as the node is, for people to read; a fault as its outcome."""
    try:
        return await _planned(resource)
    except Exception as error:
        return _fault(resource.name, error, ())


async def _planned_in_a_pass(resource: AnyResource, witness: Witness) -> Plan[Action]:
    witness.begins(resource.name, resource.deadline_s + PLAN_DEADLINE_S)
    return await _planned(resource)


async def _planned(resource: AnyResource) -> Plan[Action]:
    """Plans in a thread: the input is what others have written, and may keep a plan busy."""
    with anyio.fail_after(resource.deadline_s):
        actual = await resource.observe()
    return await in_thread(f"{resource.name}: plan", lambda: resource.plan(actual), PLAN_DEADLINE_S)


async def _apply(resource: AnyResource, action: Action, witness: Witness) -> None:
    witness.begins(resource.name, action.deadline_s)
    started_s = time.monotonic()
    with anyio.fail_after(action.deadline_s):
        await resource.apply(action)
    witness.applied(resource.name, action)
    write = log.debug if action.is_note else log.info
    write(
        "action.applied",
        resource=resource.name,
        action=action.summary,
        seconds=round(time.monotonic() - started_s, 3),
        **({"diff": action.diff} if action.diff else {}),
    )


def _judged(
    name: str,
    plan: Plan[Action],
    applied: tuple[Action, ...],
    objection: Callable[[Action], Objection | None],
) -> tuple[Outcome, Action | None]:
    """What an observation comes to, and the action to apply next, if any."""
    outcome = Outcome(
        name,
        "changed" if applied else "in_sync",
        plan.verdict,
        applied,
        plan.actions,
        plan.observe_again_in_s,
        plan.facts,
        is_progressing=plan.verdict.status is Status.UNKNOWN,
        satisfies_dependents=plan.satisfies_dependents,
    )
    if not plan.actions:
        is_bad = plan.verdict.status is Status.FALSE and not applied
        return (replace(outcome, result="failed") if is_bad else outcome), None
    action = plan.actions[0]
    if len(applied) >= ACTIONS_AT_MOST:
        text = f"still not in line after {len(applied)} actions; next: {action.summary}"
        verdict = Verdict(Status.FALSE, "NotConverging", text)
        return replace(outcome, result="failed", verdict=verdict), None
    if action.is_note:
        return outcome, action
    if held := objection(action):
        verdict = replace(held.verdict, message=f"{held.verdict.message}; to do: {action.summary}")
        blocked = replace(
            outcome,
            result="blocked",
            verdict=verdict,
            observe_again_in_s=held.observe_again_in_s,
            is_progressing=held.is_progressing,
        )
        return blocked, None
    under_way = Verdict(Status.UNKNOWN, "Progressing", action.summary)
    return replace(outcome, result="changed", verdict=under_way, is_progressing=True), action


def _plain(error: Exception) -> Exception:
    """The error itself where a task group has wrapped it, alone or beside what is Unavailable."""
    while isinstance(error, ExceptionGroup):
        _, others = error.split(Unavailable)
        if others is not None and len(others.exceptions) > 1:
            break
        error = (others or error).exceptions[0]
    return error


def _fault(name: str, error: Exception, applied: tuple[Action, ...]) -> Outcome:
    error = _plain(error)
    match error:
        case Refused():
            verdict = Verdict(Status.FALSE, error.reason, error.message)
        case Stuck():
            verdict = Verdict(Status.UNKNOWN, "Stuck", str(error))
        case Unavailable():
            verdict = Verdict(Status.UNKNOWN, "Unavailable", str(error))
        case TimeoutError():
            verdict = Verdict(Status.UNKNOWN, "Timeout", "did not finish in time; tried again")
        case _:
            log.error("resource.bug", resource=name, exc_info=error)
            verdict = Verdict(
                Status.UNKNOWN,
                "InternalError",
                f"{type(error).__name__}; the log has the traceback",
            )
    return Outcome(name, "failed", verdict, applied)
