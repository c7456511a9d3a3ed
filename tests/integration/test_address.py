"""The node's address by the real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from networks import Network, fresh_network
from node_under_test import Node

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2"
)


@pytest.fixture
def network() -> Iterator[Network]:
    with fresh_network() as network:
        yield network


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.close()


def host_in_file(node: Node) -> str:
    found = tomllib.loads(node.agent_toml.read_text())["agent"]["rpc-listen-addr"]["host"]
    assert isinstance(found, str)
    return found


def document(node: Node, rule: str = "auto") -> str:
    return f"""\
api-version = 1
[node]
manager-ip = "198.51.100.1"
agent-ip = "{rule}"
[agent-config]
path = "{node.agent_toml}"
"""


def test_an_address_is_kept_reported_when_gone_and_chosen_anew_by_rebind(
    node: Node, network: Network
) -> None:
    node.desire(document(node))
    node.start(*network.enter)
    node.wait("written", lambda: host_in_file(node) == "192.0.2.2")
    node.wait_summary("Ready")

    network.ip("addr", "add", "192.0.2.3/24", "dev", "v0")
    network.ip("route", "replace", "default", "via", "192.0.2.1", "src", "192.0.2.3")
    node.agent_toml.unlink()
    node.wait("kept beside another route", lambda: host_in_file(node) == "192.0.2.2")

    network.ip("addr", "del", "192.0.2.2/24", "dev", "v0")
    network.ip("addr", "add", "192.0.2.3/24", "dev", "v0")  # it was a secondary, and went with it
    network.ip("route", "replace", "default", "via", "192.0.2.1")
    found = node.wait_reason("AgentConfig", "AddressChanged")
    assert "192.0.2.2" in found["message"]
    assert host_in_file(node) == "192.0.2.2"

    assert node.run("rebind").returncode == 0
    node.wait("chosen anew", lambda: host_in_file(node) == "192.0.2.3")
    node.wait_summary("Ready")


def test_no_route_is_no_guess_and_an_event_ends_it(node: Node, network: Network) -> None:
    network.ip("route", "del", "default")
    node.desire(document(node))
    node.start(*network.enter)
    found = node.wait_reason("AgentConfig", "NoAddress")
    assert "198.51.100.1" in found["message"]
    assert "rpc-listen-addr" not in node.agent_toml.read_text()
    network.ip("route", "add", "default", "via", "192.0.2.1")
    # By the event: the look without one comes after 48 s at the earliest.
    node.wait("written", lambda: host_in_file(node) == "192.0.2.2", within_s=30)


def test_an_address_of_another_machine_is_refused_and_a_document_mends_it(
    node: Node, network: Network
) -> None:
    node.desire(document(node, "203.0.113.9"))
    node.start(*network.enter)
    found = node.wait_reason("AgentConfig", "NoAddress")
    assert "203.0.113.9" in found["message"]
    node.desire(document(node, "interface:v0"))
    node.wait("written", lambda: host_in_file(node) == "192.0.2.2")
    node.wait_summary("Ready")
