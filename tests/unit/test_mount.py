"""What is to be done about a mount, by tables and values."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from bai_nodeagent import desired
from bai_nodeagent.errors import InvalidSpec, Mistake, Refused, Unavailable
from bai_nodeagent.kinds.mount import kind, mounts, users
from bai_nodeagent.kinds.mount.mountinfo import Table, parse
from bai_nodeagent.kinds.mount.observation import (
    MountSpec,
    MountState,
    entries_near,
    note,
    state_of,
)
from bai_nodeagent.kinds.mount.rules import (
    PROBE_EVERY_S,
    TROUBLE_S,
    Actual,
    Folder,
    Health,
    Mount,
    MountPlan,
    Unmount,
    User,
    is_to_go,
    named,
    plan,
)
from bai_nodeagent.model import NodeSpec, Status
from unit.fakes import host

SPEC = MountSpec("vfroot", "10.0.0.1:/vfroot", "/vf", "nfs4", ("hard", "timeo=50"))
ROOT = "1 0 8:1 / / rw - ext4 /dev/sda rw"
RIGHT = "2 1 0:9 / /vf rw,relatime - nfs4 10.0.0.1:/vfroot rw,vers=4.2,hard,timeo=50"
OTHER = RIGHT.replace(":/vfroot", ":/other")
SOFT = RIGHT.replace("hard", "soft")
HEALTHY = Health(uid=1100, gid=1100, write_fault="")
SLEEP = User("sleep", "open file", 7)


def table(*lines: str) -> Table:
    return parse("\n".join((ROOT, *lines)))


def observed(*lines: str, spec: MountSpec = SPEC, made: dict[str, Any] | None = None) -> MountState:
    return state_of(spec, spec.target, table(*lines), made)


def planned(*lines: str, spec: MountSpec = SPEC, **more: Any) -> MountPlan:
    return plan(spec, Actual(observed(*lines, spec=spec), **more))


def verbs(got: MountPlan) -> list[str]:
    return [action.verb for action in got.actions]


# -- by the table alone


@pytest.mark.parametrize(
    ("lines", "has_mount", "is_share", "differs"),
    [
        ((), False, False, ()),
        ((RIGHT,), True, True, ()),
        ((OTHER,), True, False, ()),
        ((SOFT,), True, True, ("hard",)),
        ((RIGHT.replace("rw,relatime", "ro,relatime"),), True, True, ("rw",)),
        ((RIGHT.replace("nfs4", "nfs"),), True, False, ()),
        ((RIGHT.replace("/vfroot", "/vfroot/"),), True, True, ()),
        ((OTHER, RIGHT.replace("2 1 ", "3 2 ")), True, True, ()),
        ((RIGHT.replace("/vf ", "/vf2 "),), False, False, ()),
    ],
)
def test_how_a_target_is_observed(
    lines: tuple[str, ...], has_mount: bool, is_share: bool, differs: tuple[str, ...]
) -> None:
    got = observed(*lines)
    assert (got.mount is not None, got.is_share, got.differs) == (has_mount, is_share, differs)
    assert got.cover is None


@pytest.mark.parametrize(
    ("over", "by"),
    [
        ("3 2 0:10 / /vf rw - tmpfs over rw", "over"),
        ("3 1 0:10 / / rw - tmpfs above rw", "above"),
        ("3 2 0:10 / /vf rw - nfs4 10.0.0.1:/other rw", "10.0.0.1:/other"),
    ],
)
def test_a_mount_over_the_right_one_covers_it(over: str, by: str) -> None:
    got = observed(RIGHT, over)
    assert got.cover is not None
    assert got.cover.source == by
    covered = planned(RIGHT, over)
    assert (covered.verdict.reason, covered.actions) == ("Covered", ())
    assert by in covered.verdict.message


def test_an_automounter_is_not_fought() -> None:
    got = planned("2 1 0:9 / /vf rw - autofs /etc/auto.vf rw,indirect")
    assert (got.verdict.reason, got.actions) == ("Covered", ())
    assert "autofs" in got.verdict.message
    assert observed("2 1 0:8 / /vf rw - autofs a rw", RIGHT.replace("2 1 ", "3 2 ")).is_right


def test_what_we_made_ourselves_is_right_whatever_the_kernel_made_of_it() -> None:
    spec = replace(SPEC, options=("rsize=4194304",))
    shown = RIGHT.replace("hard", "rsize=1048576")
    made = note(spec, parse(shown)[0])
    assert observed(shown, spec=spec).differs == ("rsize=4194304",)
    assert observed(shown, spec=spec, made=made).is_right
    remounted = shown.replace("rw,relatime", "ro,relatime")
    assert not observed(remounted, spec=spec, made=made).is_right
    other = replace(spec, options=("rsize=4194304", "ro"))
    assert not observed(shown, spec=other, made=made).is_right


@pytest.mark.parametrize(
    ("taken_out", "shown", "extra"),
    [
        ("timeo=50", RIGHT, ("timeo=50",)),
        ("nfsvers=4.2", RIGHT, ("nfsvers=4.2",)),
        ("nosuid", RIGHT.replace("rw,relatime", "rw,nosuid,relatime"), ("nosuid",)),
        ("timeo=50", RIGHT.replace("timeo=50", "timeo=60"), ()),  # changed by a hand since
        ("hard", RIGHT, ()),  # as it would be anyway
        ("suid", RIGHT, ()),
        ("acregmin=3", RIGHT, ()),
        ("_netdev", RIGHT, ()),
    ],
)
def test_an_option_that_is_taken_out_of_the_document_is_wrong_as_long_as_it_holds(
    taken_out: str, shown: str, extra: tuple[str, ...]
) -> None:
    before, now = replace(SPEC, options=("hard", taken_out)), replace(SPEC, options=())
    (mount,) = parse(shown)
    got = observed(shown, spec=now, made=note(before, mount))
    assert (got.extra, got.is_right) == (extra, not extra)
    assert observed(shown, spec=now, made=note(before, replace(mount, id=9))).is_right
    if extra:
        reported = plan(now, Actual(got)).verdict
        assert reported.reason == "WrongOptions"
        assert f"mounted with {taken_out} from before; " in reported.message


@pytest.mark.parametrize(
    ("source", "lines", "is_share"),
    [
        ("/srv/vf", ("2 1 8:1 /srv/vf /vf rw - ext4 /dev/sda rw",), True),
        ("/srv/vf", ("2 1 8:1 /srv/other /vf rw - ext4 /dev/sda rw",), False),
        ("/data/a", ("5 1 0:7 / /data rw - xfs d rw", "6 1 0:7 /a /vf rw - xfs d rw"), True),
        ("/data", ("5 1 0:7 / /data rw - xfs d rw", "6 1 0:7 / /vf rw - xfs d rw"), True),
        ("/data", ("5 1 0:7 /in /data rw - xfs d rw", "6 1 0:7 /in /vf rw - xfs d rw"), True),
    ],
)
def test_a_bind_is_compared_by_device_and_folder(
    source: str, lines: tuple[str, ...], is_share: bool
) -> None:
    spec = MountSpec("a", source, "/vf", "bind")
    assert observed(*lines, spec=spec).is_share is is_share


def test_nfs_covers_what_was_negotiated() -> None:
    assert observed(RIGHT, spec=replace(SPEC, type="nfs")).is_right


def test_only_mounts_on_the_way_to_a_target_concern_it() -> None:
    mounts = table(RIGHT, "3 1 0:10 / /var/lib/docker/x rw - overlay o rw")
    assert [entry.target for entry in entries_near("/vf", mounts)] == ["/", "/vf"]
    near = [entry.target for entry in entries_near("/", mounts)]
    assert near == ["/", "/vf", "/var/lib/docker/x"]


# -- what is to be done


@pytest.mark.parametrize(
    ("folder", "reason", "actions"),
    [
        (Folder("/vf", "folder"), "NotMounted", ["mount"]),
        (Folder("/vf", "missing"), "NotMounted", ["mount"]),
        (Folder("/vf", "folder", 2, ("a", "b")), "TargetNotEmpty", []),
        (Folder("/vf", "other"), "NotAFolder", []),
    ],
)
def test_nothing_is_mounted_over_files(folder: Folder, reason: str, actions: list[str]) -> None:
    got = planned(folder=folder)
    assert (got.verdict.status, got.verdict.reason, verbs(got)) == (Status.FALSE, reason, actions)


def test_a_missing_target_is_made_by_the_mount() -> None:
    (made,) = planned(folder=Folder("/vf", "missing")).actions
    assert isinstance(made, Mount)
    assert made.summary == "mount 10.0.0.1:/vfroot at /vf with hard,timeo=50"


def test_the_files_under_a_target_are_named_up_to_a_number() -> None:
    got = planned(folder=Folder("/vf", "folder", 9, ("a", "b")))
    assert "it holds a, b, …:" in got.verdict.message
    assert got.observe_again_in_s == TROUBLE_S


@pytest.mark.parametrize(
    ("line", "reason"), [(OTHER, "WrongShare"), (SOFT, "WrongOptions"), (RIGHT, "StaleHandle")]
)
def test_what_is_wrong_is_unmounted_before_it_is_mounted(line: str, reason: str) -> None:
    got = planned(line, health=Health(fault="ESTALE") if reason == "StaleHandle" else None)
    assert (got.verdict.reason, verbs(got)) == (reason, ["unmount", "mount"])
    unmount = got.actions[0]
    assert isinstance(unmount, Unmount)
    assert unmount.is_disruptive
    assert unmount.summary == f"unmount {parse(line)[0].source} from /vf"


@pytest.mark.parametrize(
    ("line", "reason"), [(OTHER, "Busy"), (SOFT, "Busy"), (RIGHT, "StaleHandle")]
)
def test_what_is_wrong_and_used_stays_and_its_users_are_named(line: str, reason: str) -> None:
    health = Health(fault="ESTALE") if reason == "StaleHandle" else None
    got = planned(line, users=(SLEEP,), health=health)
    assert (got.verdict.reason, got.actions) == (reason, ())
    assert "used by sleep (pid 7, open file)" in got.verdict.message


def test_differing_options_are_reported_with_what_the_kernel_reports() -> None:
    message = planned(SOFT).verdict.message
    assert "without hard" in message
    assert "soft,timeo=50" in message


def test_users_are_named_up_to_a_number() -> None:
    users = (User("python3", "open file", 9, "0123456789ab"), User("", "mount at /vf/x"))
    assert named(users) == "container 0123456789ab: python3 (pid 9, open file); mount at /vf/x"
    assert named(tuple(User("a", "b", n) for n in range(1, 9))).endswith("; and 3 more")


@pytest.mark.parametrize(
    ("expected", "health", "reason", "reported"),
    [
        ({}, HEALTHY, "Mounted", "10.0.0.1:/vfroot at /vf"),
        ({"expect_uid": 1100, "expect_gid": 1100}, HEALTHY, "Mounted", ""),
        ({"expect_uid": 1}, HEALTHY, "WrongOwner", "belongs to 1100:1100, not to 1:any"),
        ({"expect_gid": 2}, HEALTHY, "WrongOwner", "not to any:2"),
        ({"expect_file": "v"}, HEALTHY, "Mounted", ""),
        ({"expect_file": "v"}, replace(HEALTHY, file_fault="ENOENT"), "MissingFile", "no v"),
        ({"expect_file": "v"}, replace(HEALTHY, file_fault="EACCES"), "NotReadable", "EACCES"),
        ({}, Health(fault="EIO"), "NotReadable", "EIO"),
        ({}, replace(HEALTHY, is_read_only=True), "ReadOnly", "exports"),
        ({}, replace(HEALTHY, write_fault="EROFS"), "ReadOnly", ""),
        ({"options": ("ro",)}, replace(HEALTHY, is_read_only=True), "Mounted", ""),
        ({}, replace(HEALTHY, write_fault="ENOSPC"), "Mounted", "full (ENOSPC)"),
        ({}, replace(HEALTHY, write_fault="EACCES"), "Mounted", ""),
        ({"expect_uid": 1100}, replace(HEALTHY, write_fault="EACCES"), "NotWritable", "uid 1100"),
        ({}, replace(HEALTHY, write_fault="EIO"), "NotWritable", "EIO"),
        ({}, replace(HEALTHY, write_fault=None), "Mounted", ""),
    ],
)
def test_a_mounted_share_is_judged(
    expected: dict[str, Any], health: Health, reason: str, reported: str
) -> None:
    spec = replace(SPEC, **expected)
    line = RIGHT.replace("/vf rw", "/vf ro") if "options" in expected else RIGHT
    got = planned(line, spec=spec, health=health)
    assert (got.verdict.reason, got.actions) == (reason, ())
    assert got.verdict.status is (Status.TRUE if reason == "Mounted" else Status.FALSE)
    assert reported in got.verdict.message


def test_all_faults_are_reported_at_once() -> None:
    spec = replace(SPEC, expect_file="v", expect_uid=1)
    got = planned(RIGHT, spec=spec, health=replace(HEALTHY, file_fault="ENOENT", is_read_only=True))
    assert got.verdict.reason == "MissingFile"
    assert "belongs to" in got.verdict.message
    assert "only be read" in got.verdict.message


def test_a_dead_server_makes_no_event_so_it_is_asked_now_and_then() -> None:
    assert planned(RIGHT, health=HEALTHY).observe_again_in_s == PROBE_EVERY_S
    bind = MountSpec("a", "/srv", "/vf", "bind")
    assert planned("2 1 8:1 /srv /vf rw - ext4 d rw", spec=bind).observe_again_in_s is None


UNMOUNTED = replace(SPEC, state="unmounted")


@pytest.mark.parametrize(
    ("lines", "users", "reason", "actions"),
    [
        ((), (), "Unmounted", []),
        ((RIGHT,), (), "Mounted", ["unmount"]),
        ((SOFT,), (), "Mounted", ["unmount"]),
        ((RIGHT,), (SLEEP,), "Busy", []),
        ((OTHER,), (), "WrongShare", []),
        ((RIGHT, "3 2 0:10 / /vf rw - tmpfs over rw"), (), "Covered", []),
    ],
)
def test_a_mount_is_taken_away_unless_it_is_another_one_or_used(
    lines: tuple[str, ...], users: tuple[User, ...], reason: str, actions: list[str]
) -> None:
    got = planned(*lines, spec=UNMOUNTED, users=users)
    assert (got.verdict.reason, verbs(got)) == (reason, actions)
    assert (got.verdict.status is Status.TRUE) is (reason == "Unmounted")
    assert is_to_go(UNMOUNTED, Actual(observed(*lines, spec=UNMOUNTED))) is (
        reason in ("Mounted", "Busy")
    )


def test_a_share_that_is_away_by_desire_satisfies_no_dependent() -> None:
    assert planned(spec=UNMOUNTED).satisfies_dependents is False
    assert planned(RIGHT, health=HEALTHY).satisfies_dependents is None


def test_in_a_namespace_of_its_own_nothing_is_mounted() -> None:
    got = plan(SPEC, Actual(is_private=True))
    assert (got.verdict.status, got.verdict.reason, got.actions) == (
        Status.FALSE,
        "PrivateNamespace",
        (),
    )


# -- the document

DOCUMENT = {
    "name": "vfroot",
    "source": "10.0.0.1:/vfroot",
    "target": "/vf/",
    "type": "nfs4",
    "options": ["hard"],
    "required": True,
    "expect-file": "version.txt",
    "expect-uid": 1100,
}


def test_each_item_is_a_resource() -> None:
    items = [DOCUMENT, {"name": "b", "source": "/b", "target": "/", "type": "bind"}]
    node = NodeSpec("i-1", "local", 1, "sha256:d", {}, {"mount": items})
    first, second = kind.KIND.resources(node, host())
    assert (first.name, second.name) == ("Mount/vfroot", "Mount/b")
    assert isinstance(first.spec, MountSpec)
    assert replace(first.spec, others=()) == MountSpec(
        "vfroot",
        "10.0.0.1:/vfroot",
        "/vf",
        "nfs4",
        ("hard",),
        expect_file="version.txt",
        expect_uid=1100,
        node_id="i-1",
    )
    assert kind.KIND.resources(replace(node, document={}), host()) == []


def item(name: str, target: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "source": f"10.0.0.1:/{name}", "target": target, "type": "nfs4", **more}


def test_a_mount_in_another_waits_for_that_one() -> None:
    inner, outer = item("inner", "/vf/a/b"), item("outer", "/vf/")
    items = [inner, outer, item("beside", "/vf/a2"), item("gone", "/vf/a", state="unmounted")]
    node = NodeSpec("i-1", "local", 1, "sha256:d", {}, {"mount": items})
    specs = [resource.spec for resource in kind.KIND.resources(node, host())]
    outer_of = {s.name: [o.name for o in s.outer] for s in specs if isinstance(s, MountSpec)}
    assert outer_of == {"inner": ["outer"], "outer": [], "beside": ["outer"], "gone": ["outer"]}


@pytest.mark.parametrize(
    ("lines", "reason", "actions"),
    [
        ((), "Waiting", []),
        ((OTHER,), "Waiting", []),
        ((RIGHT,), "NotMounted", ["mount"]),
        # Behind a link the outer one is where the inner one's real path leads.
        ((RIGHT.replace("/vf ", "/ "),), "NotMounted", ["mount"]),
    ],
)
def test_a_mount_is_never_made_in_the_bare_folder_of_another(
    lines: tuple[str, ...], reason: str, actions: list[str]
) -> None:
    spec = replace(SPEC, name="inner", source="10.0.0.1:/in", target="/vf/in", outer=(SPEC,))
    got = planned(*lines, spec=spec, folder=Folder("/vf/in", "folder"))
    assert (got.verdict.reason, verbs(got)) == (reason, actions)


def test_the_number_of_mounts_has_a_bound() -> None:
    """Each is compared with each: a long document would stop the event loop."""
    items = [
        f'[[mount]]\nname = "m{n}"\nsource = "h:/{n}"\ntarget = "/vf/{n}"\ntype = "nfs4"\n'
        for n in range(kind.ITEMS_AT_MOST + 1)
    ]
    text = "".join(["api-version = 1\n", *items])
    (mistake,) = desired.check_alone("cluster", text.encode(), (kind.KIND,), "0.1.0")
    assert mistake.key == "mount"
    assert f"at most {kind.ITEMS_AT_MOST}" in mistake.what
    # Of two layers, each within the bound, the sum is what counts.
    halves = ("".join(["api-version = 1\n", *some]) for some in (items[:200], items[200:]))
    layers = [
        desired.Document(name, name, 1, half.encode())
        for name, half in zip(("cluster", "node/i-1"), halves, strict=True)
    ]
    assert "at most" in str(desired.evaluate(layers, (), (kind.KIND,), "0.1.0").mistakes)


def test_two_mounts_at_one_target_are_a_mistake() -> None:
    items = [item("a", "/vf"), item("b", "/vf/"), item("c", "/vf2")]
    ((place, what),) = kind.KIND.check(items)
    assert place == (1, "target")
    assert what == '/vf is also the target of "a"; each mount needs its own'


def test_two_targets_that_variables_make_one_are_a_conflict() -> None:
    items = [item("a", "/vf/i-1"), item("b", "/vf/i-1/", state="unmounted"), item("c", "/vf/i-2")]
    node = NodeSpec("i-1", "local", 1, "sha256:d", {}, {"mount": items})
    for resource in kind.KIND.resources(node, host()):
        spec = resource.spec
        assert isinstance(spec, MountSpec)
        got = planned(spec=spec, folder=Folder(spec.target, "folder"))
        assert verbs(got) == (["mount"] if spec.name == "c" else [])
        assert got.verdict.reason == ("NotMounted" if spec.name == "c" else "Conflict")


def test_two_targets_that_links_make_one_are_a_conflict() -> None:
    named = replace(SPEC, name="named", source="10.0.0.1:/n", target="/real")
    linked = replace(SPEC, name="linked", source="10.0.0.1:/l", target="/link")
    shown = table("2 1 0:44 / /real rw - nfs4 10.0.0.1:/n rw")
    # The one leads to the folder that the other names, or both to one that neither names.
    for other in (named, replace(named, target="/other-link")):
        spec = replace(linked, others=(other,))
        assert state_of(spec, "/real", shown).rival == "named"
    # What is mounted there by hand is nobody's.
    by_hand = table("2 1 0:44 / /real rw - nfs4 10.0.0.1:/x rw")
    spec = replace(linked, others=(replace(named, target="/other-link"),))
    assert state_of(spec, "/real", by_hand).rival == ""


SYSTEMS = ("/", "//usr/local/sbin", "/usr/./bin/", "/etc/x", "/lib64", "/var", "/var/spool/cron")
PASSWORDS = ("password=x", "PASS=x", "pwd=x", "secret=x", "credentials=user", "username=u%x")


@pytest.mark.parametrize("option", ["credentials=/etc/cifs", "username=u", "nopass", "sec=krb5"])
@pytest.mark.parametrize("target", ["/usr2", "/home", "/var/lib/vf", "/opt/etc", "/${cluster}/x"])
def test_what_is_like_a_mistake_and_is_none(target: str, option: str) -> None:
    item = f'target = "{target}"\noptions = ["{option}"]\nsource = "s@h:/x"\n'
    text = f'api-version = 1\n[[mount]]\nname = "a"\n{item}'
    assert not desired.check_alone("cluster", text.encode(), (kind.KIND,), "0.1.0")


def test_a_mistake_quotes_no_password() -> None:
    item = 'name = "a"\nsource = "//u:hush@h/x"\noptions = ["pass=hush"]'
    text = f"api-version = 1\n[[mount]]\n{item}\n"
    mistakes = desired.check_alone("cluster", text.encode(), (kind.KIND,), "0.1.0")
    assert len(mistakes) == 2
    assert "hush" not in str(mistakes)


@pytest.mark.parametrize(
    ("source", "kind_of", "is_right"),
    [
        ("10.0.0.1:/vf", "nfs4", True),
        ("nas.example:/", "nfs", True),
        ("[fd00::1]:/vf", "nfs4", True),
        ("[fe80::1%eth0]:/vf", "nfs4", True),
        ("${manager-host}:/vf", "nfs4", True),
        ("${manager-ip}:/vf", "nfs4", False),
        ("fd00::1:/vf", "nfs4", False),
        ("::1:/vf", "nfs", False),
        ("fd00::/vf", "nfs", False),
        ("/srv/vf", "nfs", False),
        ("/srv/vf", "bind", True),
        ("share", "tmpfs", True),
    ],
)
def test_a_source_of_nfs_is_a_host_and_a_path(source: str, kind_of: str, is_right: bool) -> None:
    text = (
        'api-version = 1\n[node]\nmanager-ip = "fd00::1"\n'
        f'[[mount]]\nname = "a"\ntarget = "/vf"\nsource = "{source}"\ntype = "{kind_of}"\n'
    )
    document = desired.Document("cluster", "desired/cluster", 1, text.encode())
    judged = desired.evaluate([document], (), (kind.KIND,), "0.1.0")
    here = desired.Variables(node_id="i-1", hostname="h", cluster="local", agent_ip="fd00::2")
    try:
        desired.resolve(judged, here, {}, 1, (kind.KIND,))
        mistakes: tuple[Mistake, ...] = ()
    except InvalidSpec as error:
        mistakes = error.mistakes
    assert [each.key for each in mistakes] == ([] if is_right else ["mount.a.source"])
    assert all("${manager-host}" in each.what for each in mistakes)


@pytest.mark.parametrize(
    ("item", "reported"),
    [
        ('type = "nfs5"', "mount.a.type"),
        ('state = "gone"', "mount.a.state"),
        ('options = ["a,b"]', "mount.a.options[0]"),
        ('options = ["a b"]', "mount.a.options[0]"),
        ('expect-file = "/etc/passwd"', "mount.a.expect-file"),
        ('expect-file = "../x"', "mount.a.expect-file"),
        ('expect-file = "x/../../y"', "mount.a.expect-file"),
        ("expect-uid = -1", "mount.a.expect-uid"),
        ('target = "vf"', "mount.a.target"),
        ('src = "x"', "mount.a.src"),
        *((f'target = "{target}"', "mount.a.target") for target in SYSTEMS),
        *((f'options = ["ro", "{option}"]', "mount.a.options[1]") for option in PASSWORDS),
        *((f'source = "{source}"', "mount.a.source") for source in ("//u:pw@h/x", "u:pw@h:/x")),
    ],
)
def test_mistakes_are_reported_with_their_place(item: str, reported: str) -> None:
    text = f'api-version = 1\n[[mount]]\nname = "a"\n{item}\n'
    (mistake,) = desired.check_alone("cluster", text.encode(), (kind.KIND,), "0.1.0")
    assert mistake.key == reported


def test_a_file_in_a_folder_of_the_share_may_be_expected() -> None:
    text = 'api-version = 1\n[[mount]]\nname = "a"\nexpect-file = "a..b/c.txt"\n'
    assert not desired.check_alone("cluster", text.encode(), (kind.KIND,), "0.1.0")


def test_a_process_with_more_than_is_read_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody may have 65,530 maps with a path each, and 100,000 mounts of his own."""
    mount = parse("36 35 98:0 / / rw - ext4 /dev/root rw\n")[0]
    monkeypatch.setattr(users, "_MAPS_AT_MOST", 10)
    with pytest.raises(Refused, match="larger than 10 bytes"):
        users._has_mapped(os.getpid(), users._Places(frozenset({36}), ("/nowhere",)))
    monkeypatch.setattr(mounts, "TABLE_AT_MOST", 10)
    with pytest.raises(Unavailable, match="larger than 10 bytes"):
        users.users(mount)
