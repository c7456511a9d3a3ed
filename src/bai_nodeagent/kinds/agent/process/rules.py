"""How a living agent is judged, adopted and restarted: rules for every supervisor. Pure.

An agent that runs with other inputs than desired is restarted, as far as
`restart` and a token bucket allow.

Times are seconds since boot, suspended time included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from ....machine import Process
from ....model import Action, Plan, Status, Verdict
from ..backendai.liveness import judge_liveness
from ..environment.rules import PART, Switch, without_environment
from ..record import STARTING_S, Cause, Life, adopted, due
from ..sessions import SESSIONS_INTERVAL_S, HeldChange
from ..spec import AgentSpec, differing, unread
from .actual import Actual, facts, moment
from .starting import died, is_looping, switches
from .waits import change_wait_s, crash_left_s

# In a crash loop the first moment is longer, so that the condition does not flap with each try.
RECOVERING_S = 10.0
# What is missing may be put there without an event.
OBSTACLE_INTERVAL_S = 10.0
_PARTS_LISTED = 5

CAUSES: Mapping[Cause, str] = {
    "": "as desired",
    "first": "it does not run",
    "died": "it died",
    "changed": "what it was started with has changed",
    "stopped": "it is to be stopped",
}

ActionT = TypeVar("ActionT", bound=Action)


@dataclass(frozen=True, kw_only=True)
class NoteWell(Action):
    """Notes that the agent works, for the first time in this life, and where it answers."""

    verb: ClassVar[str] = "note_well"
    is_note: ClassVar[bool] = True
    at_s: float
    rpc: str

    @property
    def summary(self) -> str:
        return f"note that the agent answers at {self.rpc}"


def link_repairs(spec: AgentSpec, actual: Actual) -> tuple[Switch, ...]:
    """The switches that point a moved link back at the environment that the agent runs in.
    Empty unless that is the desired environment."""
    life = actual.record.life
    runs_in = life.inputs.get(PART) if life else None
    return switches(spec, actual) if runs_in and runs_in == actual.desired.get(PART) else ()


def judge_running(
    spec: AgentSpec,
    actual: Actual,
    main: Process | None,
    restart: tuple[ActionT, ...],
    revive: tuple[ActionT, ...],
) -> Plan[ActionT | NoteWell]:
    """The plan for a living agent.

    `restart` puts the desired inputs into force. `revive` restarts an agent whose main
    process lives on without its worker.
    """
    known = facts(actual, main)
    life = actual.record.life
    health, observe_again_in_s = _health(spec, actual)
    if health.reason == "WorkerDead":
        left_s = crash_left_s(actual.record.deaths, actual.now_s)
        return Plan(health, () if left_s > 0 else revive, left_s or None, known)
    differs = due(spec, actual.desired, life) if life else ()
    if life is None or not differs:
        return Plan(health, _note_if_well(actual), observe_again_in_s, known)
    wait_s: float | None = SESSIONS_INTERVAL_S
    if held := actual.risk.held:
        verdict = goes_on(held)
    elif actual.obstacle:
        verdict, wait_s = blocked(actual.obstacle), OBSTACLE_INTERVAL_S
    elif spec.rolled_back and health.status is not Status.TRUE:
        return Plan(health, restart, facts=known)  # as one that is dead: there is nothing to spare
    else:
        what = _listed(differs) if life.inputs else "it is not known what it was started with"
        verdict, wait_s = _when(spec, actual, what)
    if wait_s == 0:
        return Plan(verdict, restart, facts=known)
    if health.status is Status.FALSE:
        text = f"{health.message}; besides: {verdict.message}"
        return Plan(replace(health, message=text), (), observe_again_in_s, known)
    return Plan(verdict, _note_if_well(actual), wait_s, known)


def goes_on(held: HeldChange) -> Verdict:
    """A living agent is left alone, since ending it could cost sessions."""
    return replace(held.verdict, message=f"{held.verdict.message}; the agent is left running")


def blocked(obstacle: str) -> Verdict:
    """A healthy agent is not stopped for a start that is known to fail."""
    text = f"the agent is left running: a start with the desired inputs would fail, {obstacle}"
    return Verdict(Status.FALSE, "Blocked", text)


def _note_if_well(actual: Actual) -> tuple[NoteWell, ...]:
    life, liveness = actual.record.life, actual.liveness
    if life is None or life.well_s or liveness is None or not liveness.is_well:
        return ()
    return (NoteWell(at_s=actual.now_s, rpc=liveness.at),)


def _health(spec: AgentSpec, actual: Actual) -> tuple[Verdict, float | None]:
    record, life = actual.record, actual.record.life
    lived_s = actual.now_s - life.started_s if life else STARTING_S
    needed_s = RECOVERING_S if len(record.deaths) > 1 else STARTING_S
    verdict = Verdict(Status.TRUE, "Running")
    observe_again_in_s: float | None = None
    if actual.liveness is not None:
        was_well = life is not None and life.well_s > 0
        verdict, observe_again_in_s = judge_liveness(
            actual.liveness, actual.output, actual.last_lines, lived_s, was_well=was_well
        )
    if verdict.reason == "Starting" and is_looping(record):
        return died(actual, "; it is starting again"), observe_again_in_s  # no news of it yet
    if verdict.status is not Status.TRUE:
        return verdict, observe_again_in_s
    if lived_s >= needed_s or (actual.liveness is not None and len(record.deaths) < 2):
        return replace(verdict, message=_running_message(spec, actual)), observe_again_in_s
    if len(record.deaths) > 1:
        return died(actual, "; it runs again"), needed_s - lived_s
    return Verdict(Status.UNKNOWN, "Starting", "the agent has just been started"), (
        needed_s - lived_s
    )


def _running_message(spec: AgentSpec, actual: Actual) -> str:
    """The message of an agent that runs well; "" if there is nothing to report."""
    life = actual.record.life
    if life is None:
        return ""
    if life.unwritten:
        return f"its output goes to {life.output}, since it can't go to {life.unwritten}"
    if spared := differing(spec, actual.desired, life.inputs):
        return f"adopted as-is, not restarted for inputs that differ: {_listed(spared)}"
    changed = unread(actual.desired, life.inputs, actual.found)
    text = f"unmanaged keys changed since its start, no restart for that: {_listed(changed)}"
    return text if changed else actual.entrusted


def _by_hand(spec: AgentSpec, actual: Actual) -> str:
    """The command by which a person restarts the agent, where the daemon must not."""
    if spec.supervisor == "child":
        return "end it (SIGINT), and it is started anew"
    if switches(spec, actual):
        return f"`systemctl stop {spec.unit}`, and it is started anew, in its new environment"
    return f"`systemctl restart {spec.unit}`"


def _when(spec: AgentSpec, actual: Actual, what: str) -> tuple[Verdict, float | None]:
    """The verdict on a due restart, and its wait: 0 is now; None: until something changes."""
    text = f"the agent runs with other inputs than desired: {what}"
    if spec.restart == "manual":
        message = f'{text}; restart = "manual", so by hand: {_by_hand(spec, actual)}'
        return Verdict(Status.FALSE, "RestartPending", message), None
    if spec.restart == "idle" and actual.sessions != 0:
        pending_why = (
            "Docker can't be asked for sessions"
            if actual.sessions is None
            else (f"sessions run: {actual.sessions}")
        )
        message = f'{text}; restart = "idle", and {pending_why}'
        return Verdict(Status.UNKNOWN, "RestartPending", message), SESSIONS_INTERVAL_S
    wait_s = change_wait_s(actual.record.changes, actual.now_s)
    if wait_s > 0:
        at = moment(actual, actual.now_s + wait_s)
        message = f"{text}; restarted too often for changes, the next restart is at {at}"
        return Verdict(Status.UNKNOWN, "RestartPending", message), wait_s
    return Verdict(Status.UNKNOWN, "RestartPending", text), 0.0


def must_wait_to_adopt(spec: AgentSpec, actual: Actual) -> bool:
    """Whether an unrecorded agent is left alone, since its agent.toml can't be read now.
    With adopt = "as-is" it is adopted all the same."""
    return bool(actual.unread) and spec.adopt != "as-is" and spec.state == "running"


def left_alone(actual: Actual, what: str) -> Plan[ActionT]:
    text = f"{what}; it is adopted once agent.toml can be read: {actual.unread}"
    return Plan(Verdict(Status.UNKNOWN, "Adopting", text), observe_again_in_s=OBSTACLE_INTERVAL_S)


def adopted_life(spec: AgentSpec, actual: Actual, main: Process | None) -> Life:
    """The life of an agent that somebody else started.

    Inputs of other kinds are left out: each kind supplies its own at every observation.
    The environment is the linked one, if the link has not moved since the start.
    """
    started_s = main.started_s if main else actual.now_s
    observed = actual.environments
    is_at_home = main and observed is not None and observed.linked_s - actual.epoch_s < started_s
    found = actual.found if is_at_home else without_environment(actual.found)
    others = {part for part in found if any(each.owns(part) for each in spec.inputs)}
    found = {part: value for part, value in found.items() if part not in others}
    return adopted(spec, actual.desired, found, started_s, actual.record.wrote_s)


def _listed(parts: tuple[str, ...]) -> str:
    more = f" and {len(parts) - _PARTS_LISTED} more" if len(parts) > _PARTS_LISTED else ""
    return ", ".join(parts[:_PARTS_LISTED]) + more
