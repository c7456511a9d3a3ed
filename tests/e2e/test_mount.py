"""Mounts on a real node: the kernel's NFS client, systemd, and a server that can be frozen."""

from __future__ import annotations

import json
import time

import pytest

from .lab import Etcd, Nfs, Node
from .managed import AGENT, DAEMON, PROGRAM, SOON_S, TARGET, Managed

pytestmark = pytest.mark.lab

FROZEN_S = 120.0
# What takes a second on a real machine, with TCG, and other work beside it.
AT_ONCE_S = 5.0
IN_BACKGROUND = ">/dev/null 2>&1 </dev/null &"
CONTAINER_ID = "c0ffee" + 58 * "0"
IN_CONTAINER = "/home/work"
# The event loop is the main thread's. It alone is stopped, by ptrace(2) and for good: all other
# threads go on, as with a loop that is caught in a call. Ends when the process has ended.
WEDGE = """
import ctypes, os, sys
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
ptrace, pid = ctypes.CDLL(None, use_errno=True).ptrace, ctypes.c_long(int(sys.argv[1]))
for request in (SEIZE, INTERRUPT):
    if ptrace(request, pid, ctypes.c_void_p(), ctypes.c_void_p()):
        sys.exit(os.strerror(ctypes.get_errno()))
while os.WIFSTOPPED(os.waitpid(pid.value, WALL)[1]):
    pass
"""


@pytest.fixture
def managed(node: Node, etcd: Etcd, nfs: Nfs) -> Managed:
    return Managed(node, etcd, nfs)


def background(node: Node, command: str) -> str:
    """The pid of a process that goes on."""
    return node.run("sh", "-c", f"{command} {IN_BACKGROUND} echo $!").out.strip()


def container_with_the_share(node: Node) -> None:
    """A real container, by the program that Docker's are made with, named and bound as there."""
    node.run("mkdir", "-p", "/run/box/rootfs/bin")
    node.run("cp", "/bin/busybox", "/run/box/rootfs/bin/")
    node.run("runc", "spec", "--bundle", "/run/box")
    config = json.loads(node.read("/run/box/config.json"))
    config["process"].update(terminal=False, args=["/bin/busybox", "sleep", "1000"])
    bind = {"destination": IN_CONTAINER, "source": TARGET, "options": ["rbind", "rprivate"]}
    config["mounts"].append(bind)
    config["linux"]["cgroupsPath"] = f"system.slice:docker:{CONTAINER_ID}"
    node.write("/run/box/config.json", json.dumps(config))
    run = f"runc --systemd-cgroup run --detach --bundle /run/box box {IN_BACKGROUND} wait $!"
    node.run("sh", "-c", run)


def test_a_put_mounts_for_the_host_and_a_hand_is_undone(managed: Managed) -> None:
    managed.start()
    managed.wait("told nothing", lambda: managed.status()["summary"] == "Missing")
    managed.desire('expect-file = "version.txt"\nexpect-uid = 0\nexpect-gid = 0')
    managed.wait_ready()
    managed.wait("told to etcd", lambda: managed.status_in_etcd()["summary"] == "Ready")
    node = managed.node
    assert managed.mounted() == managed.nfs.source("vfroot")  # as PID 1 sees it
    pid = managed.property(DAEMON, "MainPID")
    ours, hosts = node.run("readlink", f"/proc/{pid}/ns/mnt", "/proc/1/ns/mnt").out.split()
    assert ours == hosts
    assert managed.agent_saw() == ["1"]  # no start without the share
    options = ",".join(managed.nfs.options)
    by_hand = f"mount -t nfs4 -o {options} {managed.nfs.source('other')} /mnt"
    by_hand_s = managed.seconds_of(by_hand)
    seconds = managed.seconds_until(f"umount {TARGET}", f"grep -q ' {TARGET} nfs4 ' /proc/mounts")
    print(f"mounted again after {seconds:.2f} s; mount alone takes {by_hand_s:.2f} s")
    assert seconds < 10 * by_hand_s + 1.0
    managed.wait_ready()
    assert managed.agent_saw() == ["1"]
    assert node.run("ls", "-A", TARGET).out.split() == ["version.txt"]  # no probe's file is left


def test_a_frozen_server_hurts_nothing_else(managed: Managed) -> None:
    managed.start_ready()
    node, agent_pid = managed.node, managed.property(AGENT, "MainPID")
    before_s = managed.seconds_to_repair()
    managed.wait_ready()
    began = time.monotonic()
    assert node.run(PROGRAM, "may-start").code == 0
    free_gate_s = time.monotonic() - began
    managed.nfs.freeze()
    frozen_at = time.monotonic()
    reported = managed.wait_reason("Stuck")
    assert reported["status"] == "Unknown"
    assert managed.nfs.source("vfroot") in reported["message"]
    assert "has not answered since 20" in reported["message"]
    assert "the kernel waits in rpc_wait_bit_killable" in reported["message"]
    frozen_s = managed.seconds_to_repair()
    print(f"agent.toml repaired after {before_s:.2f} s, with the server frozen {frozen_s:.2f} s")
    assert frozen_s < before_s + AT_ONCE_S
    before = managed.status()["started-at"]
    began = time.monotonic()
    node.run("systemctl", "restart", DAEMON)
    print(f"restarted in {time.monotonic() - began:.1f} s")
    managed.wait("all but the mount", lambda: _not_true(managed, before) == {"Mount/vfroot"})
    managed.wait_reason("Stuck")
    assert managed.status()["summary"] == "Degraded"
    shown = node.run(PROGRAM, "status", check=False)
    assert shown.code == 3
    assert "Stuck" in shown.out
    began = time.monotonic()
    gate = node.run(PROGRAM, "may-start", check=False)
    gate_s = time.monotonic() - began
    print(f"may-start answered in {gate_s:.1f} s, before in {free_gate_s:.1f} s")
    assert (gate.code, "Stuck" in gate.err) == (1, True)
    assert gate_s < 2 * free_gate_s + AT_ONCE_S
    assert managed.seconds_to_repair() < before_s + AT_ONCE_S
    assert managed.property(AGENT, "MainPID") == agent_pid
    node.run("kill", "-KILL", agent_pid)  # one that is down stays so while its share hangs
    assert (
        "waits for Mount/vfroot (Stuck" in managed.wait_reason("Blocked", name="Agent")["message"]
    )
    while time.monotonic() - frozen_at < FROZEN_S:
        assert len(managed.helpers()) <= 1
        time.sleep(1.0)
    assert managed.agent_saw() == ["1"]
    managed.nfs.thaw()
    began = time.monotonic()
    managed.wait_ready()
    print(f"Ready {time.monotonic() - began:.1f} s after the thaw")
    assert managed.agent_saw() == ["1", "1"]


def _not_true(managed: Managed, earlier: str) -> set[str]:
    """The conditions that are not True, as a later daemon than that one tells them."""
    status = managed.status()
    if status.get("started-at") == earlier:
        return set()
    return {c["type"] for c in status["conditions"] if c["status"] != "True"}


def test_a_server_that_comes_back_is_found_and_a_lost_share_is_healed(managed: Managed) -> None:
    managed.start_ready()
    managed.nfs.stop()
    managed.wait_reason("Stuck")
    managed.nfs.start()
    managed.wait_ready()
    user = background(managed.node, f"cd {TARGET}; exec sleep 1000")
    managed.nfs.replace("vfroot")  # the same name, another folder: handles are stale
    reported = managed.wait_reason("StaleHandle")
    assert f"used by sleep (pid {user}, working directory)" in reported["message"]
    assert managed.node.run("ls", TARGET, check=False).code != 0
    managed.node.run("kill", user)
    managed.wait_ready()
    assert managed.node.run("ls", "-A", TARGET).out == ""


def test_the_wrong_share_is_replaced_only_when_nothing_uses_it(managed: Managed) -> None:
    node, nfs = managed.node, managed.nfs
    node.run("mkdir", "-p", TARGET)
    node.run("mount", "-t", "nfs4", "-o", ",".join(nfs.options), nfs.source("other"), TARGET)
    in_folder = background(node, f"cd {TARGET}; exec sleep 1000")
    container_with_the_share(node)
    managed.desire()
    managed.start()
    reported = managed.wait_reason("Busy")
    assert f"{nfs.source('other')} (nfs4) is mounted at {TARGET}" in reported["message"]
    assert f"sleep (pid {in_folder}, working directory)" in reported["message"]
    assert f"container {CONTAINER_ID[:12]}: " in reported["message"]
    assert f"mounted at {IN_CONTAINER} in its namespace)" in reported["message"]
    assert managed.agent_saw() == []
    node.run("kill", in_folder)
    managed.wait("one is gone", lambda: in_folder not in managed.condition()["message"])
    assert managed.condition()["reason"] == "Busy"  # umount would succeed, and part them
    node.run("runc", "delete", "--force", "box")
    managed.wait_ready()
    assert managed.mounted() == nfs.source("vfroot")
    assert managed.agent_saw() == ["1"]


def test_a_share_that_is_not_as_expected_is_reported_with_its_numbers(managed: Managed) -> None:
    share = managed.nfs.shares["vfroot"]
    managed.desire('expect-uid = 1100\nexpect-gid = 1100\nexpect-file = "marker"')
    managed.start()
    reported = managed.wait_reason("MissingFile")
    assert "holds no marker" in reported["message"]
    assert "belongs to 0:0, not to 1100:1100" in reported["message"]
    (share / "marker").write_text("")
    managed.wait_reason("WrongOwner")
    managed.node.run("chown", "1100:1100", TARGET)
    managed.wait_ready()
    managed.node.run("chmod", "0555", TARGET)
    managed.node.run("systemctl", "restart", DAEMON)
    assert "as uid 1100: EACCES" in managed.wait_reason("NotWritable")["message"]


def test_what_lies_under_or_over_the_target_is_reported_and_left(managed: Managed) -> None:
    node = managed.node
    node.write(f"{TARGET}/written-too-early", "")
    managed.desire()
    managed.start()
    assert "written-too-early" in managed.wait_reason("TargetNotEmpty")["message"]
    managed.wait_reason("Blocked", name="Agent")
    node.run("systemctl", "start", AGENT)
    assert managed.property(AGENT, "ActiveState") == "inactive"  # systemd asked the gate
    assert managed.agent_saw() == []
    node.run("rm", f"{TARGET}/written-too-early")
    managed.wait_ready()
    node.run("mount", "-t", "tmpfs", "over", TARGET)
    assert "over (tmpfs)" in managed.wait_reason("Covered")["message"]
    assert managed.property(AGENT, "ActiveState") == "active"  # a running one is left alone
    node.run("umount", TARGET)
    managed.wait_ready()


def test_a_mount_is_taken_away_when_nothing_uses_it(managed: Managed) -> None:
    managed.start_ready()
    user = background(managed.node, f"exec sleep 1000 3<{TARGET}/version.txt")
    managed.desire('state = "unmounted"')
    assert f"sleep (pid {user}, open file)" in managed.wait_reason("Busy")["message"]
    managed.node.run("kill", user)
    managed.wait_reason("Unmounted")
    assert managed.mounted() == ""
    managed.wait_ready()
    managed.node.run("systemctl", "restart", AGENT)  # one that is down waits for the share
    assert managed.property(AGENT, "ActiveState") == "inactive"
    assert "Mount/vfroot (Unmounted" in managed.wait_reason("Blocked", name="Agent")["message"]
    managed.desire()
    managed.wait_ready()
    assert managed.agent_saw() == ["1", "1"]


def test_a_node_boots_with_its_mounts_and_without_etcd(managed: Managed) -> None:
    managed.start_ready()
    node = managed.node
    node.run("systemctl", "enable", AGENT)
    managed.etcd.stop()
    node.reboot()
    managed.wait("the agent is up", lambda: managed.agent_saw() == ["1", "1"], 2 * SOON_S)
    assert managed.mounted() == managed.nfs.source("vfroot")
    managed.etcd.start()
    managed.wait_ready(2 * SOON_S)


def test_without_its_share_the_agent_waits_and_starts_when_it_is_back(managed: Managed) -> None:
    managed.nfs.stop()
    managed.desire()
    managed.start()
    reported = managed.wait_reason("MountFailed")
    assert reported["status"] == "False"
    assert managed.agent_saw() == []
    managed.nfs.start()
    managed.wait_ready(2 * SOON_S)
    assert managed.agent_saw() == ["1"]


def test_a_wedged_daemon_is_restarted_and_nothing_else(managed: Managed) -> None:
    node = managed.node
    node.write(f"/etc/systemd/system/{DAEMON}.d/lab.conf", "[Service]\nWatchdogSec=20\n")
    node.run("systemctl", "daemon-reload")
    managed.start_ready()
    first, agent_pid = managed.property(DAEMON, "MainPID"), managed.property(AGENT, "MainPID")
    time.sleep(25.0)  # as long as it moves it is fed
    assert managed.property(DAEMON, "MainPID") == first
    wedge = node.spawn("python3", "-c", WEDGE, first)
    managed.wait("restarted", lambda: managed.property(DAEMON, "NRestarts") == "1", 2 * SOON_S)
    managed.wait("ready", lambda: managed.property(DAEMON, "ActiveState") == "active")
    assert managed.property(DAEMON, "MainPID") != first
    assert wedge.wait(SOON_S).code == 0
    journal = node.journal(DAEMON)
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal  # where it stood is told
    assert managed.seconds_to_repair() < AT_ONCE_S
    assert managed.property(AGENT, "MainPID") == agent_pid
    status = node.read(f"/proc/{managed.property(DAEMON, 'MainPID')}/status")
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd"))
    assert int(bounding.split()[1], 16) & 1 << 22 == 0  # CAP_SYS_BOOT: the hardening is in force
