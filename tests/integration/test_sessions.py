"""What running sessions hold back, with containers of a real dockerd and an agent that stands for
Backend.AI's: in a virtual environment that says which version it is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockers import IMAGE, DockerNode, NotPossible, docker_nodes
from node_under_test import PROGRAM, Node

pytestmark = pytest.mark.root

# Outgoing connections of this machine may have those that are Backend.AI's defaults.
PORTS = "metadata-server-port = 30128\naiomonitor-webui-port = 30200\n"
SECOND = """\
[[agents]]
agent = { id = "i-test01" }
[[agents]]
agent = { id = "i-second" }
"""


class SessionNode(Node):
    """`version` of the agent; "" where its environment doesn't say."""

    def __init__(self, folder: Path, dockerd: DockerNode) -> None:
        super().__init__(folder)
        self.dockerd = dockerd
        self.inside = ("env", f"DOCKER_HOST={dockerd.host}")
        venv.create(folder / "venv", symlinks=True, with_pip=False)
        self.python = folder / "venv/bin/python"

    def install(self, version: str) -> None:
        (site,) = (self.folder / "venv").glob("lib/python3*/site-packages")
        info = site / f"backend_ai_agent-{version}.dist-info"
        info.mkdir()
        os.utime(info, (1, 1))

    def document(
        self, marker: str = "one", agent: str = "", values: str = "", top: str = ""
    ) -> str:
        text = super().document(marker, f'health = "backendai"\n{agent}', PORTS + values, top)
        return text.replace(f'"{sys.executable}"', f'"{self.python}"')

    def begin(self, text: str | None = None) -> None:
        self.desire(text)
        self.start(*self.inside, str(PROGRAM))

    def session(self, agent_id: str = "i-test01") -> str:
        label = f"ai.backend.owner={agent_id}"
        return self.dockerd.docker("run", "--detach", "--network=none", "--label", label, IMAGE)

    def by_hand(self, text: str) -> int:
        """Somebody starts the agent beside an agent.toml that reads so."""
        self.agent_toml.write_text(text)
        command = [str(self.python), f"{self.folder}/agent.py", str(self.folder)]
        subprocess.run(["setsid", "--fork", *command], check=True, stdout=subprocess.DEVNULL)
        self.wait("it runs", lambda: len(self.living()) == 1)
        return self.living()[0]

    def end(self, session: str) -> None:
        """Ends a session, and has it seen at once, not at the next look in half a minute."""
        self.dockerd.docker("rm", "--force", session)
        self.stop()
        self.start(*self.inside, str(PROGRAM))

    def runs(self, marker: str) -> None:
        self.wait(marker, lambda: len(self.living()) == 1 and self.starts[-1][1] == marker)

    def soon(self, name: str, reason: str) -> str:
        """The message, once a condition has that reason."""

        def found() -> list[dict[str, str]]:
            there = self.status_now()["conditions"]
            return [c for c in there if (c["type"], c["reason"]) == (name, reason)]

        self.wait(f"{name} {reason}", found)
        return found()[0]["message"]

    def first_line(self) -> str:
        return self.run("plan").stdout.splitlines()[0]


@pytest.fixture(scope="module")
def dockerd() -> Iterator[DockerNode]:
    with contextlib.ExitStack() as stack:
        try:
            (node,) = stack.enter_context(docker_nodes("sessions"))
        except NotPossible as why:
            pytest.skip(f"no Docker to test with: {why}")
        node.import_image()
        yield node


@pytest.fixture
def node(tmp_path: Path, dockerd: DockerNode) -> Iterator[SessionNode]:
    node = SessionNode(tmp_path / "node", dockerd)
    try:
        yield node
    finally:
        node.close()
        if running := dockerd.docker("ps", "--all", "--quiet").split():
            dockerd.docker("rm", "--force", *running)


def test_a_session_of_a_second_agent_of_the_process_counts(node: SessionNode) -> None:
    node.install("26.8.3")
    node.begin(node.document(agent='restart = "idle"'))
    node.runs("one")
    node.agent_toml.write_text(f"{node.agent_toml.read_text()}\n{SECOND}")
    session = node.session("i-second")
    other = node.session("i-of-another-node")
    node.desire(node.document("two", agent='restart = "idle"'))
    node.soon("AgentConfig", "InSync")
    reported = node.soon("Agent", "Blocked")
    assert "a change of agent.toml agents would lose" in reported  # by hand, and not read yet
    assert "sessions run: 1," in reported
    node.end(session)
    node.runs("two")
    assert node.dockerd.docker("ps", "--quiet", "--no-trunc") == other

    session = node.session("i-second")
    node.desire(node.document("three", agent='restart = "idle"'))
    reported = node.soon("Agent", "RestartPending")
    assert reported.endswith('restart = "idle", and sessions run: 1')
    node.end(session)
    node.runs("three")


@pytest.mark.parametrize(
    ("version", "stopped"),
    [("23.9.10", "agent 23.9.10"), ("", "an agent whose version is not known")],
)
def test_where_a_stop_ends_batch_sessions_each_session_holds_a_restart(
    node: SessionNode, version: str, stopped: str
) -> None:
    if version:
        node.install(version)
    node.begin()
    node.runs("one")
    before = node.agent_toml.read_bytes()
    session = node.session()
    node.desire(node.document("two"))
    for condition in ("AgentConfig", "Agent"):
        reported = node.soon(condition, "Blocked")
        assert f"since stopping {stopped} ends batch sessions" in reported
        assert "sessions run: 1," in reported
    assert node.agent_toml.read_bytes() == before
    assert "agent.marker (session-losing)" in node.run("plan").stdout
    assert len(node.starts) == 1
    node.end(session)
    node.runs("two")


@pytest.mark.parametrize("version", ["23.9.10", "26.8.3"])
def test_a_stop_for_good_counts_as_well(node: SessionNode, version: str) -> None:
    node.install(version)
    node.begin()
    node.runs("one")
    session = node.session()
    node.desire(node.document(agent='state = "stopped"'))
    if version == "23.9.10":
        reported = node.soon("Agent", "Blocked")
        assert "may lose its sessions, since stopping agent 23.9.10 ends" in reported
        assert len(node.living()) == 1
        node.end(session)
    node.soon("Agent", "Stopped")
    assert node.living() == []


def test_what_was_installed_under_a_running_agent_does_not_show_what_runs(
    node: SessionNode,
) -> None:
    node.begin()
    node.runs("one")
    node.install("26.8.3")
    (info,) = (node.folder / "venv").glob("lib/python3*/site-packages/*.dist-info")
    os.utime(info)
    node.session()
    node.desire(node.document("two"))
    assert "version is not known" in node.soon("Agent", "Blocked")


def test_where_a_stop_ends_nothing_sessions_hold_no_plain_restart(node: SessionNode) -> None:
    node.install("26.8.3")
    node.begin()
    node.runs("one")
    node.session()
    node.run("pause")
    node.desire(node.document("two"))
    assert node.first_line() == "i-test01: 2 changes, would RESTART the agent; 1 session runs"
    reported = json.loads(node.run("plan", "--json").stdout)
    assert (reported["effect"], reported["sessions"]) == ("restart", 1)
    node.run("resume")
    node.runs("two")


def test_an_id_that_merely_follows_from_the_node_takes_nobodys_place(node: SessionNode) -> None:
    node.install("26.8.3")
    text = IN_LINE.replace("i-test01", "i-old")
    pid = node.by_hand(text)
    derived = node.config.read_text().replace(f'node-id = "{node.id}"\n', "")
    node.config.write_text(derived)
    node.desire()
    assert "held back by AgentConfig" in node.first_line()
    node.start(*node.inside, str(PROGRAM))
    reported = node.soon("AgentConfig", "IdentityChanged")
    assert "agent.id i-old" in reported
    assert "Set node-id" in reported
    node.wait("waits", lambda: "AgentConfig" in node.soon("Agent", "Blocked"))
    assert node.agent_toml.read_text() == text
    assert node.living() == [pid]
    node.stop()
    node.config.write_text(f'node-id = "i-old"\n{derived}')
    (node.folder / "state/node-id").unlink()
    node.start(*node.inside, str(PROGRAM))
    node.soon("AgentConfig", "InSync")
    assert node.living() == [pid]


IN_LINE = f"""\
[etcd]
namespace = "local"
addr = {{ host = "127.0.0.1", port = 2379 }}
[agent]
backend = "docker"
id = "i-test01"
marker = "one"
{PORTS}rpc-listen-addr = {{ host = "127.0.0.1", port = 6001 }}
[container]
scratch-type = "hostdir"
bind-host = "127.0.0.1"
[resource]
"""


def test_an_agent_found_beside_a_file_in_line_is_adopted_whatever_the_files_times(
    node: SessionNode,
) -> None:
    node.install("26.8.3")
    pid = node.by_hand(IN_LINE)
    os.utime(node.agent_toml)
    node.desire()
    plan = node.run("plan")
    line = "i-test01: nothing would change; the running agent is adopted, no restart"
    assert (plan.returncode, plan.stdout.splitlines()[0]) == (0, line)
    node.start(*node.inside, str(PROGRAM))
    node.wait("adopted", lambda: node.status_now()["facts"].get("agent-pid") == pid)
    node.soon("AgentConfig", "InSync")
    node.desire(node.document(top="[meta]\nwhy = 'looked again'"))
    assert [start[0] for start in node.starts] == [pid]
    assert node.agent_toml.read_text().startswith(IN_LINE)


@pytest.mark.parametrize(
    "text",
    [
        IN_LINE.replace('"one"', '"zero"'),
        pytest.param(f"{IN_LINE}[x.<name>]\n", id="the vendor's own sample"),
    ],
)
def test_nothing_is_restarted_that_runs_with_what_nobody_knows(
    node: SessionNode, text: str
) -> None:
    node.install("26.8.3")
    pid = node.by_hand(IN_LINE.replace('"one"', '"zero"'))
    node.agent_toml.write_text(text)
    session = node.session()
    node.desire()
    plan = node.run("plan").stdout
    assert plan.startswith("i-test01: nothing would change; ")
    assert "harmless" not in plan
    assert "would stop" not in plan
    node.start(*node.inside, str(PROGRAM))
    reported = node.soon("Agent", "Blocked")
    assert "since it is not known what it runs with, and sessions run: 1," in reported
    assert node.agent_toml.read_text() == text
    assert [start[0] for start in node.starts] == [pid]
    if "<" not in text:
        node.end(session)
        node.runs("one")


def test_an_agent_that_is_adopted_as_it_is_is_left_to_run(node: SessionNode) -> None:
    node.install("26.8.3")
    pid = node.by_hand(IN_LINE.replace('"one"', '"zero"'))
    node.begin(node.document(agent='adopt = "as-is"'))
    node.wait("written", lambda: 'marker = "one"' in node.agent_toml.read_text())
    node.wait("adopted", lambda: node.status_now()["facts"].get("agent-pid") == pid)
    node.desire(node.document("two", agent='adopt = "as-is"'))
    node.runs("two")
    assert [start[1] for start in node.starts] == ["zero", "two"]


def test_a_lost_state_folder_costs_a_healthy_agent_no_restart(node: SessionNode) -> None:
    node.begin()
    node.runs("one")
    (pid,) = node.living()
    node.stop(signal.SIGKILL)
    shutil.rmtree(node.folder / "state")
    node.start(*node.inside, str(PROGRAM))
    node.wait("adopted", lambda: node.status_now()["facts"].get("agent-pid") == pid)
    node.desire(node.document(top="[meta]\nwhy = 'looked again'"))
    node.soon("AgentConfig", "InSync")
    assert node.living() == [pid]
    assert len(node.starts) == 1


@pytest.mark.parametrize("what", ["folder", "empty", "latin-1", "types"])
def test_notes_that_can_not_be_read_cost_no_restart_either(node: SessionNode, what: str) -> None:
    node.begin()
    node.runs("one")
    (pid,) = node.living()
    node.stop(signal.SIGKILL)
    for path in (node.folder / "runtime/agent.json", node.folder / "state/agent-launch.json"):
        path.unlink()
        if what == "folder":
            path.mkdir()
        else:
            texts = {"empty": b"", "latin-1": b'{"life": "\xe4"}', "types": b'{"command": 7}'}
            path.write_bytes(texts[what])
    node.start(*node.inside, str(PROGRAM))
    node.wait("adopted", lambda: node.status_now()["facts"].get("agent-pid") == pid)
    node.desire(node.document("two"))
    node.runs("two")
