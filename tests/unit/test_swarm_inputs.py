"""When the agent has to start again because of the swarm."""

from __future__ import annotations

import pytest

from bai_nodeagent.core.metrics import Metrics
from bai_nodeagent.kinds.swarm import manager
from bai_nodeagent.kinds.swarm.addresses import host_and_port
from bai_nodeagent.kinds.swarm.inputs import PART, SwarmInput, agent_input
from bai_nodeagent.kinds.swarm.record import Record


def digest(value: object) -> str:
    return f"digest:{value}"


OUT = Record(trusted="a")
IN = Record(member="a", since_s=100.0, trusted="a")
STRANGE = Record(member="b", since_s=100.0, trusted="a")
HAS = {PART: "digest:a"}


@pytest.mark.parametrize(
    ("record", "running", "started_s", "wanted"),
    [
        (IN, {}, 50.0, HAS),  # it started outside
        (IN, {}, 150.0, {}),  # nobody noted it, but the swarm was there
        (IN, HAS, 50.0, HAS),  # back in the same one
        (Record("b", 200.0, "b"), HAS, 50.0, {PART: "digest:b"}),
        (OUT, HAS, 50.0, {}),
        (OUT, {}, 50.0, {}),
        (STRANGE, {}, 50.0, {}),  # not the one that is desired: it will be left
    ],
)
def test_an_agent_started_outside_the_swarm_is_restarted_for_it(
    record: Record, running: dict[str, str], started_s: float, wanted: dict[str, str]
) -> None:
    assert SwarmInput().desired(record, running, started_s, 900.0, digest) == wanted


def test_a_start_finds_the_swarm_that_is_desired() -> None:
    swarm = SwarmInput()
    assert swarm.found(IN, digest) == HAS
    assert swarm.found(OUT, digest) == swarm.found(STRANGE, digest) == {}
    assert [part for part in ("env", PART, "swarms") if swarm.owns(part)] == [PART]


@pytest.mark.parametrize(
    ("document", "is_input"),
    [({}, False), ({"swarm": {"state": "left"}}, False), ({"swarm": {"state": "joined"}}, True)],
)
def test_it_counts_where_the_node_is_to_be_in_one(
    document: dict[str, object], is_input: bool
) -> None:
    assert (agent_input(document) is not None) is is_input


def test_the_certificates_expiry_is_a_gauge_while_there_is_a_certificate() -> None:
    metrics = Metrics("test", "i-1", "c")
    name = b"bai_nodeagent_swarm_certificate_expiry_timestamp_seconds"
    assert name not in metrics.text()
    metrics.conditions((), {"swarm-certificate-expires": "1970-01-02T00:00:00Z"})
    assert name + b" 86400.0" in metrics.text()
    metrics.conditions((), {})
    assert name not in metrics.text()


@pytest.mark.anyio
@pytest.mark.parametrize("port", [99999, -1])
async def test_a_port_that_is_none_does_not_answer(port: int) -> None:
    """Docker's list of managers is what other nodes have said."""
    assert not await manager.answers("127.0.0.1", port)


def test_a_port_of_thousands_of_digits_is_part_of_a_name() -> None:
    assert host_and_port(f"a:{'9' * 5000}")[1] == 2377
    assert host_and_port("a:23777") == ("a", 23777)
