"""Scenarios with mounts, each in a fresh Python that is PID 1 of namespaces of its own.

A scenario is an asynchronous function of a test file. It gets a folder of its
own, and fails by an exception.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent.core.reconcile import reconcile
from bai_nodeagent.kinds.mount.kind import MountPoint
from bai_nodeagent.kinds.mount.observation import MountSpec
from bai_nodeagent.model import Host, Verdict

UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private")
SCENARIO_DEADLINE_S = 120.0
Scenario = Callable[[Path], Awaitable[None]]


class Scenarios(dict[str, Scenario]):
    """By name; a decorator puts them in."""

    def __call__(self, function: Scenario) -> Scenario:
        self[function.__name__] = function
        return function


def run_in_namespace(file: str, name: str, folder: Path) -> None:
    """Runs a scenario by `file`, which is a program that is given its name and a folder."""
    if os.geteuid() != 0 or subprocess.run([*UNSHARE, "true"], check=False).returncode:
        pytest.skip("may not make mount namespaces; run as root")
    done = subprocess.run(
        [*UNSHARE, sys.executable, file, name, str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=SCENARIO_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Unheard:
    """Nobody listens to what happens in a pass."""

    def begins(self, *_: Any) -> None: ...
    def applies(self, *_: Any) -> None: ...
    def applied(self, *_: Any) -> None: ...


def point(spec: MountSpec, folder: Path) -> MountPoint:
    own = folder / "own"
    own.mkdir(mode=0o700, exist_ok=True)
    return MountPoint(spec, Host(own, own, str, str))


async def passed(spec: MountSpec, folder: Path) -> Verdict:
    """The verdict of one pass by a daemon that has just started."""
    return (await reconcile(point(spec, folder), lambda _: None, Unheard())).verdict


def tmpfs(target: Path, source: str = "share", **more: Any) -> MountSpec:
    return MountSpec("vf", source, str(target), "tmpfs", **more)


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True)


@contextlib.contextmanager
def process(*argv: str | Path, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, **more) as child:
        try:
            yield child
        finally:
            child.kill()
