"""agent.toml on this node, kept in line key by key.

Invariants:

- The file is written whole or not at all, and only if it still is what the
  plan was made from. At no moment may others read a secret in it.
- `<state>/agent-config.last` is the last content that was seen in line, so
  whatever breaks or deletes the file costs no unmanaged key and no comment.
- Broken content is replaced only once a copy of it lies beside the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import anyio

from .. import agent_toml
from ..model import (
    Action,
    AnyResource,
    Host,
    KeyPath,
    Kind,
    NodeSpec,
    Plan,
    Status,
    Unavailable,
    Verdict,
    Wake,
)
from ..system import config_file, files, inotify
from ..system.config_file import File, Owner

SECTION = "agent-config"
CREATED_MODE = 0o640
OTHERS = 0o007
BROKEN = ".broken-"
# A plain editor truncates, then writes: a read in between sees a part, which may
# even be TOML. What takes longer than all these looks is judged as it is.
SETTLE_S = 0.2
LOOKS_AT_MOST = 6


@dataclass(frozen=True)
class AgentConfigSpec:
    """What agent.toml has to be.

    owner        "user" or "user:group"; None: as it is
    mode         None: as it is, 0640 for a new file
    fingerprint  the values for comparison: 1 == True, but not here
    """

    path: Path
    owner: str | None
    mode: int | None
    values: Mapping[KeyPath, Any] = field(repr=False, compare=False)
    optional: frozenset[KeyPath] = frozenset()
    secret_paths: frozenset[KeyPath] = frozenset()
    address: Verdict | None = None
    fingerprint: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Actual:
    """What stands on the disk.

    target      the file that the path leads to, through links
    file        None: there is none
    last        the last content in line, with the owner that it had
    owner       the desired one, by number
    is_kept     a copy of this very content lies beside the file
    is_root     we may give files away
    at          the time of this look, as it stands in names of copies
    """

    target: Path
    at: str
    file: File | None = None
    last: File | None = None
    owner: Owner | None = None
    is_kept: bool = False
    is_root: bool = True


@dataclass(frozen=True)
class KeepBroken(Action):
    verb: ClassVar[str] = "keep_broken"
    target: Path
    copy: Path
    file: File = field(repr=False)

    @property
    def summary(self) -> str:
        return f"keep the broken {self.target} as {self.copy.name}"


@dataclass(frozen=True)
class Write(Action):
    """With missing folders. `expected` is what has to stand there still; None: nothing."""

    verb: ClassVar[str] = "write"
    target: Path
    data: bytes = field(repr=False)
    expected: bytes | None = field(repr=False)
    mode: int
    owner: Owner | None
    diff: str = field(default="", repr=False)

    @property
    def summary(self) -> str:
        return f"write {self.target}"


@dataclass(frozen=True)
class SetAccess(Action):
    verb: ClassVar[str] = "set_access"
    target: Path
    mode: int
    owner: Owner

    @property
    def summary(self) -> str:
        return f"give {self.target} to {self.owner[0]}:{self.owner[1]} with mode {self.mode:04o}"


@dataclass(frozen=True)
class Remember(Action):
    """Bookkeeping: agent.toml itself is in line."""

    verb: ClassVar[str] = "remember"
    is_note: ClassVar[bool] = True
    file: File = field(repr=False)

    @property
    def summary(self) -> str:
        return "remember agent.toml as it is as its last good content"


AgentConfigAction = KeepBroken | Write | SetAccess | Remember


def plan(
    spec: AgentConfigSpec, actual: Actual, redact: Callable[[str], str] = str
) -> Plan[AgentConfigAction]:
    """What is to be done. Raises Refused where the file's layout allows no edit."""
    file, last = actual.file, _text_of(actual.last)
    text = _text_of(file)
    wanted = agent_toml.edit(text or last or "", spec.values, spec.optional, last)
    mode, owner = _access(spec, actual, wanted)
    if file is None and not wanted:
        return Plan(_in_line(spec, wanted))  # nobody asks that it be there
    if file is None or file.raw != wanted.encode():
        return Plan(_verdict(spec, actual, text), _rewrite(spec, actual, wanted, redact))
    if (file.mode, file.owner) != (mode, owner):
        message = f"{spec.path} has {_spelled(file.owner, file.mode)}, not {_spelled(owner, mode)}"
        access = SetAccess(actual.target, mode, owner or file.owner)
        return Plan(Verdict(Status.FALSE, "Access", message), (access,))
    # Its owner is remembered only by the one who can give it back.
    is_known = (
        actual.last is not None
        and actual.last.raw == file.raw
        and (actual.last.owner == file.owner or not actual.is_root)
    )
    return Plan(_in_line(spec, wanted), () if is_known else (Remember(file),))


def _in_line(spec: AgentConfigSpec, text: str) -> Verdict:
    if spec.address:
        return Verdict(Status.FALSE, spec.address.reason, spec.address.message)
    count = len(agent_toml.managed(text, spec.values))
    return Verdict(Status.TRUE, "InSync", f"{count} values in line in {spec.path}")


def _verdict(spec: AgentConfigSpec, actual: Actual, text: str | None) -> Verdict:
    """How a file stands that has to be written."""
    source = "the last good content" if actual.last else "the desired values alone"
    if actual.file is None:
        message = f"{spec.path} is not there; it is made from {source}"
        return Verdict(Status.FALSE, "Missing", message)
    if text is None:
        fault = "is not valid TOML" if actual.file.raw.strip() else "is empty"
        return Verdict(Status.FALSE, "Broken", f"{spec.path} {fault}; it is made from {source}")
    drifts = agent_toml.difference(text, spec.values, spec.optional)
    places = ", ".join(str(drift) for drift in drifts)
    return Verdict(Status.FALSE, "Drift", f"not as desired in {spec.path}: {places}")


def _rewrite(
    spec: AgentConfigSpec, actual: Actual, wanted: str, redact: Callable[[str], str]
) -> tuple[AgentConfigAction, ...]:
    actions: list[AgentConfigAction] = []
    file, target = actual.file, actual.target
    if file and file.raw.strip() and _text_of(file) is None and not actual.is_kept:
        copy = target.with_name(f"{target.name}{BROKEN}{actual.at}")
        actions.append(KeepBroken(target, copy, file))
    old = file.raw.decode(errors="replace") if file else None
    changes = agent_toml.diff(old, wanted, spec.secret_paths, str(spec.path))
    mode, owner = _access(spec, actual, wanted)
    expected = file.raw if file else None
    write = Write(target, wanted.encode(), expected, mode, owner, redact(changes))
    return (*actions, write)


def _access(spec: AgentConfigSpec, actual: Actual, text: str) -> tuple[int, Owner | None]:
    """Mode and owner that the file has to have; no owner: whoever we are."""
    mode = spec.mode
    if mode is None:
        mode = actual.file.mode if actual.file else CREATED_MODE
    if agent_toml.holds_secret(text, spec.secret_paths):
        mode &= ~OTHERS
    model = actual.file or actual.last
    return mode, actual.owner or (model.owner if model else None)


def _text_of(file: File | None) -> str | None:
    return file.raw.decode() if file and agent_toml.is_usable(file.raw) else None


def _spelled(owner: Owner | None, mode: int) -> str:
    return f"{owner[0]}:{owner[1]} {mode:04o}" if owner else f"{mode:04o}"


class AgentConfig:
    name = "AgentConfig"
    deadline_s = 10.0

    def __init__(self, spec: AgentConfigSpec, host: Host) -> None:
        self.spec = spec
        self._redact = host.redact
        self._last = host.state / "agent-config.last"

    async def observe(self) -> Actual:
        """Looks until its writer has closed the file, and what is not TOML has stood still."""
        actual = self._look()
        for _ in range(LOOKS_AT_MOST):
            is_open = config_file.is_being_written(actual.target)
            if actual.file is None or (agent_toml.is_usable(actual.file.raw) and not is_open):
                break
            await anyio.sleep(SETTLE_S)
            earlier, actual = actual, self._look()
            if earlier.file == actual.file and not is_open:
                break
        return actual

    def _look(self) -> Actual:
        try:
            target = config_file.target_of(self.spec.path)
            file = config_file.read(target)
            is_broken = file is not None and _text_of(file) is None
            return Actual(
                target,
                time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
                file,
                config_file.read(self._last),
                config_file.ids(self.spec.owner) if self.spec.owner else None,
                is_broken and config_file.has_copy(target, file, BROKEN),
                is_root=os.geteuid() == 0,
            )
        except OSError as error:
            raise config_file.fault(error, self.spec.path) from error

    def plan(self, actual: Actual) -> Plan[AgentConfigAction]:
        return plan(self.spec, actual, self._redact)

    async def apply(self, action: AgentConfigAction) -> None:
        try:
            self._apply(action)
        except OSError as error:
            raise config_file.fault(error, self.spec.path) from error

    def _apply(self, action: AgentConfigAction) -> None:
        match action:
            case KeepBroken(target, copy, file):
                if self._is_still(target, file.raw):
                    if copy.exists():
                        raise Unavailable(f"{copy} is taken; tried again under the next second")
                    files.replace(copy, file.raw, mode=0o600, owner=file.owner)
            case Write(target, data, expected, mode, owner):
                # Somebody else was faster: looking again is all that is right.
                if self._is_still(target, expected):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    files.replace(target, data, mode=mode, owner=owner)
                    self._remember(data, owner)
            case SetAccess(target, mode, owner):
                config_file.set_access(target, mode=mode, owner=owner)
            case Remember(file):
                self._remember(file.raw, file.owner)

    def _is_still(self, target: Path, expected: bytes | None) -> bool:
        if config_file.target_of(self.spec.path) != target:
            return False
        file = config_file.read(target)
        return (file.raw if file else None) == expected

    def _remember(self, data: bytes, owner: Owner | None) -> None:
        # It belongs to the same user as agent.toml, so that one that is deleted
        # comes back as it was; the folder keeps everybody but us out all the same.
        keeper = owner if os.geteuid() == 0 else None
        files.replace(self._last, data, mode=0o600, owner=keeper)

    async def watch(self, wake: Wake) -> None:
        try:
            async for _ in inotify.changes([self.spec.path]):
                wake()
        except OSError as error:
            raise Unavailable(f"inotify on {self.spec.path}: {error.strerror}") from error


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
        fingerprint=repr(sorted(node.agent_values.items(), key=lambda item: item[0])),
    )
    return [AgentConfig(spec, host)]


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
            "values": {"title": "a table of agent.toml's keys", "type": "object"},
        },
        "additionalProperties": False,
    },
    resources=_resources,
)
