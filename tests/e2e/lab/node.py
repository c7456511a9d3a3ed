"""The node as a test sees it."""

from __future__ import annotations

import base64
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from . import machine
from .guest_agent import CommandFailed, Finished, GuestAgent, GuestProcess, GuestUnreachable
from .machine import Machine

COMMAND_DEADLINE_S = 60.0
BOOT_DEADLINE_S = 120.0
POLL_S = 0.1
WRITE_SCRIPT = 'mkdir -p "$(dirname "$1")" && cat > "$1"'
WRITE_BYTES_SCRIPT = 'mkdir -p "$(dirname "$1")" && base64 -d > "$1"'


class Node:
    """A Debian system with its own kernel and with systemd as PID 1."""

    address = machine.GUEST_ADDRESS
    host_address = machine.HOST_ADDRESS  # where it finds etcd and NFS

    def __init__(self, running: Machine) -> None:
        self._machine = running
        self._agent = GuestAgent(running.agent_socket)

    def run(
        self,
        *argv: str,
        stdin: str = "",
        timeout_s: float = COMMAND_DEADLINE_S,
        check: bool = True,
    ) -> Finished:
        """Run a command as root and wait for it; no shell, so nothing needs quoting.

        Raises CommandFailed with its output unless it exits 0 (`check=False` leaves that to the
        caller), StillRunning at the deadline.
        """
        finished = self.spawn(*argv, stdin=stdin).wait(timeout_s)
        if check and finished.code != 0:
            raise CommandFailed(str(finished))
        return finished

    def spawn(self, *argv: str, stdin: str = "") -> GuestProcess:
        """Start a command that may take its time or never end."""
        return GuestProcess(self._agent, argv, stdin)

    def read(self, path: str) -> str:
        return self.run("cat", path).out

    def write(self, path: str, text: str) -> None:
        """In place, as an editor's plain save: owner, mode and inode of a file that is there stay.

        Missing folders are made.
        """
        self.run("sh", "-c", WRITE_SCRIPT, "sh", path, stdin=text)

    def write_bytes(self, path: str, content: bytes) -> None:
        encoded = base64.b64encode(content).decode()
        self.run("sh", "-c", WRITE_BYTES_SCRIPT, "sh", path, stdin=encoded)

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", path, check=False).code == 0

    def journal(self, unit: str | None = None) -> str:
        """All boots, oldest first; of one unit or of everything."""
        only = ["--unit", unit] if unit else []
        return self.run("journalctl", "--no-pager", "--output=short-precise", *only).out

    def wait_until(self, condition: Callable[[], object], *, within_s: float) -> None:
        """Raises TimeoutError; a command that fails or a node that is away counts as "not yet"."""
        deadline = time.monotonic() + within_s
        last: object = None
        while True:
            try:
                last = condition()
            except (CommandFailed, GuestUnreachable) as fault:
                last = fault
            else:
                if last:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {within_s} s; at last: {last}")
            time.sleep(POLL_S)

    def boot_id(self) -> str:
        return self.read("/proc/sys/kernel/random/boot_id").strip()

    def reboot(self, *, within_s: float = BOOT_DEADLINE_S) -> None:
        """By systemd, in good order; returns when commands can be run again."""
        before = self.boot_id()
        self.spawn("systemctl", "reboot")
        self._wait_for_boot_after(before, within_s)

    def power_cut(self, *, within_s: float = BOOT_DEADLINE_S) -> None:
        """Power gone and back: what the guest's kernel had not written to its disk is lost."""
        before = self.boot_id()
        self._machine.reset()
        self._wait_for_boot_after(before, within_s)

    def pull_cable(self) -> None:
        self._machine.set_cable(plugged=False)

    def plug_cable(self) -> None:
        self._machine.set_cable(plugged=True)

    def set_clock(self, seconds_since_epoch: float | None = None) -> None:
        """To the host's time by default: a restored node still has the time of its saving."""
        moment = time.time() if seconds_since_epoch is None else seconds_since_epoch
        self.run("date", "--set", f"@{moment:.3f}")

    def wait_until_answering(self, *, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not self._agent.answers(within_s=1.0):
            if time.monotonic() > deadline:
                console = self._machine.console.read_text(errors="replace")
                raise GuestUnreachable(f"no answer within {within_s} s; console: {console[-2000:]}")
            time.sleep(POLL_S)

    def wait_until_booted(self, *, within_s: float = BOOT_DEADLINE_S) -> None:
        """All of systemd's start jobs are done, whatever came of them."""
        self.wait_until_answering(within_s=within_s)
        self.run("systemctl", "is-system-running", "--wait", timeout_s=within_s, check=False)

    def evidence(self) -> str:
        """What a person needs after a failed test, from as much of the node as still answers."""
        parts = []
        for argv in (("systemctl", "--failed", "--no-pager"), ("cat", "/proc/mounts")):
            parts.append(self._attempt(argv))
        parts.append(self._attempt(("journalctl", "--no-pager", "--output=short-precise")))
        console = self._machine.console.read_text(errors="replace")
        return "\n".join([*parts, "== console", console])

    def save(self, state: Path) -> None:
        """Write its state to a file, from which it can be restored on the disk as it is now."""
        self._machine.save(state)

    def close(self) -> None:
        """Only this end of the connection: the node itself ends with its machine."""
        self._agent.disconnect()

    @property
    def shell_socket(self) -> Path:
        return self._machine.shell_socket

    def _attempt(self, argv: tuple[str, ...]) -> str:
        try:
            return f"== {shlex.join(argv)}\n{self.run(*argv, check=False).out}"
        except Exception as fault:
            return f"== {shlex.join(argv)}\n{fault!r}"

    def _wait_for_boot_after(self, boot_id: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            self.wait_until_answering(within_s=max(deadline - time.monotonic(), 0.0))
            try:
                if self.boot_id() != boot_id:
                    return
            except (CommandFailed, GuestUnreachable):
                pass  # it went down between two requests
            time.sleep(POLL_S)
