"""The composition root of `run` and `apply`: builds everything, runs it, ends it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import anyio
import structlog

from . import __version__, alive, package
from .core import status
from .core.loop import Loop
from .core.metrics import Metrics
from .core.report import Origin, Reporter
from .core.status import InForce, NodeStatus
from .errors import Stuck
from .follow.in_force import CONNECTING, judge_nothing
from .follow.state import Follower
from .http import Server, Sources
from .kinds import KINDS
from .model import Conditions
from .site import CannotStart, Site, locked
from .store.base import Presence
from .system import files, kept, sockets
from .system.blocking import in_thread
from .system.lasting import lasting
from .system.notify import notify, watchdog_interval_s

# How often proven progress is reported to systemd and a rival searched for, at the least.
PULSE_S = 15.0
FAREWELL_S = 2.0
# `apply` ends when nothing has moved for so long; above the time that an agent may be starting.
PATIENCE_S = 120.0
LISTEN_EVERY_S = 5.0
DNS_DEADLINE_S = 5.0

log = structlog.get_logger()


async def run(site: Site) -> None:
    """The daemon, until SIGTERM or SIGINT. Raises AlreadyRunning, CannotStart."""
    with locked(site.settings.runtime):
        package.load()
        _sweep(site)
        node = Node(site)
        server = await _server(site, node)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(node.run)
                tasks.start_soon(_serve, site, node, server)
                await _end_of_service()
                notify("STOPPING=1")
                log.info("daemon.stopping")
                tasks.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(FAREWELL_S, shield=True):
                await site.store.close()
            kept.flush(FAREWELL_S)


async def apply(site: Site) -> NodeStatus:
    """Converges once and returns how far it came. Raises AlreadyRunning."""
    with locked(site.settings.runtime):
        _sweep(site)
        node = Node(site)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.run)
            await node.settled()
            tasks.cancel_scope.cancel()
        with anyio.move_on_after(FAREWELL_S):
            await node.reporter.farewell()
        await site.store.close()
        kept.flush(FAREWELL_S)
        return node.reporter.newest


class Node:
    """Follower, loop and reporter, tied together."""

    def __init__(self, site: Site) -> None:
        node_id = site.place.identity.node_id
        started_at = status.timestamp(datetime.now(UTC))
        self._alive = alive.mine(started_at)
        self._site = site
        self.metrics = Metrics(__version__, node_id, site.place.cluster)
        self.follower = Follower(
            site.place, site.store, KINDS, site.redactor, self.metrics, self._take
        )
        self.reporter = Reporter(
            Origin(node_id, __version__, str(self._alive["boot-id"]), started_at),
            site.store,
            site.redactor,
            self.metrics,
            self.follower.applied,
        )
        host = replace(site.host, conditions=self._conditions)
        self.loop = Loop(KINDS, host, self.metrics, self._update)
        self._in_force = judge_nothing(site.place.identity)
        self._moved = anyio.Event()
        self._package = package.stamp()

    async def run(self) -> None:
        """Keeps the node until cancelled."""
        key = f"node/{self._site.place.identity.node_id}/alive"
        async with (
            self._site.store.presence(key, self._alive_value, self._may_replace) as presence,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(lasting, "follower", self.follower.run)
            tasks.start_soon(lasting, "loop", self.loop.run)
            tasks.start_soon(lasting, "pulse", partial(self._pulse, presence))
            await self._first_word()
            tasks.start_soon(lasting, "reporter", self.reporter.run)
            notify("READY=1")
            log.info("daemon.ready", node=self._site.place.identity.node_id)

    async def settled(self) -> None:
        """Returns once nothing is under way any more, or nothing of it has moved for long."""
        await self._first_word()
        while waiting := self._under_way():
            longest_s = max(deadline_s for *_, deadline_s in waiting)
            with anyio.move_on_after(PATIENCE_S + longest_s) as patience:
                while self._under_way() == waiting:
                    await self._moved.wait()
            if patience.cancelled_caught:
                return

    def _under_way(self) -> frozenset[tuple[str, str, int, float]]:
        """What progresses: its name, its reason, how far, and the deadline of what is done now."""
        return frozenset(
            (
                outcome.name,
                outcome.verdict.reason,
                len(outcome.actions),
                outcome.pending[0].deadline_s if outcome.pending else 0.0,
            )
            for outcome in self.loop.outcomes.values()
            if outcome.is_progressing
        )

    async def _first_word(self) -> None:
        while self._in_force.store is CONNECTING:
            await self._moved.wait()

    def _take(self, in_force: InForce) -> None:
        before, self._in_force = self._in_force, in_force
        if in_force.spec is not None and (before.spec, before.hold) != (
            in_force.spec,
            in_force.hold,
        ):
            applied = self.follower.last_applied
            is_new = applied is None or applied.digest != in_force.spec.digest
            self.loop.take(in_force.spec, in_force.hold, is_new=is_new)
        self._update()

    def _update(self) -> None:
        before = self.reporter.newest.summary
        self.reporter.update(self._in_force, self.loop.outcomes, self.follower.last_applied)
        if self.reporter.newest.summary != before:
            notify(f"STATUS={self.reporter.newest.summary}")
        self._moved.set()
        self._moved = anyio.Event()

    def _conditions(self) -> Conditions:
        now = self._in_force
        if now.spec is None or now.hold is not None:
            return Conditions()
        verdicts = {name: outcome.verdict for name, outcome in self.loop.outcomes.items()}
        return Conditions(now.spec.digest, {**verdicts, "Store": now.store})

    async def _pulse(self, presence: Presence) -> None:
        """Feeds the watchdog, but only with proof that the resources move."""
        watchdog_s = watchdog_interval_s()
        every_s = min(PULSE_S, watchdog_s / 3) if watchdog_s else PULSE_S
        while True:
            if self.loop.is_moving:
                notify("WATCHDOG=1")
            else:
                log.error("loop.wedged", message="a resource has not moved when it had to")
            self.follower.rival(alive.described(presence.rival))
            self._check_package()
            await anyio.sleep(every_s)

    def _check_package(self) -> None:
        now = package.stamp()
        if now != self._package:
            self._package = now
            what = "replaced" if now else "removed"
            text = f"the program's files were {what}; this daemon goes on as it was until a restart"
            log.warning("package.changed", message=text)

    def _alive_value(self) -> bytes:
        return alive.value(self._alive, datetime.now(UTC))

    def _may_replace(self, value: bytes, unchanged_s: float) -> bool:
        return alive.may_replace(value, self._alive, unchanged_s)


async def _end_of_service() -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return


async def _server(site: Site, node: Node) -> Server | None:
    """HTTP; None while its address is not known or not on the node.

    Raises CannotStart where root, or our own account, is seen to listen there. Any other may
    be quicker than we at a start of the node: that must not leave it unkept.
    """
    sources = Sources(
        node.metrics.text,
        lambda: node.reporter.newest,
        lambda: node.loop.is_moving,
        site.host.digest,
    )
    host, port = site.settings.listen
    try:
        found = await in_thread(
            "http.listen: its address", lambda: socket.getaddrinfo(host, port), DNS_DEADLINE_S
        )
        address = str(found[0][4][0])
        return Server((address, port), sources)
    except (Stuck, socket.gaierror) as error:
        log.warning("http.waiting", listen=host, error=str(error))
    except OSError as error:
        # Whoever has the port without listening, or goes in this moment, may be anybody.
        accounts = sockets.accounts_at(address, port)
        is_ours = accounts and accounts <= {0, os.geteuid()}
        is_waited_for = error.errno == errno.EADDRINUSE and not is_ours
        if error.errno != errno.EADDRNOTAVAIL and not is_waited_for:
            raise CannotStart(f"http.listen: {host}:{port}: {error.strerror}") from error
        owner = f" (account {max(accounts)} listens there)" if accounts else ""
        log.warning("http.waiting", listen=host, error=f"{error.strerror}{owner}")
    return None


async def _serve(site: Site, node: Node, server: Server | None) -> None:
    """Serves HTTP until cancelled, from when its address is there. The node is kept meanwhile."""
    try:
        while server is None:
            await anyio.sleep(LISTEN_EVERY_S)
            with contextlib.suppress(CannotStart):  # taken meanwhile: it may be free later
                server = await _server(site, node)
        await anyio.sleep_forever()
    finally:
        if server is not None:
            server.close()


def _sweep(site: Site) -> None:
    """Removes what a killed predecessor was about to write; passwords may be in it."""
    runtime, store = site.settings.runtime, site.settings.store.folder
    folders = [site.settings.state, runtime, runtime / "mounts"]
    if store is not None:
        folders += [each for each in (store, *store.rglob("*")) if each.is_dir()]
    for folder in folders:
        try:
            swept = files.sweep(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("files.not_swept", error=f"{folder}: {error.strerror}")
            continue
        if swept:
            log.info("files.swept", folder=str(folder), files=len(swept))
