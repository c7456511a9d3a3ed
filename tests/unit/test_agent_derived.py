"""What follows from the managed addresses for one agent.toml, and what is only said."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent.kinds.agent.backendai.schema_faults import MINIMAL
from bai_nodeagent.kinds.agent.config.rules import Write, plan
from bai_nodeagent.kinds.agent.config.state import Actual, AgentConfigSpec
from bai_nodeagent.machine import File
from bai_nodeagent.model import KeyPath, Plan

OLD, ANNOUNCES = "25.6.17", "25.15.12"
VALUES: dict[KeyPath, Any] = {
    ("etcd", "addr", "host"): "10.0.0.1",
    ("agent", "rpc-listen-addr", "host"): "10.0.0.9",
    ("container", "bind-host"): "10.0.0.9",
}
ETCD = 'addr = { host = "10.0.0.1", port = 2379 }'
RPC = 'rpc-listen-addr = { host = "10.0.0.5", port = 6001 }'


def planned(text: str, version: str, values: dict[KeyPath, Any] = VALUES) -> Plan[Any]:
    spec = AgentConfigSpec(Path("/etc/agent.toml"), None, None, values)
    file = File(text.encode(), 0o640, (0, 0))
    return plan(spec, Actual(spec.path, "now", file, is_real=True, version=version))


def written(text: str, version: str, values: dict[KeyPath, Any] = VALUES) -> dict[str, Any]:
    """What is there in the end, which has to be in line."""
    writes = [each for each in planned(text, version, values).actions if isinstance(each, Write)]
    out = writes[0].data.decode() if writes else text
    assert planned(out, version, values).verdict.reason == "InSync"
    return tomllib.loads(out)


def file(*, etcd: str = ETCD, agent: str = RPC, container: str = "", more: str = "") -> str:
    text = MINIMAL.replace("[etcd]", f"[etcd]\n{etcd}").replace("[agent]", f"[agent]\n{agent}")
    return text.replace("[container]", f"[container]\n{container}") + more


@pytest.mark.parametrize(
    ("etcd", "port"),
    [
        ('addr = { host = "10.0.0.7" }', 2379),
        ("addr = {}", 2379),
        ('addr = { host = "10.0.0.1" }', 2379),
        ("", 2379),
        ('addr = { host = "10.0.0.7", port = 8120 }', 8120),
    ],
)
def test_an_address_gets_the_port_that_it_lacks(etcd: str, port: int) -> None:
    addr = written(file(etcd=etcd), OLD)["etcd"]["addr"]
    assert addr == {"host": "10.0.0.1", "port": port}


def test_a_service_address_that_is_empty_is_completed() -> None:
    values = {**VALUES, ("watcher", "service-addr", "host"): "10.0.0.9"}
    found = written(file(more="[watcher]\nservice-addr = {}\n"), OLD, values)
    assert found["watcher"]["service-addr"] == {"host": "10.0.0.9", "port": 6009}


ENDPOINTS = 'addr = [{ host = "10.0.0.2", port = 8120 }, "10.0.0.3:8121"]'


def test_a_list_of_endpoints_that_holds_the_manager_is_kept() -> None:
    text = file(etcd=ENDPOINTS.replace("10.0.0.3", "10.0.0.1"))
    found = written(text, ANNOUNCES)["etcd"]["addr"]
    assert found == [{"host": "10.0.0.2", "port": 8120}, "10.0.0.1:8121"]


def test_an_address_that_gives_way_takes_its_port_and_the_loss_is_reported() -> None:
    made = planned(file(etcd=ENDPOINTS), ANNOUNCES)
    assert written(file(etcd=ENDPOINTS), ANNOUNCES)["etcd"]["addr"] == {
        "host": "10.0.0.1",
        "port": 8120,
    }
    assert "no more 10.0.0.2:8120 of etcd.addr, 10.0.0.3:8121 of etcd.addr" in made.verdict.message


def test_the_port_that_a_document_names_wins() -> None:
    values = {**VALUES, ("etcd", "addr", "port"): 9999}
    found = written(file(etcd=ENDPOINTS), ANNOUNCES, values)
    assert found["etcd"]["addr"] == {"host": "10.0.0.1", "port": 9999}


@pytest.mark.parametrize("name", ["announce-addr", "announce-internal-addr"])
@pytest.mark.parametrize("existing", ["host.docker.internal", "10.0.0.5"])
def test_what_is_announced_follows_the_agent(name: str, existing: str) -> None:
    agent = f'{RPC}\n{name} = {{ host = "{existing}", port = 7003 }}'
    found = written(file(agent=agent), ANNOUNCES)["agent"]
    assert found[name] == {"host": "10.0.0.9", "port": 7003}
    assert len([key for key in found if key.startswith("announce")]) == 1


def test_it_is_announced_where_the_version_does_that_alone() -> None:
    found = written(file(), ANNOUNCES)["agent"]["announce-addr"]
    assert found == {"host": "10.0.0.9", "port": 6003}
    assert "announce-addr" not in written(file(), OLD)["agent"]
    service = f'{RPC}\nservice-addr = {{ host = "0.0.0.0", port = 7004 }}'
    assert written(file(agent=service), ANNOUNCES)["agent"]["announce-addr"]["port"] == 7004


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_address_that_others_can_t_reach_is_never_announced(host: str) -> None:
    values = {**VALUES, ("agent", "rpc-listen-addr", "host"): host}
    assert "announce-addr" not in written(file(), ANNOUNCES, values)["agent"]


MOVING = {
    "advertised-rpc-addr": 'advertised-rpc-addr = "10.0.0.5:6001"',
    "public-host": 'public-host = "10.0.0.5"',
    "service-addr": 'service-addr = ["10.0.0.5", 6003]',
}


@pytest.mark.parametrize("name", MOVING)
def test_what_named_the_old_address_moves_along(name: str) -> None:
    found = written(file(agent=f"{RPC}\n{MOVING[name]}"), OLD)["agent"]
    assert "10.0.0.5" not in str(found)
    assert "10.0.0.9" in str(found[name])


def test_the_advertised_host_moves_with_the_one_that_is_bound() -> None:
    container = 'bind-host = "10.0.0.5"\nadvertised-host = "10.0.0.5"'
    assert written(file(container=container), OLD)["container"]["advertised-host"] == "10.0.0.9"


def test_another_address_is_left_and_reported() -> None:
    """It may be the one by which a router knows the node."""
    container = 'bind-host = "10.0.0.9"\nadvertised-host = "203.0.113.5"'
    text = file(agent=RPC.replace("10.0.0.5", "10.0.0.9"), container=container)
    made = planned(text, OLD)
    assert made.verdict.reason == "InSync"
    expected = "container.advertised-host is 203.0.113.5, and container.bind-host is 10.0.0.9"
    assert expected in made.verdict.message


def test_what_a_document_sets_is_not_derived() -> None:
    values = {**VALUES, ("agent", "public-host"): "10.0.0.5"}
    found = written(file(agent=f"{RPC}\n{MOVING['public-host']}"), OLD, values)
    assert found["agent"]["public-host"] == "10.0.0.5"
