"""What is known of the agent at one observation, whoever supervises it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ....machine import Process
from ....model import Inputs, Scalar
from ..backendai.liveness import Liveness
from ..environment.environments import Environments
from ..guard import SessionRisk
from ..record import Record
from ..rollback import RollbackState


@dataclass(frozen=True, kw_only=True)
class Actual:
    """What every supervisor observes.

    epoch_s     the time of boot, as Unix time; turns times into dates for messages
    desired     the desired inputs
    found       the found inputs: those that a start now would have
    unread      why agent.toml can't be read now; "" if it can, or is missing
    last_lines  the end of the agent's output, secrets masked; quoted for a dead agent
    output      of a Backend.AI agent, searched for known errors; "" for any other agent
    liveness    of a living Backend.AI agent; None: being alive is enough
    occupied    the occupied ports that it needs; observed only while it does not run
    sessions    how many sessions run; None: not known, or not needed
    risk        what a change would cost
    rollback    the last healthy inputs, and what differs from them
    environments  None: they are unmanaged, or can't be observed
    not_switched  an environment that the link could not be switched to
    obstacle    why a start with the desired inputs would fail; "": nothing known
    entrusted   a sentence if root runs a program that others can change; "" if not
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


def facts(actual: Actual, main: Process | None) -> Mapping[str, Scalar]:
    if main is None:
        return {}
    return {"agent-pid": main.pid, "agent-started-at": moment(actual, main.started_s)}


def moment(actual: Actual, at_s: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(actual.epoch_s + at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pids(processes: Iterable[Process]) -> str:
    return ", ".join(str(process.pid) for process in sorted(processes))
