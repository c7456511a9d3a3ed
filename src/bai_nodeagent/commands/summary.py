"""What a plan comes to, in one line with the worst price first: `plan`'s first one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..kinds.agent.process.observe import NAME as AGENT
from ..model import Action, Status, Verdict

Effect = Literal["none", "change", "restart", "stop", "session-losing", "unknown"]


@dataclass(frozen=True, slots=True)
class Part:
    """One resource of a plan.

    actions     what would be done, notes left out
    is_adopted  an agent that runs is taken over
    is_known    it could be observed
    """

    name: str
    verdict: Verdict
    actions: tuple[Action, ...] = ()
    is_adopted: bool = False
    is_known: bool = True

    @property
    def is_in_line(self) -> bool:
        return not self.actions and (self.is_adopted or self.verdict.status is Status.TRUE)

    @property
    def is_disruptive(self) -> bool:
        return any(action.is_disruptive for action in self.actions)


@dataclass(frozen=True, slots=True)
class Sessions:
    """Those of the agent, where they matter.

    count       None: they could not be counted
    are_at_risk  the change may cost them
    """

    count: int | None
    are_at_risk: bool = False

    def __str__(self) -> str:
        if self.count is None:
            return "sessions could not be counted: take them as lost"
        run = {0: "no session runs", 1: "1 session runs"}.get(
            self.count, f"{self.count} sessions run"
        )
        return f"{run}, and may be LOST" if self.are_at_risk and self.count else run


def effect_of(parts: Sequence[Part], sessions: Sessions | None = None) -> Effect:
    """The worst that a plan does to the agent, else whether it does anything at all."""
    agent = next((part for part in parts if part.name == AGENT), None)
    if agent is not None and not agent.is_known:
        return "unknown"
    if agent is not None and agent.is_disruptive:
        if sessions and sessions.are_at_risk and sessions.count != 0:
            return "session-losing"
        return "restart" if any(a.restart_cause for a in agent.actions) else "stop"
    return "change" if any(part.actions for part in parts) else "none"


def summary(node: str, parts: Sequence[Part], sessions: Sessions | None = None) -> str:
    changes = [part for part in parts if part.actions]
    phrases = [_change(len(changes))]
    effect = effect_of(parts, sessions)
    match effect:
        case "unknown":
            phrases.append("what becomes of the agent is not known: take it as restarted")
        case "stop":
            phrases[0] += ", would STOP the agent"
        case "restart" | "session-losing":
            phrases[0] += ", would RESTART the agent"
    others = [part.name for part in changes if part.is_disruptive and part.name != AGENT]
    if others:
        phrases[0] += f"; would disturb {', '.join(others)}"
    if any(part.is_adopted for part in parts) and effect in ("none", "change"):
        phrases.append("the running agent is adopted, no restart")
    if sessions is not None and effect not in ("none", "change"):
        phrases.append(str(sessions))
    if waits := _unmet(parts):
        phrases.append(f"held back by {', '.join(waits)}")
    wrong = [part for part in parts if not part.actions and not part.is_in_line]
    if wrong:
        phrases.append(f"not in line: {', '.join(f'{p.name} {p.verdict.reason}' for p in wrong)}")
    return f"{node}: {'; '.join(phrases)}"


def _change(count: int) -> str:
    return "nothing would change" if count == 0 else f"{count} change{'s' if count > 1 else ''}"


def _unmet(parts: Sequence[Part]) -> list[str]:
    """What the plan's actions need, and what nothing in it brings about."""
    stuck = {p.name for p in parts if not p.actions and not p.is_in_line}
    needed = {need for part in parts for action in part.actions for need in action.needs}
    return sorted(stuck & needed)
