"""Processes that are started as another account."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from bai_nodeagent.system import launch, process
from bai_nodeagent.system.etcd import EtcdClient
from bai_nodeagent.system.etcd_access import EtcdAccess
from servers import Etcd

pytestmark = [pytest.mark.anyio, pytest.mark.root]

STARTS = 60


async def test_grpc_at_work_spoils_no_start(etcd: Etcd, tmp_path: Path) -> None:
    client = EtcdClient(EtcdAccess((etcd.endpoint,)))

    async def work() -> None:
        while True:
            await client.get(["a"])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(work)
        ends = await anyio.to_thread.run_sync(lambda: [_end(tmp_path) for _ in range(STARTS)])
        tasks.cancel_scope.cancel()
    await client.close()
    assert set(ends) == {"exit status 0"}


def _end(folder: Path) -> str:
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
