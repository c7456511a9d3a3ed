"""What is said of agent.toml: its state, and why it is left as it is. Pure."""

from __future__ import annotations

from typing import Any

from .... import agent_toml, toml
from ....machine import Account, File, Owner
from ....model import UNSET, KeyPath, Status, Verdict
from ..backendai.schema_faults import Opinion
from ..sessions import Effect
from .state import Actual, AgentConfigSpec

IDENTITY_CHANGED = "IdentityChanged"
_ID: KeyPath = ("agent", "id")
_COPIES_NAMED = 3
_OR_IN_PLACE = ', or let it be written into: [agent-config] write = "in-place"'


def identity_changed(spec: AgentConfigSpec, text: str, last: str | None) -> Verdict | None:
    """For the manager another id is another agent: what is there gives way to an id that
    somebody has said, or that stood there before; never to one that nobody has.
    """
    present, kept = (_id_in(each) if each else UNSET for each in (text, last))
    desired = spec.values.get(_ID, UNSET)
    is_silent = spec.derived_id != "" and desired == spec.derived_id != kept
    if not is_silent or not present or present in (UNSET, desired):
        return None
    text = (
        f"{spec.path} holds agent.id {present}, and this node's id is {desired}, which nobody has "
        "said: for the manager that would be another agent, so nothing is written. Set node-id in "
        f"the daemon's own configuration: {present} to keep the agent that it knows (and remove "
        f"node-id from the daemon's state folder), {desired} if the change is meant"
    )
    return Verdict(Status.FALSE, IDENTITY_CHANGED, text)


def _id_in(text: str) -> Any:
    return agent_toml.lookup(toml.loads(text), _ID)


def left_alone(spec: AgentConfigSpec, actual: Actual, file: File) -> Verdict:
    """The verdict on a broken file that is left as it is, since nobody knows what it held."""
    text = (
        f"{spec.path} is not valid TOML: {agent_toml.fault(file.raw)}; what it is to hold is not "
        f"known, so it is left alone, and no agent is started with it: mend it{aside(actual)}"
    )
    return Verdict(Status.FALSE, "Broken", text)


def aside(actual: Actual) -> str:
    """What is said of set aside files until they are gone, as the end of a message."""
    copies = actual.copies[::-1]
    if not copies:
        return ""
    more = len(copies) - _COPIES_NAMED
    named = ", ".join(copies[:_COPIES_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"; broken files were set aside in {actual.target.parent}, see and delete them: {named}"


def bound(spec: AgentConfigSpec, file: File) -> Verdict | None:
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


def access(spec: AgentConfigSpec, file: File, owner: Owner | None, mode: int) -> Verdict:
    message = f"{spec.path} has {_spelled(file.owner, file.mode)}, not {_spelled(owner, mode)}"
    return Verdict(Status.FALSE, "Access", message)


def unreadable(spec: AgentConfigSpec, user: Account, file: File) -> Verdict:
    text = (
        f"the agent's user {user.name} can't read {spec.path}, which has "
        f"{_spelled(file.owner, file.mode)}; set [agent-config] owner or mode"
    )
    return Verdict(Status.FALSE, "Unreadable", text)


def verdict(spec: AgentConfigSpec, actual: Actual, text: str | None) -> Verdict:
    """The verdict on a file that has to be written."""
    source = "the last good content" if actual.last else "the desired values alone"
    if actual.file is None:
        message = f"{spec.path} is not there; it is made from {source}"
        return Verdict(Status.FALSE, "Missing", message)
    if text is None:
        wrong = agent_toml.fault(actual.file.raw)
        fault = f"is not valid TOML ({wrong})" if actual.file.raw.strip() else "is empty"
        return Verdict(Status.FALSE, "Broken", f"{spec.path} {fault}; it is made from {source}")
    what = costs(spec, actual, text) or "the form of an address, which the agent refuses"
    return Verdict(Status.FALSE, "Drift", f"not as desired in {spec.path}: {what}")


def costs(spec: AgentConfigSpec, actual: Actual, text: str) -> str:
    """The keys that are not as desired, and what it costs to bring each into line."""
    drifts = agent_toml.difference(text, spec.values, spec.optional)
    listed = ", ".join(f"{d}{_effect_text(actual.risk.effect(d.path))}" for d in drifts)
    if lost := agent_toml.lost_endpoints(text, spec.values):
        listed += f" (and no more {', '.join(lost)})"
    return f"{listed}: {actual.risk.why}" if drifts and actual.risk.why else listed


def _effect_text(effect: Effect) -> str:
    return f" ({effect})" if effect else ""


def incompatible(spec: AgentConfigSpec, actual: Actual, opinion: Opinion) -> Verdict:
    reader = f"agent {actual.reader}" if actual.reader else "the agent"
    current = "; what is there is left" if actual.file is not None else ""
    guess = f" (guessed by rules of our own: {opinion.guess})" if opinion.guess else ""
    text = (
        f"{spec.path} would be wrong for {reader}, so it is not written{current}: "
        f"{'; '.join(opinion.faults)}{guess}"
    )
    return Verdict(Status.FALSE, "Incompatible", text)


def _spelled(owner: Owner | None, mode: int) -> str:
    return f"{owner[0]}:{owner[1]} {mode:04o}" if owner else f"{mode:04o}"
