"""The two units as they are shipped, under a real systemd."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from bai_nodeagent.errors import Refused
from bai_nodeagent.system.systemd import Systemd, UnitState
from systemd_container import Container, container

__all__ = ["container"]  # a fixture: used by name

pytestmark = [pytest.mark.root, pytest.mark.anyio]

DAEMON = "bai-nodeagent.service"
AGENT = "backendai-agent.service"
# What stands for the agent here opens no RPC port, although the unit runs Backend.AI's module.
BY_UNIT = f'supervisor = "systemd"\nunit = "{AGENT}"\nhealth = "process"'
STORE = "/var/lib/bai-nodeagent/store"

# Stands where the unit expects Backend.AI's Python: a main process that ends
# by SIGINT only, and a worker that notes what it is sent.
FAKE_AGENT = """#!/usr/bin/python3
import os, signal, time
def note(what):
    with open("/run/agent-notes", "a") as notes:
        print(what, file=notes)
worker = os.fork()
name = "main" if worker else "worker"
def end(number, _frame):
    note(f"{name} {signal.Signals(number).name}")
    if worker:
        os._exit(0)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, end)
if worker:
    note(f"born {os.getpid()} {worker}")
    print("started handling RPC requests at", flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def systemd(container: Container) -> Systemd:
    return container.systemd()


@pytest.fixture
async def node(container: Container, systemd: Systemd) -> AsyncIterator[Container]:
    """A node with both units, shortened times, and nothing desired or running yet."""
    container.write("/opt/backend.ai/venv/bin/python", FAKE_AGENT, mode=0o755)
    container.write(
        f"/run/systemd/system/{DAEMON}.d/times.conf",
        "[Service]\nRestartSec=100ms\nWatchdogSec=3\nTimeoutAbortSec=1\n",
    )
    container.write(f"/run/systemd/system/{AGENT}.d/times.conf", "[Service]\nRestartSec=300ms\n")
    container.write("/etc/bai-nodeagent/config.toml", 'node-id = "i-test"\n')
    container.run("systemctl", "daemon-reload")
    yield container
    for unit in (DAEMON, AGENT):
        await systemd.stop(unit)
        await systemd.reset_failed(unit)
    container.run("rm", "-rf", "/var/lib/bai-nodeagent", "/run/bai-nodeagent", "/run/agent-notes")


async def until(systemd: Systemd, name: str, is_so: Callable[[UnitState], bool]) -> UnitState:
    with anyio.fail_after(30):
        while True:
            unit = await systemd.unit(name)
            if is_so(unit):
                return unit
            await anyio.sleep(0.05)


def is_running(unit: UnitState) -> bool:
    return unit.sub_state == "running" and unit.main_pid > 0


def notes(node: Container) -> list[str]:
    file = node.root / "run/agent-notes"
    return file.read_text().splitlines() if file.exists() else []


def put(node: Container, agent_section: str) -> None:
    """An admin's document; the store is a folder here."""
    node.write(f"{STORE}/desired/cluster.toml", f"api-version = 1\n[agent]\n{agent_section}\n")


async def agent_is(node: Container, reason: str, **facts: object) -> dict[str, Any]:
    """The node's status once its Agent condition has this reason."""
    file = node.root / STORE.lstrip("/") / "node/i-test/status"
    observed: Any = None
    with anyio.move_on_after(30):
        while True:
            if file.exists():
                observed = json.loads(file.read_text())
                reported = {each["type"]: each["reason"] for each in observed["conditions"]}
                if reported.get("Agent") == reason and facts.items() <= observed["facts"].items():
                    return dict(observed)
            await anyio.sleep(0.05)
    raise AssertionError(f"Agent is not {reason} {facts}: {observed}")


async def test_systemd_verifies_the_units(node: Container) -> None:
    for unit in (DAEMON, AGENT):
        assert node.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{unit}") == ""


async def test_an_agent_that_ends_with_0_is_started_again(
    node: Container, systemd: Systemd
) -> None:
    await systemd.start(AGENT)
    first = await systemd.unit(AGENT)
    node.run("sh", "-c", "until grep -q born /run/agent-notes; do sleep 0.02; done")
    node.run("kill", "-INT", str(first.main_pid))
    second = await until(systemd, AGENT, lambda unit: unit.n_restarts == 1 and is_running(unit))
    assert second.main_pid != first.main_pid


async def test_a_worker_never_outlives_its_main_process(node: Container, systemd: Systemd) -> None:
    await systemd.start(AGENT)
    node.run("sh", "-c", "until grep -q born /run/agent-notes; do sleep 0.02; done")
    _born, main, worker = notes(node)[0].split()
    node.run("kill", "-KILL", main)
    await until(systemd, AGENT, lambda unit: unit.n_restarts == 1 and is_running(unit))
    assert not (node.root / "proc" / worker).exists()


async def test_a_stop_asks_the_main_process_alone_and_by_sigint(
    node: Container, systemd: Systemd
) -> None:
    await systemd.start(AGENT)
    node.run("sh", "-c", "until grep -q born /run/agent-notes; do sleep 0.02; done")
    await systemd.stop(AGENT)
    assert notes(node)[1:] == ["main SIGINT"]
    assert (await systemd.unit(AGENT)).result == "success"


async def test_the_daemon_is_ready_without_its_store(node: Container, systemd: Systemd) -> None:
    node.write(
        "/etc/bai-nodeagent/config.toml",
        'node-id = "i-test"\n[store]\nurl = "etcd://127.0.0.1:1"\n',
    )
    await systemd.start(DAEMON)
    assert is_running(await systemd.unit(DAEMON))
    status = node.run("systemctl", "show", "--property=StatusText", DAEMON)
    assert len(status.strip()) > len("StatusText=")


async def test_the_daemon_mounts_for_the_host(node: Container, systemd: Systemd) -> None:
    await systemd.start(DAEMON)
    daemon = (await systemd.unit(DAEMON)).main_pid
    of_daemon, of_host = node.run("readlink", f"/proc/{daemon}/ns/mnt", "/proc/1/ns/mnt").split()
    assert of_daemon == of_host
    status = node.run("cat", f"/proc/{daemon}/status")
    assert "NoNewPrivs:\t0" in status


async def test_folders_are_private_and_outlive_the_daemon(
    node: Container, systemd: Systemd
) -> None:
    await systemd.start(DAEMON)
    await systemd.stop(DAEMON)
    for folder in ("run/bai-nodeagent", "var/lib/bai-nodeagent"):
        assert oct((node.root / folder).stat().st_mode & 0o777) == "0o700"


async def test_a_frozen_daemon_is_replaced(node: Container, systemd: Systemd) -> None:
    await systemd.start(DAEMON)
    first = await systemd.unit(DAEMON)
    node.run("kill", "-STOP", str(first.main_pid))
    second = await until(systemd, DAEMON, lambda unit: unit.n_restarts == 1 and is_running(unit))
    assert second.main_pid != first.main_pid


async def test_an_aborted_daemon_leaves_its_stacks(node: Container, systemd: Systemd) -> None:
    await systemd.start(DAEMON)
    first = await systemd.unit(DAEMON)
    node.run("kill", "-ABRT", str(first.main_pid))
    await until(systemd, DAEMON, lambda unit: unit.n_restarts == 1 and is_running(unit))
    log = node.run("journalctl", "--output=cat", f"_SYSTEMD_INVOCATION_ID={first.invocation_id}")
    assert "Fatal Python error: Aborted" in log
    assert "daemon.py" in log or "asyncio" in log


async def test_a_wrong_configuration_is_not_tried_twice(node: Container, systemd: Systemd) -> None:
    node.write("/etc/bai-nodeagent/config.toml", "nod-id = 1\n")
    node.run("systemctl", "start", DAEMON, check=False)
    unit = await until(systemd, DAEMON, lambda unit: unit.active_state == "failed")
    assert (unit.result, unit.n_restarts) == ("exit-code", 0)
    assert "node-id" in await systemd.last_lines(unit, 5)


async def test_a_child_agent_outlives_the_daemon(node: Container, systemd: Systemd) -> None:
    put(node, 'supervisor = "child"\ncommand = ["/bin/sleep", "infinity"]')
    await systemd.start(DAEMON)
    pid = (await agent_is(node, "Running"))["facts"]["agent-pid"]
    try:
        await systemd.restart(DAEMON)
        await agent_is(node, "Running", **{"agent-pid": pid})
        daemon = await systemd.unit(DAEMON)
        node.run("kill", "-KILL", str(daemon.main_pid))
        await until(systemd, DAEMON, lambda unit: unit.n_restarts == 1 and is_running(unit))
        await agent_is(node, "Running", **{"agent-pid": pid})
        await systemd.stop(DAEMON)
        assert node.run("cat", f"/proc/{pid}/comm").strip() == "sleep"
        assert "NoNewPrivs:\t0" in node.run("cat", f"/proc/{pid}/status")
    finally:
        await systemd.stop(DAEMON)
        node.run("kill", "-KILL", str(pid))


async def test_the_agents_unit_is_started_and_comes_back(node: Container, systemd: Systemd) -> None:
    put(node, BY_UNIT)
    await systemd.start(DAEMON)
    await agent_is(node, "Running")
    first = await systemd.unit(AGENT)
    node.run("kill", "-KILL", str(first.main_pid))
    second = await until(systemd, AGENT, lambda unit: unit.n_restarts == 1 and is_running(unit))
    await agent_is(node, "Running", **{"agent-pid": second.main_pid})
    await systemd.restart(DAEMON)
    await agent_is(node, "Running")
    assert await systemd.unit(AGENT) == second


async def test_a_stopped_agent_stays_so_whoever_starts_its_unit(
    node: Container, systemd: Systemd
) -> None:
    put(node, BY_UNIT)
    await systemd.start(DAEMON)
    await agent_is(node, "Running")
    put(node, f'{BY_UNIT}\nstate = "stopped"')
    await agent_is(node, "Stopped")
    assert (await systemd.unit(AGENT)).active_state == "inactive"
    await systemd.stop(DAEMON)  # it would stop the unit as well
    with pytest.raises(Refused, match='state = "stopped"') as refused:
        await systemd.start(AGENT)
    assert refused.value.reason == "GateClosed"


async def test_a_masked_agent_is_left_so(node: Container, systemd: Systemd) -> None:
    put(node, BY_UNIT)
    node.run("systemctl", "mask", "--runtime", AGENT)
    try:
        await systemd.start(DAEMON)
        await agent_is(node, "Blocked")
    finally:
        node.run("systemctl", "unmask", "--runtime", AGENT)
    await agent_is(node, "Running")
