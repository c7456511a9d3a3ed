"""Commands in the guest through qemu-guest-agent, over a virtio serial port.

It needs no network in the guest, so it also works when a test has pulled the cable. Of its commands
only guest-exec is used: its file commands run in the agent itself, which would then hang with the
first file on a dead NFS server. Reference: QEMU Guest Agent Protocol Reference.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import JsonLines

CALL_DEADLINE_S = 20.0  # one request to the agent itself, under TCG on a busy host
FIRST_POLL_S = 0.01
SLOWEST_POLL_S = 0.2

# The agent's own environment is systemd's bare one, and guest-exec replaces it as a whole.
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SYSTEMD_PAGER": "",
    "ETCDCTL_API": "3",
}

_sync_ids = itertools.count(1)


class GuestUnreachable(Exception):
    """The guest agent does not answer: booting, down, or wedged."""


class CommandFailed(Exception):
    """A command on the node could not be started, or did not exit 0."""


class StillRunning(Exception):
    """A command on the node had not ended by its deadline."""


@dataclass(frozen=True)
class Finished:
    """`code` is the exit status, or minus the signal that ended it, as in subprocess."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"`{shlex.join(self.argv)}` ended with {self.code}\n{self.out}{self.err}".rstrip()


class GuestAgent:
    """One connection; QEMU accepts one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: JsonLines | None = None

    def call(self, command: str, **arguments: object) -> Any:
        """Raises GuestUnreachable, or CommandFailed with the agent's own words."""
        try:
            connection = self._connection or self._connect(CALL_DEADLINE_S)
            connection.send({"execute": command, "arguments": arguments})
            reply = connection.receive()
        except (OSError, json.JSONDecodeError) as fault:
            self.disconnect()
            raise GuestUnreachable(f"{command}: {fault!r}") from fault
        if "error" in reply:
            raise CommandFailed(f"{command}: {reply['error']['desc']}")
        return reply["return"]

    def answers(self, within_s: float) -> bool:
        self.disconnect()
        with contextlib.suppress(OSError):
            self._connect(within_s)
        return self._connection is not None

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connect(self, deadline_s: float) -> JsonLines:
        """Whatever an earlier connection left behind is read away."""
        connection = JsonLines(self._path, deadline_s)
        sync_id = next(_sync_ids)
        sync = {"execute": "guest-sync-delimited", "arguments": {"id": sync_id}}
        try:
            connection.send(sync, prefix=b"\xff")
            while not _is_reply_to(connection, sync_id):
                pass
        except OSError:
            connection.close()
            raise
        self._connection = connection
        return connection


class GuestProcess:
    """A command that runs on the node."""

    def __init__(self, agent: GuestAgent, argv: tuple[str, ...], stdin: str) -> None:
        self._agent = agent
        self._finished: Finished | None = None
        self.argv = argv
        self.pid: int = agent.call(
            "guest-exec",
            **{
                "path": argv[0],
                "arg": list(argv[1:]),
                "env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
                "input-data": base64.b64encode(stdin.encode()).decode(),
                "capture-output": True,
            },
        )["pid"]

    def poll(self) -> Finished | None:
        """What came of it, or None while it runs."""
        if self._finished is None:
            status = self._agent.call("guest-exec-status", pid=self.pid)
            if status["exited"]:
                code = -status["signal"] if "signal" in status else status["exitcode"]
                out, err = (_decode(status.get(key)) for key in ("out-data", "err-data"))
                self._finished = Finished(self.argv, code, out, err)
        return self._finished

    def wait(self, timeout_s: float) -> Finished:
        """Raises StillRunning at the deadline; the command is left as it is."""
        deadline = time.monotonic() + timeout_s
        pause_s = FIRST_POLL_S
        while (finished := self.poll()) is None:
            if time.monotonic() > deadline:
                raise StillRunning(f"`{shlex.join(self.argv)}` has run for {timeout_s} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, SLOWEST_POLL_S)
        return finished


def _decode(data: str | None) -> str:
    return base64.b64decode(data or "").decode(errors="replace")


def _is_reply_to(connection: JsonLines, sync_id: int) -> bool:
    try:
        return connection.receive().get("return") == sync_id
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False  # the tail of an answer that nobody waited for
