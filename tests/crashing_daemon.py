"""The real daemon, which kills itself by SIGKILL after its Nth action, or the first of a verb.

python crashing_daemon.py N|VERB run --config FILE
"""

from __future__ import annotations

import os
import signal
import sys

from bai_nodeagent import cli
from bai_nodeagent.core.metrics import Metrics
from bai_nodeagent.model import Action


def main() -> None:
    when = sys.argv[1]
    left = int(when) if when.isdecimal() else 1
    acted = Metrics.acted

    def acted_and_died(self: Metrics, name: str, action: Action, *, is_drift: bool) -> None:
        nonlocal left
        acted(self, name, action, is_drift=is_drift)
        left -= when.isdecimal() or action.verb == when
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Metrics.acted = acted_and_died  # type: ignore[method-assign]
    cli.main(sys.argv[2:])


if __name__ == "__main__":
    main()
