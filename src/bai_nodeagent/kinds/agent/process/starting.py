"""When an agent that is down may be started, and with what. Pure.

A dead agent is started at once. From the second death within a minute on, each start waits
longer. The wait ends when the desired inputs change.
"""

from __future__ import annotations

from ....model import Status, Verdict
from ..backendai.log_patterns import why_dead
from ..environment.rules import NAME as ENVIRONMENT
from ..environment.rules import PART, Switch, due_switch
from ..record import Cause, Record
from ..sessions import launch_of
from ..spec import AgentSpec, differing, is_in_step, is_same_start
from .actual import Actual
from .waits import change_wait_s, crash_left_s, crash_wait_s

# How long a start waits for agent.toml to be repaired, and how often it is observed meanwhile.
REPAIR_S = 1.0
REPAIR_INTERVAL_S = 0.05
# Reasons of AgentConfig with which agent.toml stays as the agent last read it.
_AS_IT_WAS = ("Incompatible", "IdentityChanged")


def switches(spec: AgentSpec, actual: Actual) -> tuple[Switch, ...]:
    """The switch of the environment that is due before the next start, while no agent lives."""
    name = due_switch(spec.install, actual.environments)
    if spec.install is None or name in ("", actual.not_switched) or actual.risk.held:
        return ()
    return (Switch(path=spec.install.path, name=name),)


def judge_dead(spec: AgentSpec, actual: Actual) -> tuple[Verdict, float, Cause]:
    """The verdict on a dead agent, how long its start has to wait, and the start's cause."""
    record = actual.record
    if record.ending or not record.deaths:
        cause: Cause = "changed" if record.ending == "changed" else "first"
        return Verdict(Status.UNKNOWN, "Starting", "the agent does not run yet"), 0.0, cause
    crash_s, wait_s = crash_wait_s(record.deaths), crash_left_s(record.deaths, actual.now_s)
    # Other inputs may be the fix, so they don't wait for the crash backoff.
    if len(record.deaths) > 1 and _has_new_inputs(spec, actual):
        wait_s = min(wait_s, change_wait_s(record.changes, actual.now_s))
        return died(actual), wait_s, "changed"
    wait_s = max(wait_s, _repair_wait_s(spec, actual))
    return died(actual, f", waits {crash_s:.0f} s before the next start"), wait_s, "died"


def _repair_wait_s(spec: AgentSpec, actual: Actual) -> float:
    """Time to the next observation while agent.toml is neither as desired nor as the agent had it.

    AgentConfig repairs the file first, but its last verdict may be older than the damage.
    If it can't, its next verdict blocks the start; so this wait is short.
    """
    if actual.risk.held or is_in_step(spec, actual.desired, actual.found):
        return 0.0
    left_s = actual.record.deaths[-1] + REPAIR_S - actual.now_s
    return 0.0 if left_s <= 0 or _is_as_it_was(spec, actual, "died") else REPAIR_INTERVAL_S


def _has_new_inputs(spec: AgentSpec, actual: Actual) -> bool:
    """Whether a start now has other inputs than the last one had. An environment that is still
    being built does not count."""
    life = actual.record.life
    differs = differing(spec, actual.desired, life.inputs) if life else ()
    return any(part != PART or switches(spec, actual) for part in differs)


def is_looping(record: Record) -> bool:
    """Whether a new start is no good news yet: the last death has a known cause, or was not
    the first one."""
    return len(record.deaths) > 1 or bool(record.deaths and record.trouble)


def start_needs(spec: AgentSpec, actual: Actual, cause: Cause) -> tuple[str, ...]:
    """What a start waits for.

    Sessions need their agent, so a dead agent is started as before even while agent.toml can't
    be as desired: a change is held back, or the agent's version can't take it. The same holds
    for the first start after a boot. And while the desired environment can't be built, the
    agent runs in the old one.
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
    """Whether a start revives an agent that died, with the same inputs."""
    return spec.state == "running" and cause == "died" and _is_as_it_was(spec, actual, cause)


def moves_before_start(spec: AgentSpec, actual: Actual, cause: Cause) -> tuple[Switch, ...]:
    """The switch to another environment before an agent that is down is started.

    An agent that died is started in its old environment, if that is usable. A later restart
    moves it; that one waits for everything that a start in the new environment needs.
    """
    is_home_whole = actual.environments is not None and actual.environments.is_usable
    return () if cause == "died" and is_home_whole else switches(spec, actual)


def died(actual: Actual, then: str = "") -> Verdict:
    """The verdict on a death, or on several in a row, with the agent's last words."""
    record = actual.record
    how = record.exit or "its exit status is not known"
    quoted = f"; its last lines:\n{actual.last_lines}" if actual.last_lines else ""
    is_loop = len(record.deaths) > 1
    times = f" {len(record.deaths)} times in a row" if is_loop else ""
    text = f"the agent died{times} ({how}){then if is_loop else ''}{quoted}"
    if trouble := why_dead(actual.output, record.exit) or record.trouble:
        return Verdict(Status.FALSE, trouble.reason, f"{trouble.message}; {text}")
    return Verdict(Status.FALSE, "CrashLoop" if is_loop else "Died", text)
