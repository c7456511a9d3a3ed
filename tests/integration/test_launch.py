"""Processes that are started as another account."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from servers import Etcd

pytestmark = pytest.mark.root

# In a process of its own, as the daemon is: gRPC is set up once, by whoever
# imports it first, and here that may have been another test.
PROGRAM = """
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from bai_nodeagent.system import launch, process
from bai_nodeagent.system.etcd import EtcdClient
from bai_nodeagent.etcd_access import EtcdAccess

STARTS = 60
endpoint, folder = sys.argv[1], Path(sys.argv[2])


def end() -> str:
    with launch.held(folder / "lock") as lock:
        started = launch.start(
            ["/bin/true"],
            user="nobody",
            env={},
            workdir=Path("/"),
            output=folder / "log",
            lock_fd=lock,
        )
    while process.find(started.pid, started.start_ticks):
        pass
    return launch.exit_of(started.pid)


async def main() -> None:
    client = EtcdClient(EtcdAccess((endpoint,)))

    async def work() -> None:
        while True:
            await client.get(["a"])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(work)
        ends = await anyio.to_thread.run_sync(lambda: [end() for _ in range(STARTS)])
        tasks.cancel_scope.cancel()
    await client.close()
    print(len(ends), *set(ends))


anyio.run(main)
"""


def test_grpc_at_work_spoils_no_start(etcd: Etcd, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, etcd.endpoint, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "60 exit status 0\n"
