"""`may-start`: the gate of the agent's unit, whoever starts it. Needs no store and no daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import anyio

from ..errors import InvalidSpec, Unavailable
from ..follow import journal
from ..follow.reading import evaluate, find_address, resolve
from ..kinds import KINDS
from ..kinds.agent import gate as agent_gate
from ..model import NodeSpec
from ..site import Site
from ..system import own_file
from . import Answer
from .plan import plan_all


def may_start(site: Site, environment: Mapping[str, str]) -> Answer:
    """0 it may, 1 it may not, with the reason. Notes what the agent is started with.

    A node that never had a document has no reason against a start. A state
    that can't be judged is one: the mounts that it requires are not known.
    """
    try:
        spec = anyio.run(_state_in_force, site)
    except (InvalidSpec, Unavailable, own_file.Unreadable, OSError) as error:
        return _no(f"what is desired of this node can't be judged: {error}")
    if spec is None:
        text = "nothing is desired of this node: no reason against a start"
        return Answer(0, [text], {"may-start": True})
    observed = anyio.run(
        plan_all, site, spec, "Mount/"
    )  # the only needs that a unit's gate asks for
    verdicts = {each.resource.name: each.found.verdict for each in observed}
    if reason := agent_gate.may_start(spec, verdicts):
        return _no(reason)
    if os.geteuid() == 0 and site.host.runtime.is_dir():
        agent_gate.record_start(site.host, spec, environment.get("INVOCATION_ID", ""))
    return Answer(0, ["the agent may start"], {"may-start": True})


def _no(reason: str) -> Answer:
    return Answer(1, value={"may-start": False, "reason": reason}, notes=[reason])


async def _state_in_force(site: Site) -> NodeSpec | None:
    """The last valid state, from the journal: the daemon keeps it up to date.

    None when there was none. Raises InvalidSpec, Unavailable, own_file.Unreadable, OSError.
    """
    last = journal.peek(site.settings.state / journal.NAME, site.place.identity.node_id)
    if last is None or not last.raw:
        return None
    place = replace(site.place, groups=last.groups)  # those that the daemon had then
    newest = evaluate(place, journal.snapshot(last), KINDS)
    found = await find_address(newest.merged or {}, site.place)
    return resolve(place, newest, journal.snapshot(last), found, KINDS)
