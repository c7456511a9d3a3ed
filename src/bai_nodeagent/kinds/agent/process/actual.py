"""What is known of the agent at one observation, whoever supervises it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ....model import Inputs, Scalar
from ....system.process import Process
from ..backendai.liveness import Liveness
from ..environment.environments import Environments
from ..guard import SessionRisk
from ..record import Record
from ..rollback import RollbackState


@dataclass(frozen=True, kw_only=True)
class Actual:
    """What every supervisor observes.

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


def facts(actual: Actual, main: Process | None) -> Mapping[str, Scalar]:
    if main is None:
        return {}
    return {"agent-pid": main.pid, "agent-started-at": moment(actual, main.started_s)}


def moment(actual: Actual, at_s: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(actual.epoch_s + at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pids(processes: Iterable[Process]) -> str:
    return ", ".join(str(process.pid) for process in sorted(processes))
