"""Mounts on paths that lead through folders of another account, who moves what lies there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.errors import Refused, Unavailable
from bai_nodeagent.kinds.mount import mounts
from bai_nodeagent.kinds.mount.mountinfo import MountEntry
from bai_nodeagent.kinds.mount.observation import MountSpec
from mount_scenarios import Scenarios, passed, process, run, run_in_namespace, tmpfs
from wheels import public_folder

pytestmark = pytest.mark.root

scenario = Scenarios()
THEM = 61001
AS_THEM = ("setpriv", f"--reuid={THEM}", f"--regid={THEM}", "--clear-groups")

# Lets a folder and a link to another one take each other's place without end.
SWAP = """
import os, sys
place, root = sys.argv[1:]
while True:
    os.symlink(root, place + ".link")
    os.rename(place, place + ".folder")
    os.rename(place + ".link", place)
    os.unlink(place)
    os.rename(place + ".folder", place)
"""


class Ground:
    """A folder of theirs, and one of root's, in a folder that is root's."""

    def __init__(self, folder: Path) -> None:
        self.theirs, self.roots = folder / "theirs", folder / "roots"
        self.theirs.mkdir()
        self.roots.mkdir()
        os.chown(self.theirs, THEM, THEM)

    def link(self, name: str, to: Path) -> Path:
        link = self.theirs / name
        run(*AS_THEM, "ln", "-s", to, link)
        return link

    def lead_away(self, name: str) -> None:
        """Puts a link to root's folder in the place of one of theirs."""
        run(*AS_THEM, "mv", self.theirs / name, self.theirs / f"{name}.away")
        self.link(name, self.roots)


def mounted(below: Path) -> list[MountEntry]:
    return [entry for entry in mounts.table() if Path(entry.target).is_relative_to(below)]


@scenario
async def a_link_of_theirs_is_not_followed(folder: Path) -> None:
    ground = Ground(folder)
    link = ground.link("link", ground.roots)
    for target in (link, link / "made/on/the/way"):
        verdict = await passed(tmpfs(target), folder)
        assert verdict.reason == "Untrusted"
        assert f"{link} is a link" in verdict.message
        assert f"uid {THEM}" in verdict.message
    assert list(ground.roots.iterdir()) == []
    assert mounted(folder) == []


@scenario
async def a_folder_of_theirs_is_a_target_like_others(folder: Path) -> None:
    ground = Ground(folder)
    assert (await passed(tmpfs(ground.theirs / "a/b"), folder)).reason == "Mounted"


@scenario
async def nothing_is_mounted_where_a_link_leads_in_the_meantime(folder: Path) -> None:
    ground = Ground(folder)
    spec = tmpfs(ground.theirs / "swapped/vf")
    (ground.roots / "vf").mkdir()
    run(*AS_THEM, "mkdir", "-p", spec.target)
    with process(*AS_THEM, sys.executable, "-c", SWAP, Path(spec.target).parent, ground.roots):
        reasons = [(await passed(spec, folder)).reason for _ in range(60)]
        assert mounted(ground.roots) == [], reasons


@scenario
async def what_is_bound_is_not_found_by_a_link_of_theirs(folder: Path) -> None:
    ground = Ground(folder)
    (ground.roots / "secret").touch()
    link = ground.link("link", ground.roots)
    spec = MountSpec("b", str(link), str(folder / "at"), "bind")
    assert (await passed(spec, folder)).reason == "Untrusted"
    assert mounted(folder) == []
    assert (await passed(replace(spec, source=str(ground.roots)), folder)).reason == "Mounted"
    assert (folder / "at/secret").exists()


@scenario
async def another_mount_is_neither_taken_away_nor_written_to(folder: Path) -> None:
    """After a look they lead the path to a mount of root's that has the same name."""
    ground = Ground(folder)
    run(*AS_THEM, "mkdir", "-p", ground.theirs / "p/vf")
    spec = tmpfs(ground.theirs / "p/vf")
    assert (await passed(spec, folder)).reason == "Mounted"
    (mount,) = mounted(ground.theirs)
    (ground.roots / "vf").mkdir()
    run("mount", "-t", "tmpfs", "roots", ground.roots / "vf")
    ground.lead_away("p")
    prober = mounts.Prober(folder / "own/mounts", spec.target)
    with pytest.raises(Refused):
        await prober.unmount(mount)
    with pytest.raises(Unavailable, match="another mount"):
        await prober.probe(mount, "", None, None, "written")
    (roots,) = mounted(ground.roots)
    assert roots.source == "roots"
    assert list((ground.roots / "vf").iterdir()) == []


@scenario
async def nothing_is_mounted_over_the_system_or_the_daemon(folder: Path) -> None:
    (folder / "link").symlink_to("/usr/local/sbin")
    own = folder / "own"
    for target in ("/usr/local/sbin", "/etc/cron.d", folder / "link", own, own / "in", folder, "/"):
        verdict = await passed(tmpfs(Path(target)), folder)
        assert verdict.reason == "SystemFolder", target
    assert mounted(Path("/usr")) == []


@scenario
async def a_share_leads_the_probe_to_no_device(folder: Path) -> None:
    spec = tmpfs(folder / "vf", expect_file="door")
    assert (await passed(tmpfs(folder / "vf"), folder)).reason == "Mounted"
    os.mkfifo(folder / "vf/fifo")
    (folder / "vf/door").symlink_to("fifo")
    with process("sh", "-c", f"echo opened > {folder}/vf/fifo") as waits:
        assert (await passed(spec, folder)).reason == "Mounted"
        with pytest.raises(subprocess.TimeoutExpired):
            waits.wait(0.5)


@pytest.mark.parametrize("name", scenario)
def test_in_a_namespace_of_its_own(name: str) -> None:
    with public_folder() as folder:
        run_in_namespace(__file__, name, folder)


if __name__ == "__main__":
    anyio.run(scenario[sys.argv[1]], Path(sys.argv[2]))
