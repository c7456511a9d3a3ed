"""`may-start`: the gate of the agent's unit, whoever starts it. Needs no store and no daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping

import anyio

from .. import agent_record, journal
from ..model import InvalidSpec, NodeSpec, Unavailable
from ..reading import evaluate, find_address, resolve
from ..resources import KINDS
from ..site import Site
from . import Answer
from .look import see


def may_start(site: Site, environment: Mapping[str, str]) -> Answer:
    """0 it may, 1 it may not, with the reason. Notes what the agent is started with.

    A node that was never told anything has no reason against a start.
    """
    spec = anyio.run(_state_in_force, site)
    if spec is None:
        return Answer(0, ["nothing is desired of this node: no reason against a start"])
    seen = anyio.run(see, site, spec, "Mount/")  # the only needs that a unit's gate asks for
    verdicts = {each.resource.name: each.found.verdict for each in seen}
    if reason := agent_record.may_start(spec, verdicts):
        return Answer(1, value={"may-start": False, "reason": reason}, notes=[reason])
    if os.geteuid() == 0 and site.host.runtime.is_dir():
        agent_record.record_start(site.host, spec, environment.get("INVOCATION_ID", ""))
    return Answer(0, ["the agent may start"], {"may-start": True})


async def _state_in_force(site: Site) -> NodeSpec | None:
    """The last valid state, from the journal: the daemon keeps it up to date."""
    kept = journal.peek(site.settings.state / journal.NAME, site.place.identity.node_id)
    if kept is None or not kept.raw:
        return None
    newest = evaluate(site.place, journal.snapshot(kept), KINDS)
    if newest.merged is None:
        return None
    try:
        found = await find_address(newest.merged, site.place)
        return resolve(site.place, newest, journal.snapshot(kept), found, KINDS)
    except (InvalidSpec, Unavailable):
        return None
