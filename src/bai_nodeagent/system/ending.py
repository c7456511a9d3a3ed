"""Ending processes, and all that belongs to them; waiting for their end.

A process is signalled by a descriptor of itself (pidfd_open(2)), so never another one that has
got its number since.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio

from ..errors import Refused
from ..machine import Process
from .blocking import in_thread
from .kinship import Kinship
from .process import SCAN_DEADLINE_S, find

# What is left of an agent without its main process gets this long to end by itself.
ORPHAN_PATIENCE_S = 2.0
KILL_DEADLINE_S = 5.0
_POLL_S = 0.02


async def ended(process: Process) -> None:
    """Returns within a millisecond of the end of any process, ours or not. pidfd_open(2)."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The number may have been given to another one before it was opened.
        if find(process.pid, process.start_ticks):
            await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


def send(process: Process, number: signal.Signals) -> None:
    """Signals exactly that process; one that is gone is fine. Raises Refused if we may not."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if find(process.pid, process.start_ticks):
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise Refused("NotPermitted", f"may not signal process {process.pid}: {error}") from error
    finally:
        os.close(pidfd)


async def stop(main: Process, lock: Path, patience_s: float) -> None:
    """Ends a process and all that belongs to it.

    SIGINT to the main process alone, which knows best how to end its own;
    after `patience_s` SIGKILL for everything. Raises Stuck or Refused when
    something can't be ended.
    """
    kinship = Kinship(lock)
    relatives = await _scan(lambda: kinship.of(main))
    send(main, signal.SIGINT)
    with anyio.move_on_after(patience_s) as patience:
        await ended(main)
    if patience.cancelled_caught:
        await _kill({main, *relatives}, lambda: {main, *kinship.of(main)})
    else:
        await end(relatives, lambda: kinship.of(main))


async def end(processes: Iterable[Process], again: Callable[[], set[Process]]) -> None:
    """Ends processes without a main one: SIGINT, a little patience, SIGKILL.

    `again` finds what has been forked meanwhile. Raises as `stop`.
    """
    left = _alive(processes) | await _scan(again)
    for process in left:
        send(process, signal.SIGINT)
    with anyio.move_on_after(ORPHAN_PATIENCE_S):
        for process in left:
            await ended(process)
    await _kill(_alive(left), again)


async def _kill(processes: set[Process], again: Callable[[], set[Process]]) -> None:
    left = processes
    with anyio.move_on_after(KILL_DEADLINE_S):
        while left := _alive(left | await _scan(again)):
            for process in left:
                send(process, signal.SIGKILL)
            await anyio.sleep(_POLL_S)
        return
    pids = ", ".join(str(process.pid) for process in sorted(left))
    raise Refused("CantKill", f"SIGKILL does not end process {pids}: it is stuck in the kernel")


def _alive(processes: Iterable[Process]) -> set[Process]:
    return {now for p in processes if (now := find(p.pid, p.start_ticks))}


async def _scan(call: Callable[[], set[Process]]) -> set[Process]:
    return await in_thread("processes: who belongs to the agent", call, SCAN_DEADLINE_S)
