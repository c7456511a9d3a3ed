"""What a plan comes to, in its first line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from bai_nodeagent.commands.summary import Part, Sessions, effect_of, summary
from bai_nodeagent.model import Action, Status, Verdict

IN_LINE = Verdict(Status.TRUE, "InSync")
OUT = Verdict(Status.FALSE, "Drift")
BLOCKED = Verdict(Status.FALSE, "Blocked")


@dataclass(frozen=True, kw_only=True)
class Write(Action):
    verb: ClassVar[str] = "write"
    needs: tuple[str, ...] = ()
    restart_cause: str = ""


@dataclass(frozen=True, kw_only=True)
class Stop(Action):
    verb: ClassVar[str] = "stop"
    is_disruptive: ClassVar[bool] = True
    needs: tuple[str, ...] = ()


def restart(*needs: str) -> tuple[Action, ...]:
    return (Stop(needs=needs), Write(restart_cause="changed", needs=needs))


CONFIG = Part("AgentConfig", IN_LINE)
WRITTEN = Part("AgentConfig", OUT, (Write(),))
AGENT = Part("Agent", IN_LINE)
ADOPTED = Part("Agent", Verdict(Status.UNKNOWN, "Adopting"), is_adopted=True)
RESTARTED = Part("Agent", OUT, restart("AgentConfig"))


@pytest.mark.parametrize(
    ("parts", "sessions", "effect", "line"),
    [
        ([CONFIG, AGENT], None, "none", "nothing would change"),
        (
            [CONFIG, ADOPTED],
            None,
            "none",
            "nothing would change; the running agent is adopted, no restart",
        ),
        (
            [WRITTEN, ADOPTED],
            None,
            "change",
            "1 change; the running agent is adopted, no restart",
        ),
        (
            [WRITTEN, RESTARTED],
            Sessions(3),
            "restart",
            "2 changes, would RESTART the agent; 3 sessions run",
        ),
        (
            [WRITTEN, RESTARTED],
            Sessions(1, are_at_risk=True),
            "session-losing",
            "2 changes, would RESTART the agent; 1 session runs, and may be LOST",
        ),
        (
            [CONFIG, RESTARTED],
            Sessions(None),
            "restart",
            "1 change, would RESTART the agent; sessions could not be counted: take them as lost",
        ),
        (
            [CONFIG, Part("Agent", OUT, (Stop(),))],
            Sessions(0),
            "stop",
            "1 change, would STOP the agent; no session runs",
        ),
        (
            [Part("AgentConfig", BLOCKED), Part("Agent", BLOCKED)],
            None,
            "none",
            "nothing would change; not in line: AgentConfig Blocked, Agent Blocked",
        ),
        (
            [Part("AgentConfig", Verdict(Status.FALSE, "IdentityChanged")), RESTARTED],
            Sessions(0),
            "restart",
            "1 change, would RESTART the agent; no session runs; held back by AgentConfig; "
            "not in line: AgentConfig IdentityChanged",
        ),
        (
            [CONFIG, Part("Agent", Verdict(Status.UNKNOWN, "Timeout"), is_known=False)],
            None,
            "unknown",
            "nothing would change; what becomes of the agent is not known: take it as restarted; "
            "not in line: Agent Timeout",
        ),
        (
            [Part("Mount/vfroot", OUT, (Stop(),)), AGENT],
            None,
            "change",
            "1 change; would disturb Mount/vfroot",
        ),
    ],
)
def test_the_first_line_bears_the_worst_price(
    parts: list[Part], sessions: Sessions | None, effect: str, line: str
) -> None:
    assert summary("i-node17", parts, sessions) == f"i-node17: {line}"
    assert effect_of(parts, sessions) == effect
