"""`plan`: what would change on this node, without touching it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio

from ..core.reconcile import build, plan_or_fault
from ..errors import InvalidSpec, Unavailable
from ..follow import journal, orders
from ..follow.in_force import Known, judge, missing_layers
from ..follow.reading import evaluate, find_address, read_all, resolve, secrets_of
from ..kinds import KINDS
from ..kinds.agent.guard import Guard
from ..kinds.agent.process.child import Adopt
from ..kinds.agent.process.observe import NAME as AGENT
from ..kinds.agent.spec import agent_spec
from ..model import Action, AnyResource, NodeSpec, Outcome, Plan
from ..site import Site
from ..store.base import Snapshot
from ..system import own_file
from . import STORE_DEADLINE_S, Answer
from .summary import Part, Sessions, effect_of, summary

KEPT_STATE = "going by the last valid state that this node keeps"


@dataclass(frozen=True, slots=True)
class _Observed:
    """One resource as it is, and what would be done about it."""

    resource: AnyResource
    found: Plan[Action] | Outcome

    @property
    def part(self) -> Part:
        is_known = isinstance(self.found, Plan)
        found = self.found.actions if isinstance(self.found, Plan) else ()
        actions = tuple(action for action in found if not action.is_note)
        is_adopted = any(isinstance(action, Adopt) for action in found)
        return Part(self.resource.name, self.found.verdict, actions, is_adopted, is_known)

    @property
    def actions(self) -> tuple[Action, ...]:
        return self.part.actions

    @property
    def is_in_line(self) -> bool:
        return self.part.is_in_line


async def plan(site: Site) -> Answer:
    """0 in line, 3 not, 2 invalid documents, 4 nothing to go by."""
    snapshot, notes = await _documents(site)
    if snapshot is None:
        return Answer(4, value={"error": notes[-1]}, notes=notes)
    newest = evaluate(site.place, snapshot, KINDS)
    pause = orders.current_pause(site.settings.state, time.time())
    if hold := judge(Known(site.place.identity, newest, pause=pause)).hold:
        notes.append(f"nothing of this would be done now: {hold.message}")
    if newest.mistakes or newest.too_old:
        return _invalid([*map(str, newest.mistakes), *filter(None, [newest.too_old])], notes)
    if newest.missing:
        text = missing_layers(newest.missing)
        return Answer(4, value={"error": text}, notes=[*notes, text])
    try:
        found = await find_address(newest.merged or {}, site.place)
        spec = resolve(site.place, newest, snapshot, found, KINDS)
    except InvalidSpec as error:
        return _invalid([str(mistake) for mistake in error.mistakes], notes)
    except Unavailable as error:
        return Answer(4, value={"error": str(error)}, notes=[*notes, str(error)])
    site.redactor.learn(secrets_of(spec, KINDS))
    observed = await plan_all(site, spec)
    parts = [each.part for each in observed]
    sessions = await _sessions(site, spec, parts)
    first = summary(spec.node_id, parts, sessions)
    code = 0 if all(part.is_in_line for part in parts) else 3
    value = {
        "summary": first,
        "effect": effect_of(parts, sessions),
        "sessions": sessions.count if sessions else None,
        **_value(observed, spec),
    }
    return Answer(code, [first, *_lines(observed)], value, notes)


async def _sessions(site: Site, spec: NodeSpec, parts: list[Part]) -> Sessions | None:
    """Those that a change of the agent may concern; None where none is planned, or where it is
    not Backend.AI's agent."""
    is_concerned = any(part.name == AGENT and part.is_disruptive for part in parts)
    if not is_concerned or "agent" not in spec.document:
        return None
    agent = agent_spec(spec)
    guard = Guard(agent, site.host, "plan")
    found = await guard.observe(agent.command)
    if not found.is_guarded:
        return None
    sessions = await guard.sessions()
    return Sessions(sessions.count if sessions else None, are_at_risk=bool(found.lost))


async def plan_all(site: Site, spec: NodeSpec, only: str = "") -> list[_Observed]:
    """The resources of a desired state as they are now; `only` those whose name begins so.

    All at once: one that hangs costs its own deadline, and not the sum of all.
    """
    resources = [
        r for kind in KINDS for r in build(kind, spec, site.host) if r.name.startswith(only)
    ]
    found: dict[str, Plan[Action] | Outcome] = {}

    async def observe_one(resource: AnyResource) -> None:
        found[resource.name] = await plan_or_fault(resource)

    async with anyio.create_task_group() as tasks:
        for resource in resources:
            tasks.start_soon(observe_one, resource)
    return [_Observed(resource, found[resource.name]) for resource in resources]


async def _documents(site: Site) -> tuple[Snapshot | None, list[str]]:
    """What the store says, else the journal, and what people should know of it."""
    node_id = site.place.identity.node_id
    try:
        with anyio.fail_after(STORE_DEADLINE_S):
            _, snapshot = await read_all(site.store, node_id, site.place.groups, KINDS)
    except (Unavailable, TimeoutError) as error:
        why = str(error) or f"{site.store.where} does not answer"
        try:
            there = journal.peek(site.settings.state / journal.NAME, node_id)
        except own_file.Unreadable as fault:
            return None, [f"{why}; and what this node keeps of it can't be read: {fault}"]
        if there is None or not there.raw:
            return None, [f"{why}; and no valid state is kept on this node"]
        return journal.snapshot(there), [f"{why}; {KEPT_STATE}, revision {there.revision}"]
    return snapshot, []


def _invalid(mistakes: list[str], notes: list[str]) -> Answer:
    return Answer(2, value={"mistakes": mistakes}, notes=[*notes, *mistakes])


def _lines(observed: list[_Observed]) -> list[str]:
    lines = []
    for each in observed:
        name, verdict = each.resource.name, each.found.verdict
        if each.is_in_line:
            lines.append(f"{name}: in line{f' ({verdict.message})' if verdict.message else ''}")
        elif not each.actions:
            lines.append(f"{name}: {verdict.reason}: {verdict.message}")
        for action in each.actions:
            needs = f" (after {', '.join(action.needs)})" if action.needs else ""
            lines.append(f"{name}: would {action.summary}{needs}")
            lines += [f"    {line}" for line in action.diff.splitlines()]
    return lines


def _value(observed: list[_Observed], spec: NodeSpec) -> dict[str, object]:
    return {
        "revision": spec.revision,
        "digest": spec.digest,
        "resources": [
            {
                "type": each.resource.name,
                "in-line": each.is_in_line,
                "status": str(each.found.verdict.status),
                "reason": each.found.verdict.reason,
                "message": each.found.verdict.message,
                "actions": [
                    {
                        "action": action.verb,
                        "summary": action.summary,
                        "needs": list(action.needs),
                        "disruptive": action.is_disruptive,
                        "diff": action.diff,
                    }
                    for action in each.actions
                ],
            }
            for each in observed
        ],
    }
