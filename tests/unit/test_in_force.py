from __future__ import annotations

from dataclasses import replace

from bai_nodeagent import desired
from bai_nodeagent.core.status import Reading
from bai_nodeagent.desired import Document
from bai_nodeagent.errors import Mistake
from bai_nodeagent.follow import orders
from bai_nodeagent.follow.in_force import Known, judge
from bai_nodeagent.identity import Identity
from bai_nodeagent.model import Status, Verdict
from unit.fakes import node_spec

CONNECTED = Verdict(Status.TRUE, "Connected")
LOST = Verdict(Status.FALSE, "Unreachable", "etcd://a:1: refused")


def evaluated(text: str = "api-version = 1", missing: tuple[str, ...] = ()) -> desired.Desired:
    document = Document("cluster", "desired/cluster", 3, text.encode())
    return desired.evaluate([] if missing else [document], missing, [], "0.1.0")


VALID = Known(
    Identity("i-1"), evaluated(), Reading(3, "sha256:a"), spec=node_spec(), store=CONNECTED
)


def test_a_valid_state_is_in_force() -> None:
    found = judge(VALID)
    assert (found.desired.reason, found.hold, found.spec) == ("Valid", None, VALID.spec)


def test_a_store_that_is_lost_holds_the_state_and_is_reported() -> None:
    found = judge(replace(VALID, store=LOST))
    assert (found.desired.status, found.desired.reason) == (Status.UNKNOWN, "StoreUnreachable")
    assert "the last valid state stays in force" in found.desired.message
    assert found.spec is VALID.spec
    assert found.hold is None


def test_mistakes_are_all_reported_and_change_nothing() -> None:
    mistakes = tuple(Mistake("cluster", f"k{n}", "is wrong") for n in range(25))
    found = judge(replace(VALID, mistakes=mistakes))
    assert found.desired.reason == "Invalid"
    assert "cluster: k0: is wrong; cluster: k1" in found.desired.message
    assert "and 5 more" in found.desired.message
    assert found.spec is VALID.spec


def test_a_missing_layer_names_it_and_the_way_out() -> None:
    found = judge(replace(VALID, newest=evaluated(missing=("desired/group/gpu",))))
    assert found.desired.reason == "NoDesiredState"
    assert "desired/group/gpu" in found.desired.message
    assert "`api-version = 1` alone is enough" in found.desired.message


def test_mistakes_and_missing_layers_are_reported_together() -> None:
    newest = evaluated(missing=("desired/group/gpu",))
    found = judge(replace(VALID, newest=newest, mistakes=(Mistake("cluster", "k", "is wrong"),)))
    assert found.desired.reason == "Invalid"
    for part in ("cluster: k: is wrong; desired/group/gpu: not in the store", "alone is enough"):
        assert part in found.desired.message


def test_a_document_for_a_newer_daemon_is_held_whatever_else_is_wrong_with_it() -> None:
    newest = evaluated('api-version = 1\nrequires-daemon = ">=99"\nnew-thing = 1')
    found = judge(replace(VALID, newest=newest, mistakes=newest.mistakes))
    assert found.desired.reason == "DaemonTooOld"


def test_paused_by_any_layer_that_parses() -> None:
    newest = evaluated("api-version = 1\npaused = true\nnonsense = 1")
    found = judge(replace(VALID, newest=newest, mistakes=newest.mistakes))
    assert found.is_paused
    assert found.hold is not None
    assert found.hold.reason == "Paused"
    assert found.desired.reason == "Invalid"


def test_a_paused_state_that_is_held_stays_paused() -> None:
    paused = replace(VALID.spec or node_spec(), document={"paused": True})
    held = replace(VALID, spec=paused, newest=evaluated(missing=("desired/cluster",)))
    assert judge(held).is_paused
    assert not judge(replace(held, newest=evaluated())).is_paused


def test_it_stays_so_beside_a_state_that_only_lacks_a_secret_or_a_newer_daemon() -> None:
    paused = replace(VALID.spec or node_spec(), document={"paused": True})
    without_secret = (Mistake("cluster", "agent.env.A", "there is no secret a"),)
    assert judge(replace(VALID, spec=paused, mistakes=without_secret)).is_paused
    newer = evaluated('api-version = 1\nrequires-daemon = ">=99"')
    assert judge(replace(VALID, spec=paused, newest=newer)).is_paused


def test_a_local_pause_reports_how_long_and_how_to_end_it() -> None:
    found = judge(replace(VALID, pause=orders.Pause(0.0)))
    assert found.hold is not None
    assert "until 1970-01-01 00:00:00 UTC" in found.hold.message
    assert "resume" in found.hold.message
    assert (found.desired.status, found.desired.reason) == (Status.TRUE, "Paused")


def test_a_changed_identity_stops_all_changes() -> None:
    found = judge(replace(VALID, identity=Identity("i-1", "i-2")))
    assert found.desired.reason == "IdentityChanged"
    assert found.hold == found.desired
    assert "i-2" in found.desired.message


def test_a_duplicate_stops_all_changes() -> None:
    found = judge(replace(VALID, rival="machine-id m, since t"))
    assert found.store.reason == "DuplicateNode"
    assert found.hold == found.store


def test_a_journal_that_can_not_be_written_is_reported() -> None:
    found = judge(replace(VALID, unkept="no room"))
    assert (found.desired.status, found.desired.reason) == (Status.FALSE, "NotKept")
