"""agent.toml as a real file: what people, editors, crashes and file systems do to it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from bai_nodeagent.errors import Overtaken, Refused, Unavailable
from bai_nodeagent.kinds.agent.config import begun_write
from bai_nodeagent.kinds.agent.config.kind import KIND, AgentConfig
from bai_nodeagent.kinds.agent.config.rules import KeepBroken, Write
from bai_nodeagent.model import UNSET, Action, Host, NodeSpec, Status, Verdict
from bai_nodeagent.system import config_file
from bai_nodeagent.system.place import Place
from servers import unmount

pytestmark = pytest.mark.anyio
needs_root = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

FIXTURE = Path(__file__).parent.parent / "fixtures" / "agent_toml" / "halfstack.toml"
VALUES = {
    ("etcd", "addr", "host"): "10.20.30.1",
    ("agent", "id"): "i-node01",
    ("container", "bind-host"): "10.20.30.11",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "state").mkdir(0o700)
    path = tmp_path / "etc" / "agent.toml"
    shutil.copy(FIXTURE, path)
    path.chmod(0o640)
    return path


def resource(path: Path, *, section: dict[str, Any] | None = None, **fields: Any) -> AgentConfig:
    """Always a new one, as after a restart of the daemon."""
    state = next(p for p in path.parents if (p / "state").is_dir()) / "state"
    node = NodeSpec(
        "i-node01", "local", 1, "sha256:", {}, {"agent-config": section or {}},
        **{"agent_config_path": path, "agent_values": VALUES, **fields},
    )  # fmt: skip
    (made,) = KIND.resources(node, Host(state, state, repr, str))
    assert isinstance(made, AgentConfig)
    return made


async def converge(make: Callable[[], AgentConfig]) -> tuple[Verdict, list[Action]]:
    """Applies first actions until there are none, each by a daemon that dies right after it."""
    applied: list[Action] = []
    for _ in range(10):
        one = make()
        plan = one.plan(await one.observe())
        if not plan.actions:
            return plan.verdict, applied
        await one.apply(plan.actions[0])
        applied.append(plan.actions[0])
    raise AssertionError(f"does not converge: {[a.summary for a in applied]}")


async def in_line(path: Path, **fields: Any) -> list[str]:
    verdict, applied = await converge(lambda: resource(path, **fields))
    assert verdict.status is Status.TRUE, verdict
    return [action.verb for action in applied]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("spoil", "verbs"),
    [
        (lambda p: p.write_text(p.read_text().replace('"i-node01"', "'x'")), ["write"]),
        (lambda p: p.write_text(p.read_text().replace('id = "i-node01"\n', "")), ["write"]),
        (lambda p: p.unlink(), ["write"]),
        (lambda p: p.write_bytes(b""), ["write"]),
        (lambda p: p.write_bytes(b"[agent\n\xff"), ["keep_broken", "write"]),
        (lambda p: shutil.rmtree(p.parent), ["write"]),
    ],
)
async def test_what_a_hand_spoils_comes_back_byte_by_byte(
    path: Path, spoil: Callable[[Path], Any], verbs: list[str]
) -> None:
    assert await in_line(path) == ["remember"]
    spoil(path)
    assert await in_line(path) == verbs
    assert path.read_bytes() == FIXTURE.read_bytes()
    assert mode_of(path) == 0o640
    assert await in_line(path) == []


async def test_a_broken_file_is_kept_beside(path: Path) -> None:
    await in_line(path)
    path.write_bytes(b"password = hunter2\n")
    await in_line(path)
    (copy,) = path.parent.glob("agent.toml.broken-*")
    assert copy.read_bytes() == b"password = hunter2\n"
    assert mode_of(copy) == 0o600


async def test_each_broken_content_is_kept_once(path: Path) -> None:
    await in_line(path)
    for raw in (b"a\n", b"b\n", b"a\n"):
        path.write_bytes(raw)
        with anyio.fail_after(10):
            while True:
                try:
                    await in_line(path)
                    break
                except Unavailable:  # the second's name is taken: the next one's is not
                    await anyio.sleep(0.2)
    copies = sorted(p.read_bytes() for p in path.parent.glob("agent.toml.broken-*"))
    assert copies == [b"a\n", b"b\n"]


async def test_a_missing_file_and_its_folders_are_created(path: Path) -> None:
    new = path.parent / "a" / "b" / "agent.toml"
    assert await in_line(new) == ["write"]
    assert tomllib.loads(new.read_text())["etcd"]["addr"] == {"host": "10.20.30.1", "port": 2379}
    assert mode_of(new) == 0o640


async def test_the_last_good_content_is_for_root_alone(path: Path) -> None:
    await in_line(path)
    last = path.parent.parent / "state" / "agent-config.last"
    assert mode_of(last) == 0o600
    assert last.read_bytes() == path.read_bytes()


async def test_a_link_is_followed_and_stays(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    path.rename(real / "node.toml")
    path.symlink_to(Path("..") / "real" / "node.toml")
    (real / "node.toml").write_text("[agent]\n")
    await in_line(path)
    assert path.is_symlink()
    assert "i-node01" in (real / "node.toml").read_text()
    assert sorted(p.name for p in path.parent.iterdir()) == ["agent.toml"]


async def test_a_dangling_link_gets_its_file(path: Path, tmp_path: Path) -> None:
    path.unlink()
    path.symlink_to(tmp_path / "node.toml")
    assert await in_line(path) == ["write"]
    assert path.is_symlink()
    assert (tmp_path / "node.toml").is_file()


@pytest.mark.parametrize(
    ("reason", "spoil"),
    [
        ("DanglingLink", lambda p: p.symlink_to(p.parent / "gone" / "agent.toml")),
        ("LinkLoop", lambda p: p.symlink_to(p)),
        ("NotAFile", lambda p: p.mkdir()),
        ("NotAFile", lambda p: os.mkfifo(p)),
    ],
)
async def test_what_is_no_file_is_left_alone_and_reported(
    path: Path, reason: str, spoil: Callable[[Path], Any]
) -> None:
    path.unlink()
    spoil(path)
    before = path.lstat()
    with pytest.raises(Refused) as refused:
        await in_line(path)
    assert refused.value.reason == reason
    assert "agent.toml" in refused.value.message
    assert path.lstat() == before


async def test_a_file_as_a_folder_on_the_way_is_reported(path: Path) -> None:
    with pytest.raises(Refused) as refused:
        await in_line(path / "agent.toml")
    assert refused.value.reason == "NotAFile"


async def test_modes_and_secrets(path: Path) -> None:
    path.chmod(0o644)
    assert await in_line(path) == ["set_access", "remember"]
    assert mode_of(path) == 0o640  # the fixture holds a password and a token
    assert await in_line(path, section={"mode": "0604"}) == ["set_access"]
    assert mode_of(path) == 0o600


@pytest.mark.parametrize("_", [pytest.param(0, marks=needs_root)])
async def test_owners(path: Path, _: int) -> None:
    os.chown(path, 7, 8)
    assert await in_line(path) == ["remember"]
    path.unlink()
    await in_line(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (7, 8)
    await in_line(path, section={"owner": "daemon:0"})
    assert (path.stat().st_uid, path.stat().st_gid) == (1, 0)


async def test_an_unknown_owner_is_reported(path: Path) -> None:
    with pytest.raises(Refused, match="nobody-knows") as refused:
        await in_line(path, section={"owner": "nobody-knows"})
    assert refused.value.reason == "UnknownOwner"


async def test_another_writer_in_between_is_never_overwritten(path: Path) -> None:
    path.write_text("[agent]\nid = 1\n")
    one = resource(path)
    (write,) = one.plan(await one.observe()).actions
    path.write_text("[agent]\nid = 1\nmine = true\n")
    with pytest.raises(Overtaken):
        await one.apply(write)
    assert path.read_text() == "[agent]\nid = 1\nmine = true\n"
    await in_line(path)
    assert "mine = true" in path.read_text()


async def test_a_broken_file_that_somebody_mends_in_between_stays(path: Path) -> None:
    await in_line(path)
    path.write_text("[agent")
    one = resource(path)
    keep, write = one.plan(await one.observe()).actions
    assert isinstance(keep, KeepBroken)
    assert isinstance(write, Write)
    shutil.copy(FIXTURE, path)
    for action in (keep, write):
        with pytest.raises(Overtaken):
            await one.apply(action)
    assert path.read_bytes() == FIXTURE.read_bytes()
    assert not list(path.parent.glob("*.broken-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("may not mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.root
async def test_a_full_disk_keeps_the_old_file(path: Path, small_disk: Path) -> None:
    target = small_disk / "agent.toml"
    target.write_text("[agent]\n")
    with pytest.raises(OSError, match="No space"):
        (small_disk / "full").write_bytes(b"x" * 65536)
    with pytest.raises(Unavailable, match="make room"):
        await in_line(target)
    assert target.read_text() == "[agent]\n"
    assert sorted(p.name for p in small_disk.iterdir()) == ["agent.toml", "full"]
    (small_disk / "full").unlink()
    assert await in_line(target) == ["write"]


@pytest.mark.root
async def test_a_read_only_disk_is_reported(path: Path, small_disk: Path) -> None:
    target = small_disk / "agent.toml"
    target.write_text("[agent]\n")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(Refused) as refused:
        await in_line(target)
    assert refused.value.reason == "ReadOnly"
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert await in_line(target) == ["write"]


async def test_a_half_written_file_is_not_called_broken(path: Path) -> None:
    await in_line(path)
    whole = path.read_text().replace("INFO", "DEBUG")

    async def edit_slowly() -> None:
        for part in ("", whole[:100] + "x = [", whole):
            path.write_text(part)
            await anyio.sleep(0.15)

    async with anyio.create_task_group() as group:
        group.start_soon(edit_slowly)
        await anyio.sleep(0.05)
        one = resource(path)
        plan = one.plan(await one.observe())
    assert plan.verdict.status is Status.TRUE
    assert path.read_text() == whole


async def test_a_part_that_happens_to_be_toml_is_not_judged_while_it_is_written(path: Path) -> None:
    await in_line(path)
    whole = path.read_text().replace("INFO", "DEBUG")
    part = whole.index("[container]")

    async def write_slowly() -> None:
        with path.open("w") as file:
            for piece in (whole[:part], whole[part:]):
                file.write(piece)
                file.flush()
                await anyio.sleep(0.3)

    async with anyio.create_task_group() as group:
        group.start_soon(write_slowly)
        await anyio.sleep(0.05)
        await in_line(path)
    assert path.read_text() == whole


async def test_a_file_that_is_held_open_for_ever_is_judged_all_the_same(path: Path) -> None:
    await in_line(path)
    with path.open("a") as file:
        file.write("[agent]\n")
        file.flush()
        assert await in_line(path) == ["keep_broken", "write"]


async def rewrite(path: Path) -> None:
    path.write_text(path.read_text().replace("i-node01", "x"))


async def replace_by_rename(path: Path) -> None:
    new = path.with_name(".agent.toml.swp")
    new.write_text(path.read_text().replace("i-node01", "x"))
    new.rename(path)


async def write_through_the_link(path: Path) -> None:
    target = path.with_name("target.toml")
    path.rename(target)
    path.symlink_to("target.toml")
    await rewrite(target)


@pytest.mark.parametrize("edit", [rewrite, replace_by_rename, write_through_the_link])
async def test_an_edit_wakes_at_once(path: Path, edit: Callable[[Path], Any]) -> None:
    await in_line(path)
    woken = anyio.Event()
    calls = 0

    def wake() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:  # the first says that the watch stands
            woken.set()

    async with anyio.create_task_group() as group:
        group.start_soon(resource(path).watch, wake)
        while not calls:
            await anyio.sleep(0.001)
        await edit(path)
        with anyio.fail_after(2):
            await woken.wait()
        group.cancel_scope.cancel()
    await in_line(path)
    assert path.read_bytes() == FIXTURE.read_bytes()


async def test_no_secret_leaves_the_plan(path: Path) -> None:
    path.write_text(path.read_text().replace("not-a-real-one", "hunter2").replace("node01", "x"))
    one = resource(path)
    actual = await one.observe()
    plan = one.plan(actual)
    shown = "".join(f"{a!r}{a.diff}{a.summary}" for a in plan.actions) + repr((plan, actual))
    assert "hunter2" not in shown
    assert "insecure" not in shown


def test_owners_by_number_need_no_account() -> None:
    assert config_file.ids("12345:54321") == (12345, 54321)
    assert config_file.ids("root") == (0, 0)
    with pytest.raises(Refused):
        config_file.ids("12345")


async def test_a_file_with_other_names_is_written_only_in_place(path: Path) -> None:
    other = path.with_name("other")
    other.hardlink_to(path)
    path.write_text(path.read_text().replace("i-node01", "x"))
    one = resource(path)
    plan = one.plan(await one.observe())
    assert (plan.actions, plan.verdict.reason) == ((), "HardLink")
    await in_line(path, section={"write": "in-place"})
    assert path.samefile(other)
    assert 'id = "i-node01"' in other.read_text()


@pytest.mark.root
async def test_a_file_that_is_mounted_by_itself_is_written_only_in_place(
    path: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source.toml"
    source.write_text("[agent]\n")
    if os.geteuid() != 0 or subprocess.run(["mount", "-B", source, path], check=False).returncode:
        pytest.skip("may not mount")
    try:
        one = resource(path)
        plan = one.plan(await one.observe())
        assert (plan.actions, plan.verdict.reason) == ((), "MountedFile")
        assert "in-place" in plan.verdict.message
        await in_line(path, section={"write": "in-place"})
        assert "i-node01" in source.read_text()
    finally:
        unmount(path)


@pytest.mark.root
async def test_no_secret_is_written_into_what_somebody_has_open(path: Path) -> None:
    """He may have opened it while everybody could; a new file he would not have."""
    path.write_text("[agent]\n")
    path.chmod(0o644)
    section = {"write": "in-place", "mode": "0640"}
    with path.open() as reader:
        with pytest.raises(Unavailable, match="open elsewhere"):
            await in_line(path, section=section)
        assert reader.read() == "[agent]\n"
    edited = path.read_text() + "# mine\n"  # no part of a write that was cut off
    path.write_text(edited)
    await in_line(path, section=section)
    assert "# mine" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.root
async def test_a_secret_that_is_taken_out_is_gone_before_others_may_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text('[agent]\nid = "x"\n[etcd]\npassword = "s3cret"\n')
    path.chmod(0o600)
    before: list[tuple[int, bool]] = []
    overwrite = Place.overwrite

    def observed(place: Place, data: bytes, *, is_private: bool) -> None:
        before.append((mode_of(path), "s3cret" in path.read_text()))
        overwrite(place, data, is_private=is_private)

    monkeypatch.setattr(Place, "overwrite", observed)
    values = {**VALUES, ("etcd", "password"): UNSET}
    await in_line(path, section={"write": "in-place", "mode": "0644"}, agent_values=values)
    assert before == [(0o600, True)]
    assert (mode_of(path), "s3cret" in path.read_text()) == (0o644, False)


@pytest.mark.parametrize("cut", [0, 800, 900])
async def test_a_write_in_place_that_was_cut_off_is_brought_to_its_end(
    path: Path, cut: int
) -> None:
    await in_line(path)
    good = path.read_bytes()
    before = good.replace(b"i-node01", b"x") + b"# a longer end\n"
    path.write_bytes(before)
    begun_write.begin(path.parent.parent / "state", path, before, good)
    assert good.index(b"i-node01") < 800 < 900 < len(good)
    path.write_bytes(good[:cut] + before[cut:] if cut else good[: len(good) // 2])
    await in_line(path, section={"write": "in-place"})
    assert path.read_bytes() == good
    path.write_bytes(good + b"# mine\n")
    await in_line(path, section={"write": "in-place"})
    assert path.read_bytes() == good + b"# mine\n"
