"""The real agent gets back what it was healthy with, where a document says so."""

from __future__ import annotations

import uuid

import pytest

from real_agent import START_S, Lab, RealNode, both, cluster, node, running

__all__ = ["cluster", "node"]  # fixtures

pytestmark = [pytest.mark.root, both]

POLICY = 'on-unhealthy = "rollback"\nhealth-timeout = "8s"'
# Valid, and yet no manager and no Redis is to be found there.
POISON = '[agent-config.values.etcd]\nnamespace = "nowhere"'


def desired(
    node: RealNode, values: str = "", top: str = "", folder: str = "var", policy: str = POLICY
) -> str:
    values = f'var-base-path = "{node.folder}/{folder}"\n{values}'
    return node.agent_document(values, policy, top)


def healthy(node: RealNode) -> int:
    node.start()
    node.desire(desired(node))
    main, _ = running(node)
    node.wait("kept", (node.folder / "state/agent-healthy.toml").exists, START_S)
    return main


def test_a_poisonous_but_valid_value_is_rolled_back_and_stays_so(node: RealNode) -> None:
    healthy(node)
    node.desire(desired(node, POISON))
    reported = node.wait_reason("AgentConfig", "RolledBack", START_S)
    for text in ('etcd.namespace: "nowhere" instead of "local"', "sha256:", "Waiting", "retry"):
        assert text in reported["message"]
    main, worker = running(node)
    assert 'namespace = "local"' in node.agent_toml.read_text()
    node.stop()
    node.start()
    node.wait_reason("AgentConfig", "RolledBack", START_S)
    assert running(node) == (main, worker)
    # Somebody says that it is worth another try; it is not.
    assert node.run("retry").returncode == 0
    node.wait("tried again", lambda: node.agent_pid not in (0, main), START_S)
    node.wait_reason("AgentConfig", "RolledBack", START_S)
    running(node)


def test_an_outage_during_a_good_change_rolls_nothing_back(node: RealNode) -> None:
    main = healthy(node)
    node.lab.redis.stop()
    try:
        # Long enough for a busy machine's agent to say what it waits for.
        node.desire(desired(node, 'region = "fine"', policy=POLICY.replace("8s", "60s")))
        node.wait("restarted", lambda: node.agent_pid not in (0, main), START_S)
        node.wait(
            "told", lambda: "can't have caused it" in node.condition("Agent")["message"], START_S
        )
        assert "Redis" in node.condition("Agent")["message"]
    finally:
        node.lab.redis.start()
    running(node)
    assert node.condition("AgentConfig")["reason"] == "InSync"


def test_nothing_is_rolled_back_where_that_could_cost_sessions(
    cluster: Lab, node: RealNode
) -> None:
    main = healthy(node)
    node.desire(desired(node, POISON, folder="elsewhere"))
    node.wait("restarted", lambda: node.agent_pid not in (0, main), START_S)
    session = cluster.session(node.id, str(uuid.uuid4()))
    try:
        node.wait("told", lambda: "not rolled back" in node.condition("Agent")["message"], START_S)
        reported = node.condition("Agent")["message"]
        assert "agent.var-base-path" in reported
        assert "sessions run: 1" in reported
    finally:
        cluster.docker("rm", "--force", session)
    node.wait_reason("AgentConfig", "RolledBack", START_S)
    running(node)
