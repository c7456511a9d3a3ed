"""agent.toml on this node, kept in line key by key.

Invariants:

- The file is written whole or not at all, and only if it still is what the
  plan was made from. At no moment may others read a secret in it.
- `<state>/agent-config.last` is the last content that was seen in line, so
  whatever breaks or deletes the file costs no unmanaged key and no comment.
- What is not known holds: a broken file without such a content is left alone.
- Broken content is replaced only once a copy of it lies beside the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_args

import anyio

from .... import agent_toml
from ....errors import Refused, Stuck, Unavailable
from ....machine import Account
from ....model import AnyResource, Host, Kind, NodeSpec, Plan, Wake
from ....system import inotify, launch
from ....system.blocking import in_thread
from ....system.systemd import Systemd, UnitState
from ..backendai import validation
from ..backendai.liveness import is_backendai
from ..backendai.validation import Asker, readers
from ..given import Given
from ..guard import Guard
from ..spec import AgentSpec, agent_spec, fingerprint
from .disk import Disk
from .rules import AgentConfigAction, Write, candidates, plan
from .state import Actual, AgentConfigSpec, text_of

SECTION = "agent-config"
# A plain editor truncates, then writes: a read in between sees a part, which may
# even be TOML. What takes longer than all these observations is judged as it is.
SETTLE_S = 0.2
OBSERVATIONS_AT_MOST = 6
# Some ten times what there is to be said of an agent. Reading so many takes 0.1 s.
VALUES_AT_MOST = 2000
DISK_DEADLINE_S = 5.0
ACCOUNT_DEADLINE_S = 5.0
EDIT_DEADLINE_S = 10.0

T = TypeVar("T")


class AgentConfig:
    name = "AgentConfig"
    deadline_s = 20.0 + validation.DEADLINE_S

    def __init__(self, spec: AgentConfigSpec, host: Host) -> None:
        self.spec = spec
        self._host = host
        self._redact = host.redact
        self._given = Given(host.runtime, host.learn_passing)
        self._disk = Disk(spec, host.state)
        self._guard = Guard(spec.agent, host, self.name) if spec.agent else None

    async def observe(self) -> Actual:
        """Looks again while somebody writes the file, and until a file that is not TOML has not
        changed between two observations."""
        actual = await self._observe()
        for _ in range(OBSERVATIONS_AT_MOST):
            is_open = actual.is_being_written
            if actual.file is None or (agent_toml.is_usable(actual.file.raw) and not is_open):
                break
            await anyio.sleep(SETTLE_S)
            earlier, actual = actual, await self._observe()
            if earlier.file == actual.file and not is_open:
                break
        for file in (actual.file, actual.last):
            self._given.observe(text_of(file) or "")
        return await self._with_agent(actual)

    async def _observe(self) -> Actual:
        return await self._asked("look at", self._disk.observe)

    async def _asked(self, what: str, call: Callable[[], T]) -> T:
        return await in_thread(f"{self.name}: {what} {self.spec.path}", call, DISK_DEADLINE_S)

    async def _with_agent(self, actual: Actual) -> Actual:
        """What is to be known of the agent that reads the file."""
        agent = self.spec.agent
        if agent is None or self._guard is None or agent.health == "process":
            return actual
        command, user, account = await self._runs(agent)
        actual = replace(actual, user=account or actual.user)
        guarded = replace(actual, risk=await self._guard.observe(command))
        if not is_backendai(agent.health, command):
            return guarded
        found = await readers(agent, command, self.name)
        real = replace(guarded, is_real=True, version=found.version, coming=found.wanted)
        texts = () if real.risk.held else await self._candidates(real)
        asker = Asker(agent, self._host, self.name, user)
        return replace(real, opinions=await asker.opinions(found, filter(None, texts)))

    async def _candidates(self, actual: Actual) -> tuple[str, ...]:
        """In a thread, as the plan: an edit of others' text may take long."""
        what = f"{self.name}: edit {self.spec.path}"
        return await in_thread(what, lambda: candidates(self.spec, actual), EDIT_DEADLINE_S)

    async def _runs(self, agent: AgentSpec) -> tuple[tuple[str, ...], str | None, Account | None]:
        """The command that runs the agent, and as whom: see Asker; and who a unit makes that."""
        if agent.supervisor == "child":
            return agent.command, agent.user, None
        try:
            unit = await Systemd().unit(agent.unit)
        except (Unavailable, Refused, Stuck):
            return agent.command, agent.user or "", None  # for the condition Agent to say
        command = agent.command or next(iter(unit.exec_start), ())
        return command, agent.user or unit.user or "root", await self._account(unit)

    async def _account(self, unit: UnitState) -> Account | None:
        """None where nobody says, or systemd makes one up."""
        if unit.is_apart or not unit.user:
            return None
        with contextlib.suppress(Refused, Stuck):  # that there is none is for systemd to say
            return await in_thread(
                f"{self.name}: the account of {unit.name}",
                lambda: launch.in_groups(launch.account(unit.user), unit.group, unit.groups),
                ACCOUNT_DEADLINE_S,
            )
        return None

    def plan(self, actual: Actual) -> Plan[AgentConfigAction]:
        made = plan(self.spec, actual, self._redact)
        known = {"agent-version": actual.version} if actual.version else {}
        return replace(made, facts=known)

    async def apply(self, action: AgentConfigAction) -> None:
        if isinstance(action, Write):
            before = (action.expected or b"").decode(errors="replace")
            self._given.replaced(before, self.spec.secret_paths)
        await self._asked("write", lambda: self._apply(action))

    def _apply(self, action: AgentConfigAction) -> None:
        if isinstance(action, Write) and self._guard:
            current = None if action.expected is None else action.expected.decode(errors="replace")
            self._guard.note_write(current, is_real=action.is_real)
        self._disk.apply(action)

    async def watch(self, wake: Wake) -> None:
        with contextlib.suppress(Refused, Unavailable, Stuck):  # the next observation reports it
            await self._asked("sweep around", self._disk.sweep)
        async for _ in inotify.changes([self.spec.path], is_written_by_others=True):
            wake()


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    if node.agent_values is None:
        return []
    section = node.document.get(SECTION, {})
    mode = section.get("mode")
    spec = AgentConfigSpec(
        path=node.agent_config_path,
        owner=section.get("owner"),
        mode=int(mode, 8) if mode else None,
        values=node.agent_values,
        optional=node.optional,
        secret_paths=node.secret_paths,
        address=node.address,
        agent=agent_spec(node) if "agent" in node.document else None,
        rolled_back=node.rolled_back,
        is_in_place=section.get("write") == "in-place",
        derived_id="" if host.is_id_given else node.node_id,
        fingerprint=fingerprint(node.agent_values),
    )
    return [AgentConfig(spec, host)]


def _check(section: Mapping[str, Any]) -> Iterable[tuple[tuple[str | int, ...], str]]:
    found = _count(section.get("values", {}))
    if found > VALUES_AT_MOST:
        yield ("values",), f"holds {found} values; allowed: at most {VALUES_AT_MOST}"


def _count(value: object) -> int:
    return sum(map(_count, value.values())) if isinstance(value, dict) else 1


KIND = Kind(
    section=SECTION,
    schema={
        "type": "object",
        "properties": {
            "path": {"$ref": "#/$defs/path"},
            "owner": {
                "title": '"user" or "user:group"',
                "type": "string",
                "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$",
            },
            "mode": {"$ref": "#/$defs/mode"},
            "write": {"enum": ["replace", "in-place"]},
            "values": {"title": "a table of agent.toml's keys", "type": "object"},
        },
        "additionalProperties": False,
    },
    resources=_resources,
    actions=get_args(AgentConfigAction),
    check=_check,
)
