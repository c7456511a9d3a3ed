from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bai_nodeagent.errors import Refused
from bai_nodeagent.kinds.agent.config.kind import KIND, AgentConfig
from bai_nodeagent.kinds.agent.config.rules import KeepBroken, Remember, SetAccess, Write, plan
from bai_nodeagent.kinds.agent.config.state import Actual, AgentConfigSpec
from bai_nodeagent.machine import Account, File, Owner
from bai_nodeagent.model import UNSET, Host, KeyPath, NodeSpec, Status, Verdict

PATH = Path("/etc/backend.ai/agent.toml")
TARGET = Path("/srv/agent.toml")
LINE = '[agent]\nid = "i-1" # mine\n'
BROKEN = File(b"[agent\n", 0o600, (7, 8))


def spec(values: Mapping[KeyPath, Any] | None = None, **other: Any) -> AgentConfigSpec:
    fields: dict[str, Any] = {"owner": None, "mode": None, **other}
    return AgentConfigSpec(path=PATH, values=values or {("agent", "id"): "i-1"}, **fields)


def a_file(text: str, mode: int = 0o644) -> File:
    return File(text.encode(), mode, (7, 8))


def actual(file: File | None, last: File | None = None, **other: Any) -> Actual:
    return Actual(TARGET, "20260102T030405Z", file, last, **other)


def test_what_is_in_line_and_remembered_needs_nothing() -> None:
    got = plan(spec(), actual(a_file(LINE), a_file(LINE)))
    assert got.actions == ()
    assert got.verdict == Verdict(Status.TRUE, "InSync", f"1 values in line in {PATH}")


def test_what_is_in_line_is_remembered() -> None:
    file = a_file(LINE)
    got = plan(spec(), actual(file, a_file("# older\n" + LINE)))
    assert got.actions == (Remember(TARGET, file),)
    assert got.verdict.status is Status.TRUE


def test_a_changed_owner_is_remembered_by_root_alone() -> None:
    earlier = replace(a_file(LINE), owner=(1, 1))
    assert plan(spec(), actual(a_file(LINE), earlier)).actions
    assert not plan(spec(), actual(a_file(LINE), earlier, is_root=False)).actions


def test_drift_is_written_over_what_was_observed() -> None:
    spoiled = a_file(LINE.replace("i-1", "i-2"))
    got = plan(spec(), actual(spoiled, a_file(LINE)))
    (write,) = got.actions
    assert isinstance(write, Write)
    assert (write.target, write.data, write.expected) == (TARGET, LINE.encode(), spoiled.raw)
    assert (write.mode, write.owner) == (0o644, (7, 8))
    assert '-id = "i-2" # mine' in write.diff
    assert got.verdict == Verdict(Status.FALSE, "Drift", f"not as desired in {PATH}: agent.id")


def test_every_drift_is_named() -> None:
    values = {("agent", "id"): "i-1", ("agent", "x"): 1, ("a",): UNSET}
    got = plan(spec(values), actual(a_file("a = 1\n")))
    assert got.verdict.message.endswith(": a, agent.id, agent.x")


@pytest.mark.parametrize("file", [None, a_file(""), a_file(" \n"), BROKEN])
def test_the_last_good_content_comes_back_with_new_values(file: File | None) -> None:
    got = plan(spec({("agent", "id"): "i-9"}), actual(file, a_file(LINE)))
    write = got.actions[-1]
    assert isinstance(write, Write)
    assert write.data == LINE.replace("i-1", "i-9").encode()
    assert got.verdict.reason == ("Missing" if file is None else "Broken")
    assert "last good content" in got.verdict.message


@pytest.mark.parametrize("last", [None, BROKEN, a_file("")])
def test_without_a_last_good_content_the_values_alone_make_the_file(last: File | None) -> None:
    (write,) = plan(spec(), actual(None, last)).actions
    assert isinstance(write, Write)
    assert (write.data, write.expected, write.mode) == (b'[agent]\nid = "i-1"\n', None, 0o640)
    assert write.owner == (last.owner if last else None)


def test_broken_content_is_kept_before_it_is_replaced() -> None:
    got = plan(spec(), actual(BROKEN, a_file(LINE)))
    copy = Path("/srv/agent.toml.broken-20260102T030405Z")
    assert got.actions[0] == KeepBroken(TARGET, copy, BROKEN)
    assert isinstance(got.actions[1], Write)


def test_what_is_kept_already_is_not_kept_again() -> None:
    (write,) = plan(spec(), actual(BROKEN, a_file(LINE), is_kept=True)).actions
    assert isinstance(write, Write)


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"[agent\n", "at line 1, column 7"),
        (b"# ok\n# f\xfcr\n", "0xfc is no UTF-8 (at line 2, column 4)"),
        (b'\xef\xbb\xbf[agent]\nid = "i-1"\n', "byte order mark (at line 1, column 1)"),
        (b"[container.<name>]\n", "at line 1, column 12"),
    ],
)
@pytest.mark.parametrize("last", [None, BROKEN, a_file("")])
def test_a_broken_file_of_unknown_content_is_left_alone(
    raw: bytes, where: str, last: File | None
) -> None:
    got = plan(spec(), actual(replace(BROKEN, raw=raw), last))
    assert got.actions == ()
    assert (got.verdict.status, got.verdict.reason) == (Status.FALSE, "Broken")
    assert where in got.verdict.message
    assert got.satisfies_dependents is None


def test_ten_copies_are_kept_the_first_and_the_newest() -> None:
    names = tuple(f"agent.toml.broken-20250102T0304{i:02}Z" for i in range(10))
    keep = plan(spec(), actual(BROKEN, a_file(LINE), copies=names)).actions[0]
    assert isinstance(keep, KeepBroken)
    assert keep.dropped == (names[5],)
    fewer = plan(spec(), actual(BROKEN, a_file(LINE), copies=names[:9])).actions[0]
    assert isinstance(fewer, KeepBroken)
    assert fewer.dropped == ()


def test_set_aside_files_are_named_until_they_are_gone() -> None:
    names = tuple(f"agent.toml.broken-20250102T0304{i:02}Z" for i in range(5))
    message = plan(spec(), actual(a_file(LINE), a_file(LINE), copies=names)).verdict.message
    assert f"{names[4]}, {names[3]}, {names[2]} and 2 more" in message


def test_a_file_that_no_other_can_take_the_place_of_is_left_and_reported() -> None:
    spoiled = a_file(LINE.replace("i-1", "i-2"))
    for found, reason in (
        (replace(spoiled, is_mount=True), "MountedFile"),
        (replace(spoiled, names=2), "HardLink"),
    ):
        got = plan(spec(), actual(found, a_file(LINE)))
        assert (got.actions, got.verdict.reason) == ((), reason)
    for found in (replace(a_file(LINE), is_mount=True), replace(a_file(LINE), names=2)):
        assert plan(spec(), actual(found, a_file(LINE))).verdict.status is Status.TRUE


BAI = Account("bai", 1100, 1101, (1101, 1102), "/")


@pytest.mark.parametrize(
    ("owner", "mode", "wanted"),
    [
        ((0, 0), 0o640, (0, 1101)),
        ((7, 8), 0o640, (7, 1101)),
        ((0, 1102), 0o640, (0, 1102)),
        ((1100, 0), 0o640, (1100, 0)),
        ((0, 0), 0o644, (0, 0)),
    ],
)
def test_the_group_is_that_of_the_agents_user_where_it_could_not_read(
    owner: Owner, mode: int, wanted: Owner
) -> None:
    file = replace(a_file(LINE, mode), owner=owner)
    got = plan(spec(), actual(file, file, user=BAI))
    assert got.actions == (() if owner == wanted else (SetAccess(TARGET, mode, wanted),))


def test_a_new_file_is_readable_for_the_agents_user() -> None:
    (write,) = plan(spec(), actual(None, user=BAI)).actions
    assert isinstance(write, Write)
    assert (write.owner, write.mode) == ((0, 1101), 0o640)


@pytest.mark.parametrize("by", [{"is_root": False}, {"owner": (0, 0)}])
def test_a_file_that_the_agent_cannot_read_is_reported(by: dict[str, Any]) -> None:
    file = replace(a_file(LINE, 0o640), owner=(0, 0))
    got = plan(spec(), actual(file, file, user=BAI, **by))
    assert (got.verdict.status, got.verdict.reason) == (Status.FALSE, "Unreadable")
    assert "bai" in got.verdict.message
    assert "0640" in got.verdict.message
    acl = replace(file, has_acl=True)
    assert plan(spec(), actual(acl, acl, user=BAI, **by)).verdict.status is Status.TRUE


def test_blank_content_is_not_worth_a_copy() -> None:
    (write,) = plan(spec(), actual(a_file(" \r\n"))).actions
    assert isinstance(write, Write)


def test_an_empty_file_of_which_nothing_is_asked_is_left_alone() -> None:
    assert plan(spec({("a",): UNSET}), actual(a_file(""), a_file(""))).actions == ()


@pytest.mark.parametrize(
    ("text", "asked", "found", "wanted"),
    [
        ("", None, 0o644, 0o644),
        ("", 0o600, 0o644, 0o600),
        ("", 0o644, 0o640, 0o644),
        ('token = "x"\n', None, 0o644, 0o640),
        ('token = "x"\n', 0o664, 0o664, 0o660),
        ('token = ""\n', None, 0o644, 0o644),
    ],
)
def test_modes(text: str, asked: int | None, found: int, wanted: int) -> None:
    file = a_file(text + LINE, found)
    got = plan(spec(mode=asked), actual(file, file))
    if found == wanted:
        assert got.actions == ()
    else:
        assert got.actions == (SetAccess(TARGET, wanted, (7, 8)),)
        assert got.verdict.reason == "Access"


def test_a_managed_secret_is_never_written_for_others_to_read() -> None:
    values: dict[KeyPath, str] = {("agent", "motd"): "hunter2"}
    asked = spec(values, secret_paths=frozenset(values), mode=0o644)
    (write,) = plan(asked, actual(a_file("", 0o644))).actions
    assert isinstance(write, Write)
    assert write.mode == 0o640
    assert "hunter2" not in repr(write) + write.summary + write.diff


def test_the_owner_is_set_with_the_content_or_alone() -> None:
    asked = spec(owner="bai:bai")
    file = a_file(LINE)
    assert plan(asked, actual(file, file, owner=(5, 6))).actions == (
        SetAccess(TARGET, 0o644, (5, 6)),
    )
    (write,) = plan(asked, actual(None, owner=(5, 6))).actions
    assert isinstance(write, Write)
    assert write.owner == (5, 6)


def test_diffs_are_redacted() -> None:
    (write,) = plan(spec(), actual(None), lambda text: text.replace("i-1", "***")).actions
    assert '+id = "***"' in write.diff


def test_a_doubt_about_the_address_shows_once_the_rest_is_in_line() -> None:
    doubt = Verdict(Status.FALSE, "NoAddress", "no route to 10.0.0.1")
    file = a_file(LINE)
    assert plan(spec(address=doubt), actual(file, file)).verdict == doubt
    assert plan(spec(address=doubt), actual(None)).verdict.reason == "Missing"


def test_a_layout_that_allows_no_edit_is_refused() -> None:
    with pytest.raises(Refused, match=r"agent\.id"):
        plan(spec({("agent", "id"): 1, ("agent", "id", "x"): 2}), actual(a_file("")))


def test_a_file_of_which_nothing_is_asked_need_not_be_there() -> None:
    got = plan(spec({("a",): UNSET}, mode=0o600), actual(None))
    assert (got.actions, got.verdict.status) == ((), Status.TRUE)


# --- from the desired state -------------------------------------------------


def resources(tmp_path: Path, **fields: Any) -> list[Any]:
    host = Host(tmp_path, tmp_path, repr, str)
    documents: dict[str, int] = {}
    node = NodeSpec("i-1", "local", 1, "sha256:", documents, **{"document": {}, **fields})
    return KIND.resources(node, host)


def test_an_unmanaged_file_has_no_resource(tmp_path: Path) -> None:
    assert resources(tmp_path) == []


def test_derived_values_alone_make_a_resource(tmp_path: Path) -> None:
    (resource,) = resources(tmp_path, agent_values={("etcd", "addr", "host"): "10.0.0.1"})
    assert isinstance(resource, AgentConfig)
    assert (resource.name, resource.spec.owner, resource.spec.mode) == ("AgentConfig", None, None)


def test_the_section_sets_owner_and_mode(tmp_path: Path) -> None:
    section = {"owner": "bai", "mode": "0600"}
    (resource,) = resources(tmp_path, document={"agent-config": section}, agent_values={})
    assert (resource.spec.owner, resource.spec.mode) == ("bai", 0o600)


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), ("1", 1), ([1], [True])])
def test_specs_differ_by_the_type_of_a_value(tmp_path: Path, one: object, other: object) -> None:
    (first,) = resources(tmp_path, agent_values={("a",): one})
    (second,) = resources(tmp_path, agent_values={("a",): other})
    (same,) = resources(tmp_path, agent_values={("a",): one})
    assert first.spec != second.spec
    assert first.spec == same.spec


def test_a_spec_never_shows_its_values(tmp_path: Path) -> None:
    (resource,) = resources(tmp_path, agent_values={("a",): "hunter2"})
    assert "hunter2" not in repr(resource.spec)


@pytest.mark.parametrize(
    ("section", "is_right"),
    [
        ({}, True),
        ({"owner": "bai:bai", "values": {"agent": {"id": "x"}}}, True),
        ({"owner": "1100:1100"}, True),
        ({"owner": "bai:"}, False),
        ({"owner": "-bai"}, False),
        ({"values": []}, False),
        ({"valus": {}}, False),
    ],
)
def test_the_schema(section: object, is_right: bool) -> None:
    anything: dict[str, Any] = {"path": {}, "mode": {}}
    assert Draft202012Validator({**KIND.schema, "$defs": anything}).is_valid(section) is is_right


# --- whose agent it is -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing", "last", "derived", "is_held"),
    [
        ('id = "i-old"', None, "i-host", True),
        ('id = "i-old"', 'id = "i-old"', "i-host", True),
        ('id = "i-old"', 'id = "i-host"', "i-host", False),  # drift, and put right
        ('id = "i-old"', None, "", False),  # somebody has said node-id
        ('id = "i-old"', None, "i-another", False),  # a document says the id
        ('id = "i-host"', None, "i-host", False),
        ('id = ""', None, "i-host", False),
        ('region = "x"', None, "i-host", False),
    ],
)
def test_an_id_in_the_file_does_not_give_way_to_a_derived_one(
    existing: str, last: str | None, derived: str, is_held: bool
) -> None:
    files = [
        None if text is None else File(f"[agent]\n{text}\n".encode(), 0o640, (0, 0))
        for text in (existing, last)
    ]
    spec = AgentConfigSpec(TARGET, None, None, {("agent", "id"): "i-host"}, derived_id=derived)
    found = plan(spec, Actual(TARGET, "20260102T030405Z", files[0], files[1]))
    assert (found.verdict.reason == "IdentityChanged") is is_held
    if is_held:
        assert not found.actions
        assert "i-old" in found.verdict.message
        assert "i-host" in found.verdict.message
