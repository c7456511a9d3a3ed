"""The status of the node: outcomes in, status document out. Pure; the time is a parameter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ..model import Condition, NodeSpec, Outcome, Scalar, Status, Verdict
from ..text import to_json as json_text

STATUS_BYTES_AT_MOST = 16 * 1024
_MESSAGE_STEPS = (2000, 1000, 500, 200, 80)
_WORST_FIRST = (Status.FALSE, Status.UNKNOWN, Status.TRUE)

DESIRED_STATE = "DesiredState"
STORE = "Store"


PAUSED = "Paused"
"""Of a node: a person holds all changes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The set of documents in the store; `digest` is None when it is not valid."""

    revision: int = 0
    digest: str | None = None
    documents: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InForce:
    """What holds on this node now.

    reading    the set of documents in the store, valid or not
    desired    the verdict on it
    store      whether the store can be reached
    spec       the last valid state, None before the first
    hold       why nothing on the node may be changed, None where it may
    """

    reading: Reading
    desired: Verdict
    store: Verdict
    spec: NodeSpec | None = None
    hold: Verdict | None = None
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """The last desired state that the node was wholly in line with."""

    revision: int
    digest: str
    at: str


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The status document, before it is JSON. `reported_at` is set when it is written."""

    node: str
    daemon: str
    boot_id: str
    started_at: str
    desired: Reading
    applied: Applied | None
    summary: str
    conditions: tuple[Condition, ...]
    facts: Mapping[str, Scalar]
    reported_at: str = ""


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds: "2026-11-23T10:00:00Z"."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def updated(
    previous: Iterable[Condition], verdicts: Mapping[str, Verdict], now: str, revision: int
) -> tuple[Condition, ...]:
    """Conditions in the order of `verdicts`; `since` and `revision` stay while nothing changes.

    `since` is how long status and reason have been so; a message may grow
    more precise without starting a new time.
    """
    old = {condition.type: condition for condition in previous}
    fresh = []
    for name, verdict in verdicts.items():
        before = old.get(name)
        is_same = before is not None and (before.status, before.reason) == (
            verdict.status,
            verdict.reason,
        )
        since = before.since if is_same and before else now
        fresh.append(
            Condition(name, verdict.status, verdict.reason, verdict.message, since, revision)
        )
    return tuple(fresh)


def summary(
    desired: Verdict,
    store: Verdict,
    outcomes: Iterable[Outcome],
    *,
    is_paused: bool,
    is_applied: bool,
) -> str:
    """One word for the node: the first that fits, in the contract's order."""
    outcomes = list(outcomes)
    if is_paused:
        return PAUSED
    if desired.reason in ("Invalid", "DaemonTooOld"):
        return "Invalid"
    if desired.reason == "NoDesiredState":
        return "Missing"
    is_lost = Status.FALSE in (desired.status, store.status)
    if is_lost or any(is_fault(outcome) for outcome in outcomes):
        return "Degraded"
    if is_applied and all(outcome.verdict.status is Status.TRUE for outcome in outcomes):
        return "Ready"
    return "Progressing"


def is_fault(outcome: Outcome) -> bool:
    """False, or unknown and not merely under way."""
    return outcome.verdict.status is Status.FALSE or (
        outcome.verdict.status is Status.UNKNOWN and not outcome.is_progressing
    )


def metric_label(condition_type: str) -> str:
    """`resource` label of a condition type: AgentConfig -> agent_config, Mount/a -> mount/a."""
    kind, slash, name = condition_type.partition("/")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower() + slash + name


def to_dict(status: NodeStatus) -> dict[str, Any]:
    """The status document of the contract."""
    return {
        "node": status.node,
        "daemon": status.daemon,
        "boot-id": status.boot_id,
        "started-at": status.started_at,
        "desired": {
            "revision": status.desired.revision,
            "digest": status.desired.digest,
            "documents": dict(status.desired.documents),
        },
        "applied": None
        if status.applied is None
        else {
            "revision": status.applied.revision,
            "digest": status.applied.digest,
            "at": status.applied.at,
        },
        "summary": status.summary,
        "reported-at": status.reported_at,
        "conditions": [
            {
                "type": c.type,
                "status": str(c.status),
                "reason": c.reason,
                "message": c.message,
                "since": c.since,
                "revision": c.revision,
            }
            for c in status.conditions
        ],
        "facts": dict(status.facts),
    }


def to_json(status: NodeStatus) -> bytes:
    """The status document as it is written: at most 16 KiB, long messages shortened first.

    Where that is not enough, the worst conditions come first, and a last one
    tells how many are left out.
    """
    for limit in _MESSAGE_STEPS:
        short = tuple(_shortened(c, limit) for c in status.conditions)
        raw = _raw(replace(status, conditions=short))
        if len(raw) <= STATUS_BYTES_AT_MOST:
            return raw
    bare = replace(status, facts={}, desired=replace(status.desired, documents={}))
    # What is as it should be needs no words.
    brief = [_shortened(c, 0 if c.status is Status.TRUE else limit) for c in status.conditions]
    worst_first = sorted(brief, key=lambda c: _WORST_FIRST.index(c.status))
    sizes = [len(_raw(replace(bare, conditions=(c,)))) for c in worst_first]
    room = STATUS_BYTES_AT_MOST - len(_raw(replace(bare, conditions=(_left_out(brief),))))
    without = len(_raw(replace(bare, conditions=())))
    fitting = 0
    for size in sizes:
        room -= size - without + len(", ")
        fitting += room >= 0
    rest = worst_first[fitting:]
    kept = (*worst_first[:fitting], *([_left_out(rest)] if rest else []))
    return _raw(replace(bare, conditions=kept))


def _raw(status: NodeStatus) -> bytes:
    return json_text(to_dict(status)).encode()


def _shortened(condition: Condition, limit: int) -> Condition:
    if len(condition.message) <= limit:
        return condition
    return replace(condition, message=condition.message[: limit - 1] + "…" if limit else "")


def _left_out(rest: Sequence[Condition]) -> Condition:
    """Stands for conditions for which there is no room; as bad as the worst of them."""
    counts = ((sum(c.status is each for c in rest), each) for each in _WORST_FIRST)
    counted = ", ".join(f"{count} {each}" for count, each in counts if count)
    text = f"{len(rest)} more ({counted}); `bai-nodeagent status` on the node shows them"
    worst = min((c.status for c in rest), key=_WORST_FIRST.index)
    since, revision = max(c.since for c in rest), max(c.revision for c in rest)
    return Condition("More", worst, "NotShown", text, since, revision)


def without_facts(status: NodeStatus) -> NodeStatus:
    """What has to differ for a write: facts alone cause none."""
    return replace(status, facts={})
