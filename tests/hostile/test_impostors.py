"""Processes that look like the agent, and are not: none is adopted, stopped or ended."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from bai_nodeagent.errors import Unavailable
from bai_nodeagent.kinds.agent.process import rehearsal
from bai_nodeagent.kinds.agent.process.search import Search, noted_pid
from bai_nodeagent.kinds.agent.record import Record
from bai_nodeagent.kinds.agent.spec import AgentSpec
from bai_nodeagent.machine import TICKS_PER_S, Process
from bai_nodeagent.system import ending, kinship, launch, process
from bai_nodeagent.system.kinship import Kinship
from node_under_test import Node
from servers import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.root]

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def end(child: subprocess.Popen[bytes]) -> None:
    """With what it has forked: a shell's sleep would outlive it."""
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(child.pid).children(recursive=True):
            each.kill()
    child.kill()


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    with ExitStack() as ends:

        def start(*argv: str, **more: Any) -> subprocess.Popen[bytes]:
            child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **more)
            ends.callback(child.wait)
            ends.callback(end, child)
            ends.callback(lambda: child.stdin and child.stdin.close())
            return child

        yield start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Others may go there: pytest keeps its folders to itself."""
    for each in (tmp_path, *tmp_path.parents):
        if each == Path(tempfile.gettempdir()):
            break
        each.chmod(0o755)
    return tmp_path


def script(folder: Path, first_line: str = "#!/bin/bash") -> Path:
    path = folder / "start-agent.sh"
    path.write_text(f"{first_line}\nsleep 600\n")
    path.chmod(0o755)
    return path


def spec_of(command: Sequence[str], folder: Path, **more: Any) -> AgentSpec:
    return replace(
        AgentSpec(supervisor="child", command=tuple(command), workdir=folder, user="nobody"), **more
    )


async def found(spec: AgentSpec, folder: Path) -> int | None:
    search = Search(spec, folder / "agent.lock")
    unrecorded = (await search.run(Record(process.boot_id()), spec.command)).unrecorded
    return unrecorded.pid if unrecorded else None


def shows(child: subprocess.Popen[bytes], words: Sequence[str]) -> Callable[[], bool]:
    """The words that it ends with are its own: those that start others show theirs as well."""
    wanted = b"\0".join(os.fsencode(word) for word in words)

    def is_so() -> bool:
        cmdline = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0")
        return cmdline.endswith(wanted) and not cmdline.startswith((b"setpriv\0", b"unshare\0"))

    return is_so


def executes(child: subprocess.Popen[bytes], *names: str) -> Callable[[], bool]:
    return lambda: Path(f"/proc/{child.pid}/exe").readlink().name in names


@pytest.mark.parametrize(
    "reader",
    [
        ("tail", "-f", "SCRIPT"),
        ("tail", "-f", "/dev/null", "SCRIPT"),
        ("bash", "-c", "sleep 600; true", "SCRIPT"),
        ("bash", "-c", "exec -a SCRIPT sleep 600"),
        ("bash", "-c", "exec -a /bin/bash tail -f /dev/null SCRIPT"),
        (sys.executable, "-c", "import time; time.sleep(600)", "SCRIPT"),
    ],
    ids=lambda words: " ".join(words)[:40],
)
async def test_a_process_that_only_names_the_agents_program_is_not_the_agent(
    reader: tuple[str, ...], folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    program = str(script(folder))
    words = [word.replace("SCRIPT", program) for word in reader]
    child = run(*AS_NOBODY, *words, cwd=folder)
    is_there = executes(child, "sleep", "tail") if "exec" in reader[2] else shows(child, [program])
    wait_until(is_there, "the impostor does not show its words")
    assert await found(spec_of((program,), folder), folder) is None


@pytest.mark.parametrize("by_hand", [(), ("bash",), ("/bin/bash",)])
async def test_the_program_itself_is_the_agent_however_it_was_started(
    by_hand: tuple[str, ...], folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    program = str(script(folder, "#!/bin/bash -e" if not by_hand else "#!/bin/bash"))
    child = run(*AS_NOBODY, *by_hand, program, cwd=folder)
    wait_until(shows(child, ["bash", program] if by_hand == ("bash",) else [program]), "no bash")
    wait_until(executes(child, "bash"), "no bash yet")
    assert await found(spec_of((program,), folder), folder) == child.pid


async def test_whoever_calls_a_set_user_id_program_is_not_the_agent(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """An account's run of `su` has root's rights, and its caller's real account."""
    command = (sys.executable, "-c", "import time; time.sleep(600)")
    child = run("setpriv", "--ruid=61001", "--euid=0", *command, cwd=folder)
    wait_until(shows(child, command), "it does not run")
    assert process.uids_of(process.born(child.pid)) == {0, 61001}
    assert await found(spec_of(command, folder), folder) is None


async def test_another_account_or_folder_is_not_the_agent(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(600)")
    one = run("setpriv", "--reuid=61001", "--regid=61001", "--clear-groups", *command, cwd=folder)
    other = run(*command, cwd="/")
    for child in (one, other):
        wait_until(shows(child, command), "it does not run")
    assert await found(spec_of(command, folder), folder) is None


async def test_a_process_in_another_mount_namespace_is_not_the_agent(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(600)")
    child = run("unshare", "--mount", *command, cwd=folder)
    wait_until(shows(child, command), "it does not run")
    assert await found(spec_of(command, folder, user=None), folder) is None
    same = run(*command, cwd=folder)
    wait_until(shows(same, command), "it does not run")
    assert await found(spec_of(command, folder, user=None), folder) == same.pid


async def test_the_agents_title_alone_is_not_the_agent(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    spec = spec_of((sys.executable, "-m", "ai.backend.agent.server"), folder)
    title = "backend.ai: agent i-one"
    child = run(*AS_NOBODY, "bash", "-c", f'exec -a "{title}" sleep 600', cwd=folder)
    wait_until(shows(child, [title, "600"]), "it has no such title")
    assert await found(spec, folder) is None


async def test_an_agent_that_has_overwritten_its_arguments_is_known_by_all_else(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    spec = spec_of((sys.executable, "-m", "ai.backend.agent.server"), folder, user=None)
    title = "backend.ai: agent i-one"
    words = ("exec", "-a", f'"{title}"', sys.executable, "-c", "'import time; time.sleep(600)'")
    child = run("bash", "-c", " ".join(words), cwd=folder)
    elsewhere = run("bash", "-c", " ".join(words), cwd=folder.parent)
    for each in (child, elsewhere):
        wait_until(shows(each, ["-c", "import time; time.sleep(600)"]), "it has no such title")
    assert await found(spec, folder) == child.pid


async def test_arguments_that_are_no_text_are_survived(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    argv0 = b"agent \xff\xfe\x1b[2J\n"
    child = subprocess.Popen([argv0, "600"], executable="/bin/sleep", cwd=folder)
    try:
        assert await found(spec_of(("/bin/sleep", "600"), folder, user=None), folder) is None
    finally:
        child.kill()
        child.wait()


async def test_a_process_with_a_file_of_the_locks_name_elsewhere_is_none_of_ours(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """A file that has the lock's path in a mount namespace of somebody else's."""
    lock = folder / "run" / "agent.lock"
    lock.parent.mkdir()
    program = (
        "import fcntl, sys, time; held = open(sys.argv[1], 'w'); "
        "fcntl.flock(held, fcntl.LOCK_EX); print('held', file=sys.stderr, flush=True); "
        "time.sleep(600)"
    )
    with launch.held(lock):
        child = run(
            "unshare", "--mount", "bash", "-c",
            f'mount -t tmpfs none "{lock.parent}" && exec "$@"', "sh",
            sys.executable, "-c", program, str(lock), stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stderr is not None
        assert child.stderr.readline() == b"held\n"
        child.stderr.close()
        links = [str(fd.readlink()) for fd in Path(f"/proc/{child.pid}/fd").iterdir()]
        assert str(lock) in links
        assert Kinship(lock).of(None) == set()


async def test_a_process_with_the_lock_open_but_not_held_is_none_of_ours(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    lock = folder / "agent.lock"
    with launch.held(lock) as fd:
        reader = run("tail", "-f", str(lock))
        heir = run("sleep", "600", pass_fds=(fd,))
        wait_until(shows(reader, [str(lock)]), "no reader")
        wait_until(shows(heir, ["sleep", "600"]), "no heir")
        assert {each.pid for each in Kinship(lock).of(None)} == {heir.pid}


@pytest.mark.parametrize(
    ("before", "lived_on_s", "count"),
    [(AS_NOBODY, 60.0, 0), ((), 60.0, 1), ((), -60.0, 0)],
    ids=["theirs", "ours", "of a number that was free"],
)
def test_whoever_is_in_a_session_of_a_dead_agents_number_is_none_of_ours(
    folder: Path, before: tuple[str, ...], lived_on_s: float, count: int
) -> None:
    """Numbers are used again. Ours are those who were in it while the agent lived."""
    left = ["bash", "-c", "sleep 600 & exit 0"]
    leader = subprocess.Popen([*before, *left], start_new_session=True)
    leader.wait()
    (member,) = [each for each in process.living() if each.session == leader.pid]
    begun = member.start_ticks - 100 * TICKS_PER_S
    main = Process(leader.pid, begun, group=leader.pid, session=leader.pid)
    kinship = Kinship(folder / "agent.lock")
    kinship.lives(main, member.started_s + lived_on_s)
    try:
        assert len(kinship.of(main)) == count
    finally:
        os.kill(member.pid, signal.SIGKILL)


async def test_roots_process_that_gets_the_number_of_a_dead_agent_lives_on(
    folder: Path,
) -> None:
    """What the agent's account can bring about by forking until it is next."""
    folder.chmod(0o711)
    program = folder / "reuse.py"
    program.write_text(_REUSE)
    answer = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
         sys.executable, str(program), str(folder / "agent.lock")],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert answer.stdout.split() == ["reused", "True", "worker", "True", "left", "0"]


_REUSE = """
import os, subprocess, sys, time
from pathlib import Path
from bai_nodeagent.system import process
from bai_nodeagent.system.kinship import Kinship

lock = Path(sys.argv[1])
os.close(os.open(lock, os.O_RDONLY | os.O_CREAT))
os.chown(lock, -1, 65534)
before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
command = [*before, "sh", "-c", "sleep 600 & echo $!; wait"]
agent = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
worker = int(agent.stdout.readline())
time.sleep(0.05)  # above a tick, in which start times are given
main = process.find(agent.pid)
kinship = Kinship(lock)
kinship.lives(main, process.now_s())
agent.kill()
agent.wait()
found = {each.pid for each in kinship.of(main)}
os.kill(worker, 9)
os.waitpid(worker, 0) if os.getpid() == 1 else None
Path("/proc/sys/kernel/ns_last_pid").write_text(str(main.pid - 1))
pid = os.fork()
if pid == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(1)
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
os.waitpid(pid, 0)
time.sleep(0.2)
print("reused", pid == main.pid)
print("worker", found == {worker})
print("left", len(kinship.of(main)))
"""


async def test_whom_the_agent_has_passed_its_lock_is_none_of_ours(
    folder: Path, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """By SCM_RIGHTS, to whoever takes descriptors: a daemon of root's, for example."""
    lock, socket_path = folder / "agent.lock", folder / "socket"
    folder.chmod(0o711)
    takes = (
        "import os, socket, sys, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o666); "
        "socket.recv_fds(s, 9, 1); time.sleep(600)"
    )
    gives = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.connect(sys.argv[1]); socket.send_fds(s, [b'x'], [int(sys.argv[2])]); time.sleep(600)"
    )
    bystander = run(sys.executable, "-c", takes, str(socket_path))
    wait_until(socket_path.exists, "no bystander")
    with launch.held(lock) as fd:
        agent = launch.start(
            ["/usr/bin/python3", "-c", gives, str(socket_path), str(fd)],
            user="nobody", env={}, workdir=Path("/"), output=folder / "out", lock_fd=fd,
        )  # fmt: skip
    fds = Path(f"/proc/{bystander.pid}/fd")
    wait_until(lambda: lock in {each.readlink() for each in fds.iterdir()}, "it has not got it")
    assert {each.pid for each in kinship.holders(lock, process.living())} == {agent.pid}
    await ending.stop(agent, lock, 5.0)
    assert bystander.poll() is None
    # Nor does it keep the next agent from being started, which is found by a lock as well.
    assert kinship.is_held(lock)
    with launch.held(lock) as fd:
        heir = run("sleep", "600", pass_fds=(fd,))
        wait_until(shows(heir, ["sleep", "600"]), "no heir")
    assert {each.pid for each in Kinship(lock).of(None)} == {heir.pid}
    with pytest.raises(Unavailable, match="still lives"), launch.held(lock):
        pass


@pytest.mark.parametrize(
    ("takes", "outcome"),
    [
        # Who owns a file may take one (fcntl(2)), and then nobody else opens it.
        ("fcntl.fcntl(int(sys.argv[1]), fcntl.F_SETLEASE, fcntl.F_WRLCK)", "Permission denied"),
        ("fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)", "Bad file descriptor"),
        ("os.write(int(sys.argv[1]), b'x' * 65536)", "Bad file descriptor"),
    ],
    ids=["lease", "lock", "write"],
)
async def test_the_agent_can_not_keep_us_from_its_lock(
    folder: Path, takes: str, outcome: str
) -> None:
    lock, folder_of_its_own = folder / "agent.lock", folder / "own"
    folder_of_its_own.mkdir()
    folder_of_its_own.chmod(0o777)
    leases = (
        "import fcntl, os, sys, time\n"
        f"try: {takes}; said = 'taken'\n"
        "except OSError as error: said = error.strerror\n"
        "open(sys.argv[2], 'w').write(said); time.sleep(600)\n"
    )
    answer = folder_of_its_own / "said"
    with launch.held(lock) as fd:
        agent = launch.start(
            ["/usr/bin/python3", "-c", leases, str(fd), str(answer)],
            user="nobody", env={}, workdir=Path("/"), output=folder / "out", lock_fd=fd,
        )  # fmt: skip
    wait_until(lambda: answer.read_text(), "it has not tried")
    assert answer.read_text() == outcome
    assert kinship.is_held(lock)
    assert {each.pid for each in kinship.holders(lock, process.living())} == {agent.pid}
    await ending.stop(agent, lock, 5.0)
    assert not kinship.is_held(lock)


# --- the daemon --------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.close()


@pytest.mark.parametrize("user", ["", "root", "nobody"])
def test_it_is_reported_that_root_runs_what_another_account_can_replace(
    node: Node, user: str
) -> None:
    """Whoever owns an environment is root as soon as its agent is: nothing else here says so."""
    theirs = node.folder / "theirs"
    theirs.mkdir()
    (theirs / "run").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{node.folder}/agent.py" "{node.folder}"\n'
    )
    (theirs / "run").chmod(0o755)
    own = node.folder / "own"  # in a folder of root's, and writable by all
    own.write_text((theirs / "run").read_text())
    own.chmod(0o777)
    os.chown(theirs, 65534, 65534)
    assert rehearsal.entrusted([str(own)], {}, Path("/")).startswith(f"root runs {own}, which")
    by_argument = rehearsal.entrusted(["/bin/sh", str(theirs / "run")], {}, Path("/"))
    assert by_argument.startswith(f"root runs {theirs}/run, which others can replace")
    assert "root runs" in rehearsal.entrusted([sys.executable, "-m", "agent"], {}, theirs)
    assert rehearsal.entrusted(["/bin/sh", "-c", "true"], {}, Path("/")) == ""
    named = f'command = ["{sys.executable}", "{node.folder}/agent.py", "{node.folder}"]'
    agent = f'user = "{user}"' if user else ""
    node.desire(node.document(agent=agent).replace(named, f'command = ["{theirs}/run"]'))
    node.start()
    if user == "nobody":
        node.folder.chmod(0o777)
        node.wait(
            "it is started", lambda: node.condition("Agent")["reason"] not in ("", "Starting")
        )
        assert "root runs" not in node.condition("Agent")["message"]
    else:
        node.wait_reason("Agent", "Running")
        assert (
            f"root runs {theirs}/run, which others can replace"
            in node.condition("Agent")["message"]
        )


def test_endless_arguments_of_others_keep_no_agent_down(
    node: Node, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Root reads the arguments of every process: here 40 times 600,000 empty words."""
    node.desire()
    node.start()
    node.wait_ready("one")
    words = ("/bin/sh", "-c", "sleep 600; :", *[""] * 600_000)
    without_bound = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    room = partial(resource.setrlimit, resource.RLIMIT_STACK, without_bound)  # for arguments
    for _ in range(40):
        run(*AS_NOBODY, *words, preexec_fn=room, start_new_session=True)
    for count in range(1, 3):
        os.kill(node.living()[0], signal.SIGKILL)
        node.wait("it is started again", partial(_has_started, node, 1 + count))


def _has_started(node: Node, times: int) -> bool:
    return len(node.starts) == times and len(node.living()) == 1


def test_a_daemon_ends_no_reader_of_the_start_script(
    node: Node, run: Callable[..., subprocess.Popen[bytes]]
) -> None:
    program = script(node.folder)
    program.write_text(
        f'#!/bin/bash\nexec "{sys.executable}" "{node.folder}/agent.py" "{node.folder}"\n'
    )
    reader = run("tail", "-f", str(program))
    named = f'command = ["{sys.executable}", "{node.folder}/agent.py", "{node.folder}"]'
    stopped = node.document(agent='state = "stopped"').replace(named, f'command = ["{program}"]')
    running = node.document().replace(named, f'command = ["{program}"]')
    assert str(program) in stopped
    node.start()
    for text, reason in ((stopped, "Stopped"), (running, "Running"), (stopped, "Stopped")):
        node.desire(text)
        node.wait_reason("Agent", reason)
        assert reader.poll() is None
    assert len(node.starts) == 1
    assert reader.pid not in {pid for pid, _ in node.starts}
    assert not node.living()


def test_a_daemon_stops_no_healthy_agent_for_a_start_that_would_fail(node: Node) -> None:
    node.start()
    node.desire()
    node.wait_ready("one")
    for more, named in (('user = "no-such-one"', "no-such-one"), ('workdir = "/no"', "/no")):
        node.desire(node.document(agent=more))
        node.wait(named, partial(_output, node, named))
        assert node.condition("Agent")["reason"] == "Blocked"
        assert len(node.living()) == len(node.starts) == 1
    node.desire(node.document(marker="two"))
    node.wait_ready("two")


def _output(node: Node, words: str) -> bool:
    return words in node.condition("Agent")["message"]


def test_a_pid_file_may_be_anything(tmp_path: Path) -> None:
    """agent.toml names it, which others write."""
    (tmp_path / "pid").write_text("4711\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "words").write_bytes(b"\xff" * 10)
    (tmp_path / "long").write_text("1" * 1000)
    assert noted_pid(tmp_path / "pid") == 4711
    for name in ("pipe", "words", "long", "missing", "."):
        assert noted_pid(tmp_path / name) == 0
    for path in ("/dev/zero", "/proc/kcore"):
        assert noted_pid(Path(path)) == 0
