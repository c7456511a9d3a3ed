"""What a change would cost, asked of the node: the guard of running sessions.

Both AgentConfig and Agent ask it, each for itself, and find the same.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace

from ...agent_toml import is_readable
from ...agent_toml.ids import every_id
from ...errors import Refused, Stuck, Unavailable
from ...model import Host, Inputs, KeyPath
from ...system import kept, process
from ...system.blocking import in_thread
from ...typed import json_value, typed
from . import last_config
from .backendai import release
from .backendai.liveness import is_backendai
from .environment import environments
from .environment.environments import Environments
from .environment.rules import desired_part, found_part
from .process.search import Search
from .record import Life, Notes, Record, adopted, config_text_soon, due, ended_by
from .sessions import (
    NOT_KNOWN,
    Effect,
    HeldChange,
    Launch,
    Sessions,
    effect_of,
    ends_batch,
    losing,
    permit_for,
)
from .spec import AgentSpec, desired_inputs, differing, found_inputs, is_of_file, part_of

_REAL = ("ai.backend.agent",)
LOCK = "agent.lock"
VERSION_DEADLINE_S = 5.0


@dataclass(frozen=True)
class SessionRisk:
    """
    held    the change that is held back
    lost    the parts of the desired change that cost sessions, where some may run
    running  the running inputs of a living agent, empty if not known; None: no living agent
    desired  the desired inputs
    before  how the agent was started last
    is_last_config  agent.toml is as it was when it was last in line
    why     why ending the agent costs sessions, whatever has changed; "": the parts do
    is_guarded  it is Backend.AI's agent, whose sessions are guarded
    """

    held: HeldChange | None = None
    lost: tuple[str, ...] = ()
    running: Inputs | None = field(default=None, repr=False)
    desired: Inputs = field(default_factory=dict, repr=False)
    before: Launch | None = field(default=None, repr=False)
    is_last_config: bool = False
    why: str = ""
    is_guarded: bool = False

    def effect(self, key: KeyPath) -> Effect:
        """What it costs to bring that key of agent.toml into line."""
        part = part_of(key)
        return (
            effect_of(key, self.desired[part], self.running, self.lost)
            if part in self.desired
            else ""
        )


class Guard:
    def __init__(self, spec: AgentSpec, host: Host, asker: str) -> None:
        self._spec = spec
        self._host = host
        self._asker = asker
        self._desired = desired_inputs(spec, host.digest)
        self._path = host.state / "agent-launch.json"
        self._notes = Notes.of(host)
        self._search = Search(spec, host.runtime / LOCK, f"{asker}'s guard")

    def keep(self, launch: Launch) -> None:
        """Remembers how the agent is started, secrets of its environment and all. Blocks."""
        kept.keep(self._path, json.dumps(asdict(launch)).encode())

    def kept(self) -> Launch | None:
        return kept.read(self._path, lambda raw: typed(Launch, json_value(raw)))

    def note_write(self, current: str | None, *, is_real: bool) -> None:
        """Notes that agent.toml is about to be written, and its current text (None: no file): a
        running agent has not read the new one. Blocks."""
        now_s, inputs = process.now_s(), found_inputs(self._spec, current, self._host.digest)
        self._notes.update(lambda record: record.writes(now_s, inputs, is_real=is_real))

    async def observe(
        self,
        command: Sequence[str],
        record: Record | None = None,
        found: Inputs | None = None,
        desired: Inputs | None = None,
    ) -> SessionRisk:
        """`command` is what runs the agent; where nobody knows, it is taken for the real one.

        `found` is what a start would find now, and `desired` all inputs that are desired, where it
        is for the agent that is asked.
        """
        spec, digest, observed = self._spec, self._host.digest, await self._environments()
        record = record or self._notes.read()
        desired = {
            **self._desired,
            **desired_part(spec.install, observed, digest),
            **(desired or {}),
        }
        text, last_text = await self._text(), self._last_text()
        record = replace(record, wrote_s=self._notes.read().wrote_s)  # as of that text
        current = {**found_inputs(spec, text, digest), **found_part(observed, digest)}
        living = await self._living(record, command, desired, current)
        known = SessionRisk(
            running=living.inputs if living else None,
            desired=desired,
            before=self.kept(),
            is_last_config=text is not None and text == last_text,
        )
        if not is_backendai(spec.health, command or _REAL):
            return known
        known = replace(known, is_guarded=True)
        last = (living or record.life or Life({})).inputs or (current if living is None else {})
        parts = differing(spec, desired, last)
        if not is_of_file(last) and is_of_file(parts) and (living or not is_readable(text)):
            lost, why = parts, NOT_KNOWN
        elif lost := losing(spec, desired, last, known.before, found):
            why = ""
        else:
            lost, why = await self._ended(command, known, living)
        sessions = await self._sessions(text, last_text) if lost else Sessions(0)
        if sessions is not None and sessions.count == 0:
            return replace(known, why=why if why == NOT_KNOWN else "")
        permit = permit_for({**(found or {}), **desired}, last, lost)
        held = (
            HeldChange(lost, permit, sessions, why) if permit != spec.allow_session_loss else None
        )
        return replace(known, held=held, lost=lost, why=why)

    async def _ended(
        self, command: Sequence[str], known: SessionRisk, living: Life | None
    ) -> tuple[tuple[str, ...], str]:
        """The parts that the agent is to be stopped for, if its end costs sessions, and why."""
        spec = self._spec
        parts = (due(spec, known.desired, living) or ended_by(spec, living)) if living else ()
        if not living or not parts:
            return (), ""
        runs = known.before.command if known.before and living.pid else command
        why = ends_batch(await self._version(runs, living))
        return (parts if why else ()), why

    async def _living(
        self, record: Record, command: Sequence[str], desired: Inputs, current: Inputs
    ) -> Life | None:
        """The life of an agent that runs, as it is noted or will be once that one is adopted."""
        if record.life is not None:
            return None if record.life.is_over else record.life
        try:
            unrecorded = (await self._search.run(record, tuple(command))).unrecorded
        except (Stuck, Refused):
            return Life({})
        if unrecorded is None:
            return None
        spec, at_s = self._spec, unrecorded.started_s
        return adopted(spec, desired, current, at_s, record.wrote_s)

    async def _version(self, command: Sequence[str], life: Life) -> str:
        """Of the agent that runs; "" if that is not known, or another is installed by now."""
        started_s = time.time() - process.now_s() + life.started_s
        with contextlib.suppress(Stuck):
            return await in_thread(
                f"{self._asker}: the version that runs",
                lambda: _version_before(command, started_s),
                VERSION_DEADLINE_S,
            )
        return ""

    async def _text(self) -> str | None:
        return (await config_text_soon(self._spec, f"{self._asker}'s guard"))[0]

    def _last_text(self) -> str | None:
        """agent.toml as it was when it was last in line."""
        last = last_config.read(self._host.state)
        return None if last is None else last.raw.decode(errors="replace")

    async def _environments(self) -> Environments | None:
        """None: they are unmanaged, or can't be observed, which AgentEnvironment reports."""
        install = self._spec.install
        with contextlib.suppress(Refused, Unavailable, Stuck):
            return await environments.observe(install.path, self._asker) if install else None
        return None

    async def sessions(self) -> Sessions | None:
        """Those of the agents as they are, as they were, and as they are to be: their ids may be
        what changes. None: Docker can't be asked."""
        return await self._sessions(await self._text(), self._last_text())

    async def _sessions(self, *texts: str | None) -> Sessions | None:
        from ...system import docker  # heavy, and only for this question

        ids: Collection[str] | None = None
        with contextlib.suppress(ValueError):
            ids = every_id(texts, self._spec.values, self._spec.agent_id)
        try:
            since = await docker.sessions(ids, self._asker)
        except Unavailable:
            return None
        return Sessions(len(since), min(since, default=0.0))


def _version_before(command: Sequence[str], at_s: float) -> str:
    """The version that a command line runs if it was installed before that Unix time. Blocks."""
    with contextlib.suppress(OSError):
        found = release.find(command)
        return found.version if found and found.metadata.stat().st_mtime < at_s else ""
    return ""
