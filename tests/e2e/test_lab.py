"""The laboratory itself: what the other tests here take for granted."""

from __future__ import annotations

import time

import pytest

from .lab import CommandFailed, Etcd, Nfs, Node, StillRunning

pytestmark = pytest.mark.lab

MOUNT_POINT = "/mnt/vfroot"
# Long enough for a server that is merely slow under TCG, shorter than the mount's own patience.
HANGS_AFTER_S = 4.0
HEALS_WITHIN_S = 60.0


def mount(node: Node, nfs: Nfs) -> None:
    node.run("mkdir", MOUNT_POINT)
    options = ",".join(nfs.options)
    node.run("mount", "-t", "nfs4", "-o", options, nfs.source("vfroot"), MOUNT_POINT)


def test_systemd_is_pid_1_of_a_kernel_of_its_own(node: Node) -> None:
    assert node.read("/proc/1/comm") == "systemd\n"
    assert node.run("systemctl", "is-system-running").out == "running\n"
    assert "cloud-amd64" in node.run("uname", "--kernel-release").out


def test_a_command_gives_output_status_and_input(node: Node) -> None:
    assert node.run("cat", stdin="so\n").out == "so\n"
    assert node.run("sh", "-c", "echo no >&2; exit 7", check=False).err == "no\n"
    with pytest.raises(CommandFailed, match="ended with 7"):
        node.run("sh", "-c", "exit 7")
    with pytest.raises(CommandFailed, match="no-such-program"):
        node.run("no-such-program")
    with pytest.raises(StillRunning):
        node.run("sleep", "60", timeout_s=0.5)


def test_a_write_keeps_the_owner_and_mode_of_a_file(node: Node) -> None:
    node.write("/etc/lab/new.toml", "a = 1\n")
    node.run("chown", "daemon:daemon", "/etc/lab/new.toml")
    node.run("chmod", "0600", "/etc/lab/new.toml")
    node.write("/etc/lab/new.toml", "a = 2\n")
    assert node.read("/etc/lab/new.toml") == "a = 2\n"
    assert node.run("stat", "--format=%U %a", "/etc/lab/new.toml").out == "daemon 600\n"


def test_a_restored_node_has_the_present_time(node: Node) -> None:
    assert float(node.run("date", "+%s").out) == pytest.approx(time.time(), abs=5.0)


def test_the_project_is_installed_as_documented(node: Node) -> None:
    venv = "/opt/bai-nodeagent/venv"
    import_it = "import bai_nodeagent, grpc, jeepney; print(bai_nodeagent.__file__)"
    assert node.run(f"{venv}/bin/python", "-c", import_it).out.startswith(venv)
    node.run("test", "-x", f"{venv}/bin/bai-nodeagent")


def test_reboot_keeps_the_disk(node: Node) -> None:
    before = node.boot_id()
    node.write("/etc/lab/kept", "yes")
    node.reboot()
    assert node.boot_id() != before
    assert node.read("/etc/lab/kept") == "yes"
    assert node.journal().count("Linux version") == 2  # both boots' kernels


def test_a_power_cut_is_no_shutdown(node: Node) -> None:
    """What a unit does when it is stopped is not done, and what was synced is there."""
    node.write("/etc/lab/synced", "yes")
    witness = "ExecStop=/bin/sh -c 'touch /etc/lab/shut-down; sync'"
    node.run("systemd-run", "--remain-after-exit", "--property", witness, "true")
    node.run("sync")
    before = node.boot_id()
    node.power_cut()
    assert node.boot_id() != before
    assert node.read("/etc/lab/synced") == "yes"
    assert not node.exists("/etc/lab/shut-down")


def test_etcd_is_reached_from_the_node(node: Node, etcd: Etcd) -> None:
    etcd.put("/lab/key", "from the host")
    get = ("etcdctl", f"--endpoints={etcd.endpoint}", "get", "--print-value-only", "/lab/key")
    assert node.run(*get).out == "from the host\n"
    assert etcd.get("/lab/key") == "from the host"
    etcd.stop()
    assert node.run(*get, check=False).code != 0
    etcd.start()
    assert node.run(*get).out == "from the host\n"


def test_a_pulled_cable_leaves_commands_working(node: Node, etcd: Etcd) -> None:
    health = ("etcdctl", f"--endpoints={etcd.endpoint}", "endpoint", "health")
    node.pull_cable()
    assert node.run(*health, check=False).code != 0
    node.plug_cable()
    node.wait_until(lambda: node.run(*health), within_s=30)


def test_the_kernel_mounts_nfs(node: Node, nfs: Nfs) -> None:
    (nfs.shares["vfroot"] / "version.txt").write_text("20230613\n")
    mount(node, nfs)
    assert node.read(f"{MOUNT_POINT}/version.txt") == "20230613\n"
    assert f"{nfs.source('vfroot')} {MOUNT_POINT} nfs4" in node.read("/proc/mounts")
    node.run("mkdir", f"{MOUNT_POINT}/folder")
    node.run("chown", "1100:1100", f"{MOUNT_POINT}/folder")
    assert (nfs.shares["vfroot"] / "folder").stat().st_uid == 1100


def test_a_frozen_nfs_server_makes_statfs_hang_and_a_thaw_heals_it(node: Node, nfs: Nfs) -> None:
    mount(node, nfs)
    nfs.freeze()
    statfs = node.spawn("stat", "--file-system", MOUNT_POINT)
    with pytest.raises(StillRunning):
        statfs.wait(HANGS_AFTER_S)
    assert node.read(f"/proc/{statfs.pid}/stat").split()[2] == "D"
    assert MOUNT_POINT in node.read("/proc/mounts")
    nfs.thaw()
    assert statfs.wait(HEALS_WITHIN_S).code == 0


def test_a_stopped_nfs_server_comes_back_to_its_mounts(node: Node, nfs: Nfs) -> None:
    mount(node, nfs)
    nfs.stop()
    listing = node.spawn("ls", MOUNT_POINT)
    with pytest.raises(StillRunning):
        listing.wait(HANGS_AFTER_S)
    nfs.start()
    assert listing.wait(HEALS_WITHIN_S).code == 0


def test_a_replaced_share_makes_handles_stale(node: Node, nfs: Nfs) -> None:
    mount(node, nfs)
    nfs.replace("vfroot")
    with pytest.raises(CommandFailed, match="Stale file handle"):
        node.run("stat", "--file-system", MOUNT_POINT)
