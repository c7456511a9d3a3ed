"""Mounts: each item of `[[mount]]` is kept mounted, or away.

What is to be done follows by rule (kinds/mount/rules.py) from the kernel's table and
from what a helper process found (kinds/mount/mounts.py); this module observes and
applies. While a server is dead, an observation costs a note and a lock, no waiting.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import anyio

from ...errors import Refused, Stuck, Unavailable
from ...model import AnyResource, Host, Kind, NodeSpec, Wake
from ...paths import SYSTEM, hidden_by, is_within, plain
from . import mounts, observation
from . import rules as mount_rules
from . import users as mount_users
from .mountinfo import MountEntry, Table
from .observation import MountSpec, MountState
from .options import holds_login, holds_password
from .rules import Actual, Folder, Health, Mount, MountAction, MountPlan, Unmount

SECTION = "mount"
OBSERVE_DEADLINE_S = 25.0
# A share is written to once in so long, and after each fault: 500 nodes have one server.
WRITE_EVERY_S = 600.0
# No event reports that a mount would work now.
RETRY_S = 10.0

_NUMBER: Mapping[str, Any] = {
    "title": "a user's or group's number",
    "type": "integer",
    "minimum": 0,
    "maximum": 4294967294,
}
# Each is compared with each, in the event loop: of 4,000 that takes seconds.
ITEMS_AT_MOST = 256
SCHEMA: Mapping[str, Any] = {
    "type": "array",
    "maxItems": ITEMS_AT_MOST,
    "items": {
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/name"},
            "state": {"enum": ["mounted", "unmounted"]},
            "source": {
                "title": 'what to mount, such as "10.20.30.1:/srv/vfroot"',
                "type": "string",
                "minLength": 1,
            },
            "target": {"$ref": "#/$defs/path"},
            "type": {"enum": ["nfs4", "nfs", "bind", "tmpfs"]},
            "options": {
                "type": "array",
                "items": {
                    "title": "one mount option, without comma or space",
                    "type": "string",
                    "pattern": r"^[^,\s]+$",
                },
                "uniqueItems": True,
            },
            "required": {"type": "boolean"},
            "expect-file": {
                "title": 'the name of a file in the share, without ".."',
                "type": "string",
                "pattern": r"^(?!/)(?!(.*/)?\.\.(/|$)).+$",
            },
            "expect-uid": _NUMBER,
            "expect-gid": _NUMBER,
        },
        "required": ["name", "source", "target", "type"],
        "additionalProperties": False,
        "if": {"properties": {"type": {"enum": ["nfs4", "nfs"]}}, "required": ["type"]},
        "then": {
            "properties": {
                "source": {
                    "title": "HOST:/PATH, with an IPv6 address in brackets, "
                    "as ${manager-host} writes manager-ip",
                    "pattern": r"^(\[[0-9A-Fa-f:.]+(%[^\]\s]+)?\]|[^\s:/\[\]]+):/",
                }
            }
        },
    },
}


class MountPoint:
    """One mount of this node."""

    deadline_s = OBSERVE_DEADLINE_S

    def __init__(self, spec: MountSpec, host: Host) -> None:
        self.spec = spec
        self.name = f"Mount/{spec.name}"
        self._own = (str(host.state), str(host.runtime), sys.prefix, sys.base_prefix)
        self._prober = mounts.Prober(host.runtime / "mounts", spec.target)
        self._redact = host.redact
        self._path = spec.target
        self._written: tuple[MountEntry, float] | None = None
        self._hanging: MountEntry | None = None
        self._trouble = anyio.Event()

    async def observe(self) -> Actual:
        try:
            return await self._observe()
        except (Refused, Stuck, Unavailable):
            self._trouble.set()
            raise

    async def _observe(self) -> Actual:
        if mounts.is_private():
            return Actual(is_private=True)
        table = mounts.table()
        if hidden := hidden_by(self._path, (*SYSTEM, *self._own)):
            return Actual(hides=hidden)
        observed = self._state(table)
        actual = Actual(observed)
        if observed.rival:
            return actual
        if observed.mount is None and observed.cover is None and self.spec.state == "mounted":
            return await self._observe_folder(table)
        if observed.is_right and observed.mount and self.spec.state == "mounted":
            actual = Actual(observed, health=await self._probe(observed.mount))
        if observed.mount and mount_rules.is_to_go(self.spec, actual):
            return replace(actual, users=await mount_users.of(observed.mount))
        return actual

    def _state(self, table: Table) -> MountState:
        return observation.state_of(self.spec, self._path, table, self._prober.made())

    async def _observe_folder(self, table: Table) -> Actual:
        """With nothing mounted at the target by its name: it may be a link to where it is."""
        answer = await self._prober.observe()
        if way := answer.get("untrusted"):
            raise Refused("Untrusted", mounts.untrusted(self.spec.target, way))
        if fault := answer.get("fault"):
            raise Unavailable(f"{self.spec.target} can't be looked at: {fault}")
        folder = Folder(**{**answer, "entries": tuple(answer.get("entries", ()))})
        if folder.path != self._path:
            self._path = folder.path
            return await self._observe()
        now, before = (observation.entries_near(self._path, t) for t in (mounts.table(), table))
        if now != before:
            return await self._observe()  # something came or went meanwhile
        return Actual(self._state(table), folder)

    async def _probe(self, mount: MountEntry) -> Health:
        spec, self._hanging = self.spec, mount
        write = f".bai-nodeagent-probe.{spec.node_id}" if self._is_write_due(mount) else ""
        answer = await self._prober.probe(
            mount, spec.expect_file, spec.expect_uid, spec.expect_gid, write
        )
        self._hanging = None
        health = Health(**answer)
        if write:
            self._written = (mount, time.monotonic()) if health.write_fault == "" else None
        return health

    def _is_write_due(self, mount: MountEntry) -> bool:
        if not self.spec.is_writable:
            return False
        return not self._written or (
            self._written[0] != mount or time.monotonic() - self._written[1] > WRITE_EVERY_S
        )

    def plan(self, actual: Actual) -> MountPlan:
        return mount_rules.plan(self.spec, actual)

    async def apply(self, action: Mount | Unmount) -> None:
        try:
            match action:
                case Mount():
                    await self._mount()
                case Unmount(mount=mount):
                    await self._unmount(mount)
        except Refused as error:
            self._trouble.set()
            raise Refused(error.reason, self._redact(error.message)) from error
        except (Stuck, Unavailable):
            self._trouble.set()
            raise

    async def _mount(self) -> None:
        if lacks := self._state(mounts.table()).lacks:
            raise Unavailable(f"Mount/{lacks}, in which {self.spec.target} lies, has just gone")
        spec = self.spec
        await self._prober.mount(self._path, spec.type, spec.source, spec.options)
        if mount := self._state(mounts.table()).mount:
            self._prober.remember(observation.note(spec, mount))

    async def _unmount(self, mount: MountEntry) -> None:
        # A user may have come since the observation.
        if users := await mount_users.of(mount):
            text = f"{mount.target} is used by {mount_rules.named(users)}"
            raise Refused("Busy", text)
        await self._prober.unmount(mount)

    async def watch(self, wake: Wake) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wake_after_trouble, wake)
            before: Table | None = None
            async for _ in mounts.changes():
                # Every container's start changes the table; few concern this target.
                table = observation.entries_near(self._path, mounts.table())
                if table != before:
                    before = table
                    wake()

    async def _wake_after_trouble(self, wake: Wake) -> None:
        """Looks again when a dead server is back, and now and then after other faults."""
        while True:
            await self._trouble.wait()
            self._trouble = anyio.Event()
            if self._hanging:
                await self._prober.recovered(self._hanging)
            else:
                await anyio.sleep(RETRY_S)
            wake()


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    return [MountPoint(spec, host) for spec in _specs(node)]


def _specs(node: NodeSpec) -> Iterator[MountSpec]:
    items = [_spec(item, node) for item in node.document.get(SECTION, ())]
    for spec in items:
        others = tuple(other for other in items if other is not spec)
        outer = (each for each in others if each.state == "mounted" and _lies_in(spec, each))
        yield replace(spec, outer=tuple(outer), others=others)


def _check(section: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Two at one place would take each other away without end."""
    first_at: dict[str, str] = {}
    for index, item in enumerate(section):
        yield from (((index, *place), text) for place, text in _mistakes(item))
        if "target" not in item:
            continue  # another layer says it
        name, target = item["name"], _target(item)
        if (first := first_at.setdefault(target, name)) != name:
            text = f'{target} is also the target of "{first}"; each mount needs its own'
            yield (index, "target"), text


def _mistakes(item: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    target = item.get("target")
    if target and (folder := hidden_by(target, SYSTEM)):
        text = f"would hide or lie in {folder}, which is the system's; allowed: another folder"
        yield ("target",), text
    if holds_login(item.get("source", "")):
        yield ("source",), "holds a password, which everybody on the node could read"
    for number, option in enumerate(item.get("options", ())):
        if holds_password(option):
            text = "holds a password, which everybody on the node could read; allowed: a file of it"
            yield ("options", number), text


def _target(item: Mapping[str, Any]) -> str:
    return plain(item["target"])


def _spec(item: Mapping[str, Any], node: NodeSpec) -> MountSpec:
    return MountSpec(
        name=item["name"],
        source=item["source"],
        target=_target(item),
        type=item["type"],
        options=tuple(item.get("options", ())),
        state=item.get("state", "mounted"),
        expect_file=item.get("expect-file", ""),
        expect_uid=item.get("expect-uid"),
        expect_gid=item.get("expect-gid"),
        node_id=node.node_id,
    )


def _lies_in(inner: MountSpec, outer: MountSpec) -> bool:
    return inner.target != outer.target != "/" and is_within(inner.target, outer.target)


KIND = Kind(
    section=SECTION,
    schema=SCHEMA,
    resources=_resources,
    named=True,
    check=_check,
    actions=get_args(MountAction),
)
