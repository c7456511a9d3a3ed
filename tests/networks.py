"""Network namespaces of the tests' own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from node_under_test import PROGRAM


class Network:
    """One interface, v0, with 192.0.2.2, and a default route over it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *arguments: str) -> None:
        subprocess.run(["ip", "-n", self.name, *arguments], check=True)

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.name}", str(PROGRAM)]


@contextmanager
def fresh_network() -> Iterator[Network]:
    network = Network(f"bai-test-{os.getpid()}")
    subprocess.run(["ip", "netns", "add", network.name], check=True)
    try:
        network.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        for link in ("lo", "v0", "v1"):
            network.ip("link", "set", link, "up")
        network.ip("addr", "add", "192.0.2.2/24", "dev", "v0")
        network.ip("route", "add", "default", "via", "192.0.2.1")
        yield network
    finally:
        subprocess.run(["ip", "netns", "del", network.name], check=True)
