"""What is to be done about agent.toml: from what it has to be and what is there. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from .... import agent_toml, toml
from ....machine import Account, File, Owner
from ....model import UNSET, Action, Plan, Status, Verdict, in_sync
from ..backendai import schema_faults
from ..backendai.derived import derived, left_behind
from ..environment.rules import NAME as ENVIRONMENT
from ..sessions import SESSIONS_INTERVAL_S, HeldChange
from ..spec import SACRED
from . import messages
from .state import Actual, AgentConfigSpec, text_of

CREATED_MODE = 0o640
OTHERS = 0o007
BROKEN = ".broken-"
# Of the broken files that are kept beside: the first may be worth most, the newest is asked for.
KEPT_FIRST = 5
KEPT_NEWEST = 5
DROPPED_AT_ONCE = 10  # whose folder it is lays as many as he likes


@dataclass(frozen=True)
class KeepBroken(Action):
    """`dropped`: the names of copies that make room for this one."""

    verb: ClassVar[str] = "keep_broken"
    target: Path
    copy: Path
    file: File = field(repr=False)
    dropped: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return f"keep the broken {self.target} as {self.copy.name}"


@dataclass(frozen=True)
class Write(Action):
    """With missing folders.

    expected  what has to still be there; None: nothing
    costs     the keys that change, and what each costs; not reported of a new file
    is_real   it is Backend.AI's agent that reads it
    """

    verb: ClassVar[str] = "write"
    target: Path
    data: bytes = field(repr=False)
    expected: bytes | None = field(repr=False)
    mode: int
    owner: Owner | None
    costs: str = ""
    diff: str = field(default="", repr=False)
    needs: tuple[str, ...] = ()
    is_in_place: bool = False
    is_real: bool = False

    @property
    def summary(self) -> str:
        return f"write {self.target}" + (f": {self.costs}" if self.costs else "")


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
    target: Path
    file: File = field(repr=False)

    @property
    def summary(self) -> str:
        return "remember agent.toml as it is as its last good content"


AgentConfigAction = KeepBroken | Write | SetAccess | Remember


def candidates(spec: AgentConfigSpec, actual: Actual) -> tuple[str, ...]:
    """The texts that are in line, the one to be preferred first: with every address in the form
    that is there, and with the form that all versions take. Raises Refused."""
    spec = fitted(spec, actual)
    wanted = agent_toml.edit(_start(spec, actual), spec.values, spec.optional, text_of(actual.last))
    return tuple(dict.fromkeys([wanted, agent_toml.with_tables(wanted, spec.values)]))


def fitted(spec: AgentConfigSpec, actual: Actual) -> AgentConfigSpec:
    """With the values that follow from its own for this very file."""
    if not actual.is_real:
        return spec
    more = derived(_start(spec, actual), spec.values, actual.reader)
    return replace(spec, values={**spec.values, **more})


def _start(spec: AgentConfigSpec, actual: Actual) -> str:
    """The text that is edited."""
    blank = schema_faults.MINIMAL if actual.is_real and spec.values else ""
    return text_of(actual.file) or text_of(actual.last) or blank


def plan(
    spec: AgentConfigSpec, actual: Actual, redact: Callable[[str], str] = str
) -> Plan[AgentConfigAction]:
    """What is to be done. Raises Refused where the file's layout allows no edit."""
    file, text = actual.file, text_of(actual.file)
    if file is not None and actual.torn is not None:
        message = f"a write into {spec.path} was cut off; it is brought to its end"
        actions = _rewrite(spec, actual, actual.torn, redact)
        return Plan(Verdict(Status.FALSE, "Broken", message), actions)
    if file is not None and file.raw.strip() and text is None and text_of(actual.last) is None:
        return Plan(messages.left_alone(spec, actual, file))
    if text and (changed := messages.identity_changed(spec, text, text_of(actual.last))):
        return Plan(changed)
    if actual.risk.held:
        return _held(spec, actual, actual.risk.held, redact)
    texts, spec = candidates(spec, actual), fitted(spec, actual)
    if file is None and not texts[0]:
        return _in_line(spec, actual, "")  # nobody asks that it be there
    fit = (each for each in texts if not actual.opinion(actual.reader, each).faults)
    wanted = next(fit, texts[0])
    if (opinion := actual.opinion(actual.reader, wanted)).faults:
        return Plan(messages.incompatible(spec, actual, opinion))
    mode, owner = _access(spec, actual, wanted)
    if file is None or file.raw != wanted.encode():
        if file is not None and (bound := messages.bound(spec, file)):
            return Plan(bound)
        return Plan(messages.verdict(spec, actual, text), _rewrite(spec, actual, wanted, redact))
    if (file.mode, file.owner) != (mode, owner):
        access = SetAccess(actual.target, mode, owner or file.owner)
        return Plan(messages.access(spec, file, owner, mode), (access,))
    # Its owner is remembered only by the one who can give it back.
    is_known = (
        actual.last is not None
        and not actual.is_begun
        and actual.last.raw == file.raw
        and (actual.last.owner == file.owner or not actual.is_root)
    )
    notes = () if is_known else (Remember(actual.target, file),)
    if actual.user and not file.has_acl and not _reads(actual.user, file.owner, file.mode):
        return Plan(messages.unreadable(spec, actual.user, file), notes)
    return _in_line(spec, actual, wanted, notes)


def _in_line(
    spec: AgentConfigSpec, actual: Actual, text: str, actions: tuple[AgentConfigAction, ...] = ()
) -> Plan[AgentConfigAction]:
    if spec.address:
        return Plan(Verdict(Status.FALSE, spec.address.reason, spec.address.message), actions)
    if spec.rolled_back:  # not as desired, and yet what the agent is to run with
        return Plan(
            Verdict(Status.FALSE, "RolledBack", spec.rolled_back),
            actions,
            satisfies_dependents=True,
        )
    count = len(agent_toml.managed(text, spec.values))
    other = f"; {'; '.join(kept)}" if (kept := left_behind(text, spec.values)) else ""
    message = f"{count} values in line in {spec.path}{other}{messages.aside(actual)}"
    return Plan(in_sync(message), actions)


def _reads(user: Account, owner: Owner, mode: int) -> bool:
    """Whether the account may read the file, by the bits of the first class that it is in:
    path_resolution(7)."""
    if user.uid in (0, owner[0]):
        return user.uid == 0 or bool(mode & 0o400)
    return bool(mode & (0o040 if owner[1] in user.groups else 0o004))


def _rewrite(
    spec: AgentConfigSpec, actual: Actual, wanted: str, redact: Callable[[str], str]
) -> tuple[AgentConfigAction, ...]:
    actions: list[AgentConfigAction] = []
    file, target = actual.file, actual.target
    if file and file.raw.strip() and text_of(file) is None and not actual.is_kept:
        copy = target.with_name(f"{target.name}{BROKEN}{actual.at}")
        after = (*actual.copies, copy.name)
        surplus = len(after) - KEPT_FIRST - KEPT_NEWEST
        dropped = after[KEPT_FIRST : KEPT_FIRST + max(0, min(surplus, DROPPED_AT_ONCE))]
        actions.append(KeepBroken(target, copy, file, dropped))
    old = file.raw.decode(errors="replace") if file else None
    changes = agent_toml.diff(old, wanted, spec.secret_paths, str(spec.path))
    mode, owner = _access(spec, actual, wanted)
    expected = file.raw if file else None
    text = text_of(file)
    costs = messages.costs(spec, actual, text) if text and not actual.risk.held else ""
    needs = _needs(actual, wanted)
    write = Write(
        target,
        wanted.encode(),
        expected,
        mode,
        owner,
        costs,
        redact(changes),
        needs,
        is_in_place=spec.is_in_place,
        is_real=actual.is_real,
    )
    return (*actions, write)


def _held(
    spec: AgentConfigSpec, actual: Actual, held: HeldChange, redact: Callable[[str], str]
) -> Plan[AgentConfigAction]:
    """Nothing desired is written while a change is held. But keys that would cost sessions after a
    crash of the agent are set back to what it runs with."""
    text, last = text_of(actual.file), text_of(actual.last)
    verdict = held.verdict
    if text and (costs := messages.costs(spec, actual, text)):
        verdict = replace(verdict, message=f"{verdict.message}; not written: {costs}")
    if last is None or (text is None and actual.file is None and not last):
        return Plan(verdict, observe_again_in_s=SESSIONS_INTERVAL_S)
    document = toml.loads(last)
    found = {key: agent_toml.lookup(document, key) for key in SACRED}
    sacred = {key: value for key, value in found.items() if value is not UNSET}
    kept = agent_toml.edit(text or last, sacred, (), last)
    if actual.file and (actual.file.raw == kept.encode() or messages.bound(spec, actual.file)):
        return Plan(verdict, observe_again_in_s=SESSIONS_INTERVAL_S)
    return Plan(verdict, _rewrite(spec, actual, kept, redact), SESSIONS_INTERVAL_S)


def _needs(actual: Actual, wanted: str) -> tuple[str, ...]:
    """The environment, if only the version that is still to be installed can read this text."""
    must_wait = actual.is_early and actual.opinion(actual.version, wanted).faults
    return (ENVIRONMENT,) if must_wait else ()


def _access(spec: AgentConfigSpec, actual: Actual, text: str) -> tuple[int, Owner | None]:
    """Mode and owner that the file has to have; no owner: whoever we are."""
    mode = spec.mode
    if mode is None:
        mode = actual.file.mode if actual.file else CREATED_MODE
    if agent_toml.holds_secret(text, spec.secret_paths):
        mode &= ~OTHERS
    model = actual.file or actual.last
    owner = actual.owner or (model.owner if model else None)
    if actual.owner or not actual.user or not actual.is_root or (model and model.has_acl):
        return mode, owner
    uid, gid = owner or (0, 0)
    is_read = mode & 0o040 == 0 or _reads(actual.user, (uid, gid), mode)
    return mode, owner if is_read else (uid, actual.user.gid)
