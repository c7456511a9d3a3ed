"""The real daemon, killed in its Nth fsync of a file that is about to take another's place."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from bai_nodeagent import cli

left = int(sys.argv.pop(1))
fsync = os.fsync


def dying(fd: int) -> None:
    global left
    if Path(f"/proc/self/fd/{fd}").readlink().name.endswith(".tmp"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    fsync(fd)


if __name__ == "__main__":
    os.fsync = dying  # type: ignore[assignment]
    cli.main()
