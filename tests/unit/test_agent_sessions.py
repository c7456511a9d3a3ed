"""Which changes cost running sessions, and how they are held back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent.desired.evaluate import check_alone
from bai_nodeagent.kinds import KINDS
from bai_nodeagent.kinds.agent.config.rules import Write
from bai_nodeagent.kinds.agent.config.rules import plan as plan_file
from bai_nodeagent.kinds.agent.config.state import Actual, AgentConfigSpec
from bai_nodeagent.kinds.agent.guard import SessionRisk
from bai_nodeagent.kinds.agent.process.child import ChildActual, Start, plan_child
from bai_nodeagent.kinds.agent.record import Life, Record
from bai_nodeagent.kinds.agent.sessions import HeldChange, Launch, Sessions, losing, permit_for
from bai_nodeagent.kinds.agent.spec import AgentSpec, desired_inputs, found_inputs
from bai_nodeagent.machine import File, Process
from bai_nodeagent.model import KeyPath, Status

VAR: KeyPath = ("agent", "var-base-path")
TEXT = '[agent]\nid = "i-1"\nvar-base-path = "/var/a"\nregion = "x"\n'
COMMAND = ("/opt/venv/bin/python", "-m", "ai.backend.agent.server")
BEFORE = Launch(COMMAND, "/opt", None, {})
HELD = HeldChange(("agent.toml agent.var-base-path",), "sha256:0", Sessions(2, 1_700_000_000))


def digest(value: object) -> str:
    return f"d:{value!r}"


def spec(values: dict[KeyPath, Any] | None = None, **more: Any) -> AgentSpec:
    fields: dict[str, Any] = {"command": COMMAND, "workdir": Path("/opt"), **more}
    return AgentSpec(
        supervisor="child",
        config_path=Path("/etc/agent.toml"),
        values=values or {("agent", "id"): "i-1"},
        needs=("AgentConfig", "Mount/vfroot"),
        **fields,
    )


def lost(new: AgentSpec, text: str = TEXT, before: Launch | None = BEFORE) -> tuple[str, ...]:
    running = found_inputs(spec(), text, digest)
    return losing(new, desired_inputs(new, digest), running, before)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({("agent", "id"): "i-1"}, ()),
        ({("agent", "region"): "y"}, ()),
        ({("agent", "id"): "i-2"}, ("agent.toml agent.id",)),
        ({VAR: "/var/a"}, ()),
        ({VAR: "/var/b"}, ("agent.toml agent.var-base-path",)),
        ({("agent", "ipc-base-path"): "/tmp/backend.ai/ipc"}, ()),
        ({("agent", "ipc-base-path"): "/run/ipc"}, ("agent.toml agent.ipc-base-path",)),
        ({("container", "scratch-root"): "/s"}, ("agent.toml container.scratch-root",)),
        ({("agents",): [{"agent": {"id": "i-2"}}]}, ("agent.toml agents",)),
    ],
)
def test_keys_that_cost_sessions(values: dict[KeyPath, Any], parts: tuple[str, ...]) -> None:
    assert lost(spec(values)) == parts


def test_the_working_directory_costs_sessions() -> None:
    assert lost(spec(workdir=Path("/srv"))) == ("workdir",)


def test_variables_that_precede_its_keys_cost_sessions_and_others_do_not() -> None:
    assert lost(spec(env={"LANG": "C"})) == ()
    for name in ("BACKEND_SCRATCH_ROOT", "BACKEND_CONFIG_FILE"):
        assert lost(spec(env={name: "/s"})) == ("env",)
        assert lost(spec(env={name: "/s"}), before=replace(BEFORE, env={name: "/s"})) == ()
    assert lost(spec(env={"LANG": "C"}), before=None) == ("env",)


def test_another_environment_costs_sessions_and_another_argument_does_not() -> None:
    assert lost(spec(command=(*COMMAND, "--debug"))) == ()
    assert lost(spec(command=("/opt/new/bin/python", *COMMAND[1:]))) == ("the environment's path",)
    assert lost(spec(command=(*COMMAND, "-v")), before=None) == ("the environment's path",)


@pytest.mark.parametrize(
    ("edited", "parts"),
    [
        (TEXT, ()),
        (TEXT.replace('"x"', '"y"'), ()),
        (TEXT.replace("/var/a", "/by/hand"), ("agent.toml agent.var-base-path",)),
        (TEXT.replace("var-base-path", "# "), ("agent.toml agent.var-base-path",)),
    ],
)
def test_what_was_changed_by_hand_is_not_put_into_force_by_a_restart(
    edited: str, parts: tuple[str, ...]
) -> None:
    mine = spec()
    running, found = found_inputs(mine, TEXT, digest), found_inputs(mine, edited, digest)
    assert losing(mine, desired_inputs(mine, digest), running, BEFORE, found) == parts
    managed = spec({VAR: "/var/a"})  # AgentConfig puts it back
    assert losing(managed, desired_inputs(managed, digest), running, BEFORE, found) == ()


def test_agents_added_by_hand_are_not_put_into_force_by_a_restart_either() -> None:
    mine, more = spec(), f'{TEXT}[[agents]]\nagent = {{ id = "i-2" }}\n'
    running, found = found_inputs(mine, TEXT, digest), found_inputs(mine, more, digest)
    assert losing(mine, desired_inputs(mine, digest), running, BEFORE, found) == (
        "agent.toml agents",
    )


def test_of_an_agent_that_never_ran_nothing_can_be_lost() -> None:
    assert lost(spec({VAR: "/var/b"}), text="") == ()


def test_a_permit_is_for_one_change_alone() -> None:
    running = found_inputs(spec(), TEXT, digest)
    parts = ("agent.toml agent.var-base-path",)
    one, other = spec({VAR: "/var/b"}), spec({VAR: "/var/c"})
    permit = permit_for(desired_inputs(one, digest), running, parts)
    assert permit.startswith("sha256:")
    assert permit == permit_for(desired_inputs(one, digest), running, parts)
    assert permit != permit_for(desired_inputs(other, digest), running, parts)
    done = found_inputs(spec(), TEXT.replace("/var/a", "/var/b"), digest)
    assert permit != permit_for(desired_inputs(one, digest), done, parts)


def test_it_reports_how_many_since_when_and_what_to_do() -> None:
    message = HELD.verdict.message
    for text in ("sessions run: 2", "2023-11-14T22:13:20Z", "allow-session-loss", "sha256:0"):
        assert text in message
    assert "Docker can't be asked" in replace(HELD, sessions=None).verdict.message


# --- what is held back -------------------------------------------------------------------


def observation(**observed: Any) -> ChildActual:
    life = Life(found_inputs(spec(), TEXT, digest), pid=71, started_s=1.0)
    fields: dict[str, Any] = {"record": Record("boot", life), **observed}
    new = desired_inputs(spec({VAR: "/var/b"}), digest)
    return ChildActual(now_s=500.0, epoch_s=0.0, desired=new, found={}, **fields)


def test_an_agent_that_lives_goes_on_as_it_is() -> None:
    main = Process(71, 1, 1, 71, 71)
    plan = plan_child(spec(), observation(main=main, risk=SessionRisk(HELD, before=BEFORE)))
    assert (plan.verdict.status, plan.verdict.reason) == (Status.FALSE, "Blocked")
    assert not plan.actions
    assert plan.observe_again_in_s


def test_an_agent_that_dies_comes_back_as_it_was_without_waiting_for_agent_toml() -> None:
    over = replace(observation().record.life or Life({}), is_over=True)
    record = Record("boot", over, deaths=(1.0,))
    plan = plan_child(spec(), observation(record=record, risk=SessionRisk(HELD, before=BEFORE)))
    (start,) = plan.actions
    assert isinstance(start, Start)
    assert start.as_before
    assert start.needs == ("Mount/vfroot",)
    unknown = plan_child(spec(), observation(record=record, risk=SessionRisk(HELD)))
    assert unknown.verdict.reason == "Blocked"
    assert not unknown.actions


FILE = AgentConfigSpec(
    path=Path("/etc/agent.toml"), owner=None, mode=None, values={VAR: "/var/b", ("a", "b"): 1}
)


def on_disk(text: str | None, last: str | None = TEXT) -> Actual:
    files = [None if t is None else File(t.encode(), 0o640, (0, 0)) for t in (text, last)]
    risk = SessionRisk(HELD)
    return Actual(Path("/etc/agent.toml"), "now", files[0], files[1], risk=risk)


def test_the_whole_file_stays_unwritten() -> None:
    plan = plan_file(FILE, on_disk(TEXT))
    assert plan.verdict.reason == "Blocked"
    assert not plan.actions


@pytest.mark.parametrize("text", [None, "", TEXT.replace("/var/a", "/elsewhere")])
def test_what_a_crash_would_put_into_force_is_put_right(text: str | None) -> None:
    (write,) = plan_file(FILE, on_disk(text)).actions
    assert isinstance(write, Write)
    assert write.data == TEXT.encode()


def test_unmanaged_keys_are_not_put_back() -> None:
    assert not plan_file(FILE, on_disk(TEXT.replace('"x"', '"y"'))).actions


def test_each_change_is_reported_with_what_it_costs() -> None:
    new = spec({VAR: "/var/b", ("agent", "region"): "y", ("agent", "id"): "i-1"})
    file = replace(FILE, values=new.values)
    desired, running = desired_inputs(new, digest), found_inputs(spec(), TEXT, digest)
    lost = ("agent.toml agent.var-base-path",)
    drifted = TEXT.replace("i-1", "i-drift")  # which the agent has not read
    reported = "agent.id (harmless), agent.region (restart), agent.var-base-path (session-losing)"

    permitted = replace(on_disk(drifted), risk=SessionRisk(None, lost, running, desired, BEFORE))
    plan = plan_file(file, permitted)
    assert reported in plan.verdict.message
    assert reported in plan.actions[0].summary

    blocked = replace(on_disk(TEXT), risk=SessionRisk(HELD, lost, running, desired, BEFORE))
    message = plan_file(file, blocked).verdict.message
    assert "not written: agent.region (restart), agent.var-base-path (session-losing)" in message

    nobody_knows = replace(on_disk(drifted), risk=SessionRisk(None, (), {}, desired, BEFORE))
    assert "agent.id (restart)" in plan_file(file, nobody_knows).verdict.message
    dead = replace(on_disk(drifted), risk=SessionRisk(None, (), None, desired, BEFORE))
    assert "agent.region (harmless)" in plan_file(file, dead).verdict.message


@pytest.mark.parametrize(("layer", "is_allowed"), [("cluster", False), ("node/i-1", True)])
def test_a_permit_is_allowed_in_a_node_s_own_document_alone(layer: str, is_allowed: bool) -> None:
    text = f'api-version = 1\n[agent]\nallow-session-loss = "sha256:{"0" * 64}"\n'
    mistakes = check_alone(layer, text.encode(), KINDS, "0.1")
    assert [mistake.key for mistake in mistakes] == (
        [] if is_allowed else ["agent.allow-session-loss"]
    )
