"""Protects running sessions: which changes would lose them, and how those are held back. Pure.

At its start the agent destroys every container of its own (label
`ai.backend.owner`) that its registry file lacks. Where it looks for that file
follows from some keys of agent.toml, from its working directory and from the
path of its virtual environment; and what another environment makes of what it
finds nobody knows. Of an agent of which it is not known what it runs with, any
change may be one of these; and some versions end sessions by being stopped.
While sessions run, such a change is held back as a whole: agent.toml is not written
at all, since the next crash would put it into force, and an agent that dies is
started as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ...desired import canonical
from ...model import Inputs, KeyPath, Status, Verdict
from .backendai.schema_faults import Version, version_of
from .environment.rules import PART
from .spec import SACRED, AgentSpec, differing, is_met, is_of_file, part_of

SESSIONS_INTERVAL_S = 30.0

Effect = Literal["", "harmless", "restart", "session-losing"]
"""What a change of agent.toml costs, once it is in force; "": nobody can tell."""

NOT_KNOWN = "it is not known what it runs with"
# Backend.AI up to there cancels the batch tasks of an agent that is stopped, and its manager
# destroys their sessions; since then they are resumed (execute_batch in ai/backend/agent/agent.py).
RESUMES_BATCH: Sequence[tuple[Version, Version]] = (
    ((25, 6, 9), (25, 7)),
    ((25, 9, 1), (1000,)),
)

# Of the agent's environment: where agent.toml is, and what stands above it.
SACRED_VARIABLES = ("BACKEND_CONFIG_FILE", "BACKEND_SCRATCH_ROOT")


@dataclass(frozen=True, slots=True)
class Launch:
    """With what a process was started, beside agent.toml."""

    command: tuple[str, ...]
    workdir: str
    user: str | None
    env: Mapping[str, str]

    @property
    def environment(self) -> Path | None:
        """The folder of the virtual environment that the program lies in."""
        return Path(self.command[0]).parent.parent if self.command else None


def launch_of(spec: AgentSpec) -> Launch:
    """As the document has it."""
    return Launch(spec.command, str(spec.workdir), spec.user, spec.env)


@dataclass(frozen=True, slots=True)
class Sessions:
    """The running containers of an agent, and since when the oldest runs (Unix time)."""

    count: int
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HeldChange:
    """A change that is held back.

    parts     of the inputs, that would cost sessions
    permit    what `allow-session-loss` has to say to let exactly this change through
    sessions  None: Docker can't be asked, so some are taken to run
    why       ending the agent, for whatever, would cost them; "": it is these parts that do
    """

    parts: tuple[str, ...]
    permit: str
    sessions: Sessions | None
    why: str = ""

    @property
    def verdict(self) -> Verdict:
        affected = "Docker can't be asked, so running sessions are assumed"
        if self.sessions is not None:
            since = datetime.fromtimestamp(self.sessions.since_s, UTC)
            affected = (
                f"sessions run: {self.sessions.count}, the oldest since {since:%Y-%m-%dT%H:%M:%SZ}"
            )
        what = f"a change of {', '.join(self.parts)} would lose the agent's sessions"
        if self.why:
            what = f"ending the agent may lose its sessions, since {self.why}"
        text = (
            f"{what}, and {affected}; "
            "nothing is changed until they have ended. Take the change back, or permit this very "
            f'one in the node\'s own document: [agent] allow-session-loss = "{self.permit}"'
        )
        return Verdict(Status.FALSE, "Blocked", text)


def ends_batch(version: str) -> str:
    """Why stopping an agent of that version ("": not known) costs its batch sessions, and "" where
    it does not. Nothing about a container says of which type its session is."""
    number = version_of(version)
    if any(first <= number < end for first, end in RESUMES_BATCH):
        return ""
    affected = f"agent {version}" if version else "an agent whose version is not known"
    return f"stopping {affected} ends batch sessions, and it is not known which sessions are"


def losing(
    spec: AgentSpec,
    desired: Inputs,
    running: Inputs,
    before: Launch | None,
    found: Inputs | None = None,
) -> tuple[str, ...]:
    """The parts of a change that would cost sessions; `running` is what the agent ran with last.

    before  how it was started then; None: that is not known
    found   what a start would find now: a key that no document names may have been changed
            by hand, and be put into force by a restart for another. None: nothing is started
    """
    if not is_of_file(running):
        return ()  # nobody knows what it ran with, if it ever did
    changed = differing(spec, desired, running)
    sacred = {part_of(key): key for key in SACRED}
    parts = [p for p in changed if p in sacred and not _is_default(spec, sacred[p], p in running)]
    if found is not None:
        parts += [p for p in sacred if p not in desired and found.get(p) != running.get(p)]
    if "workdir" in changed:
        parts.append("workdir")
    if PART in changed:
        parts.append(PART)
    if "env" in changed and (before is None or _sacred(before.env) != _sacred(spec.env)):
        parts.append("env")
    if "command" in changed and (before is None or before.environment != _environment(spec)):
        parts.append("the environment's path")
    return tuple(parts)


def _sacred(env: Mapping[str, str]) -> list[str | None]:
    return [env.get(name) for name in SACRED_VARIABLES]


def _is_default(spec: AgentSpec, key: KeyPath, has_one: bool) -> bool:
    """Whether a key only states the agent's default, so that it changes nothing."""
    default = SACRED[key]
    return not has_one and default is not None and spec.values.get(key) == default


def _environment(spec: AgentSpec) -> Path | None:
    return Launch(spec.command, "", None, {}).environment


def permit_for(desired: Inputs, running: Inputs, parts: Sequence[str]) -> str:
    """The digest of one change, of what is there and what is to be. Once the change is done, it
    permits nothing any more."""
    change = {
        part: [running.get(key, ""), desired.get(key, "")]
        for part in parts
        for key in [part if part in desired else "command"]
    }
    return "sha256:" + hashlib.sha256(canonical(change)).hexdigest()


def effect_of(key: KeyPath, desired: str, running: Inputs | None, lost: Sequence[str]) -> Effect:
    """What it costs to bring one key into line. `running`: what a living agent runs with."""
    part = part_of(key)
    if part in lost:
        return "session-losing"
    return "harmless" if running is None or is_met(part, desired, running) else "restart"
