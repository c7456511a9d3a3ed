"""Inputs with which the agent does not get healthy are given up, where a document says so."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_under_test import Node

POLICY = 'on-unhealthy = "rollback"\nhealth-timeout = "2s"'


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.close()


def desired(node: Node, marker: str, values: str = "", policy: str = POLICY) -> str:
    return node.document(marker, agent=policy, values=values)


def healthy_with(node: Node, marker: str, values: str = "") -> None:
    """Runs for long enough with it to count as healthy."""
    node.desire(desired(node, marker, values))
    node.wait_ready(marker)
    kept = node.folder / "state/agent-healthy.toml"
    node.wait("kept", lambda: marker in kept.read_text())


def now(node: Node, name: str) -> dict[str, str]:
    """A condition as the daemon tells it by HTTP: the store's may be behind."""
    conditions = json.loads(node.http("/status")[1])["conditions"]
    found = [c for c in conditions if c["type"] == name]
    return found[0] if found else {"status": "", "reason": "", "message": ""}


def rolled_back(node: Node, marker: str) -> dict[str, str]:
    node.wait("RolledBack", lambda: now(node, "AgentConfig")["reason"] == "RolledBack", 40)
    node.wait("back", lambda: node.starts[-1][1] == marker, 40)
    node.wait("well", lambda: now(node, "Agent")["reason"] == "Running", 40)
    assert node.starts[-1][1] == marker
    return now(node, "AgentConfig")


def test_a_poisonous_value_is_rolled_back_and_stays_so(node: Node) -> None:
    node.start()
    healthy_with(node, "one")
    node.desire(desired(node, "poison"))
    reported = rolled_back(node, "one")
    assert reported["status"] == "False"
    digest = json.loads(node.http("/status")[1])["desired"]["digest"]
    for part in (
        digest,
        "poisoned: the agent gives up",
        'agent.marker: "poison" instead of "one"',
        "retry",
    ):
        assert part in reported["message"]
    assert 'marker = "one"' in node.agent_toml.read_text()
    assert node.http("/readyz")[0] == 503
    plan = node.run("plan")
    assert plan.returncode == 3
    assert "RolledBack" in plan.stdout

    starts = len(node.starts)
    node.stop(signal.SIGKILL)
    node.start()
    rolled_back(node, "one")
    node.desire("# the same in other words\n" + desired(node, "poison"))
    node.wait_reason("DesiredState", "Valid")
    assert len(node.starts) == starts, "neither a restart nor another try"

    node.desire(desired(node, "two"))
    node.wait_ready("two")
    assert not (node.folder / "state/rollback.toml").exists()
    assert node.run("retry").stdout.strip() == f"{node.id}: nothing was rolled back"


@pytest.mark.parametrize("verb", ["note_unhealthy", "roll_back"])
def test_a_daemon_killed_on_the_way_back_gets_there(node: Node, verb: str) -> None:
    node.start()
    healthy_with(node, "one")
    node.stop()
    node.desire(desired(node, "poison"))
    assert node.run_until_it_dies(verb, 40)
    node.start()
    rolled_back(node, "one")
    assert len(node.living()) == 1


def test_retry_tries_again(node: Node) -> None:
    node.start()
    healthy_with(node, "one")
    node.desire(desired(node, "poison"))
    rolled_back(node, "one")
    starts = len(node.starts)
    assert node.run("retry").stdout.strip() == f"{node.id}: what was given up is tried again"
    node.wait("tried", lambda: any(m == "poison" for _, m in node.starts[starts:]), 40)
    rolled_back(node, "one")


def test_hold_is_the_default(node: Node) -> None:
    node.start()
    node.desire(desired(node, "one", policy='health-timeout = "1s"'))
    node.wait_ready("one")
    node.wait("kept", (node.folder / "state/agent-healthy.toml").exists)
    node.desire(desired(node, "poison", policy='health-timeout = "1s"'))
    node.wait("crashes", lambda: [m for _, m in node.starts].count("poison") > 3, 40)
    assert now(node, "AgentConfig")["reason"] == "InSync"


def test_secrets_do_not_come_back(node: Node) -> None:
    values = '[agent-config.values.etcd]\npassword = { secret = "agent-etcd" }'
    node.put("secret/cluster/agent-etcd", "revoked-password")
    node.start()
    healthy_with(node, "one", values)
    assert "revoked-password" not in (node.folder / "state/agent-healthy.toml").read_text()
    node.put("secret/cluster/agent-etcd", "fresh-password")
    node.wait("fresh", lambda: "fresh-password" in node.agent_toml.read_text())
    node.desire(desired(node, "poison", values))
    rolled_back(node, "one")
    text = node.agent_toml.read_text()
    assert "fresh-password" in text
    assert "revoked-password" not in text


def test_a_pause_stops_the_clock(node: Node) -> None:
    node.start()
    healthy_with(node, "one")
    node.desire(desired(node, "poison"))
    node.wait("tried", lambda: any(m == "poison" for _, m in node.starts))
    assert node.run("pause").returncode == 0
    node.wait("paused", lambda: json.loads(node.http("/status")[1])["summary"] == "Paused")
    # By the clock's own words, or where it was about to be started again, by what is held.
    words = ("does not count", "to do: start")
    node.wait("told", lambda: any(word in now(node, "Agent")["message"] for word in words))
    assert not (node.folder / "state/rollback.toml").exists()
    node.run("resume")
    rolled_back(node, "one")


def test_a_command_that_does_not_work_is_rolled_back_without_agent_toml(node: Node) -> None:
    """Where no document manages agent.toml, the agent's own condition tells."""
    node.start()
    node.agent_toml.write_text('[agent]\nmarker = "mine"\n')

    def document(program: str) -> str:
        command = f'command = ["{program}", "{node.folder}/agent.py", "{node.folder}"]'
        return f'api-version = 1\n[agent]\nsupervisor = "child"\n{POLICY}\n{command}\n'

    python = node.document().partition('command = ["')[2].partition('"')[0]
    node.desire(document(python))
    node.wait_ready("mine")
    node.wait("kept", (node.folder / "state/agent-healthy.toml").exists)
    first = node.living()
    node.desire(document("/nowhere/python"))  # seen before the agent is stopped
    node.wait("Blocked", lambda: now(node, "Agent")["reason"] == "Blocked")
    assert node.living() == first
    node.desire(document("/bin/false"))
    node.wait("RolledBack", lambda: now(node, "Agent")["reason"] == "RolledBack", 40)
    assert "[agent] command" in now(node, "Agent")["message"]
    node.wait("lives", lambda: len(node.living()) == 1)
