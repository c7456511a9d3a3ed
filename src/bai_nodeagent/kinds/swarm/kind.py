"""This node's place in a Docker swarm: joined to the one that is desired, or in none.

This module observes and applies; kinds/swarm/rules.py decides.
The token is handed to Docker when it joins, and stands nowhere but in the store. A state
that comes from the journal has none.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import anyio

from ...core.watching import Followed, together
from ...errors import Overtaken, Refused, Unavailable
from ...model import AnyResource, Host, Kind, NodeSpec, Plan, Wake
from ...system import files, inotify
from .addresses import host_and_port
from .certificate import Certificate, digest_of_ca, parse_certificate
from .inputs import agent_input
from .model import (
    JOIN_DEADLINE_S,
    LEAVE_DEADLINE_S,
    Actual,
    Join,
    Leave,
    Local,
    Membership,
    Remember,
    SwarmAction,
    SwarmSpec,
)
from .record import Notes
from .refusals import refusal
from .rules import is_given_up, judge, plan

# docker and h2 are loaded when a document asks for a swarm: see the imports in functions.
if TYPE_CHECKING:
    from ...system.docker import Info

SECTION = "swarm"
# An answer of a manager holds for a while: on a busy node networks come and go every second.
ASKED_EVERY_S = 30.0
# Docker lists a container for a moment after the event of its leaving a network.
LISTED_S = 1.0
CERTIFICATE = Path("swarm/certificates/swarm-node.crt")
AUTHORITY = Path("swarm/certificates/swarm-root-ca.crt")
# Containers leave networks; on a manager, nodes are drained and removed.
_EVENTS = {"type": ["network", "node"], "event": ["disconnect", "update", "remove"]}


@dataclass(frozen=True, slots=True)
class _Disk:
    """What Docker's own folder shows; nothing where it can't be read."""

    certificate: Certificate | None = None
    authority: bytes = b""
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Member:
    """Who this node was in a swarm, and whom to ask about it: managers by address and port."""

    node: str
    managers: tuple[tuple[str, int], ...]
    authority: str


class Swarm:
    name = "Swarm"
    deadline_s = 30.0

    def __init__(self, spec: SwarmSpec, host: Host) -> None:
        self.spec = spec
        self._notes = Notes(host.state)
        self._redact = host.redact
        self._answer: tuple[str, float] = ("", 0.0)  # the node that was known, and until when
        self._was: _Member | None = None
        self._root = Followed[Path | None](None)

    async def observe(self) -> Actual:
        from ...system import docker

        info = await docker.info()
        self._root.become(info.root)
        disk = _read(info.root)
        actual = Actual(
            local=await self._local(info),
            now_s=time.time(),
            record=self._notes.read(),
            certificate=disk.certificate,
            ca=digest_of_ca(disk.authority) if disk.authority else "",
            since_s=disk.since_s,
        )
        actual = replace(
            actual,
            membership=await self._membership(actual, disk.authority),
            answering=await self._answering(actual),
        )
        if judge(self.spec, actual).wish == "leave":
            actual = replace(actual, users=await docker.overlay_users())
        return actual

    async def _local(self, info: Info) -> Local:
        from ...system import docker

        is_asked = info.is_manager and info.state == "active"
        return Local(
            state=info.state,
            node=info.node,
            is_manager=info.is_manager,
            managers=info.managers,
            cluster=info.cluster,
            availability=await docker.availability(info.node) if is_asked else "",
            error=self._redact(info.error),
            address=info.address,
        )

    async def _membership(self, actual: Actual, authority: bytes) -> Membership | None:
        """What a manager says of us. A manager knows itself, and one that left asks nobody."""
        if self.spec.state == "left":
            return None
        if actual.local.state == "inactive":
            return await self._as_it_left(actual.record.removed)
        self._was = self._member(actual, authority)
        if self._was is None:
            return None
        known, until_s = self._answer
        if known == self._was.node and time.monotonic() < until_s:
            return Membership(known=True)
        found = await _asked(self._was)
        if found.known:
            self._answer = (found.node, time.monotonic() + ASKED_EVERY_S)
        return found

    def _member(self, actual: Actual, authority: bytes) -> _Member | None:
        if actual.is_manager or not (actual.node and authority):
            return None
        managers = actual.local.managers or self.spec.remote_addrs
        addresses = tuple(host_and_port(address) for address in managers)
        return _Member(actual.node, addresses, authority.decode(errors="replace"))

    async def _as_it_left(self, removed: str) -> Membership | None:
        """Asked once, by who was left by hand: a manager may have removed it just before."""
        was, self._was = self._was, None
        return await _asked(was) if was and was.node != removed else None

    async def _answering(self, actual: Actual) -> tuple[str, ...]:
        """Where to join: nobody else wants to know."""
        is_out = actual.local.state == "inactive" or is_given_up(actual)
        if not is_out or self.spec.state == "left":
            return ()
        from . import manager as swarm_manager

        managers = self.spec.remote_addrs
        answers = (swarm_manager.answers(*host_and_port(address)) for address in managers)
        found = await asyncio.gather(*answers)
        return tuple(address for address, is_there in zip(managers, found, strict=True) if is_there)

    def plan(self, actual: Actual) -> Plan[SwarmAction]:
        return plan(self.spec, actual)

    async def apply(self, action: SwarmAction) -> None:
        from ...system import docker

        match action:
            case Remember(record):
                self._notes.update(lambda _: record)
            case Join(managers):
                self._notes.update(lambda record: replace(record, asked=self.spec.asked))
                try:
                    await docker.join(self._request(managers), JOIN_DEADLINE_S)
                except docker.Denied as error:
                    if refused := refusal(self.spec, self._redact(error.text)):
                        raise Refused(*refused) from error
            case Leave():
                if await docker.overlay_users():
                    raise Overtaken("somebody has begun to use the swarm")
                self._was = None  # by our own wish: there is nothing to ask about
                try:
                    await docker.leave(LEAVE_DEADLINE_S)
                except docker.Denied as error:
                    if (await docker.info()).state != "inactive":
                        raise Refused("LeaveRefused", self._redact(str(error))) from error

    def _request(self, managers: tuple[str, ...]) -> Any:
        from ...system.docker import JoinRequest

        spec = self.spec
        return JoinRequest(
            managers,
            spec.token,
            spec.advertise_addr,
            spec.data_path_addr,
            spec.listen_addr,
        )

    async def watch(self, wake: Wake) -> None:
        await together(
            lambda: self._wake_at_events(wake),
            lambda: self._root.run(lambda root: _wake_below(root, wake)),
        )

    async def _wake_at_events(self, wake: Wake) -> None:
        from ...system import docker

        async for _ in docker.changes(_EVENTS):
            wake()
            await anyio.sleep(LISTED_S)
            wake()


async def _asked(member: _Member) -> Membership:
    from . import manager as swarm_manager

    node = member.node
    try:
        known = await swarm_manager.knows(node, member.managers, member.authority)
    except swarm_manager.NoAnswer as error:
        return Membership(why=str(error), node=node)
    return Membership(known, node=node)


async def _wake_below(root: Path | None, wake: Wake) -> None:
    """Follows Docker's folder of its swarm: a leave emits no event."""
    if root is None:
        return
    try:
        async for _ in inotify.changes([root / "swarm", root / CERTIFICATE.parent]):
            wake()
    except Unavailable:
        # Not ours to read: without root, or another machine's Docker. Then the resync has to do.
        return


def _read(root: Path) -> _Disk:
    try:
        authority = files.read_if_there(root / AUTHORITY)
        certificate = files.read_if_there(root / CERTIFICATE)
        if authority is None or certificate is None:
            return _Disk()
        since_s = (root / AUTHORITY).stat().st_mtime
        return _Disk(parse_certificate(certificate), authority, since_s)
    except (OSError, ValueError):
        return _Disk()


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    section = node.document.get(SECTION)
    if section is None:
        return []
    name = section.get("token", "")
    addresses = {k: section.get(k, "") for k in ("advertise-addr", "data-path-addr", "listen-addr")}
    is_known = not any("${" in address for address in addresses.values())
    spec = SwarmSpec(
        state=section.get("state", "joined"),
        remote_addrs=tuple(section.get("remote-addrs", ())),
        token=node.secrets.get(name, ""),
        token_name=name,
        cluster_id=section.get("cluster-id", ""),
        advertise_addr=addresses["advertise-addr"],
        data_path_addr=addresses["data-path-addr"],
        listen_addr=addresses["listen-addr"],
        doubt=None if is_known else node.address,
    )
    asked = "" if spec.lacks_token else host.digest([dict(section), spec.token])
    return [Swarm(replace(spec, asked=asked), host)]


_LOCAL_ADDRESS = {
    "title": 'an address or a network interface, such as "10.20.30.11" or "eth1"',
    "type": "string",
    "pattern": r"^[^\s/@]+$",
}

KIND = Kind(
    section=SECTION,
    schema={
        "type": "object",
        "properties": {
            "state": {"enum": ["joined", "left"], "not": {"const": "manager"}},
            "remote-addrs": {
                "title": 'a list such as ["10.20.30.1:2377"]',
                "type": "array",
                "items": {
                    "title": 'an address of a manager such as "${manager-host}:2377"',
                    "type": "string",
                    "format": "endpoint",
                },
                "minItems": 1,
            },
            "token": {"$ref": "#/$defs/name"},
            "cluster-id": {
                "title": "the id of a swarm, as `docker info` shows it on a manager",
                "type": "string",
                "pattern": "^[0-9a-z]{25}$",
            },
            "advertise-addr": _LOCAL_ADDRESS,
            "data-path-addr": _LOCAL_ADDRESS,
            "listen-addr": _LOCAL_ADDRESS,
        },
        "required": ["state"],
        "if": {"properties": {"state": {"const": "joined"}}, "required": ["state"]},
        "then": {"required": ["remote-addrs", "token"]},
        "additionalProperties": False,
    },
    resources=_resources,
    agent_input=agent_input,
    actions=get_args(SwarmAction),
    secret_names=frozenset({("token",)}),
)
