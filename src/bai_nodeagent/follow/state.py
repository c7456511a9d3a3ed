"""Follows the desired state: store, journal, local orders and addresses in, `InForce` out.

`in_force.judge` gives the verdict on all of it; `reading` says what is read.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import anyio
import structlog

from .. import desired
from ..core import schedule
from ..core.metrics import Metrics
from ..core.status import Applied, InForce, Reading
from ..core.watching import again_and_again
from ..desired import Desired
from ..errors import InvalidSpec, Mistake, Stuck, Unavailable
from ..kinds.agent import rollback_order
from ..model import Kind, NodeSpec, Status, Verdict
from ..redact import Redactor
from ..store.base import RECONNECT_S, Snapshot, Store, raw_of, reconnect_s
from ..system import inotify, kept, network
from . import journal, orders
from .in_force import Known, judge
from .journal import Journal
from .reading import Place, read_all
from .resolver import Resolver

# A store that does not answer when the daemon starts delays the node by this
# much at most; then the journal is used.
FIRST_READ_S = 5.0

log = structlog.get_logger()


class Follower:
    """Keeps `InForce` up to date. `publish` is called with each, from the event loop."""

    def __init__(
        self,
        place: Place,
        store: Store,
        kinds: Sequence[Kind],
        redactor: Redactor,
        metrics: Metrics,
        publish: Callable[[InForce], None],
    ) -> None:
        self._place = place
        self._store = store
        self._kinds = kinds
        self._resolver = Resolver(place, kinds, redactor)
        self._metrics = metrics
        self._publish = publish
        self._journal_path = place.state / journal.NAME
        self._journal = Journal(place.identity.node_id)
        self._known = Known(place.identity)
        self._valid: tuple[Desired, Snapshot] | None = None
        self._spec: NodeSpec | None = None  # of `_valid`
        self._again = anyio.Event()
        self._ordered = anyio.Event()
        self._validated = anyio.Event()
        self._epoch_note = ""
        self._turn = anyio.Lock()

    async def run(self) -> None:
        """Follows until cancelled."""
        self._recall()
        self._take_orders()
        loop = asyncio.get_running_loop()
        self._check_faults()
        with kept.listening(lambda: loop.call_soon_threadsafe(self._check_faults)):
            await self._follow()

    async def _follow(self) -> None:
        async with anyio.create_task_group() as tasks:
            names = (orders.PAUSE, orders.ADDRESS, rollback_order.NAME)
            files = [self._place.state / name for name in names]
            tasks.start_soon(self._follow_pause)
            tasks.start_soon(
                again_and_again,
                "orders",
                lambda: inotify.changes(files),
                self._orders_changed,
                RECONNECT_S,
            )
            tasks.start_soon(
                again_and_again,
                "network",
                self._network_changes,
                self._network_changed,
                RECONNECT_S,
            )
            await self._follow_store()

    def _recall(self) -> None:
        """Takes up the journal. What an earlier version kept in it against `lasting` goes now:
        the store may be away, or its documents invalid, for long."""
        found = journal.load(self._journal_path, self._place.identity.node_id)
        self._journal = journal.lasting(found)
        if self._journal != found:
            self._save()

    @property
    def last_applied(self) -> Applied | None:
        return self._journal.applied

    def applied(self, applied: Applied) -> None:
        """The node is wholly in line with that state: remembered across restarts."""
        self._journal = replace(self._journal, applied=applied)
        self._save()

    def rival(self, description: str | None) -> None:
        """Somebody else reports under this node's id, or does so no longer."""
        if description != self._known.rival:
            self._know(rival=description)

    # -- the store ---------------------------------------------------------

    async def _follow_store(self) -> None:
        """Reads, then watches what was read; reads again on a change, a break, or in a while."""
        watched: frozenset[str] = frozenset()
        watch = anyio.CancelScope()
        before: Snapshot | None = None
        is_first = True
        async with anyio.create_task_group() as tasks:
            while True:
                self._again = anyio.Event()
                wait_s = reconnect_s(random.random())  # noqa: S311
                try:
                    with anyio.fail_after(FIRST_READ_S if is_first else None):
                        keys, snapshot = await read_all(
                            self._store,
                            self._place.identity.node_id,
                            self._place.groups,
                            self._kinds,
                        )
                except (Unavailable, TimeoutError) as error:
                    await self._lost(str(error) or f"{self._store.where} does not answer")
                else:
                    await self._found(snapshot)
                    if self._resolver.is_checked and self._known.unkept is None:  # else soon again
                        wait_s = schedule.resync_s(random.random())  # noqa: S311
                    is_other = before is not None and not snapshot.goes_on_from(before)
                    if keys != watched or watch.cancel_called or is_other:
                        watch.cancel()
                        watch, watched = anyio.CancelScope(), keys
                        tasks.start_soon(self._watch, watch, keys, snapshot)
                    before = snapshot
                is_first = False
                kept.retry()
                with anyio.move_on_after(wait_s):
                    await self._again.wait()

    async def _watch(self, scope: anyio.CancelScope, keys: frozenset[str], since: Snapshot) -> None:
        """Asks for another read at each change; a break counts as one, and ends the scope."""
        with scope:
            try:
                async for _ in self._store.changes(keys, since):
                    self._again.set()
            except Unavailable as error:
                self._metrics.watch_restarts.inc()
                log.info("store.watch_broke", error=str(error))
            scope.cancel()
            self._again.set()

    async def _found(self, snapshot: Snapshot) -> None:
        self._metrics.store_up.set(1)
        self._metrics.store_last_contact.set(time.time())
        self._note_epoch(snapshot)
        self._resolver.is_checked = True
        store = Verdict(Status.TRUE, "Connected", self._epoch_note)
        await self._consider(self._place, snapshot, store)

    def _note_epoch(self, snapshot: Snapshot) -> None:
        known = self._journal.epoch
        is_back = snapshot.revision < self._known.reading.revision
        if known and (is_back or snapshot.epoch != known):
            self._epoch_note = (
                "the store was restored or replaced since the daemon started; "
                "its documents are taken as they are"
            )
            log.warning("store.new_epoch", message=self._epoch_note, revision=snapshot.revision)

    async def _lost(self, why: str) -> None:
        self._metrics.store_up.set(0)
        store = Verdict(Status.FALSE, "Unreachable", why)
        if self._known.newest is None and self._journal.raw:
            await self._restore(store)
        else:
            self._know(store=store)

    async def _restore(self, store: Verdict) -> None:
        """No store since this daemon started: the state that was valid last is in force."""
        place, snapshot = self._journaled()
        log.info("journal.in_force", revision=snapshot.revision)
        await self._consider(place, snapshot, store)

    def _journaled(self) -> tuple[Place, Snapshot]:
        """The documents that were valid last, and the groups that the node had then."""
        return replace(self._place, groups=self._journal.groups), journal.snapshot(self._journal)

    async def _consider(self, place: Place, snapshot: Snapshot, store: Verdict) -> None:
        """Takes what was read as the newest, and puts it in force if it is valid.

        If it is not, and this daemon has put nothing in force yet, then what an
        earlier one held stays in force.
        """
        async with self._turn:
            try:
                newest = await self._resolver.evaluated(place, snapshot)
                if snapshot.is_journaled:
                    is_paused = newest.is_paused or self._journal.is_paused
                    newest = replace(newest, is_paused=is_paused)
                else:
                    snapshot = replace(snapshot, revision=self._revision(newest, snapshot))
                mistakes = await self._put_in_force(newest, snapshot)
                if self._spec is None and self._journal.raw:
                    place, last = self._journaled()
                    await self._put_in_force(await self._resolver.evaluated(place, last), last)
            except InvalidSpec as error:
                self._know(mistakes=error.mistakes, store=store)
                return
            revisions = {d.key: d.revision for d in newest.documents}
            reading = Reading(snapshot.revision, newest.digest, revisions)
            self._know(
                newest=newest, reading=reading, mistakes=mistakes, spec=self._spec, store=store
            )
        if store.status is Status.TRUE:
            self._remember(newest, snapshot.epoch)

    def _revision(self, newest: Desired, snapshot: Snapshot) -> int:
        """At which the documents became what they are: others' writes don't count."""
        revisions = {d.key: d.revision for d in newest.documents}
        known = self._known.reading
        is_same = snapshot.epoch == self._journal.epoch and revisions == known.documents
        return known.revision if is_same else snapshot.revision

    async def _put_in_force(self, newest: Desired, snapshot: Snapshot) -> tuple[Mistake, ...]:
        """Fills in variables and secrets; gives the mistakes that kept it from being in force."""
        if newest.merged is None or newest.too_old:
            return newest.mistakes
        state = self._place.state
        try:
            given_up = rollback_order.current(state)
            self._spec = await self._resolver.resolved(newest, snapshot)
        except InvalidSpec as error:
            return error.mistakes
        except (Stuck, OSError) as error:
            return (Mistake("documents", "", str(error)),)
        self._valid = (newest, snapshot)
        self._validated.set()
        if given_up and given_up.digest != newest.digest:
            rollback_order.forget(state)  # something else is desired: that one may come again
        return ()

    def _remember(self, newest: Desired, epoch: str) -> None:
        fresh = replace(self._journal, is_paused=newest.is_paused, epoch=epoch)
        if self._valid is not None and self._valid[0] is newest:
            snapshot = self._valid[1]
            fresh = replace(
                fresh,
                revision=snapshot.revision,
                raw=raw_of(snapshot.entries),
                revisions={k: e.revision for k, e in snapshot.entries.items()},
                groups=self._place.groups,
            )
        self._journal = journal.lasting(fresh)
        self._save()  # a mere read if it is on disk; it may have been removed

    def _save(self) -> None:
        kept.keep_soon(
            self._journal_path, journal.encode(self._journal), limit=journal.BYTES_AT_MOST
        )

    def _check_faults(self) -> None:
        """Reports what can't be written to the disk. The state in force stays in force, and the
        write is tried again with the next reading."""
        faults = kept.faults().values()
        fault = None
        if faults:
            fault = (
                f"{'; '.join(faults)}: this state holds, but would not survive a restart; "
                "make room or make the folder writable"
            )
        if fault != self._known.unkept:
            self._know(unkept=fault)
            self._again.set()  # readings come sooner as long as there is one

    # -- addresses and orders ----------------------------------------------

    @property
    def _asks_for_address(self) -> bool:
        return bool(self._valid and desired.addresses(self._valid[0].merged or {})[1])

    async def _resolve_again(self) -> None:
        if self._valid is None:
            return
        async with self._turn:
            # Mistakes due to another address are reported by the next reading.
            await self._put_in_force(*self._valid)
            if self._spec != self._known.spec:
                self._know(spec=self._spec)

    async def _network_changes(self) -> AsyncIterator[None]:
        """Those of addresses and routes, as long as the documents ask for an address."""
        while not self._asks_for_address:
            self._validated = anyio.Event()
            await self._validated.wait()
        async for _ in network.changes():
            yield

    async def _network_changed(self) -> None:
        # Containers come and go all the time; few of them concern the address.
        if self._valid:
            found = await self._resolver.found_address(self._valid[0])
            if found != self._resolver.address:
                await self._resolve_again()

    async def _orders_changed(self) -> None:
        self._take_orders()
        await self._resolve_again()

    async def _follow_pause(self) -> None:
        """Ends a pause whose time is over: no file changes then."""
        while True:
            self._ordered = anyio.Event()
            pause = self._known.pause
            with anyio.move_on_after(pause.observe_in_s(time.time()) if pause else None):
                await self._ordered.wait()
            self._take_orders()

    def _take_orders(self) -> None:
        orders.tidy(self._place.state)
        pause = orders.current_pause(self._place.state, time.time())
        if pause != self._known.pause:
            self._know(pause=pause)
            self._ordered.set()

    def _know(self, **news: object) -> None:
        self._known = replace(self._known, **news)  # type: ignore[arg-type]
        self._publish(judge(self._known))
