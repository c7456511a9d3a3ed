"""The node's disk and saved state, in three layers, each rebuilt only when its inputs change.

rootfs   Debian's packages in a folder, kernel
base     settings, initrd, virtual environment with the project's dependencies; state: booted
node     overlay with the project itself, installed in the running node; state: ready for a test

A test's node goes on from the `node` layer on a throw-away overlay of its own.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from . import cache, guest, machine, rootfs
from .machine import Hardware
from .node import Node

VENV = "/opt/bai-nodeagent/venv"
UNIT = "bai-nodeagent.service"
UNITS = cache.REPO / "deploy/systemd"
PYPROJECT = cache.REPO / "pyproject.toml"
CONSTRAINTS = cache.REPO / "constraints.txt"

# Sparse on the host; the node needs 600 MB, the rest is room for what a test writes.
DISK_SIZE = "4G"
# Debian's interpreter, since this one's wheels may not fit it. The guest's is the same: one suite.
SYSTEM_PYTHON = "/usr/bin/python3"
BOOT_DEADLINE_S = 180.0
INSTALL_DEADLINE_S = 180.0

_HERE = Path(__file__).parent


@contextlib.contextmanager
def restored_node(layer: Path) -> Iterator[Node]:
    """A node with the project installed and its unit enabled but not started, within a second.

    `layer` is what `node_layer()` gave: the sources may change during a test session.
    """
    hardware = _hardware(layer / "disk.qcow2")
    with _running_node(hardware, layer / "state", disk_is_kept=False) as node:
        yield node


def node_layer() -> Path:
    """Built from the present sources if they have changed."""
    inputs: list[str | Path] = [base_layer().name, cache.REPO / "src", PYPROJECT, UNITS]
    return cache.cached("node", inputs, _install_project)


def base_layer() -> Path:
    qemu = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    )
    hardware = machine.qemu_arguments(Hardware(Path(), Path(), Path()), Path())
    recipe = [_HERE / "guest.py", _HERE / "image.py", CONSTRAINTS]
    inputs: list[str | Path] = [rootfs_layer().name, qemu.stdout, *hardware, *_dependencies()]
    return cache.cached("base", [*inputs, *recipe], _build_disk)


def rootfs_layer() -> Path:
    return cache.cached("rootfs", [_HERE / "rootfs.py"], rootfs.build)


def _build_disk(folder: Path) -> None:
    """Everything on it is made on the host's CPU, ten times as fast as the guest's."""
    tree = folder / "tree"
    subprocess.run(["cp", "-a", "--reflink=auto", rootfs_layer() / "root", tree], check=True)
    guest.apply_settings(tree)
    guest.write_initrd(folder / "initrd", tree)
    _make_virtual_environment(tree)
    disk = folder / "disk.img"
    # -d: no loop mount, so it works in a container.
    make = ["mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0"]
    subprocess.run([*make, "-d", tree, disk, DISK_SIZE], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    hardware = Hardware(rootfs_layer() / "vmlinuz", folder / "initrd", disk, "raw")
    with _running_node(hardware) as node:
        node.wait_until_booted(within_s=BOOT_DEADLINE_S)
        node.save(folder / "state")


def _make_virtual_environment(root: Path) -> None:
    """As docs/ tell an admin without internet: wheels are brought along, pip gets no index."""
    wheels = root / "wheels"
    constraints = ["--constraint", str(CONSTRAINTS)] if CONSTRAINTS.exists() else []
    _pip("wheel", "--wheel-dir", str(wheels), *constraints, *_dependencies())
    subprocess.run(["chroot", root, "python3", "-m", "venv", VENV], check=True)
    offline = ["--no-index", "--find-links", "/wheels", "--quiet"]
    install = [f"{VENV}/bin/pip", "install", *offline, *_dependencies()]
    # An empty environment: pip's settings for this machine don't concern the node.
    subprocess.run(["chroot", root, *install], check=True, env={"PATH": "/usr/sbin:/usr/bin"})
    shutil.rmtree(wheels)


def _install_project(folder: Path) -> None:
    """What an admin does on a node: pip install, copy the units, enable ours."""
    base = base_layer()
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(cache.REPO))
    [wheel] = folder.glob("*.whl")
    disk = folder / "disk.qcow2"
    machine.create_overlay(disk, base / "disk.img", "raw")
    with _running_node(_hardware(disk), base / "state") as node:
        node.write_bytes(f"/root/{wheel.name}", wheel.read_bytes())
        install = [f"{VENV}/bin/pip", "install", "--no-index", "--no-deps", f"/root/{wheel.name}"]
        node.run(*install, timeout_s=INSTALL_DEADLINE_S)
        _install_units(node)
        node.save(folder / "state")


def _install_units(node: Node) -> None:
    units = sorted(UNITS.glob("*.service"))
    for unit in units:
        node.write(f"/etc/systemd/system/{unit.name}", unit.read_text())
    node.run("systemctl", "daemon-reload")
    if UNIT in {unit.name for unit in units}:
        node.run("systemctl", "enable", UNIT)


@contextlib.contextmanager
def _running_node(
    hardware: Hardware, state: Path | None = None, *, disk_is_kept: bool = True
) -> Iterator[Node]:
    with (
        machine.running(hardware, state, disk_is_kept=disk_is_kept) as running,
        contextlib.closing(Node(running)) as node,
    ):
        if state is not None:
            node.set_clock()
        yield node


def _hardware(disk: Path) -> Hardware:
    return Hardware(rootfs_layer() / "vmlinuz", base_layer() / "initrd", disk)


def _dependencies() -> list[str]:
    dependencies: list[str] = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    return dependencies


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", SYSTEM_PYTHON, "--quiet", *arguments]
    subprocess.run(command, check=True)
