"""What is kept on disk of the agent's health: with what it was healthy, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ....errors import Unavailable
from ....model import Host, NodeSpec
from ....system import kept
from .. import rollback_order
from ..guard import Guard
from ..record import Notes, config_text_soon
from ..rollback import Healthy, RollbackState, back, changes, decode_healthy, encode, healthy_with
from ..spec import AgentSpec, agent_spec, as_read
from .actual import Actual
from .health import NoteHealthy, NoteUnhealthy, RollBack

KEPT = "agent-healthy.toml"
BYTES_AT_MOST = 8 << 20


class Memory:
    def __init__(self, spec: AgentSpec, node: NodeSpec, host: Host) -> None:
        self._spec = spec
        self._node = node
        self._host = host
        self._path = host.state / KEPT

    async def observe(self, actual: Actual, command: Sequence[str]) -> RollbackState:
        """What there is to go back to, and whether that could cost sessions.

        `command` is what runs the agent.
        """
        life, conditions, digest = actual.record.life, self._host.conditions(), self._host.digest
        text, _ = await config_text_soon(self._spec, "Agent's memory")
        read = as_read(text, life.inputs if life else {}, digest)
        healthy = kept_healthy(self._host.state)
        changed = changes(self._node, healthy) if healthy else ()
        held = None
        if healthy and changed:
            before = agent_spec(back(self._node, healthy))
            guard = Guard(before, self._host, "Agent (going back)")
            held = (await guard.observe(command, actual.record)).held
        return RollbackState(
            healthy=healthy,
            present=healthy_with(self._node, read),
            changes=changed,
            held=held,
            verdicts=conditions.verdicts,
            digest=conditions.digest,
            inputs=digest(dict(actual.desired)),
        )

    def keep(self, action: NoteHealthy | NoteUnhealthy | RollBack) -> None:
        """Raises Unavailable, where the disk is full for example. Blocks."""
        notes = Notes.of(self._host)
        try:
            match action:
                case NoteHealthy(healthy=healthy):
                    kept.keep_soon(self._path, encode(healthy), limit=BYTES_AT_MOST)
                    notes.update(lambda record: replace(record, unhealthy=None))
                case NoteUnhealthy(unhealthy=unhealthy):
                    notes.update(lambda record: replace(record, unhealthy=unhealthy))
                case RollBack(order=order):
                    rollback_order.give(self._host.state, order)
        except OSError as error:
            raise Unavailable(f"{error.filename or self._path}: {error.strerror}") from error


def kept_healthy(state: Path) -> Healthy | None:
    """With what the agent was healthy last; None also where that can't be read."""
    return kept.read(state / KEPT, decode_healthy, BYTES_AT_MOST)
