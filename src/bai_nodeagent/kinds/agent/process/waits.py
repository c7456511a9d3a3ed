"""How long a start of the agent waits, by the times of what went before. Pure."""

from __future__ import annotations

CRASH_WAIT_FIRST_S = 1.0
CRASH_WAIT_MOST_S = 300.0
# Restarts for changed inputs, against a desired state that flaps.
CHANGES_BURST = 3
CHANGES_REFILL_S = 60.0


def crash_left_s(deaths: tuple[float, ...], now_s: float) -> float:
    """Time until the next start after the deaths so far."""
    return max(0.0, deaths[-1] + crash_wait_s(deaths) - now_s) if deaths else 0.0


def crash_wait_s(deaths: tuple[float, ...]) -> float:
    """Time between the last death and the next start."""
    if len(deaths) < 2:
        return 0.0
    step = min(CRASH_WAIT_FIRST_S * 2.0 ** (len(deaths) - 2), CRASH_WAIT_MOST_S)
    # A pure module has no dice: the last digits of the time of death are as good, and each
    # observation finds them the same.
    chance = deaths[-1] * 1e3 % 1.0
    return step * (0.75 + 0.25 * chance)


def change_wait_s(changes: tuple[float, ...], now_s: float) -> float:
    """Time until the agent may be restarted for changed inputs again. A token bucket, from the
    times at which its tokens were taken."""
    full_s = 0.0
    for at_s in changes:
        full_s = max(full_s, at_s) + CHANGES_REFILL_S
    return max(0.0, full_s - (CHANGES_BURST - 1) * CHANGES_REFILL_S - now_s)
