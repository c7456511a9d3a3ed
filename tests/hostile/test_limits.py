"""A system that has no thread or descriptor left, and documents beyond what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bai_nodeagent.address import AgentAddress
from bai_nodeagent.errors import InvalidSpec
from bai_nodeagent.follow.reading import Place, evaluate, resolve
from bai_nodeagent.identity import Identity
from bai_nodeagent.kinds import KINDS
from bai_nodeagent.redact import SECRETS_AT_MOST
from bai_nodeagent.store.base import Entry, Snapshot

WITHOUT_THREADS = """
import os, resource
import anyio
from bai_nodeagent.system.blocking import in_thread
from bai_nodeagent.errors import Unavailable

def limit(threads):
    resource.setrlimit(resource.RLIMIT_NPROC, (threads, 4096))

async def main():
    limit(1)
    try:
        await in_thread("a question", lambda: 1, 5)
    except Unavailable as error:
        print(error)
    limit(4096)
    print(await in_thread("a question", lambda: 2, 5))

resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))
anyio.run(anyio.sleep, 0)  # all is loaded while it can be read
os.setuid(61001)  # root has no such limit
anyio.run(main)
"""


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
import anyio
from bai_nodeagent.system import helper

async def main():
    lock = Path(sys.argv[1]) / "lock"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # the lock, and nothing beside it
    try:
        await helper.run(["/bin/true"], 5, lock)
    except OSError as error:
        print(error.strerror)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(await helper.run(["/bin/true"], 5, lock))

anyio.run(main)
"""


def lines_of(program: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_question_without_a_thread_is_asked_again() -> None:
    assert lines_of(WITHOUT_THREADS) == ["a question: can't start new thread", "2"]


def test_a_helper_that_can_t_be_started_leaves_no_lock(tmp_path: Path) -> None:
    assert lines_of(WITHOUT_DESCRIPTORS, str(tmp_path)) == [
        "Too many open files",
        "Finished(code=0, output='')",
    ]


@pytest.mark.parametrize("lines", [SECRETS_AT_MOST - 1, SECRETS_AT_MOST])
def test_documents_with_more_secrets_than_can_be_masked_are_a_mistake(
    tmp_path: Path, lines: int
) -> None:
    """Each line is masked in every text that leaves: 90,000 cost a second of each."""
    place = Place(Identity("i-node01"), "c", "node01", (), tmp_path, str)
    document = b"""
        api-version = 1
        [agent]
        supervisor = "child"
        command = ["/usr/bin/sleep", "600"]
        health = "process"
        env = { X = { secret = "many" } }
    """
    secret = "\n".join(f"line{number}" for number in range(lines)).encode()
    entries = {"desired/cluster": Entry(document, 1), "secret/cluster/many": Entry(secret, 1)}
    snapshot = Snapshot(1, entries)
    newest = evaluate(place, snapshot, KINDS)
    assert newest.mistakes == ()
    if lines < SECRETS_AT_MOST:
        assert resolve(place, newest, snapshot, AgentAddress(), KINDS).secrets
    else:
        with pytest.raises(InvalidSpec, match="more secrets than can be masked"):
            resolve(place, newest, snapshot, AgentAddress(), KINDS)
