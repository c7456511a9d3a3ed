"""The real agent: from an empty folder to a member of the cluster, and every way to fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from debian_root import NotPossible
from real_agent import NEW, OLD, Lab, Line, RealNode, agent_python, lab

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    try:
        with lab() as here:
            yield here
    except NotPossible as why:
        pytest.skip(f"no real agent to test with: {why}")


@pytest.fixture
def node(cluster: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RealNode]:
    line: Line = getattr(request, "param", OLD)
    try:
        python = agent_python(line)
    except NotPossible as why:
        pytest.skip(str(why))
    node = RealNode(tmp_path / "n", cluster, python)
    try:
        yield node
    finally:
        node.close()


REQUIRED = """
[agent-config.values.etcd]
namespace = "local"
[agent-config.values.container]
scratch-type = "hostdir"
[agent-config.values.resource]
[agent-config.values.debug]
[agent-config.values.logging]
drivers = ["console"]
console = { colored = false, format = "simple" }
"""

both = pytest.mark.parametrize("node", [OLD, NEW], indirect=True, ids=lambda line: line.name)


@both
def test_from_an_empty_folder_and_one_put_to_registered(node: RealNode) -> None:
    node.start()
    node.desire(node.agent_document('backend = "docker"', REQUIRED))
    node.wait_summary("Ready", 60)
    agents = f"/sorna/local/nodes/agents/{node.id}"
    node.wait("registered in etcd", lambda: node.lab.etcd.keys(agents), 30)
    node.wait("seen in Redis", lambda: node.lab.redis_cli("exists", node.id) == "1", 30)
