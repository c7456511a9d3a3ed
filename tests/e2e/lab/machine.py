"""One virtual machine: a QEMU process, its monitor, and its state saved to a file and restored.

Without KVM and without touching the host's network: TCG, and QEMU's user network, in which the
host's loopback appears as HOST_ADDRESS. The process dies with the one that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HOST_ADDRESS = "10.0.2.2"  # the host's 127.0.0.1, seen from the guest (slirp's default network)
GUEST_ADDRESS = "10.0.2.15"
PREFIX_LENGTH = 24

MEMORY_MB = 1024
CPUS = 2
# rdrand: the kernel's random numbers are ready at once instead of after a second of jitter.
CPU_MODEL = "qemu64,+rdrand"
TRANSLATION_CACHE_MB = 512
KERNEL_ARGUMENTS = "root=/dev/vda rw console=ttyS0 quiet mitigations=off apparmor=0"

MONITOR_DEADLINE_S = 20.0
MONITOR_POLL_S = 0.02
SAVE_DEADLINE_S = 120.0
SAVE_BANDWIDTH_BYTES_S = 8 * 2**30  # QEMU's default of 128 MiB/s is meant for networks


class MachineError(Exception):
    """QEMU refused a command, or ended."""


@dataclass(frozen=True)
class Hardware:
    """What a machine is started from; a saved state fits only the hardware that it was made on."""

    kernel: Path
    initrd: Path
    disk: Path  # qcow2 or raw
    disk_format: str = "qcow2"


class JsonLines:
    """A Unix socket that carries one JSON object a line, as QEMU's monitor and guest agent do."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._lines = b""
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def send(self, message: dict[str, Any], *, prefix: bytes = b"") -> None:
        self._socket.sendall(prefix + json.dumps(message).encode() + b"\n")

    def send_descriptor(self, message: dict[str, Any], descriptor: int) -> None:
        socket.send_fds(self._socket, [json.dumps(message).encode() + b"\n"], [descriptor])

    def receive(self) -> dict[str, Any]:
        """Raises TimeoutError, or ConnectionError when the other side has closed."""
        while b"\n" not in self._lines:
            chunk = self._socket.recv(1 << 20)
            if not chunk:
                raise ConnectionError("closed by the other side")
            self._lines += chunk
        line, _, self._lines = self._lines.partition(b"\n")
        # 0xff is the guest agent's mark for "what came before is stale" (guest-sync-delimited).
        message: dict[str, Any] = json.loads(line.rpartition(b"\xff")[2])
        return message

    def close(self) -> None:
        self._socket.close()


class Machine:
    """A running QEMU. Use `running()`, which also ends it."""

    def __init__(self, process: subprocess.Popen[bytes], monitor: JsonLines, folder: Path) -> None:
        self._process = process
        self._monitor = monitor
        self.console = folder / "console.log"
        self.agent_socket = folder / "agent"
        self.shell_socket = folder / "shell"

    def command(self, name: str, /, **arguments: object) -> Any:
        """What the QEMU monitor command returns (QEMU Machine Protocol Reference Manual)."""
        self._monitor.send({"execute": name, "arguments": arguments})
        return self._returned(name)

    def resume(self) -> None:
        """Run on from a saved state; it was saved stopped, and may still be being read in."""
        deadline = time.monotonic() + SAVE_DEADLINE_S
        while (status := self.command("query-status")["status"]) != "running":
            if time.monotonic() > deadline:
                raise MachineError(f"the saved state does not run: {status}")
            if status != "inmigrate":
                self.command("cont")
            time.sleep(MONITOR_POLL_S)

    def save(self, state: Path) -> None:
        """Write the machine's whole state beside its disk, and end it."""
        self.command("stop")
        self.command("migrate-set-parameters", **{"max-bandwidth": SAVE_BANDWIDTH_BYTES_S})
        # A descriptor: `migrate file:` came with QEMU 8.2, and `exec:` would need a shell.
        with state.open("wb") as target:
            getfd = {"execute": "getfd", "arguments": {"fdname": "state"}}
            self._monitor.send_descriptor(getfd, target.fileno())
            self._returned("getfd")
        self.command("migrate", uri="fd:state")
        deadline = time.monotonic() + SAVE_DEADLINE_S
        while (status := self.command("query-migrate")["status"]) != "completed":
            if status == "failed" or time.monotonic() > deadline:
                raise MachineError(f"the state was not saved: {status}")
            time.sleep(MONITOR_POLL_S)
        self.command("quit")
        self._process.wait(MONITOR_DEADLINE_S)

    def reset(self) -> None:
        """As if the power had gone and come back: what the guest had not written is lost."""
        self.command("system_reset")

    def set_cable(self, *, plugged: bool) -> None:
        self.command("set_link", name="net", up=plugged)

    def _returned(self, name: str) -> Any:
        while True:
            reply = self._monitor.receive()  # or an event, which nobody here waits for
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise MachineError(f"{name}: {reply['error']['desc']}")


@contextlib.contextmanager
def running(
    hardware: Hardware, state: Path | None = None, *, disk_is_kept: bool = True
) -> Iterator[Machine]:
    """A machine that boots, or goes on from a saved state, and is ended by its pid at the end."""
    # Not below .lab: a Unix socket's path has 108 bytes at most, unix(7).
    with tempfile.TemporaryDirectory(prefix="bai-lab-") as name:
        folder = Path(name).resolve()
        if not disk_is_kept:
            create_overlay(folder / "disk.qcow2", hardware.disk, hardware.disk_format)
            hardware = replace(hardware, disk=folder / "disk.qcow2", disk_format="qcow2")
        process = _start(hardware, folder, state)
        try:
            with contextlib.closing(_monitor(process, folder)) as monitor:
                machine = Machine(process, monitor, folder)
                if state is not None:
                    machine.resume()
                yield machine
        finally:
            process.kill()
            process.wait()


def create_overlay(overlay: Path, backing: Path, backing_format: str) -> None:
    """A disk that reads through to `backing` and keeps its own writes.

    The backing file is named relative to the overlay, so that a checkout can be moved.
    """
    relative = os.path.relpath(backing, overlay.parent)
    arguments = ["-f", "qcow2", "-b", relative, "-F", backing_format, overlay.name]
    command = ["qemu-img", "create", "-q", *arguments]
    subprocess.run(command, check=True, cwd=overlay.parent)


def qemu_arguments(hardware: Hardware, folder: Path) -> list[str]:
    """The hardware, the same whenever a state is saved and restored."""
    drive = f"file={hardware.disk},format={hardware.disk_format},if=none,id=disk,cache=unsafe"
    channel = "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"
    return [
        *("-name", "bai-lab", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "pc", "-accel", f"tcg,thread=multi,tb-size={TRANSLATION_CACHE_MB}"),
        *("-cpu", CPU_MODEL, "-smp", str(CPUS), "-m", str(MEMORY_MB)),
        *("-kernel", str(hardware.kernel), "-initrd", str(hardware.initrd)),
        *("-append", KERNEL_ARGUMENTS),
        *("-drive", drive, "-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off"),
        *("-device", channel),
        *("-chardev", f"socket,id=shell,path={folder}/shell,server=on,wait=off"),
        *("-device", "virtconsole,chardev=shell"),
        *("-serial", f"file:{folder}/console.log"),
        *("-qmp", f"unix:{folder}/monitor,server=on,wait=off"),
    ]


def _start(hardware: Hardware, folder: Path, state: Path | None) -> subprocess.Popen[bytes]:
    # setpriv: QEMU gets SIGKILL when the test session dies in whatever way (PR_SET_PDEATHSIG).
    command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]
    command += qemu_arguments(hardware, folder)
    with contextlib.ExitStack() as files:
        log = files.enter_context((folder / "qemu.log").open("wb"))
        inherited: tuple[int, ...] = ()
        if state is not None:
            saved = files.enter_context(state.open("rb"))
            inherited = (saved.fileno(),)
            command += ["-incoming", f"fd:{saved.fileno()}"]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=inherited
        )


def _monitor(process: subprocess.Popen[bytes], folder: Path) -> JsonLines:
    """The monitor's connection, as soon as QEMU listens."""
    deadline = time.monotonic() + MONITOR_DEADLINE_S
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            monitor = JsonLines(folder / "monitor", MONITOR_DEADLINE_S)
            monitor.receive()  # the greeting
            monitor.send({"execute": "qmp_capabilities"})
            monitor.receive()
            return monitor
        if process.poll() is not None or time.monotonic() > deadline:
            log = (folder / "qemu.log").read_text()
            raise MachineError(f"QEMU did not start: {log}")
        time.sleep(MONITOR_POLL_S)
