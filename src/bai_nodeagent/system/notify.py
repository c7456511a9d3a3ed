"""Our side of Type=notify: what we tell the systemd that started us. sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Sends lines such as "READY=1", "STATUS=…", "WATCHDOG=1", "STOPPING=1" as one message.

    Does nothing when nobody asked for it, and never raises: a status that
    can't be told must not stop the work. Line breaks inside a line become
    spaces, as they would start another assignment.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace, unix(7)
        address = "\0" + address[1:]
    message = "\n".join(" ".join(line.splitlines()) for line in lines)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(message.encode(errors="replace"), address)
    except OSError:
        return


def watchdog_interval_s() -> float | None:
    """Within what time systemd expects each "WATCHDOG=1"; None when it expects none.

    Send at half of it. The variables are meant for one process only, named by
    WATCHDOG_PID. sd_watchdog_enabled(3).
    """
    interval_us = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not interval_us.isdecimal() or pid != str(os.getpid()) or int(interval_us) == 0:
        return None
    return int(interval_us) / 1_000_000
