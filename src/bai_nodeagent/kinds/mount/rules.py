"""What is to be done about a mount. Pure.

Invariants:

- A mount is taken away only when nothing uses it, here or in a container, and
  never lazily: else running sessions would see one share and new ones another.
- Nothing is mounted over files, and nothing over another mount.
- A mount that we made as the document has it is right whatever the kernel
  makes of its options, so no option can cause mounting without end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...model import Action, Plan, Status, Verdict
from .mountinfo import MountEntry
from .observation import NETWORK_TYPES, MountSpec, MountState

# A dead server makes no event; this is how soon it is noticed.
PROBE_EVERY_S = 20.0
# Nor does what people have to mend: a folder to empty, a process to end.
TROUBLE_S = 10.0
USERS_SHOWN = 5
_FULL = ("ENOSPC", "EDQUOT")
_REFUSED = ("EACCES", "EPERM")


@dataclass(frozen=True, slots=True)
class Folder:
    """A target where nothing is mounted; `path` is where links lead to."""

    path: str
    kind: Literal["missing", "folder", "other"]
    count: int = 0
    entries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe of the mounted share came to. Faults are names of errors, "" for none.

    fault        why the share itself can't be asked
    file_fault   of `expect-file`
    write_fault  None: not tried
    """

    fault: str = ""
    is_read_only: bool = False
    uid: int = -1
    gid: int = -1
    file_fault: str = ""
    write_fault: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class User:
    """Who keeps a mount from being taken away; `container` is its short id."""

    name: str
    how: str
    pid: int = 0
    container: str = ""

    def __str__(self) -> str:
        where = f"container {self.container}: " if self.container else ""
        process = f"{self.name} (pid {self.pid}, {self.how})" if self.pid else self.how
        return f"{where}{process}"


@dataclass(frozen=True, slots=True)
class Actual:
    """What one observation found; parts that did not matter are None, and `users` is empty.

    hides  a folder of the system, or of the daemon, that the target would hide or lies in
    """

    mounted: MountState = field(default_factory=MountState)
    folder: Folder | None = None
    health: Health | None = None
    users: tuple[User, ...] = ()
    is_private: bool = False
    hides: str = ""


@dataclass(frozen=True)
class Mount(Action):
    verb: ClassVar[str] = "mount"
    deadline_s: float = 40.0
    spec: MountSpec = field(kw_only=True)

    @property
    def summary(self) -> str:
        options = f" with {','.join(self.spec.options)}" if self.spec.options else ""
        return f"mount {self.spec.source} at {self.spec.target}{options}"


@dataclass(frozen=True)
class Unmount(Action):
    verb: ClassVar[str] = "unmount"
    is_disruptive: ClassVar[bool] = True
    deadline_s: float = 30.0
    mount: MountEntry = field(kw_only=True)

    @property
    def summary(self) -> str:
        return f"unmount {self.mount.source} from {self.mount.target}"


MountAction = Mount | Unmount
MountPlan = Plan[MountAction]


def plan(spec: MountSpec, actual: Actual) -> MountPlan:
    if actual.is_private:
        return _trouble(
            "PrivateNamespace",
            "the daemon runs in a mount namespace of its own, so what it mounts would not reach "
            "the host: take PrivateTmp=, ProtectSystem= and the like out of its unit",
        )
    if actual.hides:
        text = f"{spec.target} would hide or lie in {actual.hides}: choose another target"
        return _trouble("SystemFolder", text)
    if rival := actual.mounted.rival:
        text = f"{spec.target} is the same folder as the target of Mount/{rival}: choose another"
        return _trouble("Conflict", text)
    if cover := actual.mounted.cover:
        return _trouble("Covered", _covered(spec, cover))
    if spec.state == "unmounted":
        return _unmounted(spec, actual)
    if actual.mounted.lacks:
        # By the table, not by the other's condition, which may be older than a hand's unmount.
        # Else it would stand in the folder that the outer mount needs to be empty.
        text = f"waits for Mount/{actual.mounted.lacks}, in which {spec.target} lies"
        return Plan(Verdict(Status.UNKNOWN, "Waiting", text), observe_again_in_s=TROUBLE_S)
    if actual.mounted.mount is None:
        return _absent(spec, actual.folder)
    if cause := _cause(spec, actual):
        return _take_away(actual.mounted.mount, cause, actual.users, (Mount(spec=spec),))
    return _present(spec, actual.health)


def _covered(spec: MountSpec, cover: MountEntry) -> str:
    if cover.type == "autofs":
        return f"{spec.target} is an automounter's: take it out of autofs, or out of the document"
    return (
        f"{cover.source} ({cover.type}) is mounted at {cover.target} and hides what is at "
        f"{spec.target}: unmount it"
    )


def is_to_go(spec: MountSpec, actual: Actual) -> bool:
    """Whether what is mounted has to be taken away, if nothing uses it."""
    if spec.state == "unmounted":
        return actual.mounted.is_share
    return _cause(spec, actual) is not None


def _unmounted(spec: MountSpec, actual: Actual) -> MountPlan:
    mount = actual.mounted.mount
    if mount is None:
        # As desired; and yet what needs the share is not to start without it.
        text = f"nothing is mounted at {spec.target}, as desired"
        return Plan(Verdict(Status.TRUE, "Unmounted", text), satisfies_dependents=False)
    if not actual.mounted.is_share:
        text = f"{_shown(mount)}, which no document names; it is left alone"
        return _trouble("WrongShare", text)
    cause = Verdict(Status.FALSE, "Mounted", f"{_shown(mount)} and is to be unmounted")
    return _take_away(mount, cause, actual.users, ())


def _absent(spec: MountSpec, folder: Folder | None) -> MountPlan:
    if folder is None or folder.kind == "other":
        return _trouble("NotAFolder", f"{spec.target} is no folder: move it away")
    if folder.count:
        names = ", ".join(folder.entries)
        more = ", …" if folder.count > len(folder.entries) else ""
        return _trouble(
            "TargetNotEmpty",
            f"nothing is mounted at {spec.target}, but it holds {names}{more}: written while the "
            "share was away? A mount would hide that: move it away first",
        )
    text = f"{spec.source} is not mounted at {spec.target}"
    return Plan(Verdict(Status.FALSE, "NotMounted", text), (Mount(spec=spec),))


def _cause(spec: MountSpec, actual: Actual) -> Verdict | None:
    """Why what is mounted has to be taken away first."""
    mount = actual.mounted.mount
    if mount is None:
        return None
    if not actual.mounted.is_share:
        return Verdict(Status.FALSE, "WrongShare", f"{_shown(mount)}, not {spec.source}")
    lacks, extra = ", ".join(actual.mounted.differs), ", ".join(actual.mounted.extra)
    if lacks or extra:
        found = [f"without {lacks}" if lacks else "", f"with {extra} from before" if extra else ""]
        text = (
            f"{spec.source} is mounted {' and '.join(filter(None, found))}; the kernel "
            f"reports {','.join((*mount.options, *mount.super_options))}"
        )
        return Verdict(Status.FALSE, "WrongOptions", text)
    if actual.health and actual.health.fault == "ESTALE":
        text = f"{spec.source} at {spec.target} is not what it was: the server gave it up (ESTALE)"
        return Verdict(Status.FALSE, "StaleHandle", text)
    return None


def _take_away(
    mount: MountEntry, cause: Verdict, users: tuple[User, ...], then: tuple[Mount, ...]
) -> MountPlan:
    if users:
        reason = cause.reason if cause.reason == "StaleHandle" else "Busy"
        return _trouble(
            reason, f"{cause.message}; it stays as long as it is used by {named(users)}"
        )
    return Plan(cause, (Unmount(mount=mount), *then))


def named(users: tuple[User, ...]) -> str:
    shown = "; ".join(str(user) for user in users[:USERS_SHOWN])
    rest = len(users) - USERS_SHOWN
    return f"{shown}; and {rest} more" if rest > 0 else shown


def _present(spec: MountSpec, health: Health | None) -> MountPlan:
    faults = _faults(spec, health) if health else []
    if faults:
        return _trouble(faults[0].reason, "; ".join(fault.message for fault in faults))
    text = f"{spec.source} at {spec.target}"
    if health and health.write_fault in _FULL:
        text = f"{text}, which is full ({health.write_fault})"
    again_s = PROBE_EVERY_S if spec.type in NETWORK_TYPES else None
    return Plan(Verdict(Status.TRUE, "Mounted", text), observe_again_in_s=again_s)


def _faults(spec: MountSpec, health: Health) -> list[Verdict]:
    """All that is wrong with a mounted share, the most telling first."""
    if health.fault:
        return [_false("NotReadable", f"{spec.target} can't be asked: {health.fault}")]
    faults = []
    if health.file_fault in ("ENOENT", "ENOTDIR"):
        text = f"{spec.source} holds no {spec.expect_file}: is it the right share?"
        faults.append(_false("MissingFile", text))
    elif health.file_fault:
        text = f"{spec.target}/{spec.expect_file} can't be read{_as(spec)}: {health.file_fault}"
        faults.append(_false("NotReadable", text))
    found, desired = (health.uid, health.gid), (spec.expect_uid, spec.expect_gid)
    if any(want not in (None, one) for want, one in zip(desired, found, strict=True)):
        owner = ":".join("any" if want is None else str(want) for want in desired)
        text = f"{spec.source} belongs to {found[0]}:{found[1]}, not to {owner} (uid:gid)"
        faults.append(_false("WrongOwner", text))
    return [*faults, *_write_faults(spec, health)]


def _write_faults(spec: MountSpec, health: Health) -> list[Verdict]:
    if not spec.is_writable:
        return []
    if health.is_read_only or health.write_fault == "EROFS":
        text = f"{spec.source} can only be read, but is to be written to: see the server's exports"
        return [_false("ReadOnly", text)]
    # Root is nobody on most servers: what it may not do says nothing of the agent.
    may_be_squashed = spec.expect_uid is None and health.write_fault in _REFUSED
    if not health.write_fault or health.write_fault in _FULL or may_be_squashed:
        return []
    text = f"a file can't be written in {spec.target}{_as(spec)}: {health.write_fault}"
    return [_false("NotWritable", text)]


def _as(spec: MountSpec) -> str:
    return "" if spec.expect_uid is None else f" as uid {spec.expect_uid}"


def _shown(mount: MountEntry) -> str:
    return f"{mount.source} ({mount.type}) is mounted at {mount.target}"


def _false(reason: str, message: str) -> Verdict:
    return Verdict(Status.FALSE, reason, message)


def _trouble(reason: str, message: str) -> MountPlan:
    return Plan(_false(reason, message), observe_again_in_s=TROUBLE_S)
