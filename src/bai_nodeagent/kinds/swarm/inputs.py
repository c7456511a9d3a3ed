"""The swarm among the inputs of the agent.

The agent looks for a swarm when it starts, so one that started outside has to
start again inside. The input is the swarm's id alone: a node that comes back
into the same swarm, under a new node id, is no news to its agent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...model import Digest, Host, Inputs
from ...system import inotify
from .record import Notes, Record

PART = "swarm"


@dataclass(frozen=True)
class SwarmInput:
    """`model.AgentInput`. `observed` is what is remembered of the node's swarms."""

    name: str = "the node's swarm"
    deadline_s: float = 5.0

    def observe(self, host: Host) -> Record:
        return Notes(host.state).read()

    def found(self, observed: Record, digest: Digest) -> Inputs:
        return {PART: digest(observed.home)} if observed.home else {}

    def desired(
        self, observed: Record, running: Inputs, started_s: float, _now_s: float, digest: Digest
    ) -> Inputs:
        """An agent at whose start nobody noted a swarm found it all the same if the node was in
        it before."""
        if PART not in running and observed.since_s <= started_s:
            return {}
        return self.found(observed, digest)

    def owns(self, part: str) -> bool:
        return part == PART

    def changes(self, host: Host, _asker: str) -> AsyncIterator[None]:
        return inotify.changes([Notes(host.state).path])


def agent_input(document: Mapping[str, Any]) -> SwarmInput | None:
    return SwarmInput() if document.get("swarm", {}).get("state") == "joined" else None
