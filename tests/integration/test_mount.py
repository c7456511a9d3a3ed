"""Mounts for real, in mount and PID namespaces that the tests make: nothing reaches the host.

Each scenario is a function of this file: see mount_scenarios.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.errors import Refused, Stuck, Unavailable
from bai_nodeagent.kinds.mount import mounts
from bai_nodeagent.kinds.mount import users as mount_users
from bai_nodeagent.kinds.mount.observation import MountSpec
from bai_nodeagent.kinds.mount.rules import Unmount
from bai_nodeagent.system import helper
from fuse_server import FuseServer
from mount_scenarios import Scenarios, passed, point, process, run, run_in_namespace, tmpfs

pytestmark = pytest.mark.root

scenario = Scenarios()


# -- mounting


@scenario
async def a_share_comes_goes_and_changes(folder: Path) -> None:
    target = folder / "made/on/the/way"
    spec = tmpfs(target, options=("size=1000k", "noatime"))
    assert (await passed(spec, folder)).reason == "Mounted"
    mounted = mounts.table()
    assert (await passed(spec, folder)).reason == "Mounted"
    assert mounts.table() == mounted  # 1000k is 1000k, whatever the kernel calls it
    assert (await passed(replace(spec, source="other"), folder)).reason == "Mounted"
    assert mounts.table()[-1].source == "other"
    fewer = replace(spec, source="other", options=("size=1000k",))
    assert (await passed(fewer, folder)).reason == "Mounted"
    assert "noatime" not in mounts.table()[-1].options
    gone = replace(spec, source="other", state="unmounted")
    assert (await passed(gone, folder)).reason == "Unmounted"
    (target / "early").write_text("")
    assert (await passed(spec, folder)).reason == "TargetNotEmpty"


@scenario
async def a_plan_cut_off_after_any_action_converges(folder: Path) -> None:
    spec = tmpfs(folder / "vf")
    for actions in range(3):
        await passed(replace(spec, source="other"), folder)
        for _ in range(actions):  # each by a daemon that is killed right after it
            killed = point(spec, folder)
            await killed.apply(killed.plan(await killed.observe()).actions[0])
        assert (await passed(spec, folder)).reason == "Mounted"
        assert [e.source for e in mounts.table() if e.target == spec.target] == ["share"]


@scenario
async def a_target_behind_a_link_is_found(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    spec = tmpfs(folder / "link")
    assert (await passed(spec, folder)).reason == "Mounted"
    assert mounts.table()[-1].target == str(folder / "real")
    mounted = mounts.table()
    assert (await passed(spec, folder)).reason == "Mounted"
    assert mounts.table() == mounted


@scenario
async def two_targets_that_are_one_folder_do_not_take_each_other_away(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    (folder / "link2").symlink_to("real")
    first, second = tmpfs(folder / "link"), replace(tmpfs(folder / "link2"), source="other")
    second = replace(second, name="second")
    first, second = replace(first, others=(second,)), replace(second, others=(first,))
    assert (await passed(first, folder)).reason == "Mounted"
    mounted = mounts.table()
    assert (await passed(second, folder)).reason == "Conflict"
    assert (await passed(first, folder)).reason == "Mounted"
    assert mounts.table() == mounted


@scenario
async def a_bind_is_known_again(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data/version.txt").write_text("3\n")
    spec = MountSpec("d", f"{folder}/data", f"{folder}/at", "bind", expect_file="version.txt")
    assert (await passed(spec, folder)).reason == "Mounted"
    assert (await passed(replace(spec, expect_file="nothing"), folder)).reason == "MissingFile"
    read_only = replace(spec, options=("ro",))
    assert (await passed(read_only, folder)).reason == "Mounted"
    assert "ro" in mounts.table()[-1].options


@scenario
async def what_a_share_is_expected_to_be_is_asked_as_its_owner(folder: Path) -> None:
    spec = tmpfs(folder / "vf", options=("uid=1100", "mode=0755"), expect_uid=1100)
    assert (await passed(spec, folder)).reason == "Mounted"
    assert not list((folder / "vf").iterdir())
    assert (await passed(replace(spec, expect_uid=1101), folder)).message == (
        f"share belongs to 1100:0, not to 1101:any (uid:gid); "
        f"a file can't be written in {folder}/vf as uid 1101: EACCES"
    )


@scenario
async def what_mount_writes_is_reported(folder: Path) -> None:
    spec = MountSpec("vf", "share", f"{folder}/vf", "tmpfs", ("size=much",))
    verdict = await passed(spec, folder)
    assert verdict.reason == "MountFailed"
    assert verdict.message.startswith("mount: ")
    (folder / "file").write_text("")
    assert (await passed(tmpfs(folder / "file"), folder)).reason == "NotAFolder"


@scenario
async def in_a_namespace_of_its_own_it_mounts_nothing(folder: Path) -> None:
    assert not mounts.is_private()
    run("unshare", "--mount", sys.executable, __file__, _is_private.__name__, folder)


async def _is_private(folder: Path) -> None:
    assert mounts.is_private()
    assert (await passed(tmpfs(folder / "vf"), folder)).reason == "PrivateNamespace"
    assert not (folder / "vf").exists()


@scenario
async def every_change_of_the_table_wakes(folder: Path) -> None:
    watched = point(tmpfs(folder / "vf"), folder)
    (folder / "vf").mkdir()
    wakes: list[float] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched.watch, lambda: wakes.append(time.monotonic()))
        with anyio.fail_after(5):
            while not wakes:
                await anyio.sleep(0.01)
        for number in range(50):
            wakes.clear()
            argv = ("umount", "vf") if number % 2 else ("mount", "-t", "tmpfs", "x", "vf")
            await anyio.run_process(argv, cwd=folder)
            with anyio.fail_after(5):
                while not wakes:
                    await anyio.sleep(0.001)
        wakes.clear()
        (folder / "else").mkdir()
        run("mount", "-t", "tmpfs", "x", folder / "else")
        await anyio.sleep(0.2)
        assert not wakes  # not on the way to the target
        tasks.cancel_scope.cancel()


@scenario
async def one_in_another_waits_until_that_one_is_there(folder: Path) -> None:
    outer = tmpfs(folder / "vf")
    inner = replace(tmpfs(folder / "vf/in", "inner"), name="in", outer=(outer,))
    assert (await passed(inner, folder)).reason == "Waiting"
    assert not (folder / "vf").exists()
    assert (await passed(outer, folder)).reason == "Mounted"
    late = point(inner, folder)
    action = late.plan(await late.observe()).actions[0]
    run("umount", folder / "vf")  # by a hand, in between
    with pytest.raises(Unavailable, match="has just gone"):
        await late.apply(action)
    assert not list((folder / "vf").iterdir())
    assert (await passed(outer, folder)).reason == "Mounted"
    assert (await passed(inner, folder)).reason == "Mounted"


# -- who uses it


@scenario
async def users_of_a_share_are_found(folder: Path) -> None:
    target = folder / "vf"
    spec = tmpfs(target)
    await passed(spec, folder)
    (target / "file").write_text("x")
    other = tmpfs(target, "other")
    asked = point(other, folder)

    async def users() -> str:
        actual = await asked.observe()
        return "; ".join(f"{user.name}: {user.how}" for user in actual.users)

    assert await users() == ""
    with process("sleep", "100", cwd=target):
        assert await users() == "sleep: working directory"
    with (target / "file").open():
        assert await users() == f"{_me()}: open file"
    shutil.copy("/bin/sleep", target / "program")
    with process(f"{target}/program", "100"):
        assert await users() == "program: mapped file"
    (target / "inner").mkdir()
    run("mount", "-t", "tmpfs", "inner", target / "inner")
    assert await users() == f": mount at {target}/inner"
    run("umount", target / "inner")
    assert (await passed(other, folder)).reason == "Mounted"


@scenario
async def what_can_not_be_observed_may_be_in_use(folder: Path) -> None:
    """While descriptors run out again and again, nobody finds that no one uses a mount."""
    spec = tmpfs(folder / "vf")
    await passed(spec, folder)
    mount = next(entry for entry in mounts.table() if entry.target == spec.target)
    with process("sleep", "100", stdin=(folder / "vf/file").open("w")), short_of_descriptors():
        reported = set()
        for _ in range(300):
            try:
                assert mount_users.users(mount)
            except Unavailable as error:
                reported.add(str(error).partition(":")[0])
        assert reported, "it was never short of them"


@contextlib.contextmanager
def short_of_descriptors() -> Iterator[None]:
    """Takes and gives back the right to open any file, all the time."""
    (soft, hard), is_over = resource.getrlimit(resource.RLIMIT_NOFILE), threading.Event()

    def toggle() -> None:
        while not is_over.is_set():
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            time.sleep(0.0001)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            time.sleep(0.0005)

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@scenario
async def odd_names_of_others_mounts_hide_nothing(folder: Path) -> None:
    for name in ("line\u2028separator", "form\x0cfeed", "carriage\rreturn", "\x85", "new\nline"):
        (folder / name).mkdir()
        run("mount", "-t", "tmpfs", "theirs", folder / name)
    assert (await passed(tmpfs(folder / "vf"), folder)).reason == "Mounted"
    assert {Path(entry.target).name for entry in mounts.table() if entry.source == "theirs"} == {
        *("line\u2028separator", "form\x0cfeed", "carriage\rreturn", "\x85", "new\nline")
    }


def _me() -> str:
    return Path("/proc/self/comm").read_text().strip()


@scenario
async def a_container_keeps_a_share_and_a_services_copy_does_not(folder: Path) -> None:
    run("mount", "--make-rshared", "/")
    target = folder / "vf"
    other = tmpfs(target, "other")
    await passed(tmpfs(target), folder)
    for propagation, reason in (("private", "Busy"), ("slave", "Mounted")):
        with process("unshare", "--mount", "--propagation", propagation, "sleep", "100") as child:
            await _until(lambda: _name(child.pid) == "sleep")
            verdict = await passed(other, folder)
            assert verdict.reason == reason, verdict
            if reason == "Busy":
                assert f"sleep (pid {child.pid}, mounted at {target} in its" in verdict.message


@scenario
async def a_services_copy_of_another_export_of_the_same_server_is_no_use(folder: Path) -> None:
    """One server's exports often are one file system, here one tmpfs that is mounted twice."""
    run("mount", "--make-rshared", "/")
    target = folder / "vf"
    await passed(tmpfs(target), folder)
    (folder / "home").mkdir()
    run("mount", "--bind", target, folder / "home")
    with process("unshare", "--mount", "--propagation", "slave", "sleep", "100") as child:
        await _until(lambda: _name(child.pid) == "sleep")
        assert (await passed(tmpfs(target, "other"), folder)).reason == "Mounted"


@scenario
async def what_a_hand_has_remounted_read_only_is_mounted_anew(folder: Path) -> None:
    spec = tmpfs(folder / "vf")
    await passed(spec, folder)
    run("mount", "-o", "remount,bind,ro", folder / "vf")
    with process("sleep", "100", cwd=folder / "vf"):
        verdict = await passed(spec, folder)
        assert verdict.reason == "Busy"
        assert "is mounted without rw" in verdict.message
    assert (await passed(spec, folder)).reason == "Mounted"
    assert "rw" in mounts.table()[-1].options


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


async def _until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not holds():
            await anyio.sleep(0.01)


@scenario
async def a_user_that_comes_between_observation_and_unmount_is_spared(folder: Path) -> None:
    spec = tmpfs(folder / "vf", state="unmounted")
    await passed(replace(spec, state="mounted"), folder)
    asked = point(spec, folder)
    action = asked.plan(await asked.observe()).actions[0]
    assert isinstance(action, Unmount)
    with process("sleep", "100", cwd=folder / "vf"):
        with pytest.raises(Refused, match="sleep") as refused:
            await asked.apply(action)
        assert refused.value.reason == "Busy"
    await asked.apply(action)


# -- what hangs


@scenario
async def a_share_that_hangs_costs_one_process_and_is_found_again(folder: Path) -> None:
    target = folder / "vf"
    target.mkdir()
    server = FuseServer(target)
    spec = MountSpec("vf", "frozen:/", str(target), "fuse", ("ro",))  # type: ignore[arg-type]
    assert (await passed(spec, folder)).reason == "Mounted"
    server.freeze()
    first = await passed(spec, folder)
    assert first.reason == "Stuck"
    assert "frozen:/ at" in first.message
    assert "since 20" in first.message
    assert "request_wait_answer" in first.message
    for _ in range(3):  # as a daemon that is restarted, and as `may-start` beside it
        began = time.monotonic()
        assert await passed(spec, folder) == first
        assert time.monotonic() - began < mounts.PROBE_DEADLINE_S  # none waits for it again
    assert len(_helpers()) == 1  # not even SIGKILL has ended it
    daemon = point(spec, folder)
    wakes: list[float] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.watch, lambda: wakes.append(time.monotonic()))
        with contextlib.suppress(Stuck):
            await daemon.observe()
        await anyio.sleep(2.5)
        assert len(_helpers()) == 1
        wakes.clear()
        server.thaw()
        await _until(lambda: bool(wakes))
        tasks.cancel_scope.cancel()
    assert (await passed(spec, folder)).reason == "Mounted"
    await _until(lambda: not _helpers())
    server.close()


def _helpers() -> list[str]:
    found = subprocess.run(["pgrep", "-f", "mount_questions"], capture_output=True, check=False)
    return [pid for pid in found.stdout.decode().split() if _state(pid) not in "ZX"]


def _state(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


@scenario
async def a_helper_is_left_at_its_deadline_and_no_second_one_begun(folder: Path) -> None:
    lock = folder / "lock"
    began = time.monotonic()
    with pytest.raises(helper.Hangs) as hangs:
        await helper.run(("sleep", "100"), 0.3, lock)
    assert hangs.type is helper.Hangs
    assert hangs.value.waits_for
    assert time.monotonic() - began < 30.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(helper.run, ("sleep", "1"), 5.0, lock, 5.0)
        await anyio.sleep(0.2)
        with pytest.raises(helper.Outstanding):
            await helper.run(("true",), 5.0, lock)
        done = await helper.run(("sh", "-c", "echo out; echo err >&2; exit 3"), 5.0, lock, 5.0)
    assert (done.code, done.output) == (3, "out\nerr\n")


@pytest.mark.parametrize("name", scenario)
def test_in_a_namespace_of_its_own(name: str, tmp_path: Path) -> None:
    run_in_namespace(__file__, name, tmp_path)


if __name__ == "__main__":
    anyio.run(scenario.get(sys.argv[1], _is_private), Path(sys.argv[2]))
