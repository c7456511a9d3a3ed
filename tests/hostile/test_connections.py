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
@pytest.mark.parametrize("said", ["", "GET /metrics HTTP/1.0\r\n"], ids=["silent", "half"])
def test_connections_that_never_ask_shut_nobody_out(node: Node, number: int, said: str) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    command = [*AS_THEM, "/usr/bin/python3", "-c", HOLDER, str(node.port), str(number), said]
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


IMPOSTOR = """\
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"node": "i-test01", "summary": "Ready"}).encode())
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("listens", flush=True)
server.serve_forever()
"""


def test_nobody_else_speaks_for_the_daemon(node: Node) -> None:
    node.desire(node.document() + '[[mount]]\nname = "x"\ntarget = "relative"\n')
    node.start()
    node.wait("invalid", lambda: node.status()["summary"] == "Invalid")
    node.stop()
    command = [*AS_THEM, "/usr/bin/python3", "-c", IMPOSTOR, str(node.port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL) as impostor:
        try:
            assert impostor.stdout is not None
            assert impostor.stdout.readline() == b"listens\n"
            answer = node.run("status")
            assert (answer.returncode, "Invalid" in answer.stdout) == (3, True)
            assert "says the daemon on this node" not in answer.stdout
            assert "account 61001 that listens there" in answer.stderr
        finally:
            impostor.kill()


def test_the_same_port_of_another_address_is_no_impostor(node: Node) -> None:
    node.desire()
    node.start()
    node.wait_ready("one")
    elsewhere = IMPOSTOR.replace("127.0.0.1", "127.0.0.2")
    command = [*AS_THEM, "/usr/bin/python3", "-c", elsewhere, str(node.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"listens\n"
            assert "says the daemon on this node" in node.run("status").stdout
        finally:
            other.kill()


def test_whoever_takes_the_port_first_leaves_no_node_unkept(node: Node) -> None:
    command = [*AS_THEM, "/usr/bin/python3", "-c", IMPOSTOR, str(node.port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL) as squatter:
        try:
            assert squatter.stdout is not None
            assert squatter.stdout.readline() == b"listens\n"
            node.desire()
            node.start()
            node.wait("an agent", lambda: [marker for _, marker in node.starts] == ["one"])
            assert "account 61001 listens there" in node.log
        finally:
            squatter.kill()
    node.wait("it serves", lambda: node.http("/readyz") == (200, "Ready\n"))
