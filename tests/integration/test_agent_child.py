"""The child supervisor with real processes: small agents that misbehave in chosen ways."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from bai_nodeagent.errors import Refused, Unavailable
from bai_nodeagent.kinds.agent.process import rehearsal
from bai_nodeagent.kinds.agent.process.child import Start
from bai_nodeagent.kinds.agent.process.child_agent import ChildAgent
from bai_nodeagent.kinds.agent.record import Notes
from bai_nodeagent.kinds.agent.spec import AgentSpec
from bai_nodeagent.machine import Process
from bai_nodeagent.model import Host, NodeSpec, Plan, Status
from bai_nodeagent.system import ending, kinship, launch, output, process

NODE = NodeSpec("i-one", "local", 1, "d", {}, {})

pytestmark = pytest.mark.anyio

# It tells each of its processes' pids, so that they can be ended by them.
AGENT = """\
import os, signal, sys, time
births, *words = sys.argv[1:]

def tell(kind):
    with open(births, "a") as file:
        file.write(f"{kind} {os.getpid()}\\n")

def leave(*_):
    if "worker" in words and "orphan" not in words:
        os.kill(worker, signal.SIGKILL)
    sys.exit(0)

if "stubborn" in words:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
else:
    signal.signal(signal.SIGINT, leave)
if "worker" in words:
    ready, told = os.pipe()
    worker = os.fork()
    if worker == 0:
        if "stubborn" not in words:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if "own-session" in words:
            os.setsid()
        tell("worker")
        os.write(told, b".")
        while True:
            time.sleep(60)
    os.read(ready, 1)
print("token=hunter2", flush=True)
print("what I have:", sorted(os.environ), os.getcwd(), flush=True)
tell("main")
if "crash" in words:
    print("could not connect", flush=True)
    sys.exit(0)
while True:
    time.sleep(60)
"""


def digest(value: object) -> str:
    return "hmac-sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass
class Bench:
    """A node's folders, an agent, and what became of it."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("state", "runtime"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        (self.root / "agent.py").write_text(AGENT)
        self.write_config("i-one")

    @property
    def host(self) -> Host:
        return Host(
            state=self.root / "state",
            runtime=self.root / "runtime",
            digest=digest,
            redact=lambda text: text.replace("hunter2", "***"),
        )

    @property
    def notes(self) -> Notes:
        return Notes.of(self.host)

    def write_config(self, agent_id: str) -> None:
        (self.root / "agent.toml").write_text(f'[agent]\nid = "{agent_id}"\n')

    def command(self, *words: str) -> tuple[str, ...]:
        return (sys.executable, str(self.root / "agent.py"), str(self.root / "births"), *words)

    def spec(self, *words: str, agent_id: str = "i-one", **changes: Any) -> AgentSpec:
        spec = AgentSpec(
            supervisor="child",
            command=self.command(*words),
            workdir=self.root,
            stop_timeout_s=0.3,
            config_path=self.root / "agent.toml",
            values={("agent", "id"): agent_id},
        )
        return replace(spec, **changes)

    def agent(self, spec: AgentSpec) -> ChildAgent:
        """As of a daemon that has just started."""
        return ChildAgent(spec, NODE, self.host)

    def born(self, kind: str = "main") -> list[int]:
        try:
            lines = (self.root / "births").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [int(line.split()[1]) for line in lines if line.split()[0] == kind]

    def alive(self, kind: str = "main") -> list[int]:
        return [pid for pid in self.born(kind) if process.find(pid)]

    def kill_all(self) -> None:
        mine = str(self.root / "agent.py")
        for pid in (*self.born("main"), *self.born("worker")):
            found = process.find(pid)
            if found and mine in process.command_of(found):
                ending.send(found, signal.SIGKILL)

    async def converge(self, spec: AgentSpec, at_most: int = 100) -> Plan[Any]:
        """Applies actions, each with a new agent object; waits until a born agent has told so."""
        for done in range(at_most + 1):
            agent = self.agent(spec)
            plan = agent.plan(await agent.observe())
            if not plan.actions or done == at_most:
                return plan
            before = len(self.born())
            await agent.apply(plan.actions[0])
            if isinstance(plan.actions[0], Start):
                await until(partial(self._has_more_than, before))
        raise AssertionError(f"no end of actions: {plan}")

    def _has_more_than(self, before: int) -> bool:
        return len(self.born()) > before

    async def main(self) -> Process:
        life = self.notes.read().life
        assert life is not None
        assert life.pid is not None
        found = process.find(life.pid, life.start_ticks)
        assert found is not None
        return found


async def until(is_so: Callable[[], object], seconds: float = 10) -> None:
    with anyio.fail_after(seconds):
        while not is_so():
            await anyio.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.kill_all()


async def test_it_starts_once_and_is_found_again(bench: Bench) -> None:
    spec = bench.spec()
    await bench.converge(spec)
    (pid,) = bench.alive()
    plan = await bench.converge(spec)
    assert plan.facts["agent-pid"] == pid
    assert bench.born() == [pid]
    assert os.getsid(pid) == pid
    assert kinship.is_held(bench.root / "runtime" / "agent.lock")


async def test_it_is_running_after_its_first_second(bench: Bench) -> None:
    spec = bench.spec()
    plan = await bench.converge(spec)
    while plan.verdict.reason == "Starting":
        assert plan.observe_again_in_s is not None
        await anyio.sleep(plan.observe_again_in_s)
        plan = await bench.converge(spec)
    assert (plan.verdict.status, plan.verdict.reason) == (Status.TRUE, "Running")


async def test_it_finds_its_own_environment_and_nothing_of_ours(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("INVOCATION_ID", "00")
    await bench.converge(bench.spec(env={"TOKEN": "hunter2"}))
    output = (bench.root / "state" / "agent.log").read_text()
    have = next(line for line in output.splitlines() if line.startswith("what I have"))
    assert have.endswith(f"{['HOME', 'LANG', 'LOGNAME', 'PATH', 'TOKEN', 'USER']} {bench.root}")
    assert oct((bench.root / "state" / "agent.log").stat().st_mode & 0o777) == "0o600"
    assert oct((bench.root / "runtime" / "agent.json").stat().st_mode & 0o777) == "0o600"


async def test_changed_inputs_are_one_restart(bench: Bench) -> None:
    await bench.converge(bench.spec())
    bench.write_config("i-two")
    await bench.converge(bench.spec(agent_id="i-two", env={"A": "b"}))
    await bench.converge(bench.spec(agent_id="i-two", env={"A": "b"}))
    assert len(bench.born()) == 2
    assert len(bench.alive()) == 1


async def test_drift_of_the_file_is_no_restart(bench: Bench) -> None:
    await bench.converge(bench.spec())
    bench.write_config("somebody-else")
    await bench.converge(bench.spec())
    assert len(bench.born()) == 1


async def test_an_agent_that_read_drift_is_restarted(bench: Bench) -> None:
    bench.write_config("somebody-else")
    await bench.converge(bench.spec(), at_most=1)
    bench.write_config("i-one")
    await bench.converge(bench.spec())
    assert len(bench.born()) == 2
    assert len(bench.alive()) == 1


async def test_a_stopped_agent_takes_its_worker_along(bench: Bench) -> None:
    await bench.converge(bench.spec("worker"))
    plan = await bench.converge(bench.spec("worker", state="stopped"))
    assert plan.verdict.reason == "Stopped"
    assert not bench.alive()
    assert not bench.alive("worker")


@pytest.mark.parametrize("words", [("stubborn", "worker"), ("stubborn", "worker", "own-session")])
async def test_one_that_ignores_sigint_is_killed_with_all_its_own(
    bench: Bench, words: tuple[str, ...]
) -> None:
    spec = bench.spec(*words)
    await bench.converge(spec)
    await bench.converge(replace(spec, state="stopped"))
    assert not bench.alive()
    assert not bench.alive("worker")


async def test_a_worker_that_outlives_its_main_is_ended_at_the_stop(bench: Bench) -> None:
    spec = bench.spec("worker", "orphan")
    await bench.converge(spec)
    await bench.converge(replace(spec, state="stopped"))
    assert not bench.alive("worker")


@pytest.mark.parametrize("words", [("worker",), ("worker", "stubborn", "own-session")])
async def test_orphans_are_ended_before_the_next_start(
    bench: Bench, words: tuple[str, ...]
) -> None:
    spec = bench.spec(*words)
    await bench.converge(spec)
    os.kill(bench.born()[0], signal.SIGKILL)
    await until(lambda: not bench.alive())
    agent = bench.agent(spec)
    plan = agent.plan(await agent.observe())
    assert plan.verdict.reason == "Orphaned"
    assert [action.verb for action in plan.actions] == ["end_orphans", "note_end", "start"]
    await bench.converge(spec)
    assert bench.alive() == [bench.born()[1]]
    assert bench.alive("worker") == [bench.born("worker")[1]]


async def test_a_death_is_answered_at_once_and_the_second_after_a_wait(bench: Bench) -> None:
    spec = bench.spec("crash")
    plan = await bench.converge(spec, at_most=1)
    await until(lambda: not bench.alive())
    plan = await bench.converge(spec, at_most=2)
    await until(lambda: not bench.alive())
    plan = await bench.converge(spec)
    assert len(bench.born()) == 2
    assert (plan.verdict.status, plan.verdict.reason) == (Status.FALSE, "CrashLoop")
    assert "exit status 0" in plan.verdict.message
    assert plan.verdict.message.endswith("could not connect")
    assert "token=***" in plan.verdict.message
    assert plan.observe_again_in_s is not None
    assert 0 < plan.observe_again_in_s <= 1


async def test_a_fix_interrupts_the_wait_of_a_crash_loop(bench: Bench) -> None:
    for _ in range(3):
        await bench.converge(bench.spec("crash"))
        await until(lambda: not bench.alive())
    await bench.converge(bench.spec())
    assert len(bench.alive()) == 1


async def test_what_cannot_be_started_reports_why(bench: Bench) -> None:
    agent = bench.agent(bench.spec(command=("/no/such/program",)))
    plan = agent.plan(await agent.observe())
    with pytest.raises(Refused, match="/no/such/program"):
        await agent.apply(plan.actions[0])
    agent = bench.agent(bench.spec(user="nobody-knows-him"))
    with pytest.raises(Refused, match="nobody-knows-him"):
        await agent.apply(plan.actions[0])


@pytest.mark.root
async def test_it_runs_as_its_user(bench: Bench) -> None:
    # A program that everybody may run, in a folder that everybody may enter.
    spec = bench.spec(command=("/bin/sleep", "600"), user="nobody", workdir=Path("/"))
    agent = bench.agent(spec)
    await agent.apply(agent.plan(await agent.observe()).actions[0])
    main = await bench.main()
    nobody = pwd.getpwnam("nobody")
    status = Path(f"/proc/{main.pid}/status").read_text()
    words = {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}
    assert set(words["Uid"]) == {str(nobody.pw_uid)}
    assert set(words["Gid"]) == set(words["Groups"]) == {str(nobody.pw_gid)}
    await bench.converge(replace(spec, state="stopped"))
    assert process.find(main.pid, main.start_ticks) is None


# --- agents that somebody else started ---------------------------------------------------


async def started_by_hand(bench: Bench, *words: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(bench.command(*words), cwd=bench.root, start_new_session=True)
    await until(bench.alive)
    return child


async def test_one_started_by_hand_is_adopted_in_step(bench: Bench) -> None:
    child = await started_by_hand(bench, "worker")
    os.utime(bench.root / "agent.toml")
    plan = await bench.converge(bench.spec("worker"))
    assert plan.facts["agent-pid"] == child.pid
    assert len(bench.born()) == 1
    await bench.converge(bench.spec("worker", state="stopped"))
    assert child.wait() == 0
    assert not bench.alive("worker")


async def test_one_started_before_we_brought_its_file_into_line_is_restarted(bench: Bench) -> None:
    child = await started_by_hand(bench)
    now_s = process.now_s()
    bench.notes.update(lambda record: replace(record, wrote_s=now_s))
    agent = bench.agent(bench.spec())
    plan = agent.plan(await agent.observe())
    assert [action.verb for action in plan.actions] == ["adopt", "stop", "start"]
    await bench.converge(bench.spec())
    assert child.wait() == 0
    assert len(bench.alive()) == 1


async def test_a_launcher_is_not_the_agent(bench: Bench) -> None:
    command = ["/usr/bin/timeout", "600", *bench.command("worker")]
    launcher = subprocess.Popen(command, cwd=bench.root)
    await until(bench.alive)
    plan = await bench.converge(bench.spec("worker"), at_most=1)
    assert plan.facts["agent-pid"] == bench.born()[0] != launcher.pid
    await bench.converge(bench.spec("worker", state="stopped"))
    assert launcher.wait() == 0
    assert not bench.alive("worker")


async def test_a_worker_of_a_dead_life_is_not_adopted_for_its_arguments(bench: Bench) -> None:
    """A fork has the arguments of its main process."""
    spec = bench.spec("worker")
    await bench.converge(spec)
    os.kill(bench.born()[0], signal.SIGKILL)
    agent = bench.agent(spec)
    await until(lambda: not bench.alive())
    actual = await agent.observe()
    assert actual.unrecorded is None
    assert [orphan.pid for orphan in actual.orphans] == bench.born("worker")


# --- crashes of ours ---------------------------------------------------------------------


async def nothing(bench: Bench) -> AgentSpec:
    return bench.spec("worker")


async def changed(bench: Bench) -> AgentSpec:
    await bench.converge(bench.spec("worker"))
    return bench.spec("worker", env={"A": "changed"})


async def died(bench: Bench) -> AgentSpec:
    await bench.converge(bench.spec("worker"))
    os.kill(bench.born()[-1], signal.SIGKILL)
    await until(lambda: not bench.alive())
    return bench.spec("worker")


async def unnoted(bench: Bench) -> AgentSpec:
    """We were killed between the start and the note of its pid."""
    await bench.converge(bench.spec("worker"))
    forget_pid(bench)
    return bench.spec("worker")


async def unnoted_and_changed(bench: Bench) -> AgentSpec:
    await unnoted(bench)
    return bench.spec("worker", env={"A": "changed"})


async def unnoted_and_dead(bench: Bench) -> AgentSpec:
    await died(bench)
    forget_pid(bench)
    return bench.spec("worker")


async def by_hand(bench: Bench) -> AgentSpec:
    await bench.converge(bench.spec("worker"))
    (bench.root / "runtime" / "agent.json").unlink()
    (bench.root / "runtime" / "agent.lock").unlink()
    return bench.spec("worker")


def forget_pid(bench: Bench) -> None:
    bench.notes.update(
        lambda record: replace(record, life=record.life and replace(record.life, pid=None))
    )


Scene = Callable[[Bench], Awaitable[AgentSpec]]


@pytest.mark.parametrize(
    "scene", [nothing, changed, died, unnoted, unnoted_and_changed, unnoted_and_dead, by_hand]
)
@pytest.mark.parametrize("survived", range(5))
async def test_a_crash_after_any_action_ends_with_one_agent(
    bench: Bench, scene: Scene, survived: int
) -> None:
    spec = await scene(bench)
    await bench.converge(spec, at_most=survived)
    if survived and bench.alive():
        forget_pid_if_just_started(bench)
    await bench.converge(spec)
    assert len(bench.alive()) == 1
    assert len(bench.alive("worker")) == 1
    assert (await bench.main()).pid == bench.alive()[0]


def forget_pid_if_just_started(bench: Bench) -> None:
    """The worst moment of a start."""
    life = bench.notes.read().life
    if life is not None and not life.is_adopted and life.pid == bench.born()[-1]:
        forget_pid(bench)


def start_and_die(root: Path) -> None:
    """What a daemon does that is killed at the worst moment. Runs in a process of its own."""
    bench = Bench(root)
    real = launch.start

    def start(*args: Any, **options: Any) -> Process:
        real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    launch.start = start
    anyio.run(bench.converge, bench.spec("worker"))


async def test_the_daemon_is_killed_between_start_and_note(bench: Bench) -> None:
    here = Path(__file__)
    code = "import sys, pathlib, test_agent_child as t; t.start_and_die(pathlib.Path(sys.argv[1]))"
    daemon = subprocess.run(
        [sys.executable, "-c", code, str(bench.root)],
        env={**os.environ, "PYTHONPATH": f"{here.parent}:{here.parents[2] / 'src'}"},
        check=False,
    )
    assert daemon.returncode == -signal.SIGKILL
    await until(bench.alive)
    life = bench.notes.read().life
    assert life is not None
    assert life.pid is None
    await bench.converge(bench.spec("worker"))
    assert len(bench.born()) == 1
    assert (await bench.main()).pid == bench.born()[0]


# --- events ------------------------------------------------------------------------------


async def test_a_death_wakes_by_an_event_also_of_the_next_process(bench: Bench) -> None:
    agent = bench.agent(bench.spec())
    woken = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.watch, lambda: woken.set())
        for _ in range(2):
            plan = agent.plan(await agent.observe())
            while plan.actions:
                await agent.apply(plan.actions[0])
                plan = agent.plan(await agent.observe())
            await until(bench.alive)
            await anyio.wait_all_tasks_blocked()
            woken = anyio.Event()
            os.kill(bench.alive()[0], signal.SIGKILL)
            with anyio.fail_after(5):
                await woken.wait()
        tasks.cancel_scope.cancel()


async def test_output_is_cut_under_a_process_that_writes_it(bench: Bench) -> None:
    await bench.converge(bench.spec())
    log = bench.root / "state" / "agent.log"
    output.rotate(log, bytes_at_most=10)
    assert log.read_bytes() == b""
    kept = log.with_name("agent.log.1")
    assert len(kept.read_bytes()) == 10
    assert oct(kept.stat().st_mode & 0o777) == "0o600"
    assert (await bench.main()).pid == bench.born()[0]


async def test_room_that_the_agent_takes_behind_the_end_of_its_output_is_taken_back(
    bench: Bench,
) -> None:
    spec = bench.spec()
    await bench.converge(spec)
    log = bench.root / "state" / "agent.log"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.agent(spec).watch, lambda: None)
        await anyio.sleep(0.2)
        command = ["fallocate", "--keep-size", "--length", "64MiB", str(log)]
        await anyio.run_process(command)
        await until(lambda: log.stat().st_blocks * 512 < output.BYTES_AT_MOST)
        tasks.cancel_scope.cancel()
    assert b"token=hunter2" in log.with_name("agent.log.1").read_bytes()


async def test_of_output_that_grows_while_it_is_cut_no_more_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent can make its file any length, which costs it nothing, and us all that we read."""
    log = bench.root / "state" / "agent.log"
    log.write_bytes(b"x" * 20)
    real = os.fstat

    def grown(fd: int) -> os.stat_result:
        status = real(fd)
        os.truncate(log, 2**20)
        return status

    monkeypatch.setattr(os, "fstat", grown)
    output.rotate(log, bytes_at_most=10)
    assert log.with_name("agent.log.1").read_bytes() == b"x" * 10


async def test_output_is_cut_as_soon_as_it_grows(bench: Bench) -> None:
    spec = bench.spec()
    await bench.converge(spec)
    log = bench.root / "state" / "agent.log"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.agent(spec).watch, lambda: None)
        await anyio.sleep(0.2)
        with log.open("ab") as file:
            for _ in range(40):
                file.write(b"x" * 2**20)
        await until(lambda: log.stat().st_size <= output.BYTES_AT_MOST)
        await until(lambda: log.with_name("agent.log.1").stat().st_size == output.BYTES_AT_MOST)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("obstacle", ["gone", "a file", "a folder in the log's place"])
async def test_no_agent_stays_down_for_what_can_not_be_written(bench: Bench, obstacle: str) -> None:
    state = bench.root / "state"
    if obstacle == "a folder in the log's place":
        (state / "agent.log").mkdir()
    else:
        state.rmdir()
        if obstacle == "a file":
            state.touch()
    plan = await bench.converge(bench.spec())
    while plan.verdict.reason == "Starting":
        await anyio.sleep(plan.observe_again_in_s or 0.1)
        plan = await bench.converge(bench.spec())
    assert plan.verdict.reason == "Running"
    assert bench.alive() == bench.born()
    if obstacle != "gone":
        assert str(state / "agent.log") in plan.verdict.message
        assert "what I have" in (bench.root / "runtime" / "agent.log").read_text()


async def test_an_agent_that_goes_into_the_background_is_reported_and_left_alone(
    bench: Bench,
) -> None:
    worker = " ".join(bench.command())
    script = bench.root / "start.sh"
    script.write_text(f"#!/bin/sh\n{worker} &\n")
    script.chmod(0o755)
    spec = bench.spec(command=(str(script),))
    for _ in range(3):
        plan = await bench.converge(spec)
        await anyio.sleep(0.2)
    assert (plan.verdict.status, plan.verdict.reason) == (Status.FALSE, "InBackground")
    assert "run it in the foreground" in plan.verdict.message
    assert len(bench.born()) == 1
    assert bench.alive() == bench.born()
    await bench.converge(bench.spec())  # the document is mended
    assert bench.alive() == bench.born()[1:]
    assert len(bench.born()) == 2


async def test_two_starts_at_once_are_one(bench: Bench) -> None:
    with launch.held(bench.root / "runtime" / "agent.lock"):
        agent = bench.agent(bench.spec())
        plan = agent.plan(await agent.observe())
        with pytest.raises(Unavailable, match="an earlier start still lives"):
            await agent.apply(plan.actions[0])
    assert not bench.born()


# --- what is looked at before a healthy agent is stopped --------------------------------------


@pytest.mark.root
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"user": "nobody-knows-him"}, "nobody-knows-him"),
        ({"workdir": Path("/no/such/folder")}, "/no/such/folder: No such file"),
        ({"command": ("/no/such/program",)}, "finds no program /no/such/program"),
        ({"command": ("no-such-program",)}, "finds no program no-such-program"),
        ({"command": ("FOLDER/unread.sh",)}, "may not be executed"),
        ({"command": ("FOLDER/orphan.sh",)}, "finds no program /no/such/interpreter"),
        ({"env": {"BIG": "x" * 200_000}}, "BIG has more than 128 KiB"),
        ({"env": {f"E{n}": "x" * 100_000 for n in range(40)}}, "too long for the kernel"),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else next(iter(each)),
)
async def test_a_start_that_would_fail_stops_no_healthy_agent(
    bench: Bench, change: dict[str, Any], named: str
) -> None:
    (bench.root / "unread.sh").write_text("#!/bin/sh\n")
    (bench.root / "orphan.sh").write_text("#!/no/such/interpreter\n")
    (bench.root / "orphan.sh").chmod(0o755)
    if "command" in change:
        change["command"] = tuple(w.replace("FOLDER", str(bench.root)) for w in change["command"])
    await bench.converge(bench.spec())
    plan = await bench.converge(replace(bench.spec(), **change))
    assert (plan.verdict.status, plan.verdict.reason) == (Status.FALSE, "Blocked")
    assert named in plan.verdict.message
    assert "xxx" not in plan.verdict.message
    assert bench.alive() == bench.born()
    assert len(bench.born()) == 1


@pytest.mark.parametrize("broken", ["exit 3", "sleep 600"])
def test_the_interpreter_of_an_environment_is_run_before_it_is_moved_into(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "CHECK_S", 2.0)
    (tmp_path / "python").write_text(f"#!/bin/sh\n{broken}\n")
    (tmp_path / "python").chmod(0o755)

    def obstacle(python: str) -> str:
        tried = (python, "-c", "")
        return rehearsal.obstacle(tried, user=None, env={}, workdir=tmp_path, tried=tried)

    assert str(tmp_path / "python") in obstacle(str(tmp_path / "python"))
    assert obstacle(sys.executable) == ""
