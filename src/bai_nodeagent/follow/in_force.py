"""What is in force on the node, from all that is known. Pure.

What holds is always one whole valid state. A newer one that is invalid,
incomplete or out of reach changes nothing but the verdict on it; an absence is
never read as "remove everything".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.status import PAUSED, InForce, Reading
from ..desired import Desired
from ..errors import Mistake
from ..identity import Identity
from ..model import NodeSpec, Status, Verdict
from . import orders

MISTAKES_LISTED = 20

VALID = Verdict(Status.TRUE, "Valid")
CONNECTING = Verdict(Status.UNKNOWN, "Connecting", "not asked yet")


@dataclass(frozen=True)
class Known:
    """All that decides what is in force. `newest` is None until a store or journal was read."""

    identity: Identity
    newest: Desired | None = None
    reading: Reading = field(default_factory=Reading)
    mistakes: tuple[Mistake, ...] = ()
    spec: NodeSpec | None = None
    store: Verdict = CONNECTING
    pause: orders.Pause | None = None
    rival: str | None = None  # another daemon that reports under this id
    unkept: str | None = None  # what could not be written to the disk, for people


def judge_nothing(identity: Identity) -> InForce:
    """What is in force before anything has spoken."""
    return judge(Known(identity))


def judge(known: Known) -> InForce:
    """What is in force, from all that is known. Pure."""
    paused_by = _paused_by(known)
    store = known.store
    if known.rival is not None:
        text = (
            f"another daemon reports as {known.identity.node_id} ({known.rival}); "
            "end it, or give one of them another node-id"
        )
        store = Verdict(Status.FALSE, "DuplicateNode", text)
    verdict = _verdict(known, paused_by)
    hold = None
    if known.identity.changed_to is not None:
        hold = verdict
    elif known.rival is not None:
        hold = store
    elif paused_by is not None:
        hold = Verdict(Status.FALSE, PAUSED, paused_by)
    return InForce(known.reading, verdict, store, known.spec, hold, paused_by is not None)


def _paused_by(known: Known) -> str | None:
    if known.pause is not None:
        if known.pause.fault:
            return (
                f"{known.pause.fault}; the end of the pause is unknown, so this node stays paused; "
                "`bai-nodeagent resume` ends it"
            )
        return f"paused on this node{known.pause.end}; `bai-nodeagent resume` ends it"
    held = known.spec is not None and known.spec.document.get("paused") is True
    newest = known.newest
    if newest is not None and newest.is_paused:
        return f"paused by {newest.layer_of(('paused',))}: `paused = true`"
    if held and newest is not None and _is_unfit(newest, known.mistakes):
        return "paused by the last valid state: `paused = true`"
    return None


def _is_unfit(newest: Desired, mistakes: Sequence[Mistake]) -> bool:
    """Whether the newest documents are not what is in force; secrets may be what they lack."""
    return newest.merged is None or newest.too_old is not None or bool(mistakes)


def missing_layers(keys: Sequence[str]) -> str:
    """What is missing, and the way out."""
    return f"{', '.join(keys)}: not in the store; `api-version = 1` alone is enough there"


def _verdict(known: Known, paused_by: str | None) -> Verdict:
    identity, newest = known.identity, known.newest
    kept = "; the last valid state stays in force" if known.spec else ""
    if identity.changed_to is not None:
        text = (
            f"this node was {identity.node_id} and would be {identity.changed_to} now; nothing is "
            f"changed until node-id = {identity.node_id!r} is set, or the kept id is removed"
        )
        return Verdict(Status.FALSE, "IdentityChanged", text)
    if known.store.status is not Status.TRUE:
        return Verdict(Status.UNKNOWN, "StoreUnreachable", f"{known.store.message}{kept}")
    if newest is not None and newest.too_old:
        return Verdict(Status.FALSE, "DaemonTooOld", f"{newest.too_old}{kept}")
    if known.mistakes:
        absent = f"; {missing_layers(newest.missing)}" if newest and newest.missing else ""
        return Verdict(Status.FALSE, "Invalid", _listed(known.mistakes) + absent + kept)
    if newest is None or newest.missing:
        missing = newest.missing if newest else ("desired/cluster",)
        return Verdict(Status.FALSE, "NoDesiredState", missing_layers(missing) + kept)
    if known.unkept:
        return Verdict(Status.FALSE, "NotKept", known.unkept)
    return Verdict(Status.TRUE, PAUSED, paused_by) if paused_by else VALID


def _listed(mistakes: Sequence[Mistake]) -> str:
    listed = "; ".join(str(mistake) for mistake in mistakes[:MISTAKES_LISTED])
    more = len(mistakes) - MISTAKES_LISTED
    return f"{listed}; and {more} more" if more > 0 else listed
