"""Whatever stdout, stderr and named files are: the daemon keeps its node, a command ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bai_nodeagent
from node_under_test import PROGRAM, WAIT_S, Node
from servers import wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    node.desire()
    yield node
    node.close()


def run_with(node: Node, stderr: int) -> None:
    """The daemon, with that as its stderr."""
    node.process = subprocess.Popen(
        [str(PROGRAM), "run", "--config", str(node.config)],
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )
    (node.folder / "daemon.log").touch()
    os.close(stderr)


def pipe_that_is_full() -> tuple[int, int]:
    reader, end = os.pipe()
    os.set_blocking(end, False)
    try:
        while True:
            os.write(end, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(end, True)
    return reader, end


def is_kept(node: Node) -> None:
    """Each new document is taken, drift is repaired, the end is a clean one."""
    node.wait_ready("one")
    node.desire(node.document("two"))
    node.wait_ready("two")
    node.agent_toml.write_text(node.agent_toml.read_text().replace("two", "spoilt"))
    node.wait("repaired", lambda: '"two"' in node.agent_toml.read_text())
    assert node.stop() == 0


def test_a_stderr_that_nobody_reads_holds_up_nothing(node: Node) -> None:
    reader, end = pipe_that_is_full()
    node.configure(more="")
    run_with(node, end)
    is_kept(node)
    os.close(reader)


@pytest.mark.parametrize("kind", ["full disk", "reader gone"])
def test_a_stderr_that_takes_nothing_ends_nothing(node: Node, kind: str) -> None:
    if kind == "full disk":
        end = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, end = os.pipe()
        os.close(reader)
    run_with(node, end)
    is_kept(node)


def test_closed_descriptors_end_nothing(node: Node) -> None:
    line = f"exec {PROGRAM} run --config {node.config} <&- >&- 2>&-"
    node.process = subprocess.Popen(["/bin/sh", "-c", line], start_new_session=True)
    (node.folder / "daemon.log").touch()
    is_kept(node)


def test_an_answer_that_can_not_be_printed_has_one_line_and_a_code_of_its_own(node: Node) -> None:
    for command, code in ((["schema"], 74), (["may-start"], 0)):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [str(PROGRAM), *command, "--config", str(node.config)],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1
        assert "No space left on device" in done.stderr


def test_the_gate_refuses_whatever_its_output_is(node: Node) -> None:
    node.desire(
        node.document() + '[[mount]]\nname = "m"\nsource = "/nowhere"\ntype = "bind"\n'
        f'target = "{node.folder}/not-mounted"\nrequired = true\n'
    )
    node.start()
    node.wait("known", lambda: node.condition("Mount/m")["status"])
    node.stop()
    for end in (os.open("/dev/full", os.O_WRONLY), os.open(os.devnull, os.O_WRONLY)):
        command = [str(PROGRAM), "may-start", "--config", str(node.config)]
        done = subprocess.run(command, stdout=end, stderr=end, timeout=60, check=False)
        os.close(end)
        assert done.returncode == 1


def test_what_is_no_regular_file_is_read_by_no_command(node: Node, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    sparse = tmp_path / "sparse"
    sparse.touch()
    os.truncate(sparse, 4 << 30)
    for file in (str(fifo), "/dev/zero", str(tmp_path), str(sparse)):
        for command in (["validate", file], ["put", "cluster", file]):
            done = node.run(*command)
            assert done.returncode == 2, (command, done.stderr)
            assert file in done.stderr
            assert "Traceback" not in done.stderr
        done = subprocess.run(
            [str(PROGRAM), "status", "--config", file],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_endless_or_no_input_is_a_mistake(node: Node) -> None:
    for source in ("</dev/zero", "<&-"):
        line = f"exec {PROGRAM} validate - --config {node.config} {source}"
        done = subprocess.run(
            ["/bin/sh", "-c", line], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_an_order_of_somebody_else_is_refused_in_one_line(node: Node) -> None:
    (node.folder / "state").mkdir(mode=0o700)
    node.folder.chmod(0o755)
    as_them = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    program = (
        "import sys; from bai_nodeagent.cli import main; "
        f"main(['{{}}', '--config', {str(node.config)!r}])"
    )
    for order in ("pause", "resume", "retry", "rebind"):
        done = subprocess.run(
            [*as_them, program.format(order)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if "Permission denied" in done.stderr and "python" in done.stderr:
            pytest.skip("the interpreter lies where no other account may run it")
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


def test_an_interrupted_command_ends_quietly(tmp_path: Path) -> None:
    # Whoever starts the tests in the background of a shell has this signal ignored.
    command = ["env", "--default-signal=INT", str(PROGRAM), "validate", "-"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    wait_until(lambda: "pipe_read" in Path(f"/proc/{child.pid}/wchan").read_text(), "it reads")
    child.send_signal(signal.SIGINT)
    _, rest = child.communicate(timeout=WAIT_S)
    assert (child.returncode, rest) == (130, "")


def test_an_address_that_is_not_there_yet_is_waited_for(node: Node) -> None:
    config = node.config.read_text().replace("127.0.0.1", "192.0.2.1")
    node.config.write_text(config)
    line = f"ip link set lo up; exec {PROGRAM} run --config {node.config}"
    with (node.folder / "daemon.log").open("ab") as log:
        node.process = subprocess.Popen(
            ["unshare", "--net", "/bin/sh", "-c", line], stderr=log, start_new_session=True
        )
    node.wait_ready("one")
    inside = ["nsenter", f"--net=/proc/{node.process.pid}/ns/net"]
    subprocess.run([*inside, "ip", "addr", "add", "192.0.2.1/32", "dev", "lo"], check=True)
    ask = f"import urllib.request as u; print(u.urlopen('http://192.0.2.1:{node.port}/readyz').read())"

    def answers() -> bool:
        done = subprocess.run(
            [*inside, sys.executable, "-c", ask], capture_output=True, timeout=30, check=False
        )
        return b"Ready" in done.stdout

    wait_until(answers, "it serves", 30)
    assert node.stop() == 0


def test_a_daemon_whose_program_is_removed_goes_on_with_every_kind(
    node: Node, tmp_path: Path
) -> None:
    package = Path(bai_nodeagent.__file__).parent
    shutil.copytree(package, tmp_path / "copy" / package.name)
    with (node.folder / "daemon.log").open("ab") as log:
        node.process = subprocess.Popen(
            [sys.executable, "-m", package.name, "run", "--config", str(node.config)],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "copy")},
            stderr=log,
            start_new_session=True,
        )
    node.wait_ready("one")
    shutil.rmtree(tmp_path / "copy")
    more = (
        '[swarm]\nstate = "left"\n[redis]\ncheck = true\n'
        f'[plugins]\nallow = []\npython = "{sys.executable}"\n'
        f'[[mount]]\nname = "m"\nsource = "tmpfs"\ntype = "tmpfs"\nstate = "unmounted"\n'
        f'target = "{node.folder}/m"\n'
    )
    node.desire(node.document("two") + more)
    kinds = ("Swarm", "Redis", "Plugins", "Mount/m")

    def reasons() -> set[str]:
        return {node.condition(kind)["reason"] for kind in kinds}

    node.wait("all looked at", lambda: not reasons() & {"", "Pending"})
    assert "InternalError" not in reasons(), node.log
    node.wait("said", lambda: "package.changed" in node.log, 40)
    assert node.stop() == 0
