"""Every command on a real etcd, with its exit codes, as an admin calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_under_test import PROGRAM, Node
from servers import Etcd

IMPATIENT = Path(__file__).parent.parent / "impatient_daemon.py"


@pytest.fixture
def node(tmp_path: Path, prefix: str, etcd: Etcd) -> Iterator[Node]:
    node = Node(tmp_path / "node", etcd, prefix)
    yield node
    node.close()


@pytest.fixture
def offline(tmp_path: Path) -> Iterator[Node]:
    """A node whose etcd is not there."""
    node = Node(tmp_path / "node", Etcd("127.0.0.1:1"))
    yield node
    node.close()


def in_folder(node: Node) -> dict[str, bytes]:
    return {
        str(path.relative_to(node.folder)): path.read_bytes()
        for path in node.folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_plan_touches_nothing_and_reports_a_diff(node: Node) -> None:
    node.desire(node.document(values='api-token = "hunter2-secret"'))
    before = in_folder(node)
    answer = node.run("plan")
    assert answer.returncode == 3, answer.stderr
    assert in_folder(node) == before
    assert '+marker = "one"' in answer.stdout
    assert "hunter2-secret" not in answer.stdout
    assert "would start the agent" in answer.stdout
    as_json = json.loads(node.run("plan", "--json").stdout)
    assert [r["type"] for r in as_json["resources"]] == ["AgentConfig", "Agent"]


def test_plan_is_0_when_in_line_2_when_invalid_and_4_with_nothing_to_go_by(node: Node) -> None:
    answer = node.run("plan")
    assert (answer.returncode, "api-version = 1" in answer.stderr) == (4, True)
    node.desire()
    assert node.run("apply").returncode == 0
    answer = node.run("plan")
    assert (answer.returncode, "AgentConfig: in line" in answer.stdout) == (0, True)
    assert answer.stderr == ""
    assert node.run("pause").returncode == 0
    answer = node.run("plan")
    assert (answer.returncode, "bai-nodeagent resume" in answer.stderr) == (0, True)
    node.desire("api-version = 1\nnonsense = 1")
    answer = node.run("plan")
    assert (answer.returncode, "nonsense" in answer.stderr) == (2, True)


def test_apply_converges_once_and_leaves_the_agent(node: Node) -> None:
    node.desire()
    answer = node.run("apply")
    assert (answer.returncode, "i-test01: Ready" in answer.stdout) == (0, True), answer.stderr
    assert len(node.living()) == 1
    assert node.status()["summary"] == "Ready"
    assert node.run("apply").returncode == 0
    assert len(node.starts) == 1
    (node.folder / "poison").touch()
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait("dead", lambda: not node.living())
    assert node.run("apply").returncode == 3


def test_apply_ends_beside_a_condition_that_stays_unknown(node: Node) -> None:
    program = [sys.executable, str(IMPATIENT), "apply", "--config", str(node.config)]
    for n in range(20):  # until the agent has been restarted too often for changes
        node.desire(node.document(str(n)))
        answer = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
        if answer.returncode:
            break
    assert answer.returncode == 3
    assert "RestartPending" in answer.stdout


def test_validate_reports_all_mistakes_at_once(node: Node) -> None:
    good, bad = node.folder / "good.toml", node.folder / "bad.toml"
    good.write_text(node.document())
    bad.write_text('api-version = 2\n[agent]\nsupervisr = "child"\n[agent-config]\npath = "x"')
    assert node.run("validate", str(good)).returncode == 0
    answer = node.run("validate", str(good), str(bad), "/nowhere")
    assert answer.returncode == 2
    for part in ("api-version", "supervisr", "did you mean", "agent-config.path", "/nowhere"):
        assert part in answer.stderr
    assert node.run("validate", "-", stdin=node.document()).returncode == 0
    assert json.loads(node.run("validate", "--json", str(bad)).stdout)["valid"] is False


def test_put_shows_a_diff_writes_once_and_nothing_when_equal(node: Node) -> None:
    file = node.folder / "cluster.toml"
    file.write_text(node.document())
    first = node.run("put", "cluster", str(file))
    assert (first.returncode, "written, revision" in first.stdout) == (0, True), first.stderr
    again = node.run("put", "cluster", str(file))
    assert (again.returncode, "unchanged" in again.stdout) == (0, True)
    file.write_text(node.document("two"))
    changed = node.run("put", "cluster", str(file))
    assert '-agent-config.values.agent.marker = "one"' in changed.stdout
    assert '+agent-config.values.agent.marker = "two"' in changed.stdout
    node.start()
    node.wait_ready("two")
    value = json.loads(node.run("put", "cluster", str(file), "--json").stdout)
    assert value["written"] is False


def test_put_refuses_what_is_wrong_alone_or_merged(node: Node) -> None:
    answer = node.run("put", "cluster", "-", stdin="api-version = 1\nnonsense = 1")
    assert (answer.returncode, "nothing was written" in answer.stderr) == (2, True)
    node.desire()
    merged = node.run("put", f"node/{node.id}", "-", stdin='api-version = 1\n[agent]\nuser = "u"')
    assert merged.returncode == 0, merged.stderr
    without = 'api-version = 1\n[agent]\nuser = "v"'
    answer = node.run("put", "cluster", "-", stdin=without)
    assert answer.returncode == 2
    assert "agent.supervisor" in answer.stderr
    assert f"for node {node.id}" in answer.stderr
    assert node.run("put", "nonsense", "-", stdin=without).returncode == 2
    assert node.run("put", "node/../x", "-", stdin=without).returncode == 2


def test_two_broken_layers_can_be_put_right_one_by_one(node: Node) -> None:
    node.put("desired/cluster", "api-version = 1\nnonsense = 1")
    node.put(f"desired/node/{node.id}", "api-version = 1\nmore-nonsense = 1")
    first = node.run("put", "cluster", "-", stdin=node.document())
    assert first.returncode == 0, first.stderr
    assert "is in the store already" in first.stderr
    assert "more-nonsense" in first.stderr
    second = node.run("put", f"node/{node.id}", "-", stdin="api-version = 1")
    assert (second.returncode, second.stderr) == (0, "")
    node.start()
    node.wait_ready("one")


def test_a_new_nodes_document_is_not_held_up_by_another_layer(node: Node) -> None:
    node.put("desired/cluster", "api-version = 1\nnonsense = 1")
    answer = node.run("put", "node/i-new", "-", stdin="api-version = 1")
    assert answer.returncode == 0, answer.stderr
    assert "is in the store already: for node i-new" in answer.stderr


def test_secrets_that_are_not_there_are_reported_and_hold_up_nothing(node: Node) -> None:
    document = node.document() + '\n[agent-config.values.etcd]\npassword = { secret = "db" }\n'
    answer = node.run("put", "cluster", "-", stdin=document)
    assert (answer.returncode, answer.stderr) == (0, "")  # no node is known yet
    answer = node.run("put", "node/i-new", "-", stdin="api-version = 1")
    assert answer.returncode == 0
    assert "there is no secret db for i-new" in answer.stderr
    assert "secret/cluster/db, secret/node/i-new/db" in answer.stderr
    node.put("secret/cluster/db", "geheim")
    answer = node.run("put", "node/i-new", "-", stdin="api-version = 1\n[meta]\nx = 1")
    assert (answer.returncode, answer.stderr) == (0, "")


def test_a_group_that_no_node_is_in_is_said(node: Node) -> None:
    answer = node.run("put", "group/gpu", "-", stdin="api-version = 1")
    assert (answer.returncode, "no known node is in group/gpu" in answer.stderr) == (0, True)


def test_what_is_no_file_is_named_as_such(node: Node) -> None:
    answer = node.run("validate", "/etc")
    assert (answer.returncode, answer.stderr) == (
        2,
        "bai-nodeagent: /etc: is not a regular file\n",
    )


def test_status_and_nodes_report_the_fleet_worst_first(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    answer = node.run("status")
    assert (answer.returncode, "Ready" in answer.stdout) == (0, True)
    assert json.loads(node.run("status", "--json").stdout)["alive"] is True
    assert node.run("status", "i-other").returncode == 3
    node.put("node/i-bad/status", '{"summary": "Degraded", "conditions": []}')
    node.put("node/i-bad/alive", "{}")
    node.put("node/i-gone/status", '{"summary": "Ready", "started-at": "2026-01-01T00:00:00Z"}')
    node.put("node/i-odd/status", "garbage")
    lines = node.run("nodes").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["i-odd", "Unreadable"],
        ["i-bad", "Degraded"],
        ["i-gone", "Unknown"],
        ["i-test01", "Ready"],
    ]
    assert len(json.loads(node.run("nodes", "--json").stdout)) == 4
    node.stop()
    answer = node.run("status")
    assert (answer.returncode, "Unknown" in answer.stdout) == (3, True)


def test_without_a_store_commands_report_it_in_time(offline: Node) -> None:
    for command in (["plan"], ["status"], ["nodes"], ["put", "cluster", "-"]):
        answer = offline.run(*command, stdin=offline.document())
        assert answer.returncode == 4, command
        assert "127.0.0.1:1" in answer.stderr
        assert answer.stdout == ""
    for command in (["pause", "--for", "2h"], ["resume"], ["rebind"], ["schema"]):
        assert offline.run(*command).returncode == 0, command


def test_a_reader_that_closes_early_is_no_bug(node: Node) -> None:
    command = f"{PROGRAM} schema | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_the_schema_is_one(node: Node) -> None:
    schema = json.loads(node.run("schema").stdout)
    assert schema["$schema"].endswith("2020-12/schema")
    assert "agent-config" in schema["properties"]


def test_may_start_needs_no_store_and_no_daemon(node: Node) -> None:
    answer = node.run("may-start", "--json")
    assert (answer.returncode, json.loads(answer.stdout)) == (0, {"may-start": True})
    node.desire()
    assert node.run("apply").returncode == 0
    assert node.run("may-start").returncode == 0
    node.desire(node.document(agent='state = "stopped"'))
    assert node.run("apply").returncode == 0
    answer = node.run("may-start")
    assert (answer.returncode, "stopped" in answer.stderr) == (1, True)


def test_usage_and_configuration_mistakes_are_2_with_a_line_each(node: Node) -> None:
    assert node.run("fly").returncode == 2
    assert node.run("pause", "--for", "soon").returncode == 2
    node.config.write_text('nodeid = "x"\n[store]\nurl = "nowhere"\n')
    answer = node.run("run")
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 2
    assert "did you mean node-id?" in answer.stderr


def test_an_occupied_port_is_2(node: Node) -> None:
    node.start()
    node.wait("up", lambda: node.http("/status"))
    other = Node(node.folder.with_name("other"), node.etcd, node.prefix)
    other.port = node.port
    other.configure()
    answer = other.run("run")
    assert (answer.returncode, "http.listen" in answer.stderr) == (2, True)


def test_options_may_precede_the_command(node: Node) -> None:
    command = [str(PROGRAM), "--json", "--config", str(node.config), "nodes"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs Debian's package prometheus")
def test_metrics_pass_promtool(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    text = node.http("/metrics")[1]
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_may_start_refuses_when_the_desired_state_can_not_be_judged(node: Node) -> None:
    node.desire()
    assert node.run("apply").returncode == 0
    path = node.folder / "state" / "journal.json"
    kept = json.loads(path.read_text())
    kept["raw"] = dict.fromkeys(kept["raw"], "bm9uc2Vuc2U=")
    path.write_text(json.dumps(kept))
    answer = node.run("may-start")
    assert (answer.returncode, "can't be judged" in answer.stderr) == (1, True)
