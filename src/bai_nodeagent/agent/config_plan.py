"""What is to be done about agent.toml: from what it has to be and what stands there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from .. import agent_toml, toml
from ..model import UNSET, Action, KeyPath, Plan, Status, Verdict
from ..system.launch import Account
from ..system.place import File, Owner
from . import dialect
from .derived import derived, left_behind
from .dialect import Opinion
from .guard import Caution
from .install import NAME as ENVIRONMENT
from .sessions import SACRED, SESSIONS_LOOK_S, Effect, Held
from .spec import AgentSpec

CREATED_MODE = 0o640
IDENTITY_CHANGED = "IdentityChanged"
_ID: KeyPath = ("agent", "id")
OTHERS = 0o007
BROKEN = ".broken-"
# Of the broken files that are kept beside: the first may be worth most, the newest is asked for.
KEPT_FIRST = 5
KEPT_NEWEST = 5
_COPIES_NAMED = 3
_OR_IN_PLACE = ', or let it be written into: [agent-config] write = "in-place"'


@dataclass(frozen=True)
class AgentConfigSpec:
    """What agent.toml has to be.

    owner        "user" or "user:group"; None: as it is
    mode         None: as it is, 0640 for a new file
    agent        who reads the file; None: that is not for us to say
    rolled_back  why the values are those of an earlier state; "": they are not
    derived_id   the node's id, where nobody has said it; "": somebody has
    is_in_place  the file is written into, instead of being replaced by a new one
    fingerprint  the values for comparison: 1 == True, but not here
    """

    path: Path
    owner: str | None
    mode: int | None
    values: Mapping[KeyPath, Any] = field(repr=False, compare=False)
    optional: frozenset[KeyPath] = frozenset()
    secret_paths: frozenset[KeyPath] = frozenset()
    address: Verdict | None = None
    agent: AgentSpec | None = None
    rolled_back: str = ""
    derived_id: str = ""
    is_in_place: bool = False
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
    copies      the names of broken files that lie beside, the oldest first
    user        as whom the document lets the agent run; None: it does not say
    is_being_written  somebody has the file open for that
    is_begun    a write in place is noted, done or not
    torn        what that was to write, where the file holds neither that nor the old content
    caution     what a change would cost
    is_real     it is Backend.AI's agent that reads it
    version     of that agent; "": that can't be told
    coming      the version that its environment is to hold; "": nobody says
    says        what an agent makes of a text, by its version and the text
    """

    target: Path
    at: str
    file: File | None = None
    last: File | None = None
    owner: Owner | None = None
    is_kept: bool = False
    is_root: bool = True
    copies: tuple[str, ...] = ()
    user: Account | None = None
    is_being_written: bool = False
    is_begun: bool = False
    torn: str | None = field(default=None, repr=False)
    caution: Caution = field(default_factory=Caution)
    is_real: bool = False
    version: str = ""
    coming: str = ""
    says: Mapping[tuple[str, str], Opinion] = field(default_factory=dict, repr=False)

    @property
    def reader(self) -> str:
        """The version that is to read the file next."""
        return self.coming or self.version

    @property
    def is_early(self) -> bool:
        """Another version than that is still to read what is written now."""
        return self.is_real and self.version != "" and self.coming not in ("", self.version)

    def opinion(self, version: str, text: str) -> Opinion:
        known = self.says.get((version, text)) if self.is_real else Opinion()
        return known or dialect.opinion(version, text, dialect.NOBODY)


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

    expected  what has to stand there still; None: nothing
    costs     the keys that change, and what each costs; not told of a new file
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
    that stands there, and with the form that all versions take. Raises Refused."""
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
    blank = dialect.MINIMAL if actual.is_real and spec.values else ""
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
        return Plan(_left_alone(spec, actual, file))
    if text and (changed := _identity_changed(spec, text, text_of(actual.last))):
        return Plan(changed)
    if actual.caution.held:
        return _held(spec, actual, actual.caution.held, redact)
    texts, spec = candidates(spec, actual), fitted(spec, actual)
    if file is None and not texts[0]:
        return _in_line(spec, actual, "")  # nobody asks that it be there
    fit = (each for each in texts if not actual.opinion(actual.reader, each).faults)
    wanted = next(fit, texts[0])
    if (opinion := actual.opinion(actual.reader, wanted)).faults:
        return Plan(_incompatible(spec, actual, opinion))
    mode, owner = _access(spec, actual, wanted)
    if file is None or file.raw != wanted.encode():
        if file is not None and (bound := _bound(spec, file)):
            return Plan(bound)
        return Plan(_verdict(spec, actual, text), _rewrite(spec, actual, wanted, redact))
    if (file.mode, file.owner) != (mode, owner):
        message = f"{spec.path} has {_spelled(file.owner, file.mode)}, not {_spelled(owner, mode)}"
        access = SetAccess(actual.target, mode, owner or file.owner)
        return Plan(Verdict(Status.FALSE, "Access", message), (access,))
    # Its owner is remembered only by the one who can give it back.
    is_known = (
        actual.last is not None
        and not actual.is_begun
        and actual.last.raw == file.raw
        and (actual.last.owner == file.owner or not actual.is_root)
    )
    notes = () if is_known else (Remember(actual.target, file),)
    if actual.user and not file.has_acl and not _reads(actual.user, file.owner, file.mode):
        return Plan(_unreadable(spec, actual.user, file), notes)
    return _in_line(spec, actual, wanted, notes)


def _identity_changed(spec: AgentConfigSpec, text: str, last: str | None) -> Verdict | None:
    """For the manager another id is another agent: what stands there gives way to an id that
    somebody has said, or that stood there before; never to one that nobody has.
    """
    standing, kept = (_id_in(each) if each else UNSET for each in (text, last))
    desired = spec.values.get(_ID, UNSET)
    is_silent = spec.derived_id != "" and desired == spec.derived_id != kept
    if not is_silent or not standing or standing in (UNSET, desired):
        return None
    text = (
        f"{spec.path} holds agent.id {standing}, and this node's id is {desired}, which nobody has "
        "said: for the manager that would be another agent, so nothing is written. Set node-id in "
        f"the daemon's own configuration: {standing} to keep the agent that it knows (and remove "
        f"node-id from the daemon's state folder), {desired} if the change is meant"
    )
    return Verdict(Status.FALSE, IDENTITY_CHANGED, text)


def _id_in(text: str) -> Any:
    return agent_toml.lookup(toml.loads(text), _ID)


def _in_line(
    spec: AgentConfigSpec, actual: Actual, text: str, actions: tuple[AgentConfigAction, ...] = ()
) -> Plan[AgentConfigAction]:
    if spec.address:
        return Plan(Verdict(Status.FALSE, spec.address.reason, spec.address.message), actions)
    if spec.rolled_back:  # not as desired, and yet what the agent is to run with
        return Plan(Verdict(Status.FALSE, "RolledBack", spec.rolled_back), actions, serves=True)
    count = len(agent_toml.managed(text, spec.values))
    other = f"; {'; '.join(kept)}" if (kept := left_behind(text, spec.values)) else ""
    message = f"{count} values in line in {spec.path}{other}{_aside(actual)}"
    return Plan(Verdict(Status.TRUE, "InSync", message), actions)


def _aside(actual: Actual) -> str:
    """What is said of set aside files until they are gone, as the end of a message."""
    copies = actual.copies[::-1]
    if not copies:
        return ""
    more = len(copies) - _COPIES_NAMED
    named = ", ".join(copies[:_COPIES_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"; broken files were set aside in {actual.target.parent}, see and delete them: {named}"


def _left_alone(spec: AgentConfigSpec, actual: Actual, file: File) -> Verdict:
    """What a broken file held is not known, so nothing can take its place."""
    text = (
        f"{spec.path} is not valid TOML: {agent_toml.fault(file.raw)}; what it is to hold is not "
        f"known, so it is left alone, and no agent is started with it: mend it{_aside(actual)}"
    )
    return Verdict(Status.FALSE, "Broken", text)


def _bound(spec: AgentConfigSpec, file: File) -> Verdict | None:
    """Why no new file can take the place of the one that is there."""
    if spec.is_in_place:
        return None
    if file.is_mount:
        why = "is mounted by itself (a bind mount of a single file), so it can't be replaced"
        return Verdict(
            Status.FALSE, "MountedFile", f"{spec.path} {why}; mount its folder{_OR_IN_PLACE}"
        )
    if file.names > 1:
        why = f"has {file.names} names (hard links), and the others would keep the old content"
        return Verdict(Status.FALSE, "HardLink", f"{spec.path} {why}; remove them{_OR_IN_PLACE}")
    return None


def _reads(user: Account, owner: Owner, mode: int) -> bool:
    """By the bits of the first class that the account is in: path_resolution(7)."""
    if user.uid in (0, owner[0]):
        return user.uid == 0 or bool(mode & 0o400)
    return bool(mode & (0o040 if owner[1] in user.groups else 0o004))


def _unreadable(spec: AgentConfigSpec, user: Account, file: File) -> Verdict:
    text = (
        f"the agent's user {user.name} can't read {spec.path}, which has "
        f"{_spelled(file.owner, file.mode)}; set [agent-config] owner or mode"
    )
    return Verdict(Status.FALSE, "Unreadable", text)


def _verdict(spec: AgentConfigSpec, actual: Actual, text: str | None) -> Verdict:
    """How a file stands that has to be written."""
    source = "the last good content" if actual.last else "the desired values alone"
    if actual.file is None:
        message = f"{spec.path} is not there; it is made from {source}"
        return Verdict(Status.FALSE, "Missing", message)
    if text is None:
        wrong = agent_toml.fault(actual.file.raw)
        fault = f"is not valid TOML ({wrong})" if actual.file.raw.strip() else "is empty"
        return Verdict(Status.FALSE, "Broken", f"{spec.path} {fault}; it is made from {source}")
    costs = _costs(spec, actual, text) or "the form of an address, which the agent refuses"
    return Verdict(Status.FALSE, "Drift", f"not as desired in {spec.path}: {costs}")


def _costs(spec: AgentConfigSpec, actual: Actual, text: str) -> str:
    """The keys that are not as desired, and what it costs to bring each into line."""
    drifts = agent_toml.difference(text, spec.values, spec.optional)
    told = ", ".join(f"{d}{_told(actual.caution.effect(d.path))}" for d in drifts)
    if lost := agent_toml.lost_endpoints(text, spec.values):
        told += f" (and no more {', '.join(lost)})"
    return f"{told}: {actual.caution.why}" if drifts and actual.caution.why else told


def _rewrite(
    spec: AgentConfigSpec, actual: Actual, wanted: str, redact: Callable[[str], str]
) -> tuple[AgentConfigAction, ...]:
    actions: list[AgentConfigAction] = []
    file, target = actual.file, actual.target
    if file and file.raw.strip() and text_of(file) is None and not actual.is_kept:
        copy = target.with_name(f"{target.name}{BROKEN}{actual.at}")
        after = (*actual.copies, copy.name)
        surplus = len(after) - KEPT_FIRST - KEPT_NEWEST
        dropped = after[KEPT_FIRST : KEPT_FIRST + max(0, surplus)]
        actions.append(KeepBroken(target, copy, file, dropped))
    old = file.raw.decode(errors="replace") if file else None
    changes = agent_toml.diff(old, wanted, spec.secret_paths, str(spec.path))
    mode, owner = _access(spec, actual, wanted)
    expected = file.raw if file else None
    text = text_of(file)
    costs = _costs(spec, actual, text) if text and not actual.caution.held else ""
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
    )
    return (*actions, write)


def _held(
    spec: AgentConfigSpec, actual: Actual, held: Held, redact: Callable[[str], str]
) -> Plan[AgentConfigAction]:
    """Nothing desired is written; but what a crash would put into force is put right."""
    text, last = text_of(actual.file), text_of(actual.last)
    verdict = held.verdict
    if text and (costs := _costs(spec, actual, text)):
        verdict = replace(verdict, message=f"{verdict.message}; not written: {costs}")
    if last is None or (text is None and actual.file is None and not last):
        return Plan(verdict, look_again_in_s=SESSIONS_LOOK_S)
    document = toml.loads(last)
    found = {key: agent_toml.lookup(document, key) for key in SACRED}
    sacred = {key: value for key, value in found.items() if value is not UNSET}
    kept = agent_toml.edit(text or last, sacred, (), last)
    if actual.file and (actual.file.raw == kept.encode() or _bound(spec, actual.file)):
        return Plan(verdict, look_again_in_s=SESSIONS_LOOK_S)
    return Plan(verdict, _rewrite(spec, actual, kept, redact), SESSIONS_LOOK_S)


def _told(effect: Effect) -> str:
    return f" ({effect})" if effect else ""


def _needs(actual: Actual, wanted: str) -> tuple[str, ...]:
    """What only a coming version can read is written once that one is at hand."""
    must_wait = actual.is_early and actual.opinion(actual.version, wanted).faults
    return (ENVIRONMENT,) if must_wait else ()


def _incompatible(spec: AgentConfigSpec, actual: Actual, opinion: Opinion) -> Verdict:
    who = f"agent {actual.reader}" if actual.reader else "the agent"
    stands = "; what stands there is left" if actual.file is not None else ""
    guess = f" (guessed by rules of our own: {opinion.guess})" if opinion.guess else ""
    text = (
        f"{spec.path} would be wrong for {who}, so it is not written{stands}: "
        f"{'; '.join(opinion.faults)}{guess}"
    )
    return Verdict(Status.FALSE, "Incompatible", text)


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


def text_of(file: File | None) -> str | None:
    return file.raw.decode() if file and agent_toml.is_usable(file.raw) else None


def _spelled(owner: Owner | None, mode: int) -> str:
    return f"{owner[0]}:{owner[1]} {mode:04o}" if owner else f"{mode:04o}"
