"""Real plugin distributions in an environment of their own: told, and followed by the agent."""

from __future__ import annotations

import json
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bai_nodeagent.core.reconcile import plan_or_fault
from bai_nodeagent.kinds.plugins.kind import Plugins
from bai_nodeagent.kinds.plugins.rules import QUIET_S, PluginRules, PluginsSpec
from bai_nodeagent.model import Action, Outcome, Plan, Status
from node_under_test import Node
from plugin_environments import CUDA, MOCK, OLDER, VERSION, PythonEnvironment, fetch

CUDA_MODULE = "ai.backend.accelerator.cuda_open"
MOCK_MODULE = "ai.backend.accelerator.mock"
NO_RESYNC_S = 10.0  # an event takes milliseconds, the resync three quarters of a minute


@pytest.fixture(scope="module", autouse=True)
def wheels() -> None:
    fetch()


@pytest.fixture
def environment(tmp_path: Path) -> PythonEnvironment:
    return PythonEnvironment(tmp_path / "venv")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "node")
    yield made
    made.close()


async def judged(environment: PythonEnvironment, *allow: str) -> Plan[Action] | Outcome:
    return await plan_or_fault(Plugins(PluginsSpec(PluginRules(environment.python, allow=allow))))


# --- as it is ------------------------------------------------------------------------


@pytest.mark.anyio
async def test_installed_is_reported_with_its_version(environment: PythonEnvironment) -> None:
    environment.install(CUDA)
    environment.install(MOCK)
    found = await judged(environment, CUDA_MODULE)
    assert (found.verdict.status, found.verdict.reason) == (Status.TRUE, "InSync")
    assert found.facts == {"plugins": f"{CUDA} {VERSION}"}


@pytest.mark.anyio
async def test_absent(environment: PythonEnvironment) -> None:
    environment.install(MOCK)
    assert (await judged(environment, CUDA_MODULE)).verdict.reason == "NotInstalled"


@pytest.mark.anyio
async def test_misspelt(environment: PythonEnvironment) -> None:
    environment.install(CUDA)
    found = await judged(environment, "ai.backend.accelerator.cuda-open".replace("-", ""))
    assert found.verdict.reason == "NoMatch"
    assert f'did you mean "{CUDA_MODULE}"?' in found.verdict.message


@pytest.mark.anyio
async def test_broken(environment: PythonEnvironment) -> None:
    environment.install(MOCK)
    module = environment.packages / "ai/backend/accelerator/mock/plugin.py"
    module.unlink()
    found = await judged(environment, MOCK_MODULE)
    assert found.verdict.reason == "Broken"
    assert str(module) in found.verdict.message


# --- under the daemon --------------------------------------------------------------------


def desire(node: Node, environment: PythonEnvironment, *allow: str) -> None:
    listed = ", ".join(f'"{item}"' for item in allow)
    section = f'[plugins]\npython = "{environment.python}"\nallow = [{listed}]\n'
    node.desire(node.document() + section)


def test_a_plugin_that_comes_breaks_and_is_mended_is_an_event_each(
    node: Node, environment: PythonEnvironment
) -> None:
    desire(node, environment, MOCK_MODULE)
    node.start()
    wait_reason(node, "NotInstalled")
    node.wait("an agent.toml", node.agent_toml.exists)
    allowed = tomllib.loads(node.agent_toml.read_text())["agent"]["allow-compute-plugins"]
    assert allowed == [MOCK_MODULE]
    environment.install(MOCK)
    assert wait_reason(node, "InSync") < NO_RESYNC_S
    module = environment.packages / "ai/backend/accelerator/mock/plugin.py"
    content = module.read_text()
    module.unlink()
    assert wait_reason(node, "Broken") < NO_RESYNC_S
    module.write_text(content)
    assert wait_reason(node, "InSync") < NO_RESYNC_S


def test_a_distribution_whose_files_come_after_its_folder_was_observed_is_not_missed(
    node: Node, environment: PythonEnvironment
) -> None:
    """As pip lays it out on a busy machine: what is written in the folder is no event."""
    desire(node, environment, MOCK_MODULE)
    node.start()
    wait_reason(node, "NotInstalled")
    environment.install(MOCK)
    wait_reason(node, "InSync")
    (metadata,) = environment.packages.glob("*mock*.dist-info")
    files = {file.name: file.read_bytes() for file in metadata.iterdir() if file.is_file()}
    shutil.rmtree(metadata)
    wait_reason(node, "NotInstalled")
    metadata.mkdir()
    time.sleep(1)
    for name, content in files.items():
        (metadata / name).write_bytes(content)
    assert wait_reason(node, "InSync") < NO_RESYNC_S


def test_an_upgraded_plugin_is_one_restart_of_the_agent(
    node: Node, environment: PythonEnvironment
) -> None:
    environment.install(MOCK, OLDER)
    environment.install(CUDA)
    desire(node, environment, MOCK_MODULE)
    node.start()
    node.wait_ready("one")
    # Neither another plugin that is not allowed, nor the same one once more.
    environment.remove(CUDA)
    environment.install(MOCK, OLDER)
    time.sleep(QUIET_S + 2)
    assert len(node.starts) == 1
    environment.install(MOCK)
    node.wait("a restart", lambda: len(node.starts) == 2, within_s=QUIET_S + 5)
    node.wait_ready("one")
    facts = json.loads(node.http("/status")[1])["facts"]
    assert facts["plugins"] == f"{MOCK} {VERSION}"
    time.sleep(QUIET_S + 2)
    assert len(node.starts) == 2


def test_an_upgrade_while_no_daemon_ran_is_a_restart_as_well(
    node: Node, environment: PythonEnvironment
) -> None:
    environment.install(MOCK, OLDER)
    desire(node, environment, MOCK_MODULE)
    node.start()
    node.wait_ready("one")
    node.stop()
    environment.install(MOCK)
    node.start()
    node.wait("a restart", lambda: len(node.starts) == 2, within_s=QUIET_S + 8)
    node.wait_ready("one")


def wait_reason(node: Node, reason: str) -> float:
    """Seconds until Plugins is so; over HTTP, as the store is not told of every change at once."""

    def is_so() -> bool:
        conditions = json.loads(node.http("/status")[1])["conditions"]
        return [c["reason"] for c in conditions if c["type"] == "Plugins"] == [reason]

    return node.wait(f"Plugins {reason}", is_so)
