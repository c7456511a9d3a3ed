"""A node in a swarm: real dockerds, the real daemon, seen from outside."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dockers import DockerNode, eventually
from dockers import swarm_nodes as swarm_nodes
from node_under_test import PROGRAM, Node
from servers import Etcd, EtcdServer
from swarm_authority import Authority

pytestmark = pytest.mark.root

SECRET = "swarm-worker"


class SwarmNode(Node):
    """The daemon on the network of a dockerd, and asking that one."""

    def __init__(
        self,
        folder: Path,
        dockerd: DockerNode,
        manager: DockerNode,
        etcd: Etcd | None = None,
    ) -> None:
        self.dockerd, self.manager = dockerd, manager
        self.tokens: set[str] = set()
        super().__init__(folder, etcd)
        self.inside = (*dockerd.in_network, "env", f"DOCKER_HOST={dockerd.host}")

    def begin(self) -> None:
        self.start(*self.inside, str(PROGRAM))

    def http(self, path: str) -> tuple[int, str]:
        fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
        url = f"http://127.0.0.1:{self.port}{path}"
        done = subprocess.run(
            [*self.dockerd.in_network, sys.executable, "-c", fetch, url],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise OSError(done.stderr)
        return 200, done.stdout

    def status(self) -> dict[str, Any]:
        """Of the daemon itself where the store may be away."""
        return json.loads(self.http("/status")[1]) if self.etcd else super().status()

    def give(self, token: str) -> None:
        self.tokens.add(token)
        self.put(f"secret/cluster/{SECRET}", token)

    def section(self, manager: DockerNode | None = None, more: str = "") -> str:
        address = (manager or self.manager).ip
        return f"""\
[swarm]
state = "joined"
remote-addrs = ["{address}:2377"]
token = "{SECRET}"
advertise-addr = "{self.dockerd.ip}"
{more}
"""

    def desire_swarm(self, section: str, agent: str = "") -> None:
        self.desire(f"api-version = 1\n{section}\n{agent}")

    def desire_joined(self, manager: DockerNode | None = None, more: str = "") -> None:
        self.desire_swarm(self.section(manager, more))

    def wait_in(self, manager: DockerNode | None = None, within_s: float = 15.0) -> float:
        """In the swarm of that manager, and said so."""
        cluster = (manager or self.manager).swarm("Cluster.ID")
        return self.wait(
            f"in {cluster}",
            lambda: (
                self.condition("Swarm")["reason"] == "InSync"
                and self.status()["facts"].get("swarm-cluster") == cluster
                and self.dockerd.swarm("LocalNodeState") == "active"
            ),
            within_s,
        )

    def reason(self, reason: str, within_s: float = 15.0) -> str:
        return str(self.wait_reason("Swarm", reason, within_s)["message"])


@pytest.fixture(scope="module")
def manager(swarm_nodes: list[DockerNode]) -> DockerNode:
    swarm_nodes[0].init()
    swarm_nodes[0].docker("network", "create", "--driver=overlay", "--attachable", "overlay1")
    return swarm_nodes[0]


@pytest.fixture(scope="module")
def other(swarm_nodes: list[DockerNode]) -> DockerNode:
    swarm_nodes[2].init()
    return swarm_nodes[2]


@pytest.fixture
def node(tmp_path: Path, swarm_nodes: list[DockerNode], manager: DockerNode) -> Iterator[SwarmNode]:
    """A daemon that runs on a node which is in no swarm, with the manager's token at hand."""
    with _running(SwarmNode(tmp_path / "n", swarm_nodes[1], manager)) as node:
        yield node


@pytest.fixture
def store(tmp_path: Path, swarm_nodes: list[DockerNode]) -> Iterator[EtcdServer]:
    """An etcd of the node's own, in its network."""
    with EtcdServer(tmp_path / "etcd", inside=swarm_nodes[1].in_network) as store:
        yield store


@pytest.fixture
def etcd_node(
    tmp_path: Path, swarm_nodes: list[DockerNode], manager: DockerNode, store: EtcdServer
) -> Iterator[SwarmNode]:
    """The same with an etcd for a store."""
    with _running(SwarmNode(tmp_path / "n", swarm_nodes[1], manager, store)) as node:
        yield node


@contextlib.contextmanager
def _running(node: SwarmNode) -> Iterator[SwarmNode]:
    node.dockerd.forget()
    node.give(node.manager.token())
    node.begin()
    try:
        yield node
        _check_no_token(node)
    finally:
        node.close()
        node.dockerd.send(signal.SIGCONT)


def _check_no_token(node: SwarmNode) -> None:
    """Nothing may show a token but the store's own secret: no file of the daemon, nor of the
    Docker that it was handed to, no argument, no metric, no status."""
    node.wait("up", lambda: node.http("/livez"))  # a test may just have started it again
    folders = (node.folder, node.dockerd.data / "swarm")
    texts = {
        path: path.read_text(errors="replace")
        for folder in folders
        for path in [*folder.rglob("*"), node.dockerd.folder / "log"]
        if path.is_file() and not path.is_relative_to(node.folder / "store/secret")
    }
    assert node.folder / "state/journal.json" in texts
    texts |= {
        path: path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    }
    texts[Path("metrics")] = node.http("/metrics")[1]
    texts[Path("status")] = node.http("/status")[1]
    for token in node.tokens:
        ways = _spellings(token.rpartition("-")[2])
        assert not [path for path, text in texts.items() if any(way in text for way in ways)]


def _spellings(secret: str) -> list[str]:
    """A secret as it is, and within the base64 of a longer text, whatever stands around it."""
    encoded = [base64.b64encode(b"\0" * at + secret.encode()).decode() for at in range(3)]
    # Around it are other bits in each first and last group.
    return [secret, *(text[4:-4] for text in encoded)]


def test_one_put_joins_and_one_leaves(node: SwarmNode, manager: DockerNode) -> None:
    node.desire_joined()
    node.wait_in()
    assert node.wait_summary("Ready") < 5
    facts = node.status()["facts"]
    assert facts["swarm-node"] == node.dockerd.swarm("NodeID")
    expires_s = datetime.fromisoformat(facts["swarm-certificate-expires"]).timestamp()
    gauge = "bai_nodeagent_swarm_certificate_expiry_timestamp_seconds"
    assert node.metric(gauge) == expires_s > time.time() + 80 * 86400
    assert (node.folder / "state/swarm.json").stat().st_mode & 0o777 == 0o600
    assert node.run("plan").returncode == 0

    node.desire_swarm('[swarm]\nstate = "left"')
    node.wait("out", lambda: node.condition("Swarm")["message"] == "in no swarm")
    assert node.dockerd.swarm("LocalNodeState") == "inactive"
    node.wait_summary("Ready")
    assert "swarm-cluster" not in node.status()["facts"]
    assert gauge not in node.http("/metrics")[1]


def test_a_leave_behind_our_back_is_repaired_by_an_event(node: SwarmNode) -> None:
    node.desire_joined()
    node.wait_in()
    before = node.dockerd.swarm("NodeID")
    node.dockerd.docker("swarm", "leave", "--force")
    left_s = time.monotonic()
    eventually("in again", lambda: node.dockerd.swarm("NodeID") not in ("", before), 10)
    took_s = time.monotonic() - left_s
    print(f"leave behind our back -> member again: {took_s:.2f} s")
    node.wait_in()
    assert took_s < 30  # the next look without an event comes after 48 s at the earliest


def test_the_agent_is_restarted_once_for_its_first_swarm(node: SwarmNode) -> None:
    """It has to find the swarm when it starts; coming back into the same one is no news to it."""
    node.desire(node.document("one"))
    node.wait_ready("one")
    node.desire(node.document("one") + node.section())
    node.wait("a restart", lambda: len(node.starts) == 2)
    node.wait_in()
    node.wait_ready("one")
    before = node.dockerd.swarm("NodeID")
    node.dockerd.docker("swarm", "leave", "--force")
    node.wait("in again", lambda: node.dockerd.swarm("NodeID") not in ("", before))
    node.wait_in()
    node.stop()
    node.begin()
    node.wait_ready("one")
    time.sleep(1.5)  # beyond the time in which a change settles
    assert len(node.starts) == 2


def test_a_rotated_token_keeps_members_and_reaches_nodes_that_join(
    node: SwarmNode, manager: DockerNode
) -> None:
    node.desire_joined()
    node.wait_in()
    fresh = manager.rotate()
    time.sleep(12)  # the old one is good for some seconds more
    assert node.condition("Swarm")["reason"] == "InSync"
    node.dockerd.docker("swarm", "leave", "--force")
    message = node.reason("InvalidToken", 30)
    assert "may have been rotated" in message
    assert SECRET in message
    node.give(fresh)
    node.wait_in(within_s=25)


def test_without_the_store_a_member_stays_and_a_node_outside_waits_for_it(
    etcd_node: SwarmNode, store: EtcdServer
) -> None:
    node = etcd_node
    node.desire_joined()
    node.wait_in()
    first, record = node.dockerd.swarm("NodeID"), node.folder / "state/swarm.json"
    node.wait_summary("Ready")
    noted = record.read_bytes()
    store.kill()
    node.stop(signal.SIGKILL)  # with it goes all that it had in memory
    node.begin()
    node.wait_in()
    node.wait_reason("DesiredState", "StoreUnreachable")
    assert node.condition("Swarm")["status"] == "True"
    assert (node.dockerd.swarm("NodeID"), record.read_bytes()) == (first, noted)

    node.dockerd.docker("swarm", "leave", "--force")
    message = node.reason("WaitingForStore")
    assert "from the store" in message
    assert SECRET in message
    assert node.condition("Swarm")["status"] == "False"
    answer = node.run("plan")
    assert (answer.returncode, "WaitingForStore" in answer.stdout) == (3, True)
    assert node.dockerd.swarm("LocalNodeState") == "inactive"
    store.start()
    node.wait_in(within_s=30)
    assert node.dockerd.swarm("NodeID") != first
    assert json.loads(record.read_bytes())["asked"] == json.loads(noted)["asked"]


def test_a_removal_observed_without_the_store_holds_when_the_store_is_back(
    etcd_node: SwarmNode, store: EtcdServer, manager: DockerNode
) -> None:
    node = etcd_node
    node.desire_joined()
    node.wait_in()
    node.wait_summary("Ready")
    store.kill()
    node.stop(signal.SIGKILL)
    manager.docker("node", "rm", "--force", node.dockerd.swarm("NodeID"))
    node.begin()
    node.reason("RemovedByManager")
    node.dockerd.docker("swarm", "leave", "--force")
    store.start()
    node.wait_reason("DesiredState", "Valid", 30)
    record = node.folder / "state/swarm.json"
    node.wait("the wish is noted", lambda: json.loads(record.read_bytes())["removed_asked"])
    node.reason("RemovedByManager")
    assert node.dockerd.swarm("LocalNodeState") == "inactive"
    node.give(manager.rotate())
    node.wait_in(within_s=25)


def test_a_removed_node_stays_out_until_asked_again(node: SwarmNode, manager: DockerNode) -> None:
    node.desire_joined()
    node.wait_in()
    first = node.dockerd.swarm("NodeID")
    manager.docker("node", "rm", "--force", first)
    # Nothing on the node tells of it: the next look does, for the sake of the test at once.
    node.stop()
    node.begin()
    message = node.reason("RemovedByManager")
    assert first in message
    node.dockerd.docker("swarm", "leave", "--force")
    node.stop()
    node.begin()
    node.reason("RemovedByManager")
    time.sleep(2)
    assert node.dockerd.swarm("LocalNodeState") == "inactive"

    node.give(manager.rotate())
    node.wait_in(within_s=25)
    assert node.dockerd.swarm("NodeID") != first


def test_a_node_removed_and_then_left_by_hand_before_any_observation_stays_out(
    node: SwarmNode, manager: DockerNode
) -> None:
    node.desire_joined()
    node.wait_in()
    first = node.dockerd.swarm("NodeID")
    manager.docker("node", "rm", "--force", first)
    node.dockerd.docker("swarm", "leave", "--force")
    assert first in node.reason("RemovedByManager")
    time.sleep(2)
    assert node.dockerd.swarm("LocalNodeState") == "inactive"
    node.give(manager.rotate())
    node.wait_in(within_s=25)


@pytest.mark.parametrize("state", ["active", "inactive"])
def test_a_daemon_killed_after_any_action_converges(node: SwarmNode, state: str) -> None:
    other = {"active": "inactive", "inactive": "active"}[state]
    for nth in range(1, 6):
        _settle(node, other)
        node.stop()
        _desire(node, state)
        has_died = node.run_until_it_dies(str(nth), 30)
        node.begin()
        node.wait("up", lambda: node.http("/livez"))
        _settle(node, state)
        if not has_died:
            assert nth > 1, "nothing was done: it tests nothing"
            return
    raise AssertionError("still dying after five actions")


def _desire(node: SwarmNode, state: str) -> None:
    node.desire_swarm(node.section() if state == "active" else '[swarm]\nstate = "left"\n')


def _settle(node: SwarmNode, state: str) -> None:
    _desire(node, state)
    node.wait(
        f"{state} and said so",
        lambda: (
            node.dockerd.swarm("LocalNodeState") == state
            and node.condition("Swarm")["reason"] == "InSync"
            and (node.condition("Swarm")["message"] == "in no swarm") is (state == "inactive")
        ),
        30,
    )


def test_another_swarm_is_left_only_when_no_container_needs_it(
    node: SwarmNode, manager: DockerNode, other: DockerNode
) -> None:
    node.desire_joined()
    node.wait_in()
    node.dockerd.run("kernel.one", "overlay1")
    node.give(other.token())
    node.desire_joined(other)
    message = node.reason("Blocked")
    assert "kernel.one" in message
    assert node.dockerd.swarm("LocalNodeState") == "active"
    # Its end is an event: nobody has to wait for the next look.
    node.dockerd.docker("rm", "--force", "kernel.one")
    seconds = node.wait_in(other, within_s=20)
    print(f"last container gone -> in the other swarm: {seconds:.2f} s")

    # And back, by the pinned id.
    node.give(manager.token())
    node.desire_joined(manager, f'cluster-id = "{manager.swarm("Cluster.ID")}"')
    node.wait_in(manager, within_s=20)


def test_a_swarm_that_is_not_the_pinned_one_is_not_trusted(node: SwarmNode) -> None:
    node.desire_joined(more=f'cluster-id = "{"x" * 25}"')
    message = node.reason("WrongSwarm")
    node.wait("out", lambda: node.dockerd.swarm("LocalNodeState") == "inactive")
    node.wait("settled", lambda: "put the wrong one right" in node.condition("Swarm")["message"])
    assert "x" * 25 in message
    assert json.loads((node.folder / "state/swarm.json").read_text())["trusted"] == ""
    node.desire_joined()
    node.wait_in()


def test_a_manager_is_never_taken_out(tmp_path: Path, other: DockerNode) -> None:
    node = SwarmNode(tmp_path / "n", other, other)
    node.desire_swarm('[swarm]\nstate = "left"')
    node.begin()
    try:
        assert "docker node demote" in node.reason("Blocked")
        node.give(other.token())
        node.desire_joined()
        node.wait_in()
        own = other.swarm("NodeID")
        other.docker("node", "update", "--availability", "drain", own)
        seconds = node.wait("Drained", lambda: node.condition("Swarm")["reason"] == "Drained")
        print(f"drained -> told: {seconds:.2f} s")
        other.docker("node", "update", "--availability", "active", own)
        node.wait_in()
    finally:
        node.close()


def test_a_frozen_docker_delays_nothing_else(node: SwarmNode) -> None:
    node.desire(node.document("one") + node.section())
    node.wait_in()
    node.wait_ready("one")
    node.dockerd.send(signal.SIGSTOP)
    node.desire(node.document("two") + node.section())
    node.wait("the agent runs with two", lambda: node.starts[-1][1] == "two", 10)
    assert "docker: info" in node.reason("Unavailable")
    threads = _threads(node)
    time.sleep(4)  # some more looks
    assert _threads(node) <= threads
    node.dockerd.send(signal.SIGCONT)
    node.wait_ready("two")
    node.wait_in()


def test_docker_frozen_in_the_middle_of_a_join(node: SwarmNode, manager: DockerNode) -> None:
    manager.send(signal.SIGSTOP)  # so that the join takes its time
    try:
        node.desire_joined()
        node.wait_reason("Swarm", "Progressing")
        time.sleep(0.5)
        node.dockerd.send(signal.SIGSTOP)
    finally:
        manager.send(signal.SIGCONT)
    time.sleep(1)
    node.dockerd.send(signal.SIGCONT)
    node.wait_in(within_s=40)


def test_docker_killed_in_the_middle_of_a_join(node: SwarmNode, manager: DockerNode) -> None:
    manager.send(signal.SIGSTOP)
    try:
        node.desire_joined()
        node.wait_reason("Swarm", "Progressing")
        time.sleep(0.5)
        node.dockerd.end(signal.SIGKILL)
        node.reason("Unavailable")
    finally:
        manager.send(signal.SIGCONT)
    node.dockerd.start()
    node.wait_in(within_s=40)


def test_docker_stopped_and_started_is_observed_at_once(node: SwarmNode) -> None:
    node.desire_joined()
    node.wait_in()
    node.dockerd.end()
    ended_s = time.monotonic()
    node.reason("Unavailable", 5)
    print(f"dockerd ended -> told: {time.monotonic() - ended_s:.2f} s")
    node.dockerd.start()
    started_s = time.monotonic()
    node.wait_in()
    print(f"dockerd answers -> in line: {time.monotonic() - started_s:.2f} s")


def test_a_manager_that_is_away_is_reported_and_waited_for(
    node: SwarmNode, manager: DockerNode
) -> None:
    node.desire_joined(more='listen-addr = "0.0.0.0:2377"')
    node.wait_in()
    manager.send(signal.SIGSTOP)
    try:
        node.stop()
        node.begin()
        assert manager.ip in node.reason("ManagerUnreachable")
    finally:
        manager.send(signal.SIGCONT)
    node.wait_in(within_s=30)


def test_a_join_that_goes_on_in_the_background_is_no_failure(
    node: SwarmNode, manager: DockerNode
) -> None:
    nowhere = node.section().replace(f"{manager.ip}:", "10.77.0.99:")
    node.desire_swarm(nowhere)
    node.wait("pending", lambda: node.dockerd.swarm("LocalNodeState") == "pending", 10)
    node.wait(
        "Docker goes on", lambda: "getting in touch" in node.condition("Swarm")["message"], 30
    )
    assert node.condition("Swarm")["status"] == "Unknown"
    assert node.status()["summary"] == "Progressing"
    # Docker gives up for good, and that is told; a newer wish ends it.
    assert "10.77.0.99" in node.reason("ManagerUnreachable", 60)
    assert node.dockerd.swarm("LocalNodeState") == "error"
    node.desire_joined()
    node.wait_in(within_s=25)


def test_one_manager_that_answers_is_enough(node: SwarmNode, manager: DockerNode) -> None:
    """Docker itself tries the first one alone."""
    address = f'"{manager.ip}:2377"'
    node.desire_swarm(node.section().replace(address, f'"10.77.0.99:2377", {address}'))
    node.wait_in()


def test_a_manager_that_comes_later_is_joined(node: SwarmNode, manager: DockerNode) -> None:
    manager.end()
    try:
        node.desire_joined()
        node.reason("ManagerUnreachable", 60)
    finally:
        manager.start()
    seconds = node.wait_in(within_s=25)
    print(f"a manager is back -> joined: {seconds:.2f} s")


def test_a_join_that_fails_in_the_background_is_reported_and_a_right_token_mends_it(
    node: SwarmNode, manager: DockerNode
) -> None:
    right = manager.token()
    node.give(f"{right.rpartition('-')[0]}-{'0' * 25}")
    manager.send(signal.SIGSTOP)
    try:
        node.desire_joined()
        node.wait(
            "Docker goes on", lambda: "getting in touch" in node.condition("Swarm")["message"], 30
        )
    finally:
        manager.send(signal.SIGCONT)
    assert "may have been rotated" in node.reason("InvalidToken", 40)
    node.give(right)
    node.wait_in()


def test_another_authority_is_no_other_swarm_and_an_expired_certificate_is_replaced(
    node: SwarmNode, manager: DockerNode
) -> None:
    node.desire_joined()
    node.wait_in()
    first = node.dockerd.swarm("NodeID")
    manager.forget_others(first)
    authority = Authority()
    authority.rule(manager)
    node.wait("told", lambda: "present authority" in node.condition("Swarm")["message"], 30)
    assert node.condition("Swarm")["status"] == "True"
    node.give(manager.token())
    node.wait("told no more", lambda: "authority" not in node.condition("Swarm")["message"])
    assert node.dockerd.swarm("NodeID") == first

    node.dockerd.end()
    authority.expire(node.dockerd)
    node.dockerd.start()
    node.wait("a new id", lambda: node.dockerd.swarm("NodeID") not in ("", first), 30)
    node.wait_in()
    assert '"reason": "CertificateExpired"' in node.log or "leave the swarm" in node.log


def _threads(node: SwarmNode) -> int:
    assert node.process is not None
    return len(list(Path(f"/proc/{node.process.pid}/task").iterdir()))
