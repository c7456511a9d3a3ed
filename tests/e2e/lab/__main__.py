"""The laboratory by hand: `PYTHONPATH=tests python -m e2e.lab shell`, `build` or `clean`."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from . import cache, image, install
from .node import Node
from .servers import Etcd, Nfs

LEAVE = b"\x1d"  # Ctrl-], as in telnet and virsh console

WELCOME = """\
node     Debian with bai-nodeagent in {venv}; gone when you leave
etcd     {etcd}  (ETCDCTL_ENDPOINTS is set)
NFS      mount -t nfs4 -o {options} {source} /mnt
leave    Ctrl-]
"""


def shell() -> None:
    """A root shell in a fresh node, with etcd and an NFS server beside it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bai-lab-")))
        etcd = stack.enter_context(contextlib.closing(Etcd(folder / "etcd")))
        nfs = stack.enter_context(contextlib.closing(Nfs(folder / "nfs")))
        node = stack.enter_context(image.restored_node(image.node_layer()))
        options = ",".join(nfs.options)
        source = nfs.source("vfroot")
        print(WELCOME.format(venv=image.VENV, etcd=etcd.url, options=options, source=source))
        columns, lines = os.get_terminal_size()
        size = f"export COLUMNS={columns} LINES={lines}; stty cols {columns} rows {lines}\n"
        node.write("/root/.bash_profile", f"{size}export ETCDCTL_ENDPOINTS={etcd.endpoint}\n")
        _talk(node)


def _talk(node: Node) -> None:
    """Carry bytes between this terminal and the node's virtio console until LEAVE."""
    with socket.socket(socket.AF_UNIX) as console, _raw_terminal():
        console.connect(str(node.shell_socket))
        node.run("systemctl", "start", "lab-shell.service")
        while True:
            readable, _, _ = select.select([sys.stdin, console], [], [])
            if console in readable:
                output = console.recv(1 << 16)
                if not output:
                    return
                os.write(sys.stdout.fileno(), output)
            if sys.stdin in readable:
                typed = os.read(sys.stdin.fileno(), 1 << 10)
                if not typed or LEAVE in typed:
                    return
                console.sendall(typed)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        print()


def build() -> None:
    """Build what is missing, and say where the node's layer is."""
    print(image.node_layer())


COMMANDS = {"shell": shell, "build": build, "clean": cache.clean}


def main() -> int:
    parser = argparse.ArgumentParser(prog="e2e.lab", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    command = parser.parse_args().command
    if reason := install.why_not():
        print(reason, file=sys.stderr)
        return 1
    with cache.the_only_laboratory():
        COMMANDS[command]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
