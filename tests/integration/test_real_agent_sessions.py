"""The real agent while sessions run: what would cost them is held back, the rest is done."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest

from real_agent import START_S, Lab, RealNode, cluster, node, running

__all__ = ["cluster", "node"]  # fixtures

pytestmark = pytest.mark.root


@pytest.fixture
def session(cluster: Lab, node: RealNode) -> Iterator[str]:
    container = cluster.session(node.id)
    yield container
    cluster.docker("rm", "--force", container)


def desired(node: RealNode, values: str = "", agent: str = "") -> str:
    return node.agent_document(f'var-base-path = "{node.folder}/var"\n{values}', agent)


def elsewhere(node: RealNode) -> str:
    return desired(node, 'region = "held"').replace("/var", "/elsewhere")


def test_harmless_changes_and_crashes_go_on_while_sessions_run(
    node: RealNode, session: str
) -> None:
    node.start()
    node.desire(desired(node))
    main, _ = running(node)
    node.desire(desired(node, 'region = "other"'))  # a restart
    node.wait("restarted", lambda: node.agent_pid not in (0, main), START_S)
    main, worker = running(node)
    os.kill(main, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    node.wait("back", lambda: node.agent_pid not in (0, main), START_S)
    main, _ = running(node)
    node.stop(signal.SIGKILL)
    node.start()
    node.wait_summary("Ready", START_S)
    assert node.agent_pid == main
    assert node.lab.is_running(session)


def test_what_would_cost_sessions_is_held_back_until_it_is_permitted(
    node: RealNode, session: str
) -> None:
    node.start()
    node.desire(desired(node))
    main, _ = running(node)
    before = node.agent_toml.read_bytes()

    node.desire(elsewhere(node))
    told = node.wait_reason("AgentConfig", "Blocked", START_S)
    node.wait_reason("Agent", "Blocked", START_S)
    assert "agent.var-base-path" in told["message"]
    assert "sessions run: 1" in told["message"]
    assert node.agent_toml.read_bytes() == before
    plan = node.run("plan")
    assert plan.returncode == 3
    found = re.search(r"sha256:[0-9a-f]{64}", plan.stdout)
    assert found

    os.kill(main, signal.SIGKILL)  # it comes back as it was
    node.wait("back", lambda: node.agent_pid not in (0, main), START_S)
    node.wait("well", lambda: node.worker_pid() > 0, START_S)
    assert node.agent_toml.read_bytes() == before
    main = node.agent_pid

    permit = f'api-version = 1\n[agent]\nallow-session-loss = "{found[0]}"'
    node.put(f"desired/node/{node.id}", permit)
    node.wait("permitted", lambda: node.agent_pid not in (0, main), START_S)
    running(node)
    assert (node.folder / "elsewhere").is_dir()


def test_while_docker_does_not_answer_sessions_are_taken_to_run(node: RealNode) -> None:
    node.start()
    node.desire(desired(node))
    running(node)
    node.lab.dockerd.stop()
    try:
        node.desire(elsewhere(node))
        told = node.wait_reason("AgentConfig", "Blocked", START_S)
        assert "Docker can't be asked" in told["message"]
    finally:
        node.lab.dockerd.start()
    node.wait("done once Docker says that none runs", (node.folder / "elsewhere").is_dir, START_S)
