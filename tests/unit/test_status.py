from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bai_nodeagent.core import status
from bai_nodeagent.core.status import Applied, NodeStatus, Reading
from bai_nodeagent.errors import Refused, Stuck, Unavailable
from bai_nodeagent.model import Condition, Outcome, Status, Verdict

VALID = Verdict(Status.TRUE, "Valid")
CONNECTED = Verdict(Status.TRUE, "Connected")
GOOD = Outcome("AgentConfig", "in_sync", Verdict(Status.TRUE, "InSync"))
BAD = Outcome("Agent", "failed", Verdict(Status.FALSE, "CrashLoop"))
BUSY = Outcome("Agent", "changed", Verdict(Status.UNKNOWN, "Progressing"), is_progressing=True)
ODD = Outcome("Agent", "failed", Verdict(Status.UNKNOWN, "Unavailable"))


@pytest.mark.parametrize(
    ("desired", "store", "outcomes", "is_paused", "is_applied", "expected"),
    [
        (VALID, CONNECTED, [GOOD], False, True, "Ready"),
        (VALID, CONNECTED, [], False, True, "Ready"),
        (VALID, CONNECTED, [GOOD], False, False, "Progressing"),
        (VALID, CONNECTED, [GOOD, BUSY], False, True, "Progressing"),
        (VALID, CONNECTED, [GOOD, BAD], False, True, "Degraded"),
        (VALID, CONNECTED, [GOOD, ODD], False, True, "Degraded"),
        (VALID, Verdict(Status.FALSE, "Unreachable"), [GOOD], False, True, "Degraded"),
        (Verdict(Status.FALSE, "IdentityChanged"), CONNECTED, [GOOD], False, True, "Degraded"),
        (Verdict(Status.FALSE, "NoDesiredState"), CONNECTED, [BAD], False, True, "Missing"),
        (Verdict(Status.FALSE, "Invalid"), CONNECTED, [BAD], False, True, "Invalid"),
        (Verdict(Status.FALSE, "DaemonTooOld"), CONNECTED, [GOOD], False, True, "Invalid"),
        (Verdict(Status.FALSE, "Invalid"), CONNECTED, [BAD], True, True, "Paused"),
    ],
)
def test_summary_is_the_first_that_fits(
    desired: Verdict,
    store: Verdict,
    outcomes: list[Outcome],
    is_paused: bool,
    is_applied: bool,
    expected: str,
) -> None:
    found = status.summary(desired, store, outcomes, is_paused=is_paused, is_applied=is_applied)
    assert found == expected


def test_since_moves_with_status_or_reason_and_not_with_the_message() -> None:
    first = status.updated([], {"Agent": Verdict(Status.TRUE, "Running", "a")}, "t1", 7)
    second = status.updated(first, {"Agent": Verdict(Status.TRUE, "Running", "b")}, "t2", 8)
    third = status.updated(second, {"Agent": Verdict(Status.FALSE, "CrashLoop")}, "t3", 8)
    assert [c.since for c in (*first, *second, *third)] == ["t1", "t1", "t3"]
    assert second[0].message == "b"


def test_a_condition_that_is_no_longer_managed_goes_away() -> None:
    first = status.updated([], {"Agent": VALID, "Mount/a": VALID}, "t1", 7)
    assert [c.type for c in status.updated(first, {"Agent": VALID}, "t2", 8)] == ["Agent"]


def node_status(*conditions: Condition) -> NodeStatus:
    return NodeStatus(
        "i-1", "0.1", "boot", "t0", Reading(3, "sha256:a", {"desired/cluster": 2}),
        Applied(3, "sha256:a", "t1"), "Ready", conditions, {"agent-pid": 1},
    )  # fmt: skip


def test_the_document_has_the_contracts_shape() -> None:
    document = json.loads(
        status.to_json(node_status(Condition("Agent", Status.TRUE, "R", "", "t", 3)))
    )
    assert list(document) == [
        "node", "daemon", "boot-id", "started-at", "desired", "applied", "summary", "reported-at",
        "conditions", "facts",
    ]  # fmt: skip
    assert document["desired"] == {
        "revision": 3, "digest": "sha256:a", "documents": {"desired/cluster": 2},
    }  # fmt: skip
    assert document["applied"] == {"revision": 3, "digest": "sha256:a", "at": "t1"}
    assert document["conditions"] == [
        {
            "type": "Agent",
            "status": "True",
            "reason": "R",
            "message": "",
            "since": "t",
            "revision": 3,
        }
    ]


def test_a_status_never_exceeds_16_kib_and_keeps_every_condition() -> None:
    many = [Condition(f"Mount/m{n}", Status.FALSE, "Bad", "ä" * 5000, "t", 1) for n in range(40)]
    raw = status.to_json(node_status(*many))
    assert len(raw) <= 16 * 1024
    assert len(json.loads(raw)["conditions"]) == 40


@pytest.mark.parametrize("name", ["vf", "x" * 200])
@pytest.mark.parametrize("count", [90, 500])
def test_with_many_conditions_the_worst_are_shown_and_the_others_counted(
    count: int, name: str
) -> None:
    text = f"10.20.30.1:/srv/{name} at /opt/backend.ai/{name}"
    fine = [
        Condition(f"Mount/{name}{n}", Status.TRUE, "Mounted", text, "t1", 1) for n in range(count)
    ]
    unknown = Condition("Mount/dead", Status.UNKNOWN, "Stuck", "it has not answered", "t2", 1)
    bad = Condition("Agent", Status.FALSE, "CrashLoop", "the agent died", "t3", 1)
    raw = status.to_json(node_status(*fine, unknown, bad))
    assert len(raw) <= 16 * 1024
    shown = json.loads(raw)["conditions"]
    reported = {c["type"]: c["message"] for c in shown}
    assert (reported["Agent"], reported["Mount/dead"]) == ("the agent died", "it has not answered")
    if len(shown) < count + 2:
        assert len(raw) > 15 * 1024
        assert [c["type"] for c in shown[:2]] == ["Agent", "Mount/dead"]
        left_out = count + 2 - len(shown[:-1])
        assert (shown[-1]["type"], shown[-1]["status"]) == ("More", "True")
        assert shown[-1]["message"].startswith(f"{left_out} more ({left_out} True); ")


def test_what_is_left_out_is_as_bad_as_the_worst_of_it() -> None:
    absurd = [
        Condition("Mount/" + "x" * 300, Status.FALSE, "Bad", "ä" * 500, "t", 1) for _ in range(100)
    ]
    raw = status.to_json(node_status(*absurd))
    assert len(raw) <= 16 * 1024
    last = json.loads(raw)["conditions"][-1]
    assert (last["type"], last["status"], last["reason"]) == ("More", "False", "NotShown")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("AgentConfig", "agent_config"),
        ("Agent", "agent"),
        ("DesiredState", "desired_state"),
        ("Mount/vfRoot", "mount/vfRoot"),
    ],
)
def test_metric_labels_are_the_condition_types_in_snake_case(name: str, label: str) -> None:
    assert status.metric_label(name) == label


def test_facts_alone_are_no_difference() -> None:
    one = node_status()
    assert status.without_facts(one) == status.without_facts(replace(one, facts={"agent-pid": 2}))


NASTY = "/srv/\udcff\x1b]52;c;aGk=\x07\u202e\r"


def test_words_of_others_are_printable_as_soon_as_they_are_ours() -> None:
    shown = r"/srv/\xff\x1b]52;c;aGk=\x07\u202e\r"

    assert Verdict(Status.FALSE, "Broken", NASTY).message == shown
    assert str(Unavailable(NASTY)) == str(Stuck(NASTY)) == str(Refused("No", NASTY)) == shown
    assert Verdict(Status.TRUE, "InSync", "a\nb").message == "a\nb"  # last lines of an output


def test_a_status_is_written_whatever_is_in_it() -> None:
    odd = NodeStatus("i-1", "0", "b", "t", Reading(), None, "Ready", (), {"path": NASTY})

    assert json.loads(status.to_json(odd))["facts"]["path"] == NASTY
    assert status.to_json(odd).decode().isprintable()
