"""When the next observation and the next status are due, and what an action waits for. Pure: time
and chance are parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..model import Outcome, Status, Verdict

RESYNC_S = 60.0
RESYNC_SPREAD = 0.2
BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 300.0
# A running agent is restarted only after the desired state has been quiet for
# this long: two puts in a row, or a flapping key, are one restart.
SETTLE_S = 0.5
STATUS_BURST = 5
STATUS_REFILL_S = 30.0


def resync_s(chance: float) -> float:
    """Time to the next observation without any event; `chance` is in [0, 1)."""
    return RESYNC_S * (1 - RESYNC_SPREAD + 2 * RESYNC_SPREAD * chance)


def backoff_s(failures: int, chance: float) -> float:
    """Wait before the next try after that many failures in a row, with full jitter.

    Never below a tenth of the step: a chance of 0 must not become a busy loop.
    """
    step = min(BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16), BACKOFF_MOST_S)
    return step * (0.1 + 0.9 * chance)


def due_in_s(outcome: Outcome, failures: int, chance: float) -> float:
    """Time until a resource is observed again if nothing wakes it."""
    if outcome.observe_again_in_s is not None:
        return min(outcome.observe_again_in_s, resync_s(chance))
    if outcome.result == "failed":
        return backoff_s(max(failures, 1), chance)
    return resync_s(chance)


def spread_share_s(node_id: str, digest: str, span_s: float) -> float:
    """This node's place in a rollout's span: stable for a node and a state, even over nodes."""
    share = hashlib.sha256(f"{node_id}\n{digest}".encode()).digest()[:8]
    return span_s * int.from_bytes(share, "big") / 2**64


def unmet_need(needs: tuple[str, ...], outcomes: Mapping[str, Outcome]) -> Outcome | str | None:
    """The first need that does not hold: its outcome, or its name when nothing is known of it."""
    for need in needs:
        outcome = outcomes.get(need)
        if outcome is None:
            return need
        is_true = outcome.verdict.status is Status.TRUE
        if not (is_true if outcome.satisfies_dependents is None else outcome.satisfies_dependents):
            return outcome
    return None


@dataclass(frozen=True, slots=True)
class WriteBudget:
    """A token bucket for statuses that no new desired state has asked for."""

    tokens: float = float(STATUS_BURST)
    at_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """Time until a write is allowed: 0 is now."""
        return max(0.0, (1.0 - self._filled(now_s)) * STATUS_REFILL_S)

    def spent(self, now_s: float) -> WriteBudget:
        return WriteBudget(max(0.0, self._filled(now_s) - 1.0), now_s)

    def _filled(self, now_s: float) -> float:
        return min(float(STATUS_BURST), self.tokens + (now_s - self.at_s) / STATUS_REFILL_S)


def waiting_for(unmet: Outcome | str) -> tuple[Verdict, bool]:
    """The verdict while a need is not met, and whether the need is merely under way."""
    if isinstance(unmet, str):
        return Verdict(Status.UNKNOWN, "Waiting", f"waits for {unmet}"), True
    if unmet.is_progressing:
        return Verdict(Status.UNKNOWN, "Waiting", f"waits for {unmet.name}"), True
    why = f"{unmet.verdict.reason}: {unmet.verdict.message}".rstrip(": ")
    return Verdict(Status.FALSE, "Blocked", f"waits for {unmet.name} ({why})"), False
