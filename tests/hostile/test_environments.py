"""The agent's environment in a folder of an account that would have root write elsewhere."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.kinds.agent.environment import building, environments
from bai_nodeagent.kinds.agent.process import rehearsal
from bai_nodeagent.machine import Account
from bai_nodeagent.system import helper, interpreter, launch, output
from bai_nodeagent.system.survey import Survey
from wheels import public_folder

pytestmark = pytest.mark.root

STRANGER = 61001


@pytest.fixture
def account() -> Account:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes folders for another account")
    return Account("stranger", STRANGER, STRANGER, (STRANGER,), "/")


def test_no_folder_is_made_where_a_link_of_the_account_leads(
    account: Account, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", STRANGER, STRANGER)
    (tmp_path / "home/link").symlink_to(tmp_path / "etc")
    building._make_parent(tmp_path / "home/link/cron.d", account)
    assert list((tmp_path / "etc").iterdir()) == []


def test_a_missing_folder_below_one_of_root_s_is_given_to_the_account(
    account: Account, tmp_path: Path
) -> None:
    building._make_parent(tmp_path / "opt/backend.ai", account)
    assert (tmp_path / "opt").stat().st_uid == 0
    assert (tmp_path / "opt/backend.ai").stat().st_uid == STRANGER


FLOOD = """#!/bin/sh
echo begin
head -c 200000000 /dev/zero
echo end
exit 3
"""


@pytest.fixture
def flood() -> Iterator[Path]:
    with public_folder() as folder:
        program = folder / "python"
        program.write_text(FLOOD)
        program.chmod(0o755)
        yield program


@pytest.mark.anyio
async def test_the_output_of_a_step_has_a_bound(
    account: Account, flood: Path, tmp_path: Path
) -> None:
    before = shared_memory()
    argv = ("/bin/sh", "-c", f"{flood}; sleep 1; exit 3")
    async with anyio.create_task_group() as tasks:

        async def observe_once() -> None:
            await anyio.sleep(0.7)
            assert shared_memory() - before < 4 * output.ROOM_BYTES

        tasks.start_soon(observe_once)
        done = await helper.run_kept(argv, 20.0, tmp_path / "lock", 0.0, account)
    assert done.code == 3
    assert len(done.output) <= 65536


def test_a_rehearsal_keeps_no_more_than_a_bound(
    account: Account, flood: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "account", lambda _: account)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tried = (str(flood), "-c", "")
    why = rehearsal.obstacle(
        ("/bin/true",), user="stranger", env={}, workdir=Path("/"), tried=tried
    )
    assert "does not run" in why or "fails" in why
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.anyio
async def test_nothing_is_written_into_the_lock_that_a_step_inherits(
    account: Account, tmp_path: Path
) -> None:
    """It lies in memory: a package's code could fill that."""
    lock = tmp_path / "lock"
    argv = ("/bin/bash", "-c", "for fd in {3..20}; do echo x >&$fd; done; echo tried")
    done = await helper.run_kept(argv, 20.0, lock, 0.0, account)
    assert "tried" in done.output
    assert lock.read_bytes() == b""


@pytest.mark.anyio
async def test_the_last_lines_of_a_step_are_reported(account: Account, tmp_path: Path) -> None:
    argv = ("/bin/sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo why; exit 3")
    done = await helper.run_kept(argv, 20.0, tmp_path / "lock", 0.0, account)
    assert done.output.endswith("x\nwhy\n")


def shared_memory() -> int:
    """In bytes, of the whole machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Shmem:"))


def test_links_without_end_are_an_interpreter_that_is_gone(tmp_path: Path) -> None:
    """An open file that is gone is shown by a name that anybody can make such a link of."""
    environment = tmp_path / "venv.d" / "aaaaaaaaaaaa-1"
    (environment / "bin").mkdir(parents=True)
    (environment / ".bai-nodeagent.json").write_text('{"packages": {"a": "1"}}')
    (environment / "pyvenv.cfg").write_text("include-system-site-packages = true\nversion = 3.11\n")
    (tmp_path / "venv").symlink_to("venv.d/aaaaaaaaaaaa-1")
    held = tmp_path / "python"
    with held.open("w") as file:
        held.unlink()
        (tmp_path / "python (deleted)").symlink_to("python (deleted)")
        (environment / "bin/python").symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        (built,) = environments.environments(tmp_path / "venv").built
        assert not built.is_whole
        found = interpreter.folders_of(tmp_path / "venv/bin/python", Survey())
        assert environment not in {each.parents[2] for each in found}
