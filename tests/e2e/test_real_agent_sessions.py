"""The real agent while sessions run: what would cost them is held back, the rest is done.

The sessions are such as the agent itself would destroy, had it lost its registry.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from functools import partial

import pytest

from real_agent import OLD, START_S, RealNode, agent_python, both, cluster, node, running
from servers import kill

__all__ = ["cluster", "node"]  # fixtures

pytestmark = [pytest.mark.root, both]

# The agent looks for containers that it doesn't know every 10 s, and takes some to end one.
DESTROYED_S = 25.0


def desired(node: RealNode, values: str = "", agent: str = "") -> str:
    return node.agent_document(f'var-base-path = "{node.folder}/var"\n{values}', agent)


def elsewhere(node: RealNode) -> str:
    """A change of all that the registries of both lines depend on."""
    scratch = f'[agent-config.values.container]\nscratch-root = "{node.folder}/elsewhere-too"'
    return desired(node, f'region = "held"\n{scratch}').replace("/var", "/elsewhere")


def permit_where_batch_sessions_end(node: RealNode) -> None:
    """Of 23.09 each restart is held while sessions run, since which one is a batch session nobody
    can tell. Here none is."""
    if node.python != agent_python(OLD):
        return

    def reported() -> str:
        message = str(node.condition("Agent")["message"])
        return message if "stopping agent 23.9.10 ends batch sessions" in message else ""

    node.wait("held", reported, START_S)
    found = re.search(r"sha256:[0-9a-f]{64}", reported())
    assert found
    permit = f'api-version = 1\n[agent]\nallow-session-loss = "{found[0]}"'
    node.put(f"desired/node/{node.id}", permit)


def by_hand(node: RealNode, text: str) -> tuple[int, int]:
    """Somebody has been running this agent all along: main process and worker."""
    node.agent_toml.write_text(text)
    words = [str(node.python), "-m", "ai.backend.agent.server", "-f", str(node.agent_toml)]
    cd = ["sh", "-c", 'cd "$0" && exec setsid --fork "$@" > by-hand.log 2>&1', str(node.folder)]
    subprocess.run([*node.inside, *cd, *words], stdin=subprocess.DEVNULL, check=True, timeout=60)

    def mains() -> list[int]:
        return [pid for pid in node.living() if node.worker_pid(pid)]

    node.wait("it works", mains, START_S)
    (main,) = mains()
    return main, node.worker_pid(main)


def test_a_node_that_has_been_run_by_hand_is_adopted_without_any_change(
    node: RealNode,
) -> None:
    """What an admin has who comes to us: an agent.toml of a person's own, an agent, sessions."""
    node.start()
    node.desire(desired(node))
    running(node)
    text = node.agent_toml.read_text()  # which that agent takes
    node.stop()
    for pid in node.living():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait("gone", lambda: not node.living())
    for state in ("state", "runtime"):
        shutil.rmtree(node.folder / state)
    session = node.session()
    text = f"# of the admin's own\n{text}\n"
    main, worker = by_hand(node, text)
    os.utime(node.agent_toml)

    plan = node.run("plan")
    first = plan.stdout.splitlines()[0]
    assert first == f"{node.id}: nothing would change; the running agent is adopted, no restart"
    assert plan.returncode == 0
    node.start()
    assert running(node) == (main, worker)
    node.wait_summary("Ready", START_S)
    time.sleep(DESTROYED_S)
    assert running(node) == (main, worker)
    assert node.lab.is_running(session)
    assert node.agent_toml.read_text() == text


def test_without_us_the_agent_destroys_what_its_registry_lacks(node: RealNode) -> None:
    """What the other tests stand on."""
    container = node.lab.session(node.id, str(uuid.uuid4()))
    node.start()
    node.desire(desired(node))
    running(node)
    node.wait("destroyed", lambda: not node.lab.is_running(container), START_S)


def test_sessions_outlive_changes_restarts_and_crashes(node: RealNode) -> None:
    session = node.session()
    node.start()
    node.desire(desired(node))
    main, _ = running(node)
    node.desire(desired(node, 'region = "other"'))
    permit_where_batch_sessions_end(node)
    node.wait("restarted", lambda: node.agent_pid not in (0, main), START_S)
    main, worker = running(node)
    kill(main, worker)
    node.wait("back", lambda: node.agent_pid not in (0, main), START_S)
    main, worker = running(node)
    node.stop(signal.SIGKILL)
    node.start()
    node.wait_summary("Ready", START_S)
    assert running(node) == (main, worker)
    time.sleep(DESTROYED_S)
    assert node.lab.is_running(session)


def test_each_change_that_would_cost_sessions_is_held_back(node: RealNode) -> None:
    session = node.session()
    node.start()
    good = desired(node)
    node.desire(good)
    pids = running(node)
    before = node.agent_toml.read_bytes()
    venv = str(node.python.parent.parent)
    (node.folder / "venv").symlink_to(venv)
    scratch = f'[agent-config.values.container]\nscratch-root = "{node.folder}/elsewhere"\n'
    for part, text in {
        "agent.id": good.replace('id = "${node-id}"', 'id = "i-another"'),
        "agent.var-base-path": good.replace("/var", "/elsewhere"),
        "agent.ipc-base-path": good.replace("/ipc", "/elsewhere"),
        "container.scratch-root": desired(node, scratch),
        "workdir": good.replace(f'workdir = "{node.folder}"', 'workdir = "/"'),
        "the environment's path": good.replace(venv, f"{node.folder}/venv"),
    }.items():
        node.desire(text)
        reported = held(node, part)
        assert re.search(r"sessions run: 1, the oldest since \d{4}-\d\d-\d\dT", reported)
        assert node.agent_toml.read_bytes() == before
        assert running_pids(node) == pids
        plan = node.run("plan")
        assert plan.returncode == 3
        assert reported in plan.stdout
        if "." in part:
            assert f"not written: {part} (session-losing)" in reported
    node.desire(good)
    node.wait_summary("Ready", START_S)
    assert running(node) == pids
    assert node.lab.is_running(session)


def held(node: RealNode, part: str) -> str:
    """Until both conditions say that a change of this part is held back."""

    def is_propagated(name: str) -> bool:
        reported = node.condition(name)
        return reported["reason"] == "Blocked" and f"{part} would" in reported["message"]

    for name in ("AgentConfig", "Agent"):
        node.wait(f"{name}: {part} is held back", partial(is_propagated, name), START_S)
    return str(node.condition("AgentConfig")["message"])


def running_pids(node: RealNode) -> tuple[int, int]:
    return node.agent_pid, node.worker_pid()


def test_a_key_changed_by_hand_is_not_put_into_force_by_a_restart_for_another(
    node: RealNode,
) -> None:
    session = node.session("var/lib/backend.ai")  # which no document names
    node.start()
    node.desire(node.agent_document())
    main, _ = running(node)
    text = node.agent_toml.read_text()
    line = f'[agent]\nvar-base-path = "{node.folder}/by-hand"'
    node.agent_toml.write_text(text.replace("[agent]", line))
    node.desire(node.agent_document('region = "other"'))
    reported = node.wait_reason("Agent", "Blocked", START_S)["message"]
    assert "agent.var-base-path would" in reported
    assert node.agent_pid == main
    assert "by-hand" in node.agent_toml.read_text()
    node.agent_toml.write_text(node.agent_toml.read_text().replace(line, "[agent]"))
    permit_where_batch_sessions_end(node)
    node.wait("restarted", lambda: node.agent_pid not in (0, main), START_S)
    running(node)
    assert node.lab.is_running(session)


def test_plan_and_status_report_what_a_change_costs(node: RealNode) -> None:
    node.start()
    node.desire(desired(node))
    running(node)
    node.run("pause")
    node.wait("paused", lambda: node.status()["summary"] == "Paused")
    node.desire(desired(node, 'region = "other"'))
    node.wait("told", lambda: "agent.region (restart)" in node.condition("AgentConfig")["message"])
    plan = node.run("plan")
    assert f"write {node.agent_toml}: agent.region (restart)" in plan.stdout
    assert '+region = "other"' in plan.stdout


def test_a_change_is_held_back_through_a_crash_until_it_is_permitted(node: RealNode) -> None:
    session = node.session()
    node.start()
    node.desire(desired(node))
    main, _ = running(node)
    before = node.agent_toml.read_bytes()

    node.desire(elsewhere(node))
    reported = node.wait_reason("AgentConfig", "Blocked", START_S)
    node.wait_reason("Agent", "Blocked", START_S)
    assert "agent.var-base-path" in reported["message"]
    assert "sessions run: 1" in reported["message"]
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
    time.sleep(DESTROYED_S)
    assert node.lab.is_running(session)

    permit = f'api-version = 1\n[agent]\nallow-session-loss = "{found[0]}"'
    node.put(f"desired/node/{node.id}", permit)
    node.wait("permitted", lambda: node.agent_pid not in (0, main), START_S)
    running(node)
    assert (node.folder / "elsewhere").is_dir()
    node.wait("lost, as permitted", lambda: not node.lab.is_running(session), START_S)


def test_while_docker_does_not_answer_sessions_are_assumed(node: RealNode) -> None:
    node.start()
    node.desire(desired(node))
    running(node)
    node.lab.dockerd.stop()
    try:
        node.desire(elsewhere(node))
        reported = node.wait_reason("AgentConfig", "Blocked", START_S)
        assert "Docker can't be asked" in reported["message"]
    finally:
        node.lab.dockerd.start()
    node.wait("done once Docker says that none runs", (node.folder / "elsewhere").is_dir, START_S)
