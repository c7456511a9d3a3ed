"""An account on the node that holds as many connections to the daemon as it can."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_under_test import Node

AS_THEM = ("setpriv", "--reuid=61001", "--regid=61001", "--clear-groups")
HOLDER = """\
import selectors, socket, sys
port, number = int(sys.argv[1]), int(sys.argv[2])
waiting = selectors.DefaultSelector()

def hold():
    held = socket.create_connection(("127.0.0.1", port))
    held.sendall(sys.argv[3].encode())
    waiting.register(held, selectors.EVENT_READ)

for _ in range(number):
    hold()
print("held", flush=True)
while True:
    for key, _ in waiting.select():
        waiting.unregister(key.fileobj)
        key.fileobj.close()
        hold()
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    if os.geteuid() != 0:
        pytest.skip("needs root: another account")
    node = Node(tmp_path / "node")
    yield node
    node.close()


@pytest.mark.parametrize("number", [16, 17, 64, 500])
@pytest.mark.parametrize("head", ["", "GET /metrics HTTP/1.0\r\n"], ids=["silent", "half"])
def test_connections_that_never_ask_shut_nobody_out(node: Node, number: int, head: str) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    command = [*AS_THEM, "/usr/bin/python3", "-c", HOLDER, str(node.port), str(number), head]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            for _ in range(5):
                time.sleep(0.5)
                code, text = node.http("/metrics")
                assert (code, "bai_nodeagent" in text) == (200, True)
        finally:
            holder.kill()


# Answers as the daemon would, at an address in one of its spellings, and listens no more while
# it does; or it holds the port and does not listen at all.
IMPOSTOR = """\
import json, socket, sys
said = json.dumps({"node": "i-test01", "summary": "Ready"}).encode()
host = sys.argv[2]
def bound():
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if ":" in host:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, sys.argv[3] == "listens")
    held.bind((host, int(sys.argv[1])))
    return held
server = bound()
if sys.argv[3] == "listens":
    server.listen()
print("listens", flush=True)
while sys.argv[3] == "listens":
    client, _ = server.accept()
    server.close()
    client.recv(9999)
    client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + said)
    client.close()
    server = bound()
    server.listen()
input()
"""


def impostor(node: Node, host: str = "127.0.0.1", how: str = "listens") -> subprocess.Popen[bytes]:
    command = [*AS_THEM, "/usr/bin/python3", "-c", IMPOSTOR, str(node.port), host, how]
    pipe = subprocess.PIPE
    started = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    assert started.stdout is not None
    assert started.stdout.readline() == b"listens\n"
    return started


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_nobody_else_speaks_for_the_daemon(node: Node, host: str) -> None:
    node.desire(node.document() + '[[mount]]\nname = "x"\ntarget = "relative"\n')
    node.start()
    node.wait("invalid", lambda: node.status()["summary"] == "Invalid")
    node.stop()
    with impostor(node, host) as other:
        try:
            for _ in range(5):
                answer = node.run("status")
                assert (answer.returncode, "Invalid" in answer.stdout) == (3, True)
                assert "says the daemon on this node" not in answer.stdout
                assert "what answers there is not this node's daemon" in answer.stderr
        finally:
            other.kill()


def test_the_same_port_of_another_address_is_no_impostor(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    with impostor(node, "127.0.0.2") as other:
        try:
            assert "says the daemon on this node" in node.run("status").stdout
        finally:
            other.kill()


@pytest.mark.parametrize(
    ("host", "how", "reported"),
    [
        ("127.0.0.1", "listens", "account 61001 listens there"),
        ("::ffff:127.0.0.1", "listens", "account 61001 listens there"),
        ("127.0.0.1", "is bound", "in use"),
    ],
)
def test_whoever_takes_the_port_first_leaves_no_node_unkept(
    node: Node, host: str, how: str, reported: str
) -> None:
    node.desire()
    with impostor(node, host, how) as squatter:
        try:
            node.start()
            node.wait("an agent", lambda: [marker for _, marker in node.starts] == ["one"])
            assert reported in node.log
        finally:
            squatter.kill()
    node.wait("it serves", lambda: node.http("/readyz") == (200, "Ready\n"))
