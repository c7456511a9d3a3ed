"""Says of each of many agent.toml whether the agent really starts with it: run by its own Python.

    python -I tests/agent_start.py SECONDS < {"name": "/path/agent.toml", …}

Each is a start of its own, in a process forked from one that has imported the
agent. It is let go until it would fork its worker, whose own start needs etcd.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any, NoReturn

STARTED = 77


def main() -> None:
    warnings.simplefilter("ignore")
    import aiotools  # type: ignore[import-not-found]
    from ai.backend.agent import server  # type: ignore[import-not-found]

    def start_server(*_words: Any, **_more: Any) -> NoReturn:
        os._exit(STARTED)

    aiotools.start_server = start_server
    verdicts = {}
    for name, path in json.load(sys.stdin).items():
        if (pid := os.fork()) == 0:
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in (1, 2):
                os.dup2(quiet, stream)
            try:
                server.main.main(["-f", path], standalone_mode=False)
            finally:
                os._exit(1)
        verdicts[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == STARTED
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main()
