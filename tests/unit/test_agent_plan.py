"""What is done about an agent, as tables of looks and plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent.kinds.agent.backendai.liveness import Liveness
from bai_nodeagent.kinds.agent.backendai.log_patterns import Trouble
from bai_nodeagent.kinds.agent.guard import SessionRisk
from bai_nodeagent.kinds.agent.process.child import (
    Adopt,
    ChildActual,
    EndOrphans,
    NoteEnd,
    Start,
    Stop,
    plan_child,
)
from bai_nodeagent.kinds.agent.process.unit import (
    RestartUnit,
    StartUnit,
    StopUnit,
    UnitActual,
    plan_unit,
)
from bai_nodeagent.kinds.agent.process.waits import change_wait_s, crash_wait_s
from bai_nodeagent.kinds.agent.record import Life, Record
from bai_nodeagent.kinds.agent.rollback import RollbackState
from bai_nodeagent.kinds.agent.sessions import HeldChange, Sessions, launch_of
from bai_nodeagent.kinds.agent.spec import AgentSpec
from bai_nodeagent.machine import TICKS_PER_S, Process
from bai_nodeagent.model import Plan, Status, Verdict
from bai_nodeagent.system.systemd import UnitState

NOW_S = 10_000.0
WANTED = {"command": "c1", "agent.toml agent.id": "i1"}
OTHER = {"command": "c1", "agent.toml agent.id": "i0"}

SPEC = AgentSpec(
    supervisor="child",
    command=("/bin/agent",),
    config_path=Path("/etc/agent.toml"),
    needs=("AgentConfig", "Mount/vfroot"),
)
MAIN = Process(71, int((NOW_S - 500) * TICKS_PER_S), 1, 71, 71)
LIFE = Life(WANTED, pid=71, start_ticks=MAIN.start_ticks, started_s=MAIN.started_s)
DEAD = replace(LIFE, is_over=True)


def observation(record: Record | None = None, **observed: Any) -> ChildActual:
    return ChildActual(
        now_s=NOW_S,
        epoch_s=1_700_000_000.0,
        record=record or Record("boot"),
        desired=WANTED,
        found=WANTED,
        **observed,
    )


def verbs(plan: Plan[Any]) -> list[str]:
    return [action.verb for action in plan.actions]


def in_words(plan: Plan[Any]) -> tuple[Status, str]:
    return plan.verdict.status, plan.verdict.reason


# --- child: what lives -------------------------------------------------------------------


def test_in_step_is_running_with_facts() -> None:
    plan = plan_child(SPEC, observation(Record("boot", LIFE), main=MAIN))
    assert in_words(plan) == (Status.TRUE, "Running")
    assert not plan.actions
    assert plan.facts == {"agent-pid": 71, "agent-started-at": "2023-11-15T00:51:40Z"}


def test_a_first_second_is_not_running_yet() -> None:
    life = replace(LIFE, started_s=NOW_S - 0.25)
    plan = plan_child(SPEC, observation(Record("boot", life), main=MAIN))
    assert in_words(plan) == (Status.UNKNOWN, "Starting")
    assert plan.observe_again_in_s == 0.75


def test_one_that_runs_again_after_crashes_has_to_prove_itself() -> None:
    life = replace(LIFE, started_s=NOW_S - 4)
    record = Record("boot", life, deaths=(1.0, 2.0), exit="exit status 0")
    plan = plan_child(SPEC, observation(record, main=MAIN, last_lines="no etcd"))
    assert in_words(plan) == (Status.FALSE, "CrashLoop")
    assert "runs again" in plan.verdict.message
    assert plan.verdict.message.endswith("no etcd")
    assert plan.observe_again_in_s == 6.0


def test_unmanaged_keys_are_reported_and_no_reason() -> None:
    life = replace(LIFE, inputs={**WANTED, "agent.toml debug.on": "1"})
    actual = observation(Record("boot", life), main=MAIN)
    plan = plan_child(SPEC, actual)
    assert in_words(plan) == (Status.TRUE, "Running")
    assert "agent.toml debug.on" in plan.verdict.message


def test_drift_that_it_never_read_is_no_reason() -> None:
    actual = replace(observation(Record("boot", LIFE), main=MAIN), found=OTHER)
    plan = plan_child(SPEC, actual)
    assert (in_words(plan), plan.verdict.message) == ((Status.TRUE, "Running"), "")


@pytest.mark.parametrize(
    ("found", "died_s_ago", "verbs_then"),
    [
        ({}, 0.2, []),  # emptied a moment before it died: repaired before it starts
        ({}, 1.5, ["start"]),  # which isn't possible: better so than not at all
        (WANTED, 0.2, ["start"]),
        (OTHER, 0.2, ["start"]),  # a change that is held back: as it was
    ],
)
def test_one_that_died_beside_a_spoilt_agent_toml_starts_when_that_is_repaired(
    found: dict[str, str], died_s_ago: float, verbs_then: list[str]
) -> None:
    life = replace(DEAD, inputs=OTHER if found is OTHER else WANTED)
    record = Record("boot", life, deaths=(NOW_S - died_s_ago,))
    plan = plan_child(SPEC, replace(observation(record), found=found))
    assert verbs(plan) == verbs_then
    assert plan.observe_again_in_s == (None if verbs_then else 0.05)


def test_other_inputs_are_a_stop_and_a_start_that_need_what_the_start_needs() -> None:
    life = replace(LIFE, inputs=OTHER)
    plan = plan_child(SPEC, observation(Record("boot", life), main=MAIN))
    assert in_words(plan) == (Status.UNKNOWN, "RestartPending")
    assert "agent.toml agent.id" in plan.verdict.message
    stop, start = plan.actions
    assert isinstance(stop, Stop)
    assert isinstance(start, Start)
    assert stop.is_disruptive
    assert not start.is_disruptive
    assert stop.needs == start.needs == SPEC.needs
    assert (stop.restart_cause, start.restart_cause) == ("", "changed")
    assert stop.deadline_s > SPEC.stop_timeout_s


def test_manual_waits_for_a_person() -> None:
    record = Record("boot", replace(LIFE, inputs=OTHER))
    plan = plan_child(replace(SPEC, restart="manual"), observation(record, main=MAIN))
    assert in_words(plan) == (Status.FALSE, "RestartPending")
    assert not plan.actions
    assert "by hand" in plan.verdict.message
    assert "i0" not in plan.verdict.message


@pytest.mark.parametrize(
    ("sessions", "actions", "reported"),
    [
        (None, [], "Docker can't be asked"),
        (2, [], "sessions run: 2"),
        (0, ["stop", "start"], ""),
    ],
)
def test_idle_waits_for_the_last_session(
    sessions: int | None, actions: list[str], reported: str
) -> None:
    record = Record("boot", replace(LIFE, inputs=OTHER))
    actual = observation(record, main=MAIN, sessions=sessions)
    plan = plan_child(replace(SPEC, restart="idle"), actual)
    assert verbs(plan) == actions
    assert reported in plan.verdict.message


def test_a_flapping_desired_state_runs_out_of_restarts() -> None:
    life = replace(LIFE, inputs=OTHER)
    record = Record("boot", life, changes=(NOW_S - 3, NOW_S - 2, NOW_S - 1))
    plan = plan_child(SPEC, observation(record, main=MAIN))
    assert in_words(plan) == (Status.UNKNOWN, "RestartPending")
    assert not plan.actions
    assert plan.observe_again_in_s == pytest.approx(57)


def test_stopped_stops_without_needs() -> None:
    plan = plan_child(replace(SPEC, state="stopped"), observation(Record("boot", LIFE), main=MAIN))
    (stop,) = plan.actions
    assert isinstance(stop, Stop)
    assert (stop.cause, stop.needs) == ("stopped", ())
    plan = plan_child(replace(SPEC, state="stopped"), observation())
    assert in_words(plan) == (Status.TRUE, "Stopped")


# --- child: who lives unnoted ------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wrote_s", "inputs"),
    [
        (WANTED, 0.0, WANTED),
        (WANTED, NOW_S - 501, WANTED),
        (WANTED, NOW_S - 499, {}),  # it is we who have brought the file into line since
        (OTHER, 0.0, {}),
    ],
)
def test_an_unrecorded_agent_is_in_step_where_its_file_is_in_line(
    found: dict[str, str], wrote_s: float, inputs: dict[str, str]
) -> None:
    record = Record("boot", wrote_s=wrote_s)
    plan = plan_child(SPEC, replace(observation(record, unrecorded=MAIN), found=found))
    adopt = plan.actions[0]
    assert isinstance(adopt, Adopt)
    assert adopt.life == replace(LIFE, inputs=inputs, is_adopted=True)
    assert verbs(plan) == (["adopt"] if inputs else ["adopt", "stop", "start"])


def test_what_died_is_brought_back_as_it_was_also_while_changes_are_held() -> None:
    died = Record("boot", DEAD, deaths=(NOW_S - 5,))
    (start,) = plan_child(SPEC, observation(died)).actions
    assert start.is_rescue
    (other,) = plan_child(SPEC, replace(observation(died), found=OTHER)).actions
    assert not other.is_rescue
    (first,) = plan_child(SPEC, observation()).actions
    assert not first.is_rescue
    down = replace(observation(died), orphans=(MAIN,))
    end, again = plan_child(SPEC, down).actions
    assert end.is_rescue
    assert again.is_rescue
    unit_actual = unit_observation(DOWN, replace(OVER, deaths=(NOW_S - 5,)))
    (unit,) = plan_unit(UNIT_SPEC, unit_actual).actions
    assert unit.is_rescue


def test_an_unrecorded_agent_is_left_alone_while_nobody_can_know_what_it_has_read() -> None:
    """A share with agent.toml that hangs at first contact is no reason to restart anything."""
    observed = replace(observation(unrecorded=MAIN), found={}, unread="no answer from its disk")
    plan = plan_child(SPEC, observed)
    assert (in_words(plan), verbs(plan)) == ((Status.UNKNOWN, "Adopting"), [])
    assert "no answer from its disk" in plan.verdict.message
    assert plan.observe_again_in_s
    unit = plan_unit(
        UNIT_SPEC, replace(unit_observation(ACTIVE, Record("boot")), found={}, unread="no answer")
    )
    assert (in_words(unit), verbs(unit)) == ((Status.UNKNOWN, "Adopting"), [])
    assert verbs(plan_child(replace(SPEC, adopt="as-is"), observed)) == ["adopt"]
    assert verbs(plan_child(replace(SPEC, state="stopped"), observed)) == ["adopt", "stop"]
    noted = replace(observed, record=Record("boot", Life(WANTED)), is_ours=True)
    assert verbs(plan_child(SPEC, noted)) == ["adopt"]


def test_an_agent_adopted_as_is_is_restarted_for_the_next_change_alone() -> None:
    spec = replace(SPEC, adopt="as-is")
    observed = replace(observation(unrecorded=MAIN), found=OTHER)
    (adopt,) = plan_child(spec, observed).actions
    assert isinstance(adopt, Adopt)
    assert (adopt.life.inputs, adopt.life.spared) == (OTHER, WANTED)
    later = replace(observation(Record("boot", adopt.life), main=MAIN), found=OTHER)
    plan = plan_child(spec, later)
    assert in_words(plan) == (Status.TRUE, "Running")
    assert not plan.actions
    third = replace(later, desired={**WANTED, "agent.toml agent.id": "i2"})
    assert verbs(plan_child(spec, third)) == ["stop", "start"]


def test_one_of_our_own_starts_keeps_what_was_noted_for_it() -> None:
    intent = Life(OTHER, desired_digest="d0")
    plan = plan_child(SPEC, observation(Record("boot", intent), unrecorded=MAIN, is_ours=True))
    adopt = plan.actions[0]
    assert isinstance(adopt, Adopt)
    assert adopt.life.inputs == OTHER
    assert (adopt.life.pid, adopt.life.desired_digest) == (71, "d0")
    assert verbs(plan) == ["adopt", "stop", "start"]


def test_an_unrecorded_agent_of_the_unit_is_left_to_people() -> None:
    plan = plan_child(SPEC, observation(unrecorded=MAIN, unit="backendai-agent.service"))
    assert in_words(plan) == (Status.FALSE, "Blocked")
    assert not plan.actions


def test_an_unrecorded_agent_is_stopped_where_none_is_wanted() -> None:
    plan = plan_child(replace(SPEC, state="stopped"), observation(unrecorded=MAIN))
    assert verbs(plan) == ["adopt", "stop"]


# --- child: what is dead -----------------------------------------------------------------


def test_nothing_there_is_started_when_its_needs_are_met() -> None:
    plan = plan_child(SPEC, observation())
    (start,) = plan.actions
    assert isinstance(start, Start)
    assert (start.cause, start.needs) == ("first", SPEC.needs)


def test_a_first_death_is_answered_at_once() -> None:
    plan = plan_child(SPEC, observation(Record("boot", LIFE), exit="exit status 0"))
    note, start = plan.actions
    assert isinstance(note, NoteEnd)
    assert isinstance(start, Start)
    assert (note.at_s, note.exit, note.needs) == (NOW_S, "exit status 0", ())
    assert start.cause == "died"
    assert in_words(plan) == (Status.FALSE, "Died")


def test_a_second_death_within_a_minute_waits() -> None:
    life = replace(LIFE, started_s=NOW_S - 5)
    record = Record("boot", life, deaths=(NOW_S - 6,))
    plan = plan_child(SPEC, observation(record, last_lines="port taken"))
    assert verbs(plan) == ["note_end"]
    assert in_words(plan) == (Status.FALSE, "CrashLoop")
    assert plan.observe_again_in_s is not None
    assert 0.75 <= plan.observe_again_in_s <= 1


def test_a_death_after_a_long_life_counts_anew() -> None:
    record = Record("boot", LIFE, deaths=(1.0, 2.0, 3.0))
    assert verbs(plan_child(SPEC, observation(record))) == ["note_end", "start"]


def test_a_wait_ends_when_the_inputs_change() -> None:
    record = Record("boot", replace(DEAD, inputs=OTHER), deaths=(NOW_S - 3, NOW_S - 2, NOW_S - 1))
    plan = plan_child(SPEC, observation(record))
    (start,) = plan.actions
    assert isinstance(start, Start)
    assert start.cause == "changed"


def test_a_wait_for_ever_changing_inputs_does_not_end() -> None:
    deaths = tuple(NOW_S - 9 + i for i in range(9))
    record = Record("boot", replace(DEAD, inputs=OTHER), deaths=deaths, changes=deaths[-3:])
    plan = plan_child(SPEC, observation(record))
    assert not plan.actions
    assert plan.observe_again_in_s is not None
    assert plan.observe_again_in_s > 50


def test_an_end_that_we_brought_about_is_no_death() -> None:
    record = Record("boot", LIFE, ending="changed", changes=(NOW_S - 1,))
    plan = plan_child(SPEC, observation(record))
    assert verbs(plan) == ["note_end", "start"]
    assert plan.actions[1].restart_cause == "changed"
    assert plan.verdict.status is Status.UNKNOWN


def test_orphans_are_ended_before_a_start() -> None:
    orphan = Process(72, MAIN.start_ticks)
    plan = plan_child(SPEC, observation(Record("boot", LIFE), orphans=(orphan,)))
    assert in_words(plan) == (Status.FALSE, "Orphaned")
    assert isinstance(plan.actions[0], EndOrphans)
    assert verbs(plan) == ["end_orphans", "note_end", "start"]
    plan = plan_child(replace(SPEC, state="stopped"), observation(orphans=(orphan,)))
    assert verbs(plan) == ["end_orphans"]


@pytest.mark.parametrize(("deaths", "step"), [(2, 1), (3, 2), (4, 4), (10, 256), (16, 300)])
def test_waits_double_up_to_a_limit(deaths: int, step: float) -> None:
    waits = {crash_wait_s((0.0,) * (deaths - 1) + (n * 0.0123457,)) for n in range(50)}
    assert min(waits) >= 0.75 * step
    assert max(waits) <= step
    assert len(waits) > 40


def test_restarts_for_changes_are_a_burst_and_then_one_a_minute() -> None:
    times: tuple[float, ...] = ()
    now_s = 1000.0
    restarts = []
    while now_s < 1400:
        if change_wait_s(times, now_s) == 0:
            restarts.append(now_s)
            times = (*times, now_s)[-16:]
        now_s += 1
    assert restarts == [1000, 1001, 1002, 1060, 1120, 1180, 1240, 1300, 1360]


# --- systemd -----------------------------------------------------------------------------

UNIT_SPEC = replace(SPEC, supervisor="systemd", command=())
GATE = ("/usr/bin/bai-nodeagent", "may-start")
ACTIVE = UnitState(
    name="backendai-agent.service",
    load_state="loaded",
    active_state="active",
    sub_state="running",
    main_pid=71,
    invocation_id="ab",
    result="success",
    exec_conditions=(GATE,),
    n_restarts=0,
)
DOWN = replace(ACTIVE, active_state="inactive", sub_state="dead", main_pid=0)
FAILED = replace(DOWN, active_state="failed", sub_state="failed", result="start-limit-hit")
RUN = Life(WANTED, invocation_id="ab", started_s=MAIN.started_s)


def unit_observation(unit: UnitState, record: Record | None = None, **observed: Any) -> UnitActual:
    return UnitActual(
        now_s=NOW_S,
        epoch_s=1_700_000_000.0,
        record=record or Record("boot", RUN),
        desired=WANTED,
        found=WANTED,
        unit=unit,
        main=MAIN if unit.main_pid else None,
        **observed,
    )


def test_a_unit_in_step_is_running() -> None:
    plan = plan_unit(UNIT_SPEC, unit_observation(ACTIVE))
    assert in_words(plan) == (Status.TRUE, "Running")
    assert plan.facts["agent-pid"] == 71


def test_a_unit_without_the_gate_is_ungated() -> None:
    plan = plan_unit(UNIT_SPEC, unit_observation(replace(ACTIVE, exec_conditions=())))
    assert in_words(plan) == (Status.TRUE, "Ungated")
    assert "may-start" in plan.verdict.message


@pytest.mark.parametrize(
    ("load_state", "reason"), [("masked", "Blocked"), ("not-found", "NoUnit"), ("error", "BadUnit")]
)
def test_a_unit_that_cannot_run_is_reported(load_state: str, reason: str) -> None:
    plan = plan_unit(UNIT_SPEC, unit_observation(replace(DOWN, load_state=load_state)))
    assert in_words(plan) == (Status.FALSE, reason)
    assert not plan.actions


def test_another_invocation_is_adopted() -> None:
    plan = plan_unit(UNIT_SPEC, unit_observation(replace(ACTIVE, invocation_id="cd")))
    (adopt,) = plan.actions
    assert isinstance(adopt, Adopt)
    assert (adopt.life.invocation_id, adopt.life.inputs) == ("cd", WANTED)


def test_an_invocation_beside_a_file_that_is_not_in_line_is_restarted() -> None:
    actual = replace(unit_observation(ACTIVE, Record("boot")), found=OTHER)
    assert verbs(plan_unit(UNIT_SPEC, actual)) == ["adopt", "restart"]


def test_other_inputs_are_a_restart_of_the_unit() -> None:
    record = Record("boot", replace(RUN, inputs=OTHER))
    (restart,) = plan_unit(UNIT_SPEC, unit_observation(ACTIVE, record)).actions
    assert isinstance(restart, RestartUnit)
    assert restart.is_disruptive
    assert (restart.needs, restart.restart_cause) == (SPEC.needs, "changed")


def test_manual_names_the_command() -> None:
    record = Record("boot", replace(RUN, inputs=OTHER))
    plan = plan_unit(replace(UNIT_SPEC, restart="manual"), unit_observation(ACTIVE, record))
    assert in_words(plan) == (Status.FALSE, "RestartPending")
    assert "systemctl restart backendai-agent.service" in plan.verdict.message


AUTO = replace(DOWN, active_state="activating", sub_state="auto-restart", result="success")


def test_restarting_is_left_to_systemd_and_the_death_is_noted_once() -> None:
    record = Record("boot", replace(RUN, started_s=NOW_S - 5), deaths=(NOW_S - 8,))
    actual = unit_observation(AUTO, record, last_lines="no etcd", output="grpc.aio.AioRpcError")
    plan = plan_unit(UNIT_SPEC, actual)
    assert in_words(plan) == (Status.FALSE, "EtcdUnreachable")
    assert plan.verdict.message.endswith("no etcd")
    (note,) = plan.actions
    assert isinstance(note, NoteEnd)
    noted = replace(actual, record=record.died(note.at_s, note.exit, note.trouble))
    again = plan_unit(UNIT_SPEC, noted)
    assert (in_words(again), again.actions) == (in_words(plan), ())
    assert "died 2 times in a row" in again.verdict.message


def test_what_a_unit_dies_of_is_reported_while_it_starts_again() -> None:
    trouble = Trouble("EtcdUnreachable", "no etcd")
    record = Record("boot", replace(RUN, is_over=True), deaths=(NOW_S - 3,), trouble=trouble)
    gate = replace(DOWN, active_state="activating", sub_state="condition")
    assert in_words(plan_unit(UNIT_SPEC, unit_observation(gate, record))) == (
        Status.FALSE,
        "EtcdUnreachable",
    )
    first = plan_unit(UNIT_SPEC, unit_observation(gate, Record("boot")))
    assert in_words(first) == (Status.UNKNOWN, "Starting")


@pytest.mark.parametrize(
    ("lived_s", "output", "before", "reason"),
    [
        (5, "", "systemd: success", "EtcdUnreachable"),
        (5, "INFO exit.", "systemd: success", "EtcdUnreachable"),
        (5, "INFO exit.", "systemd: exit-code", "CrashLoop"),
        (300, "", "systemd: success", "Died"),
    ],
    ids=["journald is late", "lines are lost", "another death", "the first of a new loop"],
)
def test_a_death_without_a_known_cause_goes_on_with_that_of_one_like_it(
    lived_s: float, output: str, before: str, reason: str
) -> None:
    trouble = Trouble("EtcdUnreachable", "no etcd")
    life = replace(RUN, started_s=NOW_S - lived_s)
    record = Record("boot", life, deaths=(NOW_S - 400,), exit=before, trouble=trouble)
    actual = unit_observation(AUTO, record, output=output)
    (note,) = plan_unit(UNIT_SPEC, actual).actions
    assert isinstance(note, NoteEnd)
    noted = replace(actual, record=record.died(note.at_s, note.exit, note.trouble))
    assert in_words(plan_unit(UNIT_SPEC, noted)) == (Status.FALSE, reason)


def test_a_loop_that_the_daemon_comes_upon_is_reported() -> None:
    plan = plan_unit(UNIT_SPEC, unit_observation(AUTO, Record("boot"), last_lines="what?"))
    assert (in_words(plan), plan.actions) == ((Status.FALSE, "Died"), ())
    assert "what?" in plan.verdict.message


FOUND = {"command": "c1", "agent.toml agent.id": "i1"}


@pytest.mark.parametrize(
    ("found", "needs"),
    [
        (FOUND, ("Mount/vfroot",)),
        ({**FOUND, "plugin mock": "2"}, ("Mount/vfroot",)),
        ({**FOUND, "agent.toml agent.id": "edited"}, SPEC.needs),
        ({**FOUND, "command": "c2"}, SPEC.needs),
    ],
)
def test_what_died_comes_back_as_it_was_whatever_becomes_of_agent_toml(
    found: dict[str, str], needs: tuple[str, ...]
) -> None:
    record = Record("boot", replace(DEAD, inputs=FOUND), deaths=(NOW_S - 1,))
    (start,) = plan_child(SPEC, replace(observation(record), found=found)).actions
    assert isinstance(start, Start)
    assert start.needs == needs
    unit = unit_observation(DOWN, replace(record, life=replace(RUN, inputs=FOUND, is_over=True)))
    (again,) = plan_unit(UNIT_SPEC, replace(unit, found=found)).actions
    assert isinstance(again, StartUnit)
    assert again.needs == needs


def test_sessions_get_their_agent_back_beside_an_agent_toml_that_is_held() -> None:
    held = HeldChange(("agent.toml agent.id",), "sha256:0", Sessions(1, 1_700_000_000.0))
    risk = SessionRisk(held)
    plan = plan_unit(UNIT_SPEC, unit_observation(DOWN, risk=risk))
    start = plan.actions[-1]
    assert isinstance(start, StartUnit)
    assert start.needs == ("Mount/vfroot",)
    assert in_words(plan) == (Status.FALSE, "Blocked")
    dead = unit_observation(ACTIVE, risk=risk, liveness=Liveness(None, "refuses", "a:1"))
    (restart,) = plan_unit(UNIT_SPEC, dead).actions
    assert isinstance(restart, RestartUnit)
    assert restart.needs == ("Mount/vfroot",)


@pytest.mark.parametrize(("unit", "has_failed"), [(DOWN, False), (FAILED, True)])
def test_where_systemd_has_given_up_the_unit_is_started(unit: UnitState, has_failed: bool) -> None:
    note, start = plan_unit(UNIT_SPEC, unit_observation(unit)).actions
    assert isinstance(note, NoteEnd)
    assert isinstance(start, StartUnit)
    assert start.has_failed is has_failed
    assert start.needs == ("Mount/vfroot",)


def test_a_unit_that_fails_again_and_again_waits() -> None:
    record = Record("boot", replace(RUN, started_s=NOW_S - 5), deaths=(NOW_S - 8, NOW_S - 6))
    plan = plan_unit(UNIT_SPEC, unit_observation(FAILED, record))
    assert verbs(plan) == ["note_end"]
    assert in_words(plan) == (Status.FALSE, "CrashLoop")


@pytest.mark.parametrize("active_state", ["activating", "deactivating"])
def test_a_unit_on_its_way_is_waited_for(active_state: str) -> None:
    plan = plan_unit(UNIT_SPEC, unit_observation(replace(DOWN, active_state=active_state)))
    assert plan.verdict.status is Status.UNKNOWN
    assert not plan.actions


def test_a_unit_is_stopped_even_from_its_restart_loop() -> None:
    spec = replace(UNIT_SPEC, state="stopped")
    restarting = replace(DOWN, active_state="activating", sub_state="auto-restart")
    for unit in (ACTIVE, restarting, replace(ACTIVE, load_state="masked")):
        (stop,) = plan_unit(spec, unit_observation(unit)).actions
        assert isinstance(stop, StopUnit)
    masked = unit_observation(replace(DOWN, load_state="masked"), Record("boot"))
    for actual in (unit_observation(DOWN, Record("boot")), masked):
        assert in_words(plan_unit(spec, actual)) == (Status.TRUE, "Stopped")


def test_a_child_of_ours_makes_way_for_the_unit() -> None:
    actual = unit_observation(DOWN, Record("boot", LIFE), outside=MAIN, is_child=True)
    (stop,) = plan_unit(UNIT_SPEC, actual).actions
    assert isinstance(stop, Stop)
    assert stop.process == MAIN


def test_whatever_ends_a_living_agent_is_held_back_where_that_could_cost_sessions() -> None:
    risk = SessionRisk(HeldChange(("state",), "sha256:0", None, "stopping it ends batch sessions"))
    child = replace(SPEC, state="stopped"), observation(Record("boot", LIFE), main=MAIN, risk=risk)
    unit = replace(UNIT_SPEC, state="stopped"), unit_observation(ACTIVE, risk=risk)
    record = Record("boot", LIFE)
    outside = unit_observation(DOWN, record, outside=MAIN, is_child=True, risk=risk)
    plans = (plan_child(*child), plan_unit(*unit), plan_unit(UNIT_SPEC, outside))
    for plan in plans:
        assert (in_words(plan), plan.actions) == ((Status.FALSE, "Blocked"), ())
        assert plan.verdict.message.endswith("the agent is left running")


def test_a_second_agent_is_never_started_beside_anothers() -> None:
    plan = plan_unit(UNIT_SPEC, unit_observation(DOWN, outside=MAIN))
    assert in_words(plan) == (Status.FALSE, "Blocked")
    assert not plan.actions


# --- the real agent: to live is not enough -------------------------------------------------

WELL = Liveness(Process(72, 1), "greets", "10.0.0.1:6001")
HEADLESS = Liveness(None, "refuses", "10.0.0.1:6001")
KNOWN = replace(LIFE, well_s=NOW_S - 400, rpc="10.0.0.1:6001")


def test_an_agent_that_first_works_is_noted_as_such() -> None:
    actual = observation(Record("boot", LIFE), main=MAIN, liveness=WELL)
    plan = plan_child(SPEC, actual)
    assert in_words(plan) == (Status.TRUE, "Running")
    assert verbs(plan) == ["note_well"]
    assert not plan_child(SPEC, replace(actual, record=Record("boot", KNOWN))).actions


def test_one_that_has_just_started_is_running_as_soon_as_it_answers() -> None:
    young = replace(LIFE, started_s=NOW_S - 0.5)
    actual = observation(Record("boot", young), main=MAIN, liveness=WELL)
    assert plan_child(SPEC, actual).verdict.status is Status.TRUE


def test_a_main_process_without_its_worker_is_ended_and_started_anew() -> None:
    actual = observation(Record("boot", KNOWN), main=MAIN, liveness=HEADLESS)
    plan = plan_child(replace(SPEC, restart="manual"), actual)
    assert in_words(plan) == (Status.FALSE, "WorkerDead")
    assert verbs(plan) == ["stop", "start"]
    assert [action.restart_cause for action in plan.actions] == ["", "died"]


def test_a_worker_that_dies_again_and_again_is_waited_for() -> None:
    record = Record("boot", KNOWN, deaths=(NOW_S - 3, NOW_S - 2, NOW_S - 0.5))
    plan = plan_child(SPEC, observation(record, main=MAIN, liveness=HEADLESS))
    assert not plan.actions
    assert plan.observe_again_in_s
    assert 0 < plan.observe_again_in_s <= 2


def test_a_main_process_ended_for_its_worker_s_death_has_died() -> None:
    ending = Record("boot", KNOWN).ends("died", NOW_S)
    died = ending.died(NOW_S, "without its worker")
    assert (died.ending, died.deaths, died.exit) == ("", (NOW_S,), "without its worker")


def test_a_change_that_waits_does_not_hide_ill_health() -> None:
    silent = Liveness(Process(72, 1), "is silent", "10.0.0.1:6001")
    record = Record("boot", replace(KNOWN, inputs=OTHER))
    actual = observation(record, main=MAIN, liveness=silent)
    plan = plan_child(replace(SPEC, restart="manual"), actual)
    assert in_words(plan) == (Status.FALSE, "NotAnswering")
    assert "by hand" in plan.verdict.message
    assert verbs(plan_child(SPEC, actual)) == ["stop", "start"]


def test_a_death_with_a_known_cause_has_that_reason() -> None:
    record = Record("boot", DEAD, deaths=(NOW_S - 2, NOW_S - 0.1), exit="exit status 0")
    output = "zmq.error.ZMQError: Address already in use (addr='tcp://10.0.0.1:6001')"
    plan = plan_child(SPEC, observation(record, output=output, last_lines="INFO exit."))
    assert in_words(plan) == (Status.FALSE, "PortTaken")
    assert "2 times in a row (exit status 0)" in plan.verdict.message
    assert plan.verdict.message.endswith("INFO exit.")


def test_a_start_after_a_failed_one_is_no_good_news_yet() -> None:
    young = replace(LIFE, started_s=NOW_S - 2)
    why = Trouble("NoRedisAddress", "etcd has no address of Redis")
    record = Record("boot", young, deaths=(NOW_S - 3,), exit="exit status 0", trouble=why)
    silent = Liveness(Process(72, 1), "refuses", "10.0.0.1:6001")
    plan = plan_child(SPEC, observation(record, main=MAIN, liveness=silent))
    assert in_words(plan) == (Status.FALSE, "NoRedisAddress")
    assert "exit status 0" in plan.verdict.message
    well = plan_child(SPEC, observation(record, main=MAIN, liveness=WELL))
    assert in_words(well) == (Status.TRUE, "Running")
    assert record.works(NOW_S, "10.0.0.1:6001").trouble is None


def test_a_death_is_recorded_with_its_cause_in_the_agents_log() -> None:
    output = "    assert redis_url is not None"
    plan = plan_child(SPEC, observation(Record("boot", LIFE), output=output))
    note = plan.actions[0]
    assert isinstance(note, NoteEnd)
    assert note.trouble
    assert note.trouble.reason == "NoRedisAddress"


OVER = Record("boot", replace(RUN, is_over=True))


def test_nothing_is_started_while_a_stranger_has_its_port() -> None:
    for plan in (
        plan_child(SPEC, observation(occupied=("port 6001 by process 9 (nc)",))),
        plan_unit(UNIT_SPEC, unit_observation(DOWN, OVER, occupied=("port 6001 by 9",))),
    ):
        assert in_words(plan) == (Status.FALSE, "PortTaken")
        assert not plan.actions
        assert plan.observe_again_in_s


def test_what_an_earlier_agent_left_beside_a_unit_is_ended_before_its_start() -> None:
    plan = plan_unit(UNIT_SPEC, unit_observation(DOWN, OVER, orphans=(Process(80, 5),)))
    assert in_words(plan) == (Status.FALSE, "Orphaned")
    assert verbs(plan) == ["end_orphans", "start"]


def test_a_unit_whose_worker_is_dead_is_restarted() -> None:
    life = replace(RUN, well_s=NOW_S - 400)
    plan = plan_unit(UNIT_SPEC, unit_observation(ACTIVE, Record("boot", life), liveness=HEADLESS))
    assert in_words(plan) == (Status.FALSE, "WorkerDead")
    (restart,) = plan.actions
    assert isinstance(restart, RestartUnit)
    assert (restart.cause, restart.restart_cause) == ("died", "died")


# --- the first life of a boot --------------------------------------------------------------

REFUSED = RollbackState(verdicts={"AgentConfig": Verdict(Status.FALSE, "Incompatible")})
AS_BEFORE = SessionRisk(before=launch_of(SPEC), is_last_config=True)


@pytest.mark.parametrize(
    ("observed", "needs"),
    [
        ({}, ("AgentConfig", "Mount/vfroot")),
        ({"rollback": REFUSED}, ("AgentConfig", "Mount/vfroot")),
        ({"risk": AS_BEFORE}, ("AgentConfig", "Mount/vfroot")),  # it may yet be written
        ({"rollback": REFUSED, "risk": AS_BEFORE}, ("Mount/vfroot",)),
        (
            {"rollback": REFUSED, "risk": replace(AS_BEFORE, is_last_config=False)},
            ("AgentConfig", "Mount/vfroot"),
        ),
        (
            {"rollback": REFUSED, "risk": replace(AS_BEFORE, before=None)},
            ("AgentConfig", "Mount/vfroot"),
        ),
    ],
)
def test_a_boot_beside_a_refused_agent_toml_brings_the_agent_back_as_it_was(
    observed: dict[str, Any], needs: tuple[str, ...]
) -> None:
    (start,) = plan_child(SPEC, observation(**observed)).actions
    assert isinstance(start, Start)
    assert start.needs == needs


def test_one_that_has_been_stopped_in_this_boot_waits_for_its_agent_toml() -> None:
    stopped = Record("boot", DEAD, ending="stopped")
    (start,) = plan_child(SPEC, observation(stopped, rollback=REFUSED, risk=AS_BEFORE)).actions
    assert isinstance(start, Start)
    assert "AgentConfig" in start.needs


def test_for_a_unit_its_start_is_systemds_affair_and_the_file_is_what_counts() -> None:
    for is_last, spared in ((True, True), (False, False)):
        risk = SessionRisk(is_last_config=is_last)
        actual = unit_observation(DOWN, Record("boot"), rollback=REFUSED, risk=risk)
        (start,) = plan_unit(UNIT_SPEC, actual).actions
        assert isinstance(start, StartUnit)
        assert ("AgentConfig" not in start.needs) is spared
