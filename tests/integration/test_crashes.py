"""SIGKILL of the daemon after each single action of each plan: the next one converges.

One test over all resources (but for those that need a laboratory: the swarm's and the
environment's are in their own files): a situation is set up, a daemon that dies after
its Nth action is started until its plans are shorter than N, and after each
death an ordinary daemon has to come to the same end as one that never died.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node_under_test import Node
from servers import unmount

ACTIONS_AT_MOST = 8


@dataclass(frozen=True)
class Situation:
    """How it comes about on a node that may be in line already, and how it has to end."""

    arises: Callable[[Node], None]
    marker: str = "one"
    starts: int = 1  # of the agent, all in all
    in_line_before: bool = True
    is_stopped: bool = False
    mounted: str = ""  # what has to be mounted at the end
    needs_root: bool = False


def _mount(node: Node, source: str = "one", state: str = "mounted") -> None:
    node.desire(f"""{node.document()}
[[mount]]
name = "share"
source = "{source}"
target = "{node.folder}/mnt"
type = "tmpfs"
required = true
state = "{state}"
""")


def _mounted(node: Node) -> str:
    """What is mounted at the node's target; "" is nothing."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return next((line.split()[0] for line in lines if f" {node.folder}/mnt " in line), "")


def _mount_another(node: Node) -> None:
    (node.folder / "mnt").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "other", f"{node.folder}/mnt"], check=True)
    _mount(node)


def _mount_not_desired(node: Node) -> None:
    (node.folder / "mnt").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "one", f"{node.folder}/mnt"], check=True)
    _mount(node, state="unmounted")


def _kill_agent(node: Node) -> None:
    os.kill(node.living()[0], signal.SIGKILL)


def _break_file(node: Node) -> None:
    node.agent_toml.write_text("agent = [unfinished")


def _spoil_and_kill(node: Node) -> None:
    node.agent_toml.write_text(node.agent_toml.read_text().replace("one", "by hand"))
    _kill_agent(node)


SITUATIONS = {
    "a first document": Situation(lambda node: node.desire(), in_line_before=False),
    "a changed key": Situation(lambda n: n.desire(n.document("two")), "two", starts=2),
    "a broken file": Situation(_break_file),
    "a dead agent": Situation(_kill_agent, starts=2),
    "drift and a dead agent": Situation(_spoil_and_kill, starts=2),
    "stopped": Situation(
        lambda n: n.desire(n.document(agent='state = "stopped"')), is_stopped=True
    ),
    "a mount": Situation(_mount, mounted="one", in_line_before=False, needs_root=True),
    "a wrong mount": Situation(_mount_another, mounted="one", needs_root=True),
    "a mount that is to go": Situation(_mount_not_desired, needs_root=True),
}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[[], Node]]:
    made: list[Node] = []

    def make() -> Node:
        made.append(Node(tmp_path / f"node{len(made)}"))
        return made[-1]

    yield make
    for node in made:
        node.close()
        while _mounted(node):
            unmount(f"{node.folder}/mnt")


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_daemon_killed_after_any_action_converges(name: str, nodes: Callable[[], Node]) -> None:
    situation = SITUATIONS[name]
    if situation.needs_root and os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    for nth in range(1, ACTIONS_AT_MOST + 1):
        node = nodes()
        if situation.in_line_before:
            node.desire()
            node.start()
            node.wait_ready("one")
            node.stop()
        situation.arises(node)
        has_died = node.run_until_it_dies(str(nth))
        node.start()
        _assert_converged(node, situation)
        node.close()
        if not has_died:
            assert nth > 1, "nothing was done in this situation: it tests nothing"
            return
    raise AssertionError(f"still dying after {ACTIONS_AT_MOST} actions: the plan does not end")


def _assert_converged(node: Node, situation: Situation) -> None:
    if situation.is_stopped:
        node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"))
        assert node.living() == []
    else:
        node.wait_ready(situation.marker)
        config = tomllib.loads(node.agent_toml.read_text())
        assert config["agent"]["marker"] == situation.marker
    assert len(node.starts) == situation.starts
    assert _mounted(node) == situation.mounted
    leftovers = [p.name for p in node.folder.iterdir() if p.name.endswith(".tmp")]
    assert leftovers == []
