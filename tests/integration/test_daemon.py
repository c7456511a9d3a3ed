"""The daemon's main job on a real etcd, and on a folder, seen from outside."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_under_test import AGENT, Node
from servers import Etcd, EtcdServer

SHORT_LEASE = Path(__file__).parent.parent / "short_lease_daemon.py"


@pytest.fixture(params=["etcd", "files"])
def node(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Iterator[Node]:
    etcd = request.getfixturevalue("etcd") if request.param == "etcd" else None
    node = Node(tmp_path / "node", etcd, prefix)
    yield node
    node.close()


@pytest.fixture
def etcd_node(tmp_path: Path, prefix: str, etcd: Etcd) -> Iterator[Node]:
    node = Node(tmp_path / "node", etcd, prefix)
    yield node
    node.close()


def documents(node: Node) -> dict[str, int]:
    found: dict[str, int] = node.status()["desired"]["documents"]
    return found


def ready_with(node: Node) -> int | None:
    """The agent's pid by the daemon's newest word, if it is Ready: the store's may be older."""
    status = json.loads(node.http("/status")[1])
    return status["facts"].get("agent-pid") if status["summary"] == "Ready" else None


def test_put_brings_the_node_into_line_with_one_start(node: Node) -> None:
    node.start()
    node.wait_summary("Missing")
    assert "api-version = 1" in node.condition("DesiredState")["message"]
    node.desire()
    node.wait_ready("one")
    config = tomllib.loads(node.agent_toml.read_text())
    assert config["agent"]["id"] == "i-test01"
    assert config["etcd"]["addr"] == {"host": "127.0.0.1", "port": 2379}
    assert len(node.starts) == 1
    status = node.status()
    assert status["applied"]["digest"] == status["desired"]["digest"]
    assert status["facts"]["agent-pid"] == node.living()[0]
    assert node.http("/readyz") == (200, "Ready\n")
    node.wait("counted", lambda: node.metric("bai_nodeagent_agent_up") == 1)


def test_a_changed_key_is_one_restart_with_what_is_on_disk(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    node.desire(node.document("two"))
    node.wait_ready("two")
    assert [marker for _, marker in node.starts] == ["one", "two"]


def test_many_changes_at_once_are_one_restart(etcd_node: Node) -> None:
    etcd_node.desire()
    etcd_node.start()
    etcd_node.wait_ready("one")
    for number in range(12):
        etcd_node.desire(etcd_node.document(f"m{number}"))
    etcd_node.wait_ready("m11")
    assert len(etcd_node.starts) <= 3


def test_an_equal_document_is_no_write_and_no_restart(etcd_node: Node) -> None:
    node = etcd_node
    node.desire()
    node.start()
    node.wait_ready("one")
    before = node.agent_toml.stat()
    digest, put_at = node.status()["desired"]["digest"], documents(node)["desired/cluster"]
    node.desire("# the same, said otherwise\n" + node.document() + "\n[meta]\nticket = 'x'\n")
    node.wait("seen", lambda: documents(node)["desired/cluster"] > put_at)
    node.wait_ready("one")
    assert node.status()["desired"]["digest"] == digest
    after = node.agent_toml.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(node.starts) == 1


def test_a_hand_edit_is_taken_back_without_a_restart(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    before = node.agent_toml.read_bytes()
    node.agent_toml.write_bytes(before.replace(b'"one"', b'"by hand"'))
    node.wait("repaired", lambda: node.agent_toml.read_bytes() == before)
    node.wait_ready("one")
    assert len(node.starts) == 1
    drift = 'bai_nodeagent_drift_total{resource="agent_config"}'
    node.wait("counted", lambda: node.metric(drift) == 1)


def test_an_agent_that_read_a_hand_edit_is_restarted(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    good = node.agent_toml.read_bytes()
    node.stop()
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait("dead", lambda: not node.living())
    node.agent_toml.write_bytes(good.replace(b'"one"', b'"by hand"'))
    command = [sys.executable, f"{node.folder}/agent.py", str(node.folder)]
    by_hand = subprocess.Popen(command, start_new_session=True)
    node.wait("started by hand", lambda: node.starts[-1][1] == "by hand")
    node.start()
    node.wait_ready("one")
    assert by_hand.wait(timeout=10) is not None
    assert [marker for _, marker in node.starts] == ["one", "by hand", "one"]


def test_an_agent_that_reads_a_hand_edit_in_its_start_is_restarted(node: Node) -> None:
    """What it will find is noted before its start, and mended before anybody looks again."""
    edits = (
        "import os, pathlib, sys, tomllib\n"
        "file, once = (pathlib.Path(sys.argv[1], name) for name in ('agent.toml', 'edit-once'))\n"
        "if once.exists():\n"
        "    once.unlink()\n"
        "    text = file.read_text().replace('one', 'by hand')\n"
        "    file.write_text(text)\n"
        "    tomllib.load = lambda _: tomllib.loads(text)  # whoever mends it meanwhile\n"
    )
    (node.folder / "agent.py").write_text(edits + AGENT)
    node.desire()
    node.start()
    node.wait_ready("one")
    (node.folder / "edit-once").touch()
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait("started again", lambda: len(node.starts) > 1)
    node.wait_ready("one")
    assert [marker for _, marker in node.starts] == ["one", "by hand", "one"]


def test_a_killed_agent_is_back(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait("a second start", lambda: len(node.starts) == 2)
    node.wait_ready("one")
    restarts = 'bai_nodeagent_agent_restarts_total{cause="died"}'
    node.wait("counted", lambda: node.metric(restarts) == 1)
    node.wait("Ready with the new one", lambda: ready_with(node) == node.living()[0])
    # To come back is no answer to a new desired state.
    assert node.metric("bai_nodeagent_converge_seconds_count") == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemons_end_leaves_the_agent_alone(node: Node, how: signal.Signals) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    code = node.stop(how)
    assert code == (0 if how is signal.SIGTERM else -signal.SIGKILL)
    assert len(node.living()) == 1
    node.start()
    node.wait("up", lambda: node.http("/readyz") == (200, "Ready\n"))
    assert len(node.starts) == 1


def test_an_invalid_document_changes_nothing_and_a_fix_is_taken_at_once(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    node.desire(node.document("two", values="backnd = 'x'").replace("stop-timeout", "stop-timeot"))
    node.wait_summary("Invalid")
    message = node.condition("DesiredState")["message"]
    assert "stop-timeot" in message
    assert "stop-timeout" in message
    good = node.agent_toml.read_bytes()
    node.agent_toml.unlink()
    node.wait("drift still repaired", lambda: node.agent_toml.read_bytes() == good)
    node.desire(node.document("three"))
    node.wait_ready("three")
    assert [marker for _, marker in node.starts] == ["one", "three"]


def test_a_deleted_document_is_never_read_as_remove_everything(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    node.remove("desired/cluster")
    node.wait_summary("Missing")
    assert "desired/cluster" in node.condition("DesiredState")["message"]
    good = node.agent_toml.read_bytes()
    node.agent_toml.write_text("")
    node.wait("drift still repaired", lambda: node.agent_toml.read_bytes() == good)
    assert len(node.living()) == 1
    node.desire()
    node.wait_ready("one")
    assert len(node.starts) == 1


def test_paused_observes_and_reports_but_changes_nothing(node: Node) -> None:
    node.desire(node.document(top="paused = true"))
    node.start()
    node.wait_summary("Paused")
    assert not node.agent_toml.exists()
    assert node.starts == []
    assert node.http("/readyz")[0] == 200
    node.desire()
    node.wait_ready("one")


def test_a_local_pause_needs_no_store_and_outlives_the_daemon(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    assert node.run("pause").returncode == 0
    node.wait_summary("Paused")
    node.agent_toml.write_text("spoilt = [")
    node.stop()
    node.start()
    node.wait("paused again", lambda: node.http("/readyz") == (200, "Paused\n"))
    assert node.agent_toml.read_text() == "spoilt = ["
    assert node.run("resume").returncode == 0
    node.wait_ready("one")


def test_a_crash_loop_is_reported_with_the_agents_last_lines(node: Node) -> None:
    (node.folder / "poison").touch()
    node.desire()
    node.start()
    found = node.wait_reason("Agent", "CrashLoop")
    assert "poisoned: the agent gives up" in found["message"]
    (node.folder / "poison").unlink()
    node.desire(node.document("two"))
    node.wait_ready("two")


def test_stopped_stops_and_running_starts(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    node.desire(node.document(agent='state = "stopped"'))
    node.wait("stopped", lambda: not node.living() and node.status()["summary"] == "Ready")
    node.desire()
    node.wait("started", lambda: len(node.living()) == 1)


def test_without_etcd_the_journal_holds_and_drift_is_repaired(tmp_path: Path) -> None:
    with EtcdServer(tmp_path / "own") as server:
        node = Node(tmp_path / "node", server)
        try:
            node.desire()
            node.start()
            node.wait_ready("one")
            server.kill()
            node.wait("noticed", lambda: "StoreUnreachable" in node.http("/status")[1], 40)
            good = node.agent_toml.read_bytes()
            node.agent_toml.write_text("spoilt")
            node.wait("repaired", lambda: node.agent_toml.read_bytes() == good)
            node.stop(signal.SIGKILL)  # and now a boot without etcd
            os.kill(node.living()[0], signal.SIGKILL)
            node.agent_toml.unlink()
            node.start()
            node.wait("file", lambda: node.agent_toml.read_bytes() == good)
            node.wait("agent", lambda: len(node.living()) == 1)
            assert "Degraded" in node.http("/readyz")[1]
            answer = node.run("status")
            assert (answer.returncode, "Degraded" in answer.stdout) == (3, True)
            assert "says the daemon on this node" in answer.stdout
            # An agent that has just been started is under way, and not in line yet.
            node.wait("in line", lambda: node.run("plan").returncode == 0)
            server.start()
            node.desire(node.document("two"))
            node.wait_ready("two")
        finally:
            node.close()


def test_secrets_are_nowhere_but_where_they_belong(etcd_node: Node) -> None:
    node = etcd_node
    first, second = "hunter2-very-secret", "another-hunter3-secret"
    document = node.document(
        values='[agent-config.values.etcd]\npassword = { secret = "agent-etcd" }',
        agent='env = { TOKEN = { secret = "agent-etcd" } }',
    )
    node.put("secret/cluster/agent-etcd", first)
    node.desire(document)
    node.start()
    node.wait_ready("one")
    assert tomllib.loads(node.agent_toml.read_text())["etcd"]["password"] == first
    assert node.agent_toml.stat().st_mode & 0o007 == 0
    node.put("secret/cluster/agent-etcd", second)
    node.wait("rotated", lambda: second in node.agent_toml.read_text())
    node.wait("restarted", lambda: len(node.starts) == 2)
    node.wait_ready("one")
    node.agent_toml.write_text(node.agent_toml.read_text().replace(second, first))
    node.wait("rotated", lambda: second in node.agent_toml.read_text())
    shown = [
        node.log,
        str(node.status()),
        node.http("/metrics")[1],
        node.http("/status")[1],
        node.run("plan").stdout,
        *(Path(f"/proc/{pid}/cmdline").read_text() for pid in node.living()),
    ]
    for secret in (first, second):
        assert [text for text in shown if secret in text] == []
    for path in [*(node.folder / "state").iterdir(), *(node.folder / "runtime").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_daemon_is_refused(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    for command in ("run", "apply"):
        answer = node.run(command)
        assert (answer.returncode, "another bai-nodeagent" in answer.stderr) == (5, True)


def test_a_state_that_was_valid_is_held_over_a_restart_beside_an_invalid_one(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    good = node.agent_toml.read_bytes()
    node.stop(signal.SIGKILL)
    node.desire("api-version = 1\nnonsense = 1")
    node.agent_toml.unlink()
    node.start()
    node.wait_summary("Invalid")
    node.wait("repaired", lambda: node.agent_toml.read_bytes() == good)
    assert len(node.starts) == 1
    node.stop()
    node.remove("desired/cluster")
    node.agent_toml.unlink()
    node.start()
    node.wait_summary("Missing")
    node.wait("repaired", lambda: node.agent_toml.read_bytes() == good)
    assert len(node.living()) == 1


def test_a_join_token_is_in_no_journal_and_goes_from_an_older_one(node: Node) -> None:
    token = "SWMTKN-1-very-secret"
    section = '[swarm]\nstate = "joined"\nremote-addrs = ["127.0.0.1"]\ntoken = "worker"\n'
    journal = node.folder / "state" / "journal.json"
    node.put("secret/cluster/worker", token)
    # Paused, since no Docker of this machine is to be touched.
    node.desire(f"api-version = 1\npaused = true\n{section}")
    node.start()
    node.wait_summary("Paused")
    node.wait("kept", lambda: json.loads(journal.read_text())["raw"].keys() == {"desired/cluster"})
    node.stop()
    answer = node.run("may-start")  # goes by the journal
    assert (answer.returncode, answer.stderr) == (0, "")

    older = json.loads(journal.read_text())
    older["raw"]["secret/cluster/worker"] = base64.b64encode(token.encode()).decode()
    older["revisions"]["secret/cluster/worker"] = 1
    journal.write_text(json.dumps(older))
    # Even where nothing that is in the store can be put in force.
    node.desire("api-version = 1\nnonsense = 1")
    node.start()
    node.wait_reason("DesiredState", "Invalid")
    assert "the last valid state stays in force" in node.condition("DesiredState")["message"]
    kept = json.loads(journal.read_text())
    assert kept["raw"].keys() == kept["revisions"].keys() == {"desired/cluster"}


def test_layers_merge_and_groups_of_the_node_document_replace_the_local_ones(node: Node) -> None:
    node.configure(more='groups = ["local"]')
    node.desire()
    node.put("desired/group/local", "api-version = 1\n[agent-config.values.agent]\na = 1")
    node.start()
    node.wait("local", lambda: tomllib.loads(node.agent_toml.read_text())["agent"]["a"] == 1)
    node.put(f"desired/node/{node.id}", 'api-version = 1\n[node]\ngroups = ["gpu"]')
    found = node.wait_reason("DesiredState", "NoDesiredState")
    assert "desired/group/gpu" in found["message"]
    node.put("desired/group/gpu", "api-version = 1\n[agent-config.values.agent]\nb = 2")
    node.wait("gpu", lambda: tomllib.loads(node.agent_toml.read_text())["agent"]["b"] == 2)
    documents = node.status()["desired"]["documents"]
    assert set(documents) == {"desired/cluster", "desired/group/gpu", f"desired/node/{node.id}"}


def test_garbage_of_every_kind_is_held_and_reported(etcd_node: Node) -> None:
    node = etcd_node
    node.desire()
    node.start()
    node.wait_ready("one")
    before = node.agent_toml.stat().st_mtime_ns
    for garbage in ("", "[[[", "{", "\x01", "a = 1" + "0" * 1_300_000, "[" * 5000):
        node.desire(garbage)
        node.wait_summary("Invalid")
        node.desire()
        node.wait_ready("one")
    assert node.agent_toml.stat().st_mtime_ns == before
    assert len(node.starts) == 1


def test_a_flapping_key_is_no_restart_storm(etcd_node: Node) -> None:
    node = etcd_node
    node.desire()
    node.start()
    node.wait_ready("one")
    ends = time.monotonic() + 6
    while time.monotonic() < ends:
        for marker in ("a", "b"):
            node.desire(node.document(marker))
    node.desire(node.document("last"))
    node.wait_ready("last")
    assert len(node.starts) <= 3


def test_another_node_with_this_id_stops_all_changes(etcd_node: Node) -> None:
    node = etcd_node
    rival = {"instance": "x", "machine-id": "m2", "boot-id": "b2", "since": "2026-01-01T00:00:00Z"}
    assert node.etcd is not None
    lease = node.etcd.etcdctl("lease", "grant", "600").split()[1]
    key = f"{node.prefix}/local/node/{node.id}/alive"
    node.etcd.etcdctl("put", f"--lease={lease}", key, json.dumps(rival))
    node.desire()
    node.start(sys.executable, str(SHORT_LEASE))
    node.wait_ready("one")  # it may be our own of before a reboot, until a lease is over
    found = node.wait_reason("Store", "DuplicateNode", within_s=30)
    assert "m2" in found["message"]
    # What is down comes back as it was: whoever says that he is this node ends nothing by it.
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait("it is back", lambda: len(node.living()) == 1 and len(node.starts) == 2)
    node.desire(node.document("two"))
    node.agent_toml.write_text("spoilt = 1")
    time.sleep(1)
    assert node.agent_toml.read_text() == "spoilt = 1"
    assert len(node.starts) == 2
    node.remove(f"node/{node.id}/alive")
    node.wait_ready("two")


def test_an_identity_that_changed_stops_all_changes(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    node.stop()
    node.configure()
    node.config.write_text(node.config.read_text().replace("i-test01", "i-other"))
    node.agent_toml.write_text("spoilt = 1")
    node.start()
    found = node.wait_reason("DesiredState", "IdentityChanged")
    assert "i-other" in found["message"]
    assert node.agent_toml.read_text() == "spoilt = 1"
    assert len(node.living()) == 1


def test_a_rollout_is_spread_but_what_is_dead_starts_at_once(node: Node) -> None:
    spread = '[rollout]\nspread = "2h"'
    node.desire(node.document() + spread)
    node.start()
    node.wait_ready("one")
    node.desire(node.document("two") + spread)
    node.wait_reason("Agent", "Settling")
    os.kill(node.living()[0], signal.SIGKILL)
    node.wait("it starts at once, and with the new state", lambda: node.starts[-1][1] == "two")
    node.wait_ready("two")
    assert len(node.starts) == 2
