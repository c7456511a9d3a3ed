"""The systemd supervisor under a real systemd, which knows processes by its own numbers.

So the resource runs in the container as well: each `drive` is a daemon of its
own that looks, applies so many actions, and ends.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from systemd_container import Container, container

__all__ = ["container"]  # a fixture: used by name

pytestmark = pytest.mark.root

SOURCE = Path(__file__).resolve().parents[2] / "src"
SECONDS = itertools.count(600)
DRIVER = "/run/node/drive.py"
DRIVE = f"""\
import hashlib, json, os, sys
sys.path.insert(0, {str(SOURCE)!r})
from pathlib import Path
import anyio
from bai_nodeagent.kinds.agent.gate import record_start
from bai_nodeagent.kinds.agent.spec import AgentSpec
from bai_nodeagent.errors import Refused
from bai_nodeagent.model import Host, NodeSpec
from bai_nodeagent.kinds.agent.process.child_agent import ChildAgent
from bai_nodeagent.kinds.agent.process.unit_agent import UnitAgent
from bai_nodeagent.system.systemd import Systemd

def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

told = json.loads(sys.argv[1])
folder = Path("/run/node", told["name"])
host = Host(folder, folder, digest, str)
config = folder / "agent.toml"
values = {{("agent", "id"): told["id"]}}

async def drive():
    spec = AgentSpec(
        supervisor=told["supervisor"],
        state=told["state"],
        unit=told["name"] + ".service",
        command=tuple(told["command"]),
        config_path=config,
        values=values,
    )
    make = ChildAgent if spec.supervisor == "child" else lambda *of: UnitAgent(*of, Systemd())
    done = []
    while True:
        agent = make(spec, node, host)
        plan = agent.plan(await agent.observe())
        if not plan.actions or len(done) == told["at_most"]:
            break
        done.append(plan.actions[0].verb)
        try:
            await agent.apply(plan.actions[0])
        except Refused as error:
            done.append(error.reason)
            break
    pid = plan.facts.get("agent-pid")
    return dict(done=done, reason=plan.verdict.reason, message=plan.verdict.message, pid=pid)

document = {{"agent": {{"supervisor": "systemd"}}}}
node = NodeSpec("i-one", "local", 1, "d", {{}}, document, config, values)
if told.get("gate"):
    record_start(host, node, os.environ["INVOCATION_ID"])
else:
    print(json.dumps(anyio.run(drive)))
"""


class Agent:
    """A unit of its own, with its own notes, for each test."""

    def __init__(self, node: Container, name: str, service: str = "", *, gated: bool = False):
        self.node, self.name, self.unit = node, name, f"{name}.service"
        # Each its own: one like it elsewhere counts as an agent beside the unit.
        self.command = ("/bin/sleep", str(next(SECONDS)))
        self.config("i-one")
        node.write(DRIVER, DRIVE)
        gate = json.dumps({"name": name, "gate": True, "id": "i-one"}).replace('"', '\\"')
        condition = f'ExecCondition={sys.executable} {DRIVER} "{gate}" bai-nodeagent may-start\n'
        node.add_unit(
            self.unit,
            f"[Service]\nType=exec\nExecStart={' '.join(self.command)}\nKillSignal=SIGINT\n"
            f"{condition if gated else ''}{service}",
        )

    def config(self, agent_id: str) -> None:
        self.node.write(f"/run/node/{self.name}/agent.toml", f'[agent]\nid = "{agent_id}"\n')

    def notes(self) -> dict[str, Any]:
        text = (self.node.root / f"run/node/{self.name}/agent.json").read_text()
        read: dict[str, Any] = json.loads(text)
        return read

    def systemctl(self, *words: str) -> str:
        printed: str = self.node.run("systemctl", *words, self.unit, check=False)
        return printed.strip()

    def drive(
        self,
        agent_id: str = "i-one",
        *,
        supervisor: str = "systemd",
        state: str = "running",
        command: tuple[str, ...] = (),
        at_most: int = 20,
    ) -> dict[str, Any]:
        reported = {
            "name": self.name,
            "id": agent_id,
            "supervisor": supervisor,
            "state": state,
            "command": command,
            "at_most": at_most,
        }
        observed: dict[str, Any] = json.loads(
            self.node.run(sys.executable, DRIVER, json.dumps(reported)).splitlines()[-1]
        )
        return observed


def test_a_gated_unit_runs_with_what_its_gate_has_noted(container: Container) -> None:
    agent = Agent(container, "gated", gated=True)
    assert agent.drive()["done"] == ["start"]
    container.run("sleep", "1")
    assert agent.drive() | {"pid": 0} == {
        "done": [], "reason": "Running", "message": "", "pid": 0
    }  # fmt: skip
    invocation = agent.systemctl("show", "--value", "--property=InvocationID")
    assert agent.notes()["life"]["invocation_id"] == invocation

    agent.systemctl("restart")  # somebody's; the gate sees to the notes
    assert agent.drive()["done"] == []


def test_changed_inputs_are_one_restart_and_drift_is_none(container: Container) -> None:
    agent = Agent(container, "changed")
    first = agent.drive()
    assert first["done"] == ["start"]
    agent.config("drift")
    assert agent.drive()["done"] == []
    agent.config("i-two")
    second = agent.drive("i-two")
    assert second["done"] == ["restart"]
    assert second["pid"] != first["pid"]
    container.run("sleep", "1")
    third = agent.drive("i-two")
    assert (third["done"], third["pid"], third["reason"]) == ([], second["pid"], "Ungated")


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_daemon_that_dies_after_any_action_leaves_one_agent(
    container: Container, survived: int
) -> None:
    agent = Agent(container, f"crash{survived}")
    agent.systemctl("start")
    before = agent.drive()["pid"]
    agent.config("i-two")
    agent.drive("i-two", at_most=survived)
    after = agent.drive("i-two")
    assert after["pid"] not in (None, before)
    assert agent.systemctl("is-active") == "active"


def test_what_systemd_has_given_up_is_started_again(container: Container) -> None:
    agent = Agent(container, "failed", "Restart=always\nRestartSec=1ms\n")
    agent.drive()
    for _ in range(20):
        agent.systemctl("kill", "--signal=KILL")
        container.run("sleep", "0.1")
        if agent.systemctl("is-active") == "failed":
            break
    assert agent.systemctl("is-active") == "failed"
    observed = agent.drive()
    assert observed["done"] == ["note_end", "start"]
    assert observed["reason"] in ("Starting", "Ungated")  # the latter after its first second
    assert agent.systemctl("is-active") == "active"


def test_one_that_dies_at_once_and_is_forgotten_by_systemd_is_reported(
    container: Container,
) -> None:
    agent = Agent(container, "dying", 'ExecStart=\nExecStart=/bin/sh -c "echo no etcd; exit 0"\n')
    agent.drive(at_most=1)
    container.run("sleep", "0.3")
    agent.drive(at_most=2)
    container.run("sleep", "0.3")
    observed = agent.drive()
    assert (observed["done"], observed["reason"]) == (["note_end"], "CrashLoop")
    assert "2 times" in observed["message"]


def test_a_closed_gate_is_reported(container: Container) -> None:
    agent = Agent(container, "closed", "ExecCondition=/bin/false bai-nodeagent may-start\n")
    assert agent.drive()["done"] == ["start", "GateClosed"]


def test_stopped(container: Container) -> None:
    agent = Agent(container, "stopped", "Restart=always\nRestartSec=100ms\n")
    agent.drive()
    observed = agent.drive(state="stopped")
    assert (observed["done"], observed["reason"]) == (["stop"], "Stopped")
    container.run("sleep", "0.3")
    assert agent.systemctl("is-active") == "inactive"


def test_a_child_makes_way_for_the_unit(container: Container) -> None:
    agent = Agent(container, "moved")
    command = agent.command
    child = agent.drive(supervisor="child", command=command)
    assert child["done"] == ["start"]
    observed = agent.drive()
    assert observed["done"] == ["stop", "start"]
    assert observed["pid"] != child["pid"]
    assert not (container.root / f"proc/{child['pid']}").exists()
    back = agent.drive(supervisor="child", command=command)
    assert (back["done"], back["reason"]) == ([], "Blocked")
    assert "systemctl disable --now moved.service" in back["message"]


# --- agent.toml, which the unit's account has to read


CONFIG_DRIVER = "/run/node/config.py"
CONFIG = f"""\
import json, sys
sys.path.insert(0, {str(SOURCE)!r})
from pathlib import Path
import anyio
from bai_nodeagent.kinds.agent.config.kind import AgentConfig
from bai_nodeagent.kinds.agent.config.state import AgentConfigSpec
from bai_nodeagent.kinds.agent.spec import AgentSpec
from bai_nodeagent.model import Host

name, owner = sys.argv[1:]
folder = Path("/run/node", name)
values = {{("agent", "id"): "i-one"}}
path = folder / "agent.toml"
agent = AgentSpec(supervisor="systemd", unit=name + ".service", config_path=path, values=values)
spec = AgentConfigSpec(path, owner or None, None, values, agent=agent)

async def look():
    config = AgentConfig(spec, Host(folder, folder, str, str))
    plan = config.plan(await config.observe())
    owners = [action.owner for action in plan.actions if action.verb == "set_access"]
    print(json.dumps([plan.verdict.reason, plan.verdict.message, owners]))

anyio.run(look)
"""


@pytest.mark.parametrize(
    ("service", "owner", "reason", "owners"),
    [
        ("", "", "InSync", []),
        ("User=nobody", "", "Access", [[0, 65534]]),
        ("User=nobody\nGroup=daemon", "", "Access", [[0, 1]]),
        ("User=nobody\nSupplementaryGroups=root", "", "InSync", []),
        ("User=nobody", "root:root", "Unreadable", []),
        ("User=nobody\nDynamicUser=yes", "", "InSync", []),
        ("User=nosuchuser", "", "InSync", []),
    ],
)
def test_the_account_of_a_unit_can_read_its_agent_toml(
    container: Container,
    request: pytest.FixtureRequest,
    service: str,
    owner: str,
    reason: str,
    owners: list[list[int]],
) -> None:
    agent = Agent(container, f"config{request.node.callspec.indices['service']}", f"{service}\n")
    path = f"/run/node/{agent.name}/agent.toml"
    container.run("chmod", "0640", path)
    container.write(CONFIG_DRIVER, CONFIG)
    output = container.run(sys.executable, CONFIG_DRIVER, agent.name, owner).splitlines()[-1]
    found = json.loads(output)
    assert (found[0], found[2]) == (reason, owners), found
    assert reason != "Unreadable" or "nobody can't read" in found[1]
