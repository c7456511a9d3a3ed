"""How much the tests with made-up input try: a little in each run, as much as one likes by hand.

    make fuzz EXAMPLES=100000 SEED=7

Hypothesis prints what breaks a rule in its smallest form, and how to see it again.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def many(by_default: int) -> settings:
    """That many examples, unless BAI_TEST_EXAMPLES says otherwise."""
    return settings(
        max_examples=int(os.environ.get("BAI_TEST_EXAMPLES", by_default)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
