"""A real Debian node in a virtual machine, and the servers that it talks to. See docs/lab.md."""

from .guest_agent import CommandFailed, Finished, GuestProcess, GuestUnreachable, StillRunning
from .image import restored_node
from .node import Node
from .servers import Etcd, Nfs

__all__ = [
    "CommandFailed",
    "Etcd",
    "Finished",
    "GuestProcess",
    "GuestUnreachable",
    "Nfs",
    "Node",
    "StillRunning",
    "restored_node",
]
