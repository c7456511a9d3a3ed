"""How an agent stands and when it may be started or restarted: rules for every supervisor. Pure.

- What is dead is started at once, and from the second death within a minute
  on after a growing wait, which ends when the desired inputs change.
- What runs with other inputs than desired is restarted, as far as `restart`
  and a token bucket allow.

Times are seconds since boot, suspended time included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar, TypeVar

from ....model import Action, Inputs, Plan, Scalar, Status, Verdict
from ....system.process import Process
from ..backendai.liveness import Liveness, judge_liveness
from ..backendai.log_patterns import why_dead
from ..environment.environments import Environments
from ..environment.rules import NAME as ENVIRONMENT
from ..environment.rules import PART, Switch, due_switch, without_environment
from ..guard import SessionRisk
from ..record import STARTING_S, Cause, Life, Record, adopted, due
from ..rollback import RollbackState
from ..sessions import SESSIONS_INTERVAL_S, HeldChange, launch_of
from ..spec import AgentSpec, differing, is_in_step, is_same_start, unread
from .waits import change_wait_s, crash_left_s, crash_wait_s

# In a crash loop the first moment is longer, so that the condition does not flap with each try.
RECOVERING_S = 10.0
# What is missing may be put there without an event.
OBSTACLE_INTERVAL_S = 10.0
_PARTS_LISTED = 5
# How long a start waits for agent.toml to be repaired, and how often it is looked at meanwhile.
REPAIR_S = 1.0
REPAIR_INTERVAL_S = 0.05
# Of AgentConfig: nothing is written, and what stands there is what the agent ran with.
_AS_IT_WAS = ("Incompatible", "IdentityChanged")

CAUSES: Mapping[Cause, str] = {
    "": "as desired",
    "first": "it does not run",
    "died": "it died",
    "changed": "its inputs changed",
    "stopped": "it is to be stopped",
}

ActionT = TypeVar("ActionT", bound=Action)


@dataclass(frozen=True, kw_only=True)
class Actual:
    """What every supervisor's look has in common.

    epoch_s     the boot in Unix time, to tell times to people
    desired     the desired inputs
    found       what an agent that starts now would find
    unread      why agent.toml can't be read now; "" where it can, or is not there
    last_lines  of the agent's output, secrets masked; told of an agent that died
    output      of a Backend.AI agent, to read its troubles from; "" of any other
    liveness    of a living Backend.AI agent; None: to live is enough
    occupied    strangers on the ports that it needs; looked for where it does not run
    sessions    how many sessions run; None: nobody can tell. Asked only where it matters
    risk        what a change would cost
    rollback    what there is to go back to
    environments  None: they are unmanaged, or can't be looked at
    not_switched  an environment that the link could not be put on
    obstacle    what would keep a start with other inputs than it has from succeeding
    entrusted   that root runs what is in the hands of others, as a sentence; "": it does not
    """

    now_s: float
    epoch_s: float
    record: Record
    desired: Inputs = field(repr=False)
    found: Inputs = field(repr=False)
    unread: str = ""
    last_lines: str = ""
    output: str = field(default="", repr=False)
    liveness: Liveness | None = None
    occupied: tuple[str, ...] = ()
    sessions: int | None = None
    risk: SessionRisk = field(default_factory=SessionRisk)
    rollback: RollbackState = field(default_factory=RollbackState)
    environments: Environments | None = None
    not_switched: str = ""
    obstacle: str = ""
    entrusted: str = ""


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


def switches(spec: AgentSpec, actual: Actual) -> tuple[Switch, ...]:
    """The switch of the environment that is due before the next start, while no agent lives."""
    name = due_switch(spec.install, actual.environments)
    if spec.install is None or name in ("", actual.not_switched) or actual.risk.held:
        return ()
    return (Switch(path=spec.install.path, name=name),)


def link_repairs(spec: AgentSpec, actual: Actual) -> tuple[Switch, ...]:
    """The switches that put the link back on the environment which the agent runs in, after
    somebody has moved it. None if the agent does not run as desired."""
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

    `restart` is what brings it into line when it is not; `revive` what brings
    one back whose main process lives on without the rest of it.
    """
    known = facts(actual, main)
    life = actual.record.life
    health, observe_again_in_s = _in_step(spec, actual)
    if health.reason == "WorkerDead":
        left_s = crash_left_s(actual.record.deaths, actual.now_s)
        return Plan(health, () if left_s > 0 else revive, left_s or None, known)
    differs = due(spec, actual.desired, life) if life else ()
    if life is None or not differs:
        return Plan(health, _news(actual), observe_again_in_s, known)
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
    return Plan(verdict, _news(actual), wait_s, known)


def goes_on(held: HeldChange) -> Verdict:
    """A living agent is left alone, since ending it could cost sessions."""
    return replace(held.verdict, message=f"{held.verdict.message}; the agent goes on as it is")


def blocked(obstacle: str) -> Verdict:
    """What can be looked at before a healthy agent is stopped is looked at before."""
    text = f"the agent goes on as it is: a start as desired would fail, {obstacle}"
    return Verdict(Status.FALSE, "Blocked", text)


def _news(actual: Actual) -> tuple[NoteWell, ...]:
    life, liveness = actual.record.life, actual.liveness
    if life is None or life.well_s or liveness is None or not liveness.is_well:
        return ()
    return (NoteWell(at_s=actual.now_s, rpc=liveness.at),)


def _in_step(spec: AgentSpec, actual: Actual) -> tuple[Verdict, float | None]:
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
        return replace(verdict, message=_besides(spec, actual)), observe_again_in_s
    if len(record.deaths) > 1:
        return died(actual, "; it runs again"), needed_s - lived_s
    return Verdict(Status.UNKNOWN, "Starting", "the agent has just been started"), (
        needed_s - lived_s
    )


def _besides(spec: AgentSpec, actual: Actual) -> str:
    """What there is to say of an agent that runs well; "" for nothing."""
    life = actual.record.life
    if life is None:
        return ""
    if life.unwritten:
        return f"its output goes to {life.output}, since it can't go to {life.unwritten}"
    if spared := differing(spec, actual.desired, life.inputs):
        return f"adopted as it is, no restart for what is not as desired: {_listed(spared)}"
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
    """Whether a due restart may be: 0 is now; None: not before something changes."""
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


def judge_dead(spec: AgentSpec, actual: Actual) -> tuple[Verdict, float, Cause]:
    """How a dead agent stands, how long its start has to wait, and the cause of that start."""
    record = actual.record
    if record.ending or not record.deaths:
        cause: Cause = "changed" if record.ending == "changed" else "first"
        return Verdict(Status.UNKNOWN, "Starting", "the agent does not run yet"), 0.0, cause
    crash_s, wait_s = crash_wait_s(record.deaths), crash_left_s(record.deaths, actual.now_s)
    # Never stuck on a bad target after somebody has fixed it, nor once more with it.
    if len(record.deaths) > 1 and _is_news(spec, actual):
        wait_s = min(wait_s, change_wait_s(record.changes, actual.now_s))
        return died(actual), wait_s, "changed"
    wait_s = max(wait_s, _repair_wait_s(spec, actual))
    return died(actual, f", waits {crash_s:.0f} s before the next start"), wait_s, "died"


def _repair_wait_s(spec: AgentSpec, actual: Actual) -> float:
    """Time to the next look while agent.toml is neither as desired nor as the agent had it.

    AgentConfig puts that right first, but what it said last is from before. It may not
    be able to, and then says so: this waits for moments only.
    """
    if actual.risk.held or is_in_step(spec, actual.desired, actual.found):
        return 0.0
    left_s = actual.record.deaths[-1] + REPAIR_S - actual.now_s
    return 0.0 if left_s <= 0 or _is_as_it_was(spec, actual, "died") else REPAIR_INTERVAL_S


def _is_news(spec: AgentSpec, actual: Actual) -> bool:
    """Whether a start now has other inputs than the last one had. An environment that is still
    being built does not count."""
    life = actual.record.life
    differs = differing(spec, actual.desired, life.inputs) if life else ()
    return any(part != PART or switches(spec, actual) for part in differs)


def is_looping(record: Record) -> bool:
    """Whether a mere start says nothing yet: the cause of the last death is known, or it was not
    the first death."""
    return len(record.deaths) > 1 or bool(record.deaths and record.trouble)


def start_needs(spec: AgentSpec, actual: Actual, cause: Cause) -> tuple[str, ...]:
    """What a start waits for.

    Sessions need their agent: one that died comes back as it was, whatever keeps agent.toml
    from being as desired: a change that is held back, or one that its version can't take.
    So does the agent of a node that has been booted beside such a change.
    And it runs in an old environment rather than not at all while another can't be built.
    """
    observed = actual.environments
    spared = {"AgentConfig"} if actual.risk.held or _is_as_it_was(spec, actual, cause) else set()
    spared |= {ENVIRONMENT} if observed is not None and observed.link else set()
    return tuple(need for need in spec.needs if need not in spared)


def _is_as_it_was(spec: AgentSpec, actual: Actual, cause: Cause) -> bool:
    """Whether a start has the inputs that the agent ran with last."""
    life, risk = actual.record.life, actual.risk
    if cause == "died":
        return life is not None and is_same_start(actual.found, life.inputs)
    config = actual.rollback.verdicts.get("AgentConfig")
    if cause != "first" or life is not None or config is None or config.reason not in _AS_IT_WAS:
        return False
    # The first life of this boot: of the one before, only these two are kept.
    is_same_launch = spec.supervisor == "systemd" or risk.before == launch_of(spec)
    return risk.is_last_config and is_same_launch


def is_rescue(spec: AgentSpec, actual: Actual, cause: Cause) -> bool:
    """Whether a start is that of one which died, and finds what that one had."""
    return spec.state == "running" and cause == "died" and _is_as_it_was(spec, actual, cause)


def moves_before_start(spec: AgentSpec, actual: Actual, cause: Cause) -> tuple[Switch, ...]:
    """The way into another environment for an agent that is down.

    One that died comes back where it was, if it can: it moves by a restart, which waits
    for all that a start in there needs.
    """
    is_home_whole = actual.environments is not None and actual.environments.is_usable
    return () if cause == "died" and is_home_whole else switches(spec, actual)


def died(actual: Actual, then: str = "") -> Verdict:
    """The verdict on a death, or on several in a row, with the agent's last words."""
    record = actual.record
    how = record.exit or "its exit status is not known"
    said = f"; its last lines:\n{actual.last_lines}" if actual.last_lines else ""
    is_loop = len(record.deaths) > 1
    times = f" {len(record.deaths)} times in a row" if is_loop else ""
    text = f"the agent died{times} ({how}){then if is_loop else ''}{said}"
    if trouble := why_dead(actual.output, record.exit) or record.trouble:
        return Verdict(Status.FALSE, trouble.reason, f"{trouble.message}; {text}")
    return Verdict(Status.FALSE, "CrashLoop" if is_loop else "Died", text)


def is_foreign(spec: AgentSpec, actual: Actual) -> bool:
    """Whether an agent that somebody else started is left alone, since nobody can know now what
    it has read. As-is the document vouches for it."""
    return bool(actual.unread) and spec.adopt != "as-is" and spec.state == "running"


def left_alone(actual: Actual, what: str) -> Plan[ActionT]:
    text = f"{what}; it is taken over once it is known what it has read: {actual.unread}"
    return Plan(Verdict(Status.UNKNOWN, "Adopting", text), observe_again_in_s=OBSTACLE_INTERVAL_S)


def taken_over(spec: AgentSpec, actual: Actual, main: Process | None) -> Life:
    """The life of an agent that somebody else started.

    What it found of other kinds they say themselves, at each look. Its environment
    is the one that the link leads to if nobody has moved that since.
    """
    started_s = main.started_s if main else actual.now_s
    observed = actual.environments
    is_at_home = main and observed is not None and observed.linked_s - actual.epoch_s < started_s
    found = actual.found if is_at_home else without_environment(actual.found)
    others = {part for part in found if any(each.owns(part) for each in spec.inputs)}
    found = {part: value for part, value in found.items() if part not in others}
    return adopted(spec, actual.desired, found, started_s, actual.record.wrote_s)


def facts(actual: Actual, main: Process | None) -> Mapping[str, Scalar]:
    if main is None:
        return {}
    return {"agent-pid": main.pid, "agent-started-at": moment(actual, main.started_s)}


def moment(actual: Actual, at_s: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(actual.epoch_s + at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pids(processes: Iterable[Process]) -> str:
    return ", ".join(str(process.pid) for process in sorted(processes))


def _listed(parts: tuple[str, ...]) -> str:
    more = f" and {len(parts) - _PARTS_LISTED} more" if len(parts) > _PARTS_LISTED else ""
    return ", ".join(parts[:_PARTS_LISTED]) + more
