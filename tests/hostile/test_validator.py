"""An agent's environment that U owns, and whose code root has to ask without being hurt by it."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bai_nodeagent.kinds.agent.backendai import release, validator
from bai_nodeagent.kinds.agent.backendai.release import Release
from servers import wait_until
from wheels import DEBIAN_PYTHON, USER, public_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: U is another account")
SECRET = "hunter22-of-agent-toml"
TEXT = f'[etcd]\npassword = "{SECRET}"\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        account = pwd.getpwnam(USER)
        os.chown(made, account.pw_uid, account.pw_gid)
        yield made


def agent_with(folder: Path, code: str) -> Release:
    """An environment whose agent does that when it is imported."""
    if not DEBIAN_PYTHON.exists():
        pytest.skip(f"needs {DEBIAN_PYTHON}, an interpreter that every account may run")
    python = folder / "venv/bin/python"
    version = DEBIAN_PYTHON.resolve().name.removeprefix("python")
    site = folder / f"venv/lib/python{version}/site-packages"
    server = site / "ai/backend/agent/server.py"
    for each in (python.parent, server.parent, site / "backend.ai_agent-26.9.6.dist-info"):
        each.mkdir(parents=True)
    python.symlink_to(DEBIAN_PYTHON)
    (folder / "venv/pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}.0\n")
    (site / "click.py").touch()
    server.write_text(f"FOLDER = {str(folder)!r}\n{code}")
    found = release.find([str(python)])
    assert found is not None
    return found


def test_it_runs_as_the_agent_s_account_with_nothing_of_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAI_NODEAGENT_STORE_PASSWORD_FILE", "/etc/password")
    agent = agent_with(
        folder,
        "import json, os\n"
        "told = dict(uid=os.getresuid(), gid=os.getresgid(), groups=os.getgroups(),"
        " cwd=os.getcwd(), env=dict(os.environ), sid=os.getsid(0), pid=os.getpid(),\n"
        " argv=open('/proc/self/cmdline').read(), fds=sorted(os.listdir('/proc/self/fd')))\n"
        "json.dump(told, open(FOLDER + '/told', 'w'))\n",
    )
    assert validator.ask(agent, USER, {"LANG": "C"}, TEXT).accepts is None
    reported = json.loads((folder / "told").read_text())
    account = pwd.getpwnam(USER)
    assert reported["uid"] == [account.pw_uid] * 3
    assert reported["gid"] == [account.pw_gid] * 3
    assert 0 not in reported["groups"]
    assert reported["cwd"] == "/"
    assert reported["sid"] == reported["pid"]
    assert not [name for name in reported["env"] if name.startswith("BAI_NODEAGENT")]
    assert SECRET not in reported["argv"]
    assert SECRET not in json.dumps(reported["env"])
    assert len(reported["fds"]) < 6  # the three streams, a copy of one, and the listing itself


@pytest.mark.parametrize(
    "code",
    [
        "bytearray(8 << 30)",
        "while True: __import__('os').write(3, b'x' * 65536)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import sys; sys.exit(0)",
        "raise RuntimeError('\\x1b]0;a title\\x07\\n\\u202e' * 9999)",
        "import os; os.write(3, b'[' * 60000); os._exit(0)",
        'import os; os.write(3, b\'{"accepts": 5, "why": {}}\'); os._exit(0)',
        "import os; os.ftruncate(3, 1 << 40); os._exit(0)",
    ],
)
def test_whatever_it_does_is_no_answer(folder: Path, code: str) -> None:
    agent = agent_with(folder, code)
    answer = validator.ask(agent, USER, {}, TEXT)
    assert answer.accepts is None
    text = " ".join(answer.why)
    assert text.isprintable()
    assert len(text) < 1000
    assert SECRET not in text


def test_what_never_ends_is_ended_with_all_that_it_started(folder: Path) -> None:
    agent = agent_with(
        folder,
        "import os, time\n"
        "os.fork()\n"
        "open(f'{FOLDER}/{os.getpid()}', 'w').close()\n"
        "while True: time.sleep(1)\n",
    )
    began_s = time.monotonic()
    answer = validator.ask(agent, USER, {}, TEXT)
    assert answer.accepts is None
    assert time.monotonic() - began_s < validator.DEADLINE_S + 30
    pids = [each.name for each in folder.iterdir() if each.name.isdecimal()]
    assert len(pids) == 2
    # Killed, and gone as soon as the kernel comes to it.
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "one of them lives on")
    began_s = time.monotonic()
    assert validator.ask(agent, USER, {}, TEXT) == answer
    assert time.monotonic() - began_s < validator.DEADLINE_S / 2  # kept, and not asked again


def is_alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_an_account_that_is_not_there_asks_nobody(folder: Path) -> None:
    agent = agent_with(folder, "open(FOLDER + '/ran', 'w')")
    answer = validator.ask(agent, "no-such-account", {}, TEXT)
    assert answer.accepts is None
    assert "no-such-account" in answer.why[0]
    assert not (folder / "ran").exists()
