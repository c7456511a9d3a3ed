"""Words of others and secrets: nothing that a terminal obeys, no forged row, no secret, no end."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from bai_nodeagent.desired.merge import digest
from node_under_test import PROGRAM, Node
from servers import Etcd, fresh_prefix

SECRET = "hunter2/w@rd"  # in the document
UNNAMED = "unnamed+pass"  # in agent.toml alone
LINES = "-----BEGIN-----\nevent\nlevel\n-----END-----"
ODD = b"\x1b[2J\x1b]52;c;aGk=\x07\xff\n i-forged Ready\xe2\x80\xae"
BAD_STATUSES = {
    "deep": "[" * 60_000,
    "number": "5",
    "conditions": '{"summary": "Ready", "conditions": 5}',
    "huge": json.dumps({"summary": "Ready", "facts": {"x": "y" * 300_000}}),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, etcd: Etcd) -> Iterator[Node]:
    """In line, with a secret of several lines."""
    node = Node(tmp_path_factory.mktemp("strings") / "node", etcd, fresh_prefix())
    node.agent_toml.write_text(f'[redis]\npassword = "{UNNAMED}"\n')
    node.put("secret/cluster/lines", LINES)
    node.desire(desired_of(node))
    node.start()
    node.wait_ready("one")
    yield node
    node.close()


def desired_of(node: Node, marker: str = "one") -> str:
    values = (
        f'etcd-password = "{SECRET}"\nshort-token = "abc"\nlines-key = {{ secret = "lines" }}\n'
    )
    return node.document(marker, values=values)


def reported(node: Node) -> str:
    """All that leaves this node, each line of it printable."""
    runs = [
        *(node.run(*words) for words in (["status"], ["nodes"], ["plan"], ["status", "--json"])),
    ]
    texts = [text for each in runs for text in (each.stdout, each.stderr)]
    texts += [node.log, node.http("/status")[1], node.http("/metrics")[1]]
    texts.append(json.dumps(node.status(), ensure_ascii=False))
    for text in texts:
        assert all(line.replace("\t", "").isprintable() for line in text.split("\n")), text
    for line in filter(None, node.log.split("\n")):
        assert {"event", "level", "timestamp"} <= json.loads(line).keys()
    return "\n".join(texts)


def test_a_file_name_that_is_no_text_ends_and_forges_nothing(node: Node) -> None:
    target = node.folder / os.fsdecode(ODD) / "agent.toml"
    target.parent.mkdir()
    original = node.agent_toml.read_bytes()
    node.agent_toml.unlink()
    node.agent_toml.symlink_to(target)
    node.wait("in line", lambda: target.exists() and condition(node)["status"] == "True")
    shown = reported(node)
    assert "\n i-forged" not in shown
    assert r"\x1b[2J" in shown
    target.unlink()
    target.mkdir()
    node.wait("told", lambda: condition(node)["status"] != "True")
    reported(node)
    node.agent_toml.unlink()
    node.agent_toml.write_bytes(original)
    node.wait("in line", lambda: condition(node)["status"] == "True", 60)
    assert node.process is not None
    assert node.process.poll() is None


def condition(node: Node) -> dict[str, str]:
    found: list[dict[str, str]] = node.status_now()["conditions"]
    return next(c for c in found if c["type"] == "AgentConfig")


def test_statuses_of_others_are_rows_of_their_own_whatever_they_hold(node: Node) -> None:
    for name, text in BAD_STATUSES.items():
        node.put(f"node/i-{name}/status", text)
        node.put(f"node/i-{name}/alive", "{}")
    words = {"type": "Agent\ni-test01 Ready", "status": "False", "reason": "A\x1b[2K"}
    odd = {"summary": "Degraded\r", "conditions": [{**words, "message": "m\ni-test01  Ready"}]}
    node.put("node/i-odd/status", json.dumps(odd))
    node.put("node/i-odd/alive", "{}")
    etcd = node.etcd
    assert etcd is not None
    key = f"{node.prefix}/local/node/i-\x1b[2J\ni-forged  Ready/status"
    etcd.etcdctl("put", key, stdin=b'{"summary": "Ready"}')
    try:
        rows = node.run("nodes").stdout.splitlines()
        assert len(rows) == len(BAD_STATUSES) + 3
        found = {row.split()[0]: row.split()[1] for row in rows}
        assert {found[f"i-{name}"] for name in BAD_STATUSES} == {"Unreadable"}
        assert found["i-test01"] == "Ready"
        assert "i-forged" not in found
        for name in BAD_STATUSES:
            answer = node.run("status", f"i-{name}")
            assert (answer.returncode, "Unreadable" in answer.stdout) == (3, True)
            assert "Traceback" not in answer.stderr
        shown = node.run("status", "i-odd").stdout.splitlines()
        assert not any(line.startswith("i-test01") for line in shown)
        answer = node.run("put", "cluster", "-", stdin=desired_of(node))
        assert answer.returncode == 0, answer.stderr
        assert answer.stderr.count("Unreadable") == len(BAD_STATUSES)
        assert "\x1b" not in answer.stderr
    finally:
        etcd.etcdctl("del", key)
        for name in (*BAD_STATUSES, "odd"):
            for leaf in ("status", "alive"):
                etcd.etcdctl("del", f"{node.prefix}/local/node/i-{name}/{leaf}")


def test_no_secret_leaves_the_node_in_any_form(node: Node) -> None:
    """The agent says all of them as it dies, and programs' arguments and URLs as well."""
    forms = [
        each
        for secret in (SECRET, UNNAMED)
        for each in (
            secret,
            quote(secret, safe=""),
            base64.b64encode(f"user:{secret}".encode()).decode(),
            secret.encode().hex(),
            repr(secret),
        )
    ]
    other = "https://u:0ther-one@h/ mount -o password=0ther-one --token=0ther-one"
    lines = [*forms, "opt=abc", *LINES.split("\n"), other]
    agent = node.folder / "agent.py"
    before = agent.read_text()
    opinions = f"import sys\nprint({chr(10).join(lines)!r}, flush=True)\nsys.exit(3)\n"
    try:
        agent.write_text(f"{opinions}{before}")
        os.kill(node.living()[0], 9)
        node.wait("died", lambda: "********" in json.dumps(node.status_now()))
        shown = reported(node)
        assert "********" in shown
        for form in (*forms, "opt=abc", "-----BEGIN-----", "0ther-one"):
            assert form not in shown, form
    finally:
        agent.write_text(before)
        node.desire(desired_of(node, "two"))
        node.wait_ready("two")


def test_nobody_finds_a_password_by_the_digest(node: Node) -> None:
    shown = node.status_now()["desired"]["digest"]
    document = tomllib.loads(desired_of(node, node.starts[-1][1]))
    for seal in (str, lambda _: "********", lambda _: ""):
        assert digest(document, seal) != shown


def test_an_order_reports_until_when_and_for_which_node(node: Node) -> None:
    shown = node.run("pause", "--for", "72h").stdout
    assert node.run("resume").returncode == 0
    assert shown.startswith("i-test01: paused until 20")


@pytest.mark.parametrize("words", [["status", "i-\udcff"], ["fly\x1b[2J"], ["put", "x\n", "-"]])
def test_odd_arguments_are_reported_and_nothing_more(
    node: Node, words: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [os.fsencode(word) for word in (str(PROGRAM), *words, "--config", str(node.config))],
        input=b"api-version = 1",
        capture_output=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    text = (done.stdout + done.stderr).decode()
    assert all(line.isprintable() for line in text.split("\n"))
    assert "Traceback" not in text
