"""What a change would cost, asked of the node: the guard of running sessions.

Both AgentConfig and Agent ask it, each for itself, and find the same.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field

from ..model import Host, KeyPath, Stuck, Unavailable
from ..system import environments, files
from ..system.environments import Environments
from .ids import every_id
from .install import found_part, wanted_part
from .record import Notes, Record, config_text
from .sessions import Effect, Held, Launch, Sessions, effect_of, losing, permit_for
from .signs import is_backendai
from .spec import AgentSpec, Inputs, found, part_of, wanted

_REAL = ("ai.backend.agent",)
LAST_CONFIG = "agent-config.last"


@dataclass(frozen=True)
class Caution:
    """
    held    the change that is held back
    lost    the parts of the desired change that cost sessions, where some may run
    has     what a living agent runs with, empty where nobody knows; None: none lives
    wants   what it is to run with
    before  how the agent was started last
    is_last_config  agent.toml stands as it was when it was last in line
    """

    held: Held | None = None
    lost: tuple[str, ...] = ()
    has: Inputs | None = field(default=None, repr=False)
    wants: Inputs = field(default_factory=dict, repr=False)
    before: Launch | None = field(default=None, repr=False)
    is_last_config: bool = False

    def effect(self, key: KeyPath) -> Effect:
        """What it costs to bring that key of agent.toml into line."""
        part = part_of(key)
        return effect_of(key, self.wants[part], self.has, self.lost) if part in self.wants else ""


class Guard:
    def __init__(self, spec: AgentSpec, host: Host, asker: str) -> None:
        self._spec = spec
        self._host = host
        self._asker = asker
        self._wants = wanted(spec, host.digest)
        self._path = host.state / "agent-launch.json"

    def keep(self, launch: Launch) -> None:
        """Remembers how the agent is started, secrets of its environment and all. Blocks."""
        files.replace(self._path, json.dumps(asdict(launch)).encode(), mode=0o600)

    def kept(self) -> Launch | None:
        data = files.read_if_there(self._path)
        with contextlib.suppress(ValueError, TypeError):
            fields = json.loads(data or b"")
            return Launch(**{**fields, "command": tuple(fields["command"])})
        return None

    async def look(
        self,
        command: Sequence[str],
        record: Record | None = None,
        finds: Inputs | None = None,
    ) -> Caution:
        """`command` is what runs the agent; where nobody knows, it is taken for the real one.

        `finds` is what a start would find now, where it is for the agent that is asked.
        """
        spec = self._spec
        life = (record or Notes(self._host.runtime).read()).life
        has = life.inputs if life and not life.is_over else None
        digest, seen = self._host.digest, await self._environments()
        wants = {**self._wants, **wanted_part(spec.install, seen, digest)}
        if not is_backendai(spec.health, command or _REAL):
            return Caution(has=has, wants=wants)
        before, text, last_text = self.kept(), config_text(spec), self._last_text()
        is_last_config = text is not None and text == last_text
        stands = {**found(spec, text, digest), **found_part(seen, digest)}
        last = (life.inputs if life else None) or stands
        lost = losing(spec, wants, last, before, finds)
        sessions = await self._sessions(text, last_text) if lost else Sessions(0)
        if sessions is not None and sessions.count == 0:
            return Caution(None, (), has, wants, before, is_last_config)
        permit = permit_for({**(finds or {}), **wants}, last, lost)
        held = Held(lost, permit, sessions) if permit != spec.allow_session_loss else None
        return Caution(held, lost, has, wants, before, is_last_config)

    def _last_text(self) -> str | None:
        """agent.toml as it was when it was last in line."""
        kept = files.read_if_there(self._host.state / LAST_CONFIG)
        return None if kept is None else kept.decode(errors="replace")

    async def _environments(self) -> Environments | None:
        """None where they are unmanaged, or can't be looked at: AgentEnvironment tells of that."""
        install = self._spec.install
        with contextlib.suppress(Unavailable, Stuck):
            return await environments.look(install.path, self._asker) if install else None
        return None

    async def sessions(self) -> Sessions | None:
        """Those of the agents as they are, as they were, and as they are to be: their ids may be
        what changes. None: Docker can't be asked."""
        return await self._sessions(config_text(self._spec), self._last_text())

    async def _sessions(self, *texts: str | None) -> Sessions | None:
        from ..system import docker  # heavy, and only for this question

        ids: Collection[str] | None = None
        with contextlib.suppress(ValueError):
            ids = every_id(texts, self._spec.values, self._spec.agent_id)
        try:
            since = await docker.sessions(ids, self._asker)
        except Unavailable:
            return None
        return Sessions(len(since), min(since, default=0.0))
