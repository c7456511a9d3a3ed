"""Turns the documents into this node's desired state, as the daemon does it: with a deadline,
and remembering the address and the secrets that it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from .. import address
from ..desired import Desired
from ..errors import InvalidSpec, Mistake, Stuck, Unavailable
from ..model import Kind, NodeSpec, Status, Verdict
from ..redact import Redactor
from ..store.base import Snapshot
from ..system.blocking import in_thread
from . import orders
from .reading import Place, evaluate, find_address, resolve, secrets_of

CHECK_DEADLINE_S = 60.0

T = TypeVar("T")


class Resolver:
    """Its callers take turns: a second question beside the first would count as stuck.

    address     of the node, as it was found last
    is_checked  False: checking the documents got stuck since this was set
    """

    def __init__(self, place: Place, kinds: Sequence[Kind], redactor: Redactor) -> None:
        self._place = place
        self._kinds = kinds
        self._redactor = redactor
        self.address = address.AgentAddress()
        self.is_checked = True

    async def evaluated(self, place: Place, snapshot: Snapshot) -> Desired:
        """Raises InvalidSpec, where checking gets stuck."""
        return await self._checked(lambda: evaluate(place, snapshot, self._kinds))

    async def resolved(self, newest: Desired, snapshot: Snapshot) -> NodeSpec:
        """Raises InvalidSpec. An address found is kept from now on."""
        found = self.address = await self.found_address(newest)
        state = self._place.state
        if found.kept is not None and found.kept != orders.kept_address(state):
            orders.keep_address(state, found.kept)
        spec = await self._checked(
            lambda: resolve(self._place, newest, snapshot, found, self._kinds)
        )
        self._redactor.learn(secrets_of(spec, self._kinds))
        return spec

    async def found_address(self, newest: Desired) -> address.AgentAddress:
        try:
            return await find_address(newest.merged or {}, self._place)
        except Unavailable as error:
            return address.AgentAddress(doubt=Verdict(Status.UNKNOWN, "Unavailable", str(error)))

    async def _checked(self, check: Callable[[], T]) -> T:
        """In a thread: the most twisted document that is allowed takes seconds to check."""
        try:
            return await in_thread("checking the documents", check, CHECK_DEADLINE_S)
        except (Stuck, Unavailable) as error:
            self.is_checked = False
            raise InvalidSpec((Mistake("documents", "", str(error)),)) from error
