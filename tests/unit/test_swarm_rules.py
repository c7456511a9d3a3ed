"""What is done about the swarm: plans as tables, on values alone."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent import desired
from bai_nodeagent.kinds.swarm import kind as swarm
from bai_nodeagent.kinds.swarm.addresses import host_and_port
from bai_nodeagent.kinds.swarm.certificate import Certificate, digest_in_token
from bai_nodeagent.kinds.swarm.model import (
    Actual,
    Join,
    Leave,
    Local,
    Membership,
    Remember,
    SwarmAction,
    SwarmSpec,
)
from bai_nodeagent.kinds.swarm.record import LEADS_AT_MOST, Notes, Record
from bai_nodeagent.kinds.swarm.refusals import refusal
from bai_nodeagent.kinds.swarm.rules import noted, plan
from bai_nodeagent.model import Status, Verdict
from bai_nodeagent.system import kept
from unit.fakes import host, node_spec

HOME, OTHER = "h" * 25, "o" * 25
CA, OTHER_CA = "a" * 50, "b" * 50
TOKEN, OTHER_TOKEN = f"SWMTKN-1-{CA}-{'s' * 25}", f"SWMTKN-1-{OTHER_CA}-{'s' * 25}"
DAY_S = 86400.0
NOW_S = 1000 * DAY_S
MANAGER = "10.0.0.1:2377"

SPEC = SwarmSpec("joined", (MANAGER,), TOKEN, "worker", asked="asked")
LEFT = SwarmSpec("left", asked="left")
PIN = replace(SPEC, cluster_id=HOME)
LACKING = replace(SPEC, token="", asked="")  # going by the journal, which has no token
CERTIFICATE = Certificate(HOME, "node1", False, NOW_S - 10 * DAY_S, NOW_S + 80 * DAY_S)
AT_HOME = Record(HOME, 5.0, HOME, {CA: HOME}, "asked")
KNOWN, GONE = Membership(True, node="node1"), Membership(False, node="node1")
SILENT = Membership(None, "m: no answer", "node1")
OUT = Actual(Local("inactive"), NOW_S)
IN = Actual(
    Local("active", "node1", managers=(MANAGER,)), NOW_S, AT_HOME, CERTIFICATE, CA, 5.0, KNOWN
)
FOREIGN = replace(
    IN,
    certificate=replace(CERTIFICATE, cluster=OTHER),
    ca=OTHER_CA,
    local=replace(IN.local, managers=("10.9.9.9:2377",)),
    record=Record(OTHER, 5.0),
)
JOINING = Actual(Local("pending", managers=(MANAGER,)), NOW_S, Record(asked="asked"))
NO_TOKEN = "rpc error: code = InvalidArgument desc = A valid join token is necessary to join"
GIVEN_UP = replace(JOINING, local=Local("error", error=NO_TOKEN), answering=(MANAGER,))
NOBODY = "rpc error: code = Unavailable desc = connection error: connect: no route to host"


def local(actual: Actual, **changes: Any) -> Actual:
    return replace(actual, local=replace(actual.local, **changes))


def certified(actual: Actual, **changes: Any) -> Actual:
    assert actual.certificate is not None
    return replace(actual, certificate=replace(actual.certificate, **changes))


def reported(spec: SwarmSpec, actual: Actual) -> tuple[str, list[str]]:
    """Reason, and the steps but for notes."""
    found = plan(spec, actual)
    return found.verdict.reason, [a.verb for a in found.actions if not isinstance(a, Remember)]


REMOVED = replace(IN, membership=GONE)
NOTED = replace(AT_HOME, removed="node1", removed_asked="asked")

CASES: list[tuple[str, SwarmSpec, Actual, str, list[str]]] = [
    ("in none", SPEC, OUT, "NotJoined", ["join"]),
    ("in none, pinned", PIN, OUT, "NotJoined", ["join"]),
    ("left by hand", SPEC, replace(OUT, record=AT_HOME), "NotJoined", ["join"]),
    ("no token", replace(SPEC, token="x"), OUT, "InvalidToken", []),
    ("in line", SPEC, IN, "InSync", []),
    ("in line, pinned", PIN, IN, "InSync", []),
    ("out as desired", LEFT, OUT, "InSync", []),
    ("to leave", LEFT, IN, "Joined", ["leave"]),
    # on the way
    ("joining", SPEC, JOINING, "Progressing", []),
    ("joining by hand", SPEC, replace(JOINING, record=Record()), "Progressing", []),
    (
        "joining for an older wish",
        replace(SPEC, asked="b"),
        JOINING,
        "OtherJoin",
        ["leave", "join"],
    ),
    (
        "joining elsewhere",
        SPEC,
        local(JOINING, managers=("10.9.9.9:2377",)),
        "OtherJoin",
        ["leave", "join"],
    ),
    ("Docker restarted", SPEC, local(IN, state="pending"), "Progressing", []),
    ("a join given up", SPEC, GIVEN_UP, "InvalidToken", ["leave", "join"]),
    (
        "a join given up, for a newer wish",
        replace(SPEC, asked="b"),
        GIVEN_UP,
        "InvalidToken",
        ["leave", "join"],
    ),
    (
        "a join given up, and nobody is there yet",
        SPEC,
        replace(GIVEN_UP, local=Local("error", error=NOBODY), answering=()),
        "ManagerUnreachable",
        [],
    ),
    (
        "a join given up, nobody is there yet, for a newer wish",
        replace(SPEC, asked="b"),
        replace(GIVEN_UP, local=Local("error", error=NOBODY), answering=()),
        "ManagerUnreachable",
        ["leave", "join"],
    ),
    (
        "the same error of who was a member, whose certificate can't be read",
        SPEC,
        replace(GIVEN_UP, record=replace(AT_HOME, asked="asked")),
        "SwarmError",
        [],
    ),
    ("somebody else's join given up", SPEC, replace(GIVEN_UP, record=Record()), "SwarmError", []),
    # another swarm
    ("another", SPEC, FOREIGN, "WrongSwarm", ["leave", "join"]),
    ("another, pinned", PIN, FOREIGN, "WrongSwarm", ["leave", "join"]),
    ("another, in use", SPEC, replace(FOREIGN, users=("a", "b")), "Blocked", []),
    ("to leave, in use", LEFT, replace(IN, users=("a",)), "Blocked", []),
    ("to leave, a manager", LEFT, local(IN, is_manager=True), "Blocked", []),
    (
        "to leave, a manager that is not back yet",
        LEFT,
        certified(local(IN, state="pending"), is_manager=True),
        "Blocked",
        [],
    ),
    (
        "first met, and not the pinned one",
        replace(SPEC, cluster_id=OTHER),
        replace(IN, record=Record()),
        "WrongSwarm",
        ["leave", "join"],
    ),
    (
        "out, and the token leads to another than the pinned one",
        replace(SPEC, cluster_id=OTHER),
        replace(OUT, record=Record(leads={CA: HOME})),
        "WrongSwarm",
        [],
    ),
    ("at home, and pin and token disagree", replace(SPEC, cluster_id=OTHER), IN, "WrongSwarm", []),
    (
        "pinned elsewhere, and no token to go there",
        replace(SPEC, cluster_id=OTHER, token="x"),
        IN,
        "WrongSwarm",
        [],
    ),
    ("at home, no token", replace(SPEC, token="x"), IN, "InSync", []),
    ("authority changed, token from before", SPEC, replace(IN, ca=OTHER_CA), "InSync", []),
    ("authority changed, new token first", replace(SPEC, token=OTHER_TOKEN), IN, "InSync", []),
    (
        "another token, and other managers",
        replace(SPEC, token=OTHER_TOKEN, remote_addrs=("10.9.9.9",)),
        IN,
        "WrongSwarm",
        ["leave", "join"],
    ),
    # removed
    ("removed, first seen", SPEC, REMOVED, "RemovedByManager", []),
    ("removed", SPEC, replace(REMOVED, record=NOTED), "RemovedByManager", []),
    (
        "removed, manager silent",
        SPEC,
        replace(REMOVED, record=NOTED, membership=SILENT),
        "RemovedByManager",
        [],
    ),
    (
        "removed, Docker restarted",
        SPEC,
        local(replace(REMOVED, record=NOTED), state="pending"),
        "RemovedByManager",
        [],
    ),
    ("removed, then left by hand", SPEC, replace(OUT, record=NOTED), "RemovedByManager", []),
    (
        "removed, and left by hand before anybody looked",
        SPEC,
        replace(OUT, record=AT_HOME, membership=GONE),
        "RemovedByManager",
        [],
    ),
    (
        "left by hand, and asked: still known",
        SPEC,
        replace(OUT, record=AT_HOME, membership=KNOWN),
        "NotJoined",
        ["join"],
    ),
    (
        "left by hand, and nobody answers",
        SPEC,
        replace(OUT, record=AT_HOME, membership=SILENT),
        "NotJoined",
        ["join"],
    ),
    (
        "removed, and asked for again",
        replace(SPEC, asked="new"),
        replace(REMOVED, record=NOTED),
        "RemovedByManager",
        ["leave", "join"],
    ),
    (
        "removed, out, and asked for again",
        replace(SPEC, asked="new"),
        replace(OUT, record=NOTED),
        "NotJoined",
        ["join"],
    ),
    ("removed, then to leave", LEFT, replace(REMOVED, record=NOTED), "Joined", ["leave"]),
    # faults
    ("cable pulled", SPEC, replace(IN, membership=SILENT), "ManagerUnreachable", []),
    ("error", SPEC, local(IN, state="error", error="why"), "SwarmError", []),
    ("locked", SPEC, local(IN, state="locked"), "Locked", []),
    ("drained", SPEC, local(IN, is_manager=True, availability="drain"), "Drained", []),
    ("paused", SPEC, local(IN, is_manager=True, availability="pause"), "Drained", []),
    (
        "expired",
        SPEC,
        certified(local(IN, state="error"), expires_s=NOW_S),
        "CertificateExpired",
        ["leave", "join"],
    ),
    (
        "expired, manager silent",
        SPEC,
        certified(replace(IN, membership=SILENT), expires_s=NOW_S),
        "CertificateExpired",
        [],
    ),
    (
        "expiring",
        SPEC,
        certified(IN, starts_s=NOW_S - 77 * DAY_S, expires_s=NOW_S + 13 * DAY_S),
        "CertificateExpiring",
        [],
    ),
    (
        "short-lived and fresh",
        SPEC,
        certified(IN, starts_s=NOW_S - DAY_S, expires_s=NOW_S + DAY_S),
        "InSync",
        [],
    ),
    (
        "short-lived and late",
        SPEC,
        certified(IN, starts_s=NOW_S - 9 * DAY_S, expires_s=NOW_S + DAY_S),
        "CertificateExpiring",
        [],
    ),
    # without the token
    ("lacking, out", LACKING, replace(OUT, record=AT_HOME), "WaitingForStore", []),
    ("lacking, at home", LACKING, IN, "InSync", []),
    ("lacking, first met", LACKING, replace(IN, record=Record()), "InSync", []),
    (
        "lacking, at home, and other managers",
        LACKING,
        local(IN, managers=("10.9.9.9:2377",)),
        "InSync",
        [],
    ),
    ("lacking, elsewhere", LACKING, FOREIGN, "WaitingForStore", []),
    (
        "lacking, pinned elsewhere",
        replace(LACKING, cluster_id=OTHER),
        IN,
        "WaitingForStore",
        [],
    ),
    (
        "lacking, elsewhere, in use",
        LACKING,
        replace(FOREIGN, users=("a",)),
        "WaitingForStore",
        [],
    ),
    ("lacking, a join given up", LACKING, GIVEN_UP, "WaitingForStore", []),
    (
        "lacking, removed and left by hand before anybody looked",
        LACKING,
        replace(OUT, record=AT_HOME, membership=GONE),
        "RemovedByManager",
        [],
    ),
    ("lacking, joining", LACKING, JOINING, "Progressing", []),
    (
        "lacking, joining elsewhere",
        LACKING,
        local(JOINING, managers=("10.9.9.9:2377",)),
        "WaitingForStore",
        [],
    ),
    (
        "lacking, expired",
        LACKING,
        certified(local(IN, state="error"), expires_s=NOW_S),
        "WaitingForStore",
        [],
    ),
    ("lacking, removed, first seen", LACKING, REMOVED, "RemovedByManager", []),
    ("lacking, removed", LACKING, replace(REMOVED, record=NOTED), "RemovedByManager", []),
    (
        "lacking, removed, then left by hand",
        LACKING,
        replace(OUT, record=NOTED),
        "RemovedByManager",
        [],
    ),
    # without a look at Docker's files
    ("no files to read", SPEC, replace(IN, certificate=None, ca="", membership=None), "InSync", []),
]


@pytest.mark.parametrize(
    ("spec", "actual", "reason", "steps"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_plan(spec: SwarmSpec, actual: Actual, reason: str, steps: list[str]) -> None:
    assert reported(spec, actual) == (reason, steps)


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_after_its_notes_a_plan_is_the_same_and_makes_no_more(
    case: tuple[str, SwarmSpec, Actual, str, list[str]],
) -> None:
    _, spec, actual, reason, steps = case
    kept = replace(actual, record=noted(spec, actual))
    assert reported(spec, kept) == (reason, steps)
    assert not any(isinstance(a, Remember) for a in plan(spec, kept).actions)


def after(actual: Actual, action: SwarmAction, spec: SwarmSpec) -> Actual:
    """The node after an action; whoever did it has forgotten all that is not on disk."""
    match action:
        case Remember(record):
            return replace(actual, record=record)
        case Leave():
            return replace(OUT, record=actual.record)
        case Join():
            ca = digest_in_token(spec.token) or ""
            joined = certified(IN, cluster={CA: HOME, OTHER_CA: OTHER}[ca], node="node2")
            return replace(joined, ca=ca, record=replace(actual.record, asked=spec.asked))


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_every_plan_comes_to_an_end_whenever_it_is_interrupted(
    case: tuple[str, SwarmSpec, Actual, str, list[str]],
) -> None:
    name, spec, actual, reason, steps = case
    for _ in range(10):
        found = plan(spec, actual)
        if not found.actions:
            break
        actual = after(actual, found.actions[0], spec)
    else:
        pytest.fail(f"{found.actions} again and again")
    is_refused = name == "first met, and not the pinned one"
    assert found.verdict.reason == ("InSync" if steps and not is_refused else reason)


def test_a_manager_that_answers_is_tried_first_and_the_others_in_their_order() -> None:
    three = replace(SPEC, remote_addrs=("a:1", "b:1", "c:1"))
    for answering, order in (((), "abc"), (("b:1",), "bac"), (("b:1", "c:1"), "bca")):
        join = plan(three, replace(OUT, answering=answering)).actions[-1]
        assert join == Join(tuple(f"{host}:1" for host in order))


def test_only_what_is_under_way_is_unknown() -> None:
    for _, spec, actual, reason, _steps in CASES:
        found = plan(spec, actual).verdict
        is_under_way = reason == "Progressing"
        assert (found.status is Status.UNKNOWN) is is_under_way
        is_in_line = reason in ("InSync", "CertificateExpiring")
        assert (found.status is Status.TRUE) is is_in_line


def test_no_message_shows_a_token() -> None:
    for _, spec, actual, *_ in CASES:
        found = plan(spec, actual)
        assert "SWMTKN-1-a" not in f"{found} {spec}"


@pytest.mark.parametrize(
    ("advertised", "known", "is_other"),
    [
        ("10.0.0.7", "10.0.0.5", True),
        ("10.0.0.7", "10.0.0.7", False),
        ("fd00::1", "fd00:0::1", False),
        ("eth1", "10.0.0.5", False),
        ("", "10.0.0.5", False),
        ("10.0.0.7", "", False),
    ],
)
def test_an_address_that_the_swarm_does_not_know_yet_is_reported(
    advertised: str, known: str, is_other: bool
) -> None:
    found = plan(replace(SPEC, advertise_addr=advertised), local(IN, address=known))
    assert (found.verdict.reason, found.actions) == ("InSync", ())
    assert ("differs from advertise-addr" in found.verdict.message) is is_other


def test_blocked_names_the_users_and_what_to_do() -> None:
    many = tuple(f"kernel{n:02}" for n in range(12))
    message = plan(SPEC, replace(FOREIGN, users=many)).verdict.message
    assert "kernel09 and 2 more" in message
    assert "kernel10" not in message
    assert "docker node demote node1" in plan(LEFT, local(IN, is_manager=True)).verdict.message


def test_an_address_that_is_not_known_holds_every_step() -> None:
    doubt = Verdict(Status.FALSE, "NoAddress", "why")
    assert reported(replace(SPEC, doubt=doubt), OUT) == ("NoAddress", [])
    assert reported(replace(SPEC, doubt=doubt), IN) == ("InSync", [])


def test_a_node_that_waits_for_the_token_reports_what_it_needs() -> None:
    message = plan(LACKING, OUT).verdict.message
    assert "in no swarm" in message
    assert "from the store" in message
    assert "secret worker" in message
    assert "authority" not in plan(LACKING, IN).verdict.message


def test_facts_report_swarm_node_and_expiry() -> None:
    assert plan(SPEC, IN).facts == {
        "swarm-cluster": HOME,
        "swarm-node": "node1",
        "swarm-certificate-expires": "1972-12-16T00:00:00Z",
    }
    assert plan(SPEC, OUT).facts == {}


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.0.0.1:2377", ("10.0.0.1", 2377)),
        ("10.0.0.1:99", ("10.0.0.1", 99)),
        ("manager.example", ("manager.example", 2377)),
        ("[fd00::1]", ("fd00::1", 2377)),
        ("[fd00::1]:99", ("fd00::1", 99)),
    ],
)
def test_an_address_has_docker_s_own_port_unless_it_names_another(
    address: str, found: tuple[str, int]
) -> None:
    assert host_and_port(address) == found


# -- what is remembered


def test_the_first_success_teaches_the_swarm() -> None:
    assert noted(SPEC, replace(IN, record=Record(asked="asked"))) == AT_HOME


def test_a_swarm_that_is_not_the_pinned_one_is_not_trusted() -> None:
    record = noted(replace(SPEC, cluster_id=OTHER), replace(IN, record=Record()))
    assert (record.trusted, record.member, record.leads) == ("", HOME, {CA: HOME})
    assert record.home == ""


def test_a_join_ends_with_the_observation_that_shows_it() -> None:
    record = noted(SPEC, replace(OUT, record=AT_HOME))
    assert (record.member, record.since_s, record.trusted) == ("", 0.0, HOME)
    assert (record.home, AT_HOME.home) == ("", HOME)


def test_a_removal_is_forgotten_when_a_manager_knows_the_node_again() -> None:
    assert noted(SPEC, replace(IN, record=NOTED)).removed == ""
    assert noted(LEFT, replace(OUT, record=NOTED)).removed == ""
    again = certified(replace(IN, record=NOTED), node="node2")
    assert noted(SPEC, again).removed == ""


def test_while_the_token_is_not_known_nothing_is_forgotten() -> None:
    assert noted(LACKING, IN) == AT_HOME
    assert noted(LACKING, replace(IN, record=NOTED, membership=SILENT)) == NOTED
    assert noted(LACKING, replace(OUT, record=NOTED)).removed == "node1"
    stranger = replace(FOREIGN, local=IN.local, record=replace(FOREIGN.record, trusted=HOME))
    assert noted(LACKING, stranger).trusted == HOME


def test_a_removal_observed_without_the_token_counts_for_the_first_one_known() -> None:
    record = noted(LACKING, REMOVED)
    assert (record.removed, record.removed_asked) == ("node1", "")
    left = replace(OUT, record=record)
    assert reported(SPEC, left) == ("RemovedByManager", [])
    left = replace(OUT, record=noted(SPEC, left))
    assert left.record.removed_asked == "asked"
    assert reported(replace(SPEC, asked="new"), left) == ("NotJoined", ["join"])


def test_tokens_that_are_long_gone_are_forgotten() -> None:
    record = Record()
    for number in range(LEADS_AT_MOST + 3):
        record = replace(record, leads=record.leading(f"t{number}", HOME))
    assert list(record.leads)[0::15] == ["t3", "t18"]


def test_the_record_comes_back_as_it_was_and_garbage_is_none(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    assert notes.read() == Record()
    notes.update(lambda _: NOTED)
    assert notes.read() == NOTED
    kept.flush(10)
    assert notes.read() == NOTED
    assert notes.path.stat().st_mode & 0o777 == 0o600
    for garbage in ("", "{", "[]", '{"format": 2}', '{"format": 1, "x": 1}'):
        notes.path.write_text(garbage)
        assert notes.read() == Record()


# -- what Docker says to a join (20.10)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "rpc error: code = InvalidArgument desc = A valid join token is necessary to join "
            "this cluster",
            "InvalidToken",
        ),
        ("remote CA does not match fingerprint. Expected: dbdcfef3", "InvalidToken"),
        ("invalid join token", "InvalidToken"),
        (
            "rpc error: code = Unavailable desc = connection error: desc = "
            '"transport: Error while dialing dial tcp 10.77.0.3:2377: connect: refused"',
            "ManagerUnreachable",
        ),
        ("could not find local IP address: dial udp: lookup nosuch.invalid", "JoinRefused"),
        (
            "Timeout was reached before node joined. The attempt to join the swarm will continue "
            "in the background.",
            None,
        ),
        ('This node is already part of a swarm. Use "docker swarm leave"', None),
    ],
)
def test_refusals_get_a_reason_of_their_own(text: str, reason: str | None) -> None:
    found = refusal(SPEC, text)
    assert (found and found[0]) == reason
    assert found is None or (text in found[1] and MANAGER in found[1])


# -- the section


SECTION = f"""
api-version = 1
[swarm]
state = "joined"
remote-addrs = ["10.0.0.1:2377", "[fd00::1]:2377", "manager.example"]
token = "worker"
cluster-id = "{HOME}"
advertise-addr = "eth1"
data-path-addr = "10.0.0.2"
listen-addr = "0.0.0.0:2377"
"""


def mistakes(text: str) -> list[str]:
    found = desired.check_alone("x", text.encode(), (swarm.KIND,), "0.1.0")
    return [str(mistake) for mistake in found]


def test_the_section_takes_all_its_keys() -> None:
    assert mistakes(SECTION) == []
    assert mistakes('api-version = 1\n[swarm]\nstate = "left"') == []


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('"joined"', '"manager"', "swarm.state: is not supported yet"),
        ('"worker"', f'"{TOKEN}"', "swarm.token"),
        ('"worker"', '{ secret = "worker" }', "swarm.token"),
        (f'"{HOME}"', '"x"', "swarm.cluster-id"),
        ('"manager.example"', '"http://x"', "swarm.remote-addrs[2]"),
        ("advertise-addr", "advertise-adr", "did you mean"),
    ],
)
def test_mistakes_are_reported_and_quote_no_token(old: str, new: str, part: str) -> None:
    found = mistakes(SECTION.replace(old, new))
    assert part in "\n".join(found)
    assert TOKEN not in "\n".join(found)


def test_equal_documents_and_tokens_ask_for_the_same_and_others_do_not() -> None:
    hashing = replace(host(), digest=lambda value: sha256(repr(value).encode()).hexdigest())

    def asked(token: str, **section: object) -> object:
        whole = {"state": "joined", "remote-addrs": [MANAGER], "token": "worker", **section}
        node = replace(node_spec(), document={"swarm": whole}, secrets={"worker": token})
        (resource,) = swarm.KIND.resources(node, hashing)
        assert TOKEN not in repr(resource.spec)
        assert isinstance(resource.spec, SwarmSpec)
        return resource.spec.asked

    assert asked(TOKEN) == asked(TOKEN)
    assert len({asked(TOKEN), asked(OTHER_TOKEN), asked(TOKEN, **{"advertise-addr": "x"})}) == 3


def test_a_state_from_the_journal_is_known_by_its_missing_token() -> None:
    def spec(**section: object) -> SwarmSpec:
        node = replace(node_spec(), document={"swarm": section})
        (resource,) = swarm.KIND.resources(node, host())
        assert isinstance(resource.spec, SwarmSpec)
        return resource.spec

    joined = spec(state="joined", token="worker", **{"remote-addrs": [MANAGER]})
    assert (joined.lacks_token, joined.asked, joined.token_name) == (True, "", "worker")
    left = spec(state="left", token="worker")
    assert (left.lacks_token, left.asked != "") == (False, True)
