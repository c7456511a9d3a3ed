"""Networks that are not as one thinks of them, and addresses that lead nowhere."""

from __future__ import annotations

import os
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from networks import Network, fresh_network
from node_under_test import Node

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2"
)
PAIRS = 50
STARTS = 5


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


def document(node: Node, manager_ip: str = "198.51.100.1", rule: str = "auto") -> str:
    return f"""\
api-version = 1
[node]
manager-ip = "{manager_ip}"
agent-ip = "{rule}"
[agent-config]
path = "{node.agent_toml}"
"""


def cpu_s(node: Node) -> float:
    assert node.process is not None
    fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_container(network: Network, name: str) -> None:
    """What Docker does with links when a container starts."""
    network.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    network.ip("link", "set", name, "up")
    network.ip("link", "set", f"{name}p", "up")


def test_a_container_that_starts_costs_next_to_nothing(node: Node, network: Network) -> None:
    for n in range(PAIRS):
        start_container(network, f"c{n}")
    node.desire(document(node))
    node.start(*network.enter)
    node.wait("written", lambda: host_in_file(node) == "192.0.2.2")
    time.sleep(5)  # until the last messages of the links are over
    before_s = cpu_s(node)
    for n in range(STARTS):
        start_container(network, f"d{n}")
        time.sleep(3)
    assert (cpu_s(node) - before_s) / STARTS < 0.2  # 0.6 s and more, when each message is a look


@pytest.mark.parametrize("device", ["lo", "d0"])
def test_the_route_s_source_may_be_on_any_interface(
    node: Node, network: Network, device: str
) -> None:
    start_container(network, "d0")
    network.ip("addr", "add", "203.0.113.7/32", "dev", device)
    network.ip("route", "replace", "default", "via", "192.0.2.1", "src", "203.0.113.7")
    node.desire(document(node))
    node.start(*network.enter)
    node.wait("written", lambda: host_in_file(node) == "203.0.113.7")


def test_an_unnumbered_interface_borrows_an_address(node: Node, network: Network) -> None:
    network.ip("link", "add", "u0", "type", "veth", "peer", "name", "u1")
    for link in ("u0", "u1"):
        network.ip("link", "set", link, "up")
    network.ip("route", "replace", "default", "dev", "u0")
    node.desire(document(node))
    node.start(*network.enter)
    node.wait("written", lambda: host_in_file(node) == "192.0.2.2")


def test_loopback_is_not_kept_when_the_manager_goes_elsewhere(node: Node, network: Network) -> None:
    node.desire(document(node, "127.0.0.1"))
    node.start(*network.enter)
    node.wait("written", lambda: host_in_file(node) == "127.0.0.1")
    node.desire(document(node, "192.0.2.2"))  # this very node: whoever asks there may go on so
    node.wait("known", lambda: "192.0.2.2" in node.agent_toml.read_text())
    assert host_in_file(node) == "127.0.0.1"
    node.desire(document(node))
    node.wait("chosen anew", lambda: host_in_file(node) == "192.0.2.2")
    node.wait_summary("Ready")


def test_loopback_by_name_is_a_mistake_with_a_manager_elsewhere(
    node: Node, network: Network
) -> None:
    node.desire(document(node, "127.0.0.1", "127.0.0.1"))
    node.start(*network.enter)
    node.wait("written", lambda: host_in_file(node) == "127.0.0.1")
    node.desire(document(node, rule="127.0.0.1"))
    found = node.wait_reason("AgentConfig", "NoAddress")
    assert "the manager is 198.51.100.1" in found["message"]


def test_a_manager_of_another_family_is_reported_and_rebind_helps(
    node: Node, network: Network
) -> None:
    network.ip("addr", "add", "2001:db8::2/64", "dev", "v0", "nodad")
    node.desire(document(node))
    node.start(*network.enter)
    node.wait("written", lambda: host_in_file(node) == "192.0.2.2")
    node.desire(document(node, "2001:db8::1"))
    found = node.wait_reason("AgentConfig", "OtherFamily")
    assert "it would be 2001:db8::2 now" in found["message"]
    assert "rebind" in found["message"]
    assert host_in_file(node) == "192.0.2.2"
    assert node.run("rebind").returncode == 0
    node.wait("chosen anew", lambda: host_in_file(node) == "2001:db8::2")
    node.wait_summary("Ready")


@pytest.mark.parametrize(
    "manager_ip",
    ["fe80::1", "169.254.1.1", "255.255.255.255", "0.0.0.1", "::ffff:198.51.100.1", "ff02::1"],
)
def test_an_address_of_no_host_is_a_mistake_in_plan(node: Node, manager_ip: str) -> None:
    node.desire(document(node, manager_ip))
    planned = node.run("plan")
    assert planned.returncode == 2
    assert f'node.manager-ip: "{manager_ip}" does not fit' in planned.stderr
    assert "Traceback" not in planned.stderr


def test_the_broadcast_address_of_a_network_is_no_manager(node: Node, network: Network) -> None:
    node.desire(document(node, "192.0.2.255"))
    node.start(*network.enter)
    found = node.wait_reason("AgentConfig", "NoAddress")
    assert "no route to a host at manager-ip 192.0.2.255" in found["message"]


@pytest.mark.parametrize(
    ("manager_ip", "endpoint"),
    [
        ("198.51.100.1", "http://m:0"),
        ("198.51.100.1", "http://m:99999"),
        ("198.51.100.1", "http://a,b:2379"),
        ("198.51.100.1", "http://[::::]:2379"),
        ("198.51.100.1", "http://10.0.0.999:2379"),
        ("2001:db8::1", "http://${manager-ip}:2379"),
    ],
)
def test_an_endpoint_that_leads_nowhere_is_a_mistake_in_plan(
    node: Node, manager_ip: str, endpoint: str
) -> None:
    section = f'[redis]\n[backendai.etcd]\nendpoints = ["{endpoint}"]\n'
    node.desire(document(node, manager_ip) + section)
    planned = node.run("plan")
    assert planned.returncode == 2
    assert "backendai.etcd.endpoints" in planned.stderr
    assert "http://${manager-host}:2379" in planned.stderr
    assert "Traceback" not in planned.stderr
