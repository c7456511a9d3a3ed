"""What a package starts while it is installed or imported outlives neither that nor the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bai_nodeagent.kinds.agent.environment import building
from bai_nodeagent.machine import Account
from bai_nodeagent.system import helper, launch
from servers import wait_until
from wheels import DEBIAN_PYTHON, USER, public_folder

pytestmark = pytest.mark.root

# In a session of its own, whose parent goes at once: nobody's child and nobody's group.
LEAVES = "setsid sh -c 'setsid sleep 1000 & setsid sleep 1000 &' & sleep 0.3; echo done"
DAEMON = """
import sys, anyio
from pathlib import Path
from bai_nodeagent.system import helper, launch
account = launch.account(sys.argv[1])
command = ("/bin/sh", "-c", sys.argv[3] + "; exec sleep 1000")
anyio.run(helper.run_kept, command, 600.0, Path(sys.argv[2]), 0.0, account)
"""


@pytest.fixture
def account() -> Account:
    if os.geteuid() != 0:
        pytest.skip("needs root: runs programs under another account")
    return launch.account(USER)


def is_free(lock: Path) -> bool:
    return subprocess.run(["flock", "--nonblock", str(lock), "true"], check=False).returncode == 0


@pytest.mark.anyio
async def test_what_a_step_leaves_behind_ends_with_it(account: Account, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    done = await helper.run_kept(("/bin/sh", "-c", LEAVES), 60.0, lock, 0.0, account)
    assert (done.code, done.output) == (0, "done\n")
    assert is_free(lock)
    failed = await helper.run_kept(("/bin/sh", "-c", f"{LEAVES}; exit 7"), 60.0, lock, 0.0, account)
    assert failed.code == 7
    assert is_free(lock)


@pytest.mark.anyio
async def test_a_step_and_what_it_leaves_end_at_the_deadline(
    account: Account, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(helper.Hangs):
        await helper.run_kept(("/bin/sh", "-c", f"{LEAVES}; sleep 1000"), 1.0, lock, 0.0, account)
    assert is_free(lock)


def test_a_step_ends_with_the_daemon(account: Account, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    argv = [sys.executable, "-c", DAEMON, USER, str(lock), LEAVES]
    with subprocess.Popen(argv) as daemon:
        wait_until(lambda: lock.exists() and not is_free(lock), "the step has not begun")
        time.sleep(1.0)  # for it to leave something behind
        daemon.send_signal(signal.SIGKILL)
    wait_until(lambda: is_free(lock), "the step lives on")


@pytest.mark.anyio
async def test_an_environment_is_tried_before_an_agent_is_moved_there(account: Account) -> None:
    with public_folder() as folder:
        place = building.Place(folder / "venv", USER, folder / "lock")
        for name, program in (("right", DEBIAN_PYTHON), ("wrong", Path("/bin/false"))):
            (place.folder / name / "bin").mkdir(parents=True)
            (place.folder / name / "bin/python").symlink_to(program)
        assert await building.try_out(place, "right") == ""
        assert "does not run" in await building.try_out(place, "wrong")
        assert "does not run" in await building.try_out(place, "missing")
        with subprocess.Popen(["flock", str(place.lock), "sleep", "1000"]) as holder:
            wait_until(lambda: not is_free(place.lock), "the lock is not taken")
            assert "still at work" in await building.try_out(place, "right")
            subprocess.run(["pkill", "-P", str(holder.pid)], check=True)


@pytest.mark.anyio
async def test_a_step_runs_as_the_account_alone(account: Account) -> None:
    with public_folder() as folder:
        lock = folder / "lock"
        done = await helper.run_kept(("/usr/bin/id", "-u"), 60.0, lock, 0.0, account)
        assert done.output == f"{account.uid}\n"
        groups = await helper.run_kept(("/usr/bin/id", "-G"), 60.0, lock, 0.0, account)
        assert {int(group) for group in groups.output.split()} == set(account.groups)
