"""The agent's environment: built by the real pip under another account, switched, kept."""

from __future__ import annotations

import functools
import http.server
import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wheels import USER, InstalledNode, installed_node, make_wheel

pytestmark = pytest.mark.root

# Three seconds for a virtual environment on a quiet machine.
BUILD_S = 90.0
ONE, TWO = "test-agent==1.0", "test-agent==2.0"


@pytest.fixture
def node() -> Iterator[InstalledNode]:
    with installed_node() as node:
        yield node


def wait_running(node: InstalledNode, version: str, starts: int) -> None:
    """In line, with one agent of that version after so many starts."""
    node.wait(
        f"{version} runs",
        lambda: (
            node.http("/readyz") == (200, "Ready\n")
            and [pid for pid, _ in node.starts][-1:] == node.living()
            and node.starts[-1][1] == version
        ),
        BUILD_S,
    )
    assert len(node.starts) == starts


def reported(node: InstalledNode, reason: str) -> str:
    return str(node.wait_reason("AgentEnvironment", reason, BUILD_S)["message"])


def is_propagated(node: InstalledNode, reason: str, opinions: str) -> bool:
    condition = node.condition("AgentEnvironment")
    is_so: bool = condition["reason"] == reason and opinions in condition["message"]
    return is_so and f"as {USER}" in condition["message"]


def started(node: InstalledNode, agent: str = "") -> int:
    """Version 1.0 runs; its pid."""
    node.desire(node.installed(ONE, agent=agent))
    node.start()
    wait_running(node, "1.0", 1)
    return node.living()[0]


def test_from_nothing_and_an_upgrade(node: InstalledNode) -> None:
    plan_before = node.run("plan")
    node.desire(node.installed(ONE, agent='health-timeout = "2s"'))
    plan = node.run("plan")
    assert (plan_before.returncode, plan.returncode) == (4, 3)
    assert "would build the environment" in plan.stdout
    assert "+test-agent==1.0" in plan.stdout
    assert not node.path.parent.exists(), "a plan touches nothing"

    node.start()
    wait_running(node, "1.0", 1)
    owner = pwd.getpwnam(USER).pw_uid
    assert {each.lstat().st_uid for each in node.path.resolve().rglob("*")} == {owner}
    assert node.path.parent.stat().st_uid == owner
    first = node.path.readlink()
    assert first == Path("venv.d") / node.environments[0]
    assert node.condition("AgentEnvironment")["reason"] == "InSync"
    # Backend.AI names its registry after the path of a module: it must not change.
    imported_from = (node.home / "imported-from").read_text()
    assert imported_from.startswith(f"{node.path}/lib/")
    script = node.path / "bin/test-agent"
    assert script.read_text().startswith(f"#!{node.path}/bin/python")
    assert os.access(script, os.X_OK)

    node.wait("healthy", (node.folder / "state/agent-healthy.toml").exists)
    node.desire(node.installed(TWO, agent='health-timeout = "2s"'))
    wait_running(node, "2.0", 2)
    assert (node.home / "imported-from").read_text() == imported_from
    assert node.path.readlink() != first
    node.wait("the old one is gone", lambda: len(node.environments) == 1)

    node.stop()
    node.desire(node.installed(TWO, agent='health-timeout = "2s"') + "# in other words\n")
    node.start()
    wait_running(node, "2.0", 2)


BAD = {
    "an unknown package": ((ONE, "not-there==1.0"), "NotInstalled", "not-there==1.0"),
    "an unknown version": (("test-agent==9.9",), "NotInstalled", "test-agent==9.9"),
    "a broken module": ((ONE, "torn==1.0"), "NotVerified", "No module named 'nothing_like_it'"),
    "a broken entry point": ((ONE, "empty==1.0"), "NotVerified", "_v21: x = empty:Plugin"),
}


def test_what_cannot_be_built_leaves_the_agent_alone(node: InstalledNode) -> None:
    point = "[backendai_accelerator_v21]\nx = {}:Plugin\n"
    for name, text in (("torn", "import nothing_like_it\n"), ("empty", "")):
        make_wheel(node.wheels, name, "1.0", {f"{name}.py": text}, points=point.format(name))
    pid = started(node)
    link = node.path.readlink()
    for what, (packages, reason, opinions) in BAD.items():
        node.desire(node.installed(*packages))
        node.wait(what, lambda reported=(reason, opinions): is_propagated(node, *reported), BUILD_S)  # type: ignore[misc]
        assert (node.living(), node.path.readlink()) == ([pid], link)
    assert "AgentEnvironment" in node.wait_reason("Agent", "Blocked")["message"]
    os.kill(pid, signal.SIGKILL)  # what dies meanwhile comes back as it was
    node.wait("back", lambda: [v for _, v in node.starts] == ["1.0", "1.0"])
    node.desire(node.installed(TWO))  # never stuck on a bad target
    wait_running(node, "2.0", 3)


def test_packages_come_from_an_index(node: InstalledNode) -> None:
    with index(node.wheels) as url:
        node.desire(node.installed(ONE, source=f'index = "{url}"'))
        node.start()
        wait_running(node, "1.0", 1)
    node.desire(node.installed(TWO, source=f'index = "{url}"'))
    assert "test-agent==2.0" in reported(node, "NotInstalled")


@contextmanager
def index(wheels: Path) -> Iterator[str]:
    """A simple repository: a folder a project, listed by the server itself."""
    project = wheels / "simple/test-agent"
    project.mkdir(parents=True)
    for wheel in wheels.glob("test_agent-*.whl"):
        (project / wheel.name).symlink_to(wheel)
    handler = functools.partial(Quiet, directory=str(wheels))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_is_changed_by_hand_is_built_anew_beside_it(node: InstalledNode) -> None:
    started(node)
    first = node.path.resolve()
    by_hand = [*AS_USER, str(node.python), "-m", "pip", "install", "--no-index"]
    subprocess.run([*by_hand, "--find-links", str(node.wheels), TWO], check=True)
    node.wait("moved", lambda: node.path.resolve() != first, BUILD_S)
    wait_running(node, "1.0", 2)
    assert node.path.resolve().name == f"{first.name.removesuffix('-1')}-2"


AS_USER = ("setpriv", f"--reuid={USER}", "--regid=nogroup", "--clear-groups")


def test_a_link_that_somebody_moves_is_put_back_without_a_restart(node: InstalledNode) -> None:
    pid = started(node)
    right = node.path.readlink()
    wrong = node.path.with_name("venv.d") / "somewhere"
    node.path.unlink()
    node.path.symlink_to(Path("venv.d") / wrong.name)
    node.wait("put back", lambda: node.path.readlink() == right)
    wait_running(node, "1.0", 1)
    assert node.living() == [pid]


def test_what_others_have_put_there_is_left_alone(node: InstalledNode) -> None:
    node.path.mkdir(parents=True)
    (node.path / "theirs").touch()
    node.desire(node.installed(ONE))
    node.start()
    message = reported(node, "NotOurs")
    assert "is a folder" in message
    assert "move it away" in message
    assert list(node.path.iterdir()) == [node.path / "theirs"]
    assert node.starts == []


def test_a_bad_upgrade_is_rolled_back(node: InstalledNode) -> None:
    policy = 'on-unhealthy = "rollback"\nhealth-timeout = "2s"'
    node.package("3.0", opinions="print('3.0 does not work here'); sys.exit(0)")
    started(node, policy)
    node.wait("healthy", (node.folder / "state/agent-healthy.toml").exists)
    first = node.path.readlink()
    node.desire(node.installed("test-agent==3.0", agent=policy))
    node.wait_reason("Agent", "RolledBack", BUILD_S)
    message = node.condition("Agent")["message"]
    assert "[agent] install: test-agent==3.0 instead of test-agent==1.0" in message
    assert "3.0 does not work here" in message
    assert node.starts[-1][1] == "1.0"
    assert node.path.readlink() == first
    starts = len(node.starts)
    node.stop()
    node.start()
    node.wait_reason("Agent", "RolledBack")
    node.desire(node.installed(TWO, agent=policy))
    wait_running(node, "2.0", starts + 1)


def test_a_daemon_killed_after_every_action_converges(node: InstalledNode) -> None:
    quick = 'health-timeout = "1s"'
    started(node, quick)
    node.wait("healthy", (node.folder / "state/agent-healthy.toml").exists)
    node.stop()
    node.desire(node.installed(TWO, agent=quick))
    for verb in ("build", "stop", "switch", "start", "remove"):
        # The old one goes when the new one has been healthy for a second.
        assert node.run_until_it_dies(verb, BUILD_S, is_later=verb == "remove"), verb
    node.start()
    wait_running(node, "2.0", 2)
    assert len(node.environments) == 1


def test_a_daemon_killed_in_the_middle_of_a_build_builds_it_once(node: InstalledNode) -> None:
    node.desire(node.installed(ONE))
    node.start()
    node.wait("begun", lambda: node.environments, BUILD_S)
    gate = node.run("may-start")
    assert (gate.returncode, "waits for AgentEnvironment" in gate.stderr) == (1, True)
    node.stop(signal.SIGKILL)
    node.start()
    wait_running(node, "1.0", 1)
    assert len(node.environments) == 1
    assert node.run("may-start").returncode == 0


def test_a_stopped_agent_gets_its_environment_all_the_same(node: InstalledNode) -> None:
    node.desire(node.installed(ONE, agent='state = "stopped"'))
    node.start()
    node.wait("Ready", lambda: node.http("/readyz") == (200, "Ready\n"), BUILD_S)
    assert node.starts == []
    assert node.python.exists()


def test_an_unknown_account_is_reported(node: InstalledNode) -> None:
    node.desire(node.installed(ONE).replace(f'user = "{USER}"', 'user = "no-such-account"'))
    node.start()
    assert "no-such-account" in reported(node, "NoSuchUser")
