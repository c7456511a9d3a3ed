"""How fast the daemon answers, as ratios to a floor in the same run; and what it costs at rest.

Floors: for put -> file, `etcdctl watch` printing the same put; for drift ->
repaired, an inotify reader seeing the same write; for death -> restarted, the
agent's own start by hand. The machine may be noisy: medians of some rounds.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from inotify_simple import INotify, flags

from node_under_test import Node
from servers import EtcdServer

ROUNDS = 15
REST_S = 20.0


def spin(what: str, holds: Callable[[], object]) -> float:
    """Time at which something became so; polled every 0.2 ms."""
    ends_s = time.monotonic() + 20
    while time.monotonic() < ends_s:
        try:
            if holds():
                return time.monotonic()
        except OSError:
            pass
        time.sleep(0.0002)
    raise TimeoutError(what)


def put_to_file(node: Node, watch: IO[bytes], number: int) -> tuple[float, float]:
    """Seconds from a put to agent.toml on disk, and to `etcdctl watch` printing the same put."""
    marker = f'"m{number}"'
    text = node.document(f"m{number}", agent='restart = "manual"')
    assert node.etcd is not None
    key, env = f"{node.prefix}/local/desired/cluster", {**os.environ, "ETCDCTL_API": "3"}
    command = ["etcdctl", f"--endpoints={node.etcd.endpoint}", "put", "--", key, text]
    put_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env):
        printed = b""
        while marker.encode() not in printed:
            printed += os.read(watch.fileno(), 65536)
        floor_s = time.monotonic() - put_s
        on_disk_s = spin("file", lambda: marker in node.agent_toml.read_text()) - put_s
    return on_disk_s, floor_s


@contextmanager
def etcdctl_watch(node: Node) -> Iterator[IO[bytes]]:
    assert node.etcd is not None
    key, env = f"{node.prefix}/local/desired/cluster", {**os.environ, "ETCDCTL_API": "3"}
    command = ["etcdctl", f"--endpoints={node.etcd.endpoint}", "watch", key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as watch:
        assert watch.stdout is not None
        time.sleep(0.5)
        yield watch.stdout
        watch.kill()


def drift(node: Node) -> tuple[float, float]:
    """Seconds from a hand edit to its repair, and to an inotify reader seeing the edit."""
    good = node.agent_toml.read_bytes()
    with INotify() as inotify:
        inotify.add_watch(node.agent_toml, flags.CLOSE_WRITE)
        edited_s = time.monotonic()
        node.agent_toml.write_bytes(good.replace(b'"i-test01"', b'"by-hand"'))
        inotify.read(timeout=2000)
        floor_s = time.monotonic() - edited_s
    repaired_s = spin("repaired", lambda: node.agent_toml.read_bytes() == good) - edited_s
    time.sleep(0.3)
    return repaired_s, floor_s


def death(node: Node) -> tuple[float, float]:
    """Seconds from SIGKILL of the agent to the next one's first line, and of a start by hand."""
    count = len(node.starts)
    os.kill(node.living()[0], signal.SIGKILL)
    killed_s = time.monotonic()
    back_s = spin("back", lambda: len(node.starts) > count) - killed_s
    started_s = time.monotonic()
    other = node.folder / "by-hand"
    other.mkdir(exist_ok=True)
    (other / "agent.toml").write_bytes(node.agent_toml.read_bytes())
    (other / "starts").unlink(missing_ok=True)
    by_hand = subprocess.Popen([sys.executable, str(node.folder / "agent.py"), str(other)])
    floor_s = spin("by hand", lambda: (other / "starts").read_text()) - started_s
    by_hand.kill()
    by_hand.wait()
    return back_s, floor_s


def at_rest(node: Node) -> tuple[float, float, float]:
    """CPU seconds a day, resident MB of the daemon, and of a bare Python."""
    assert node.process is not None
    daemon = psutil.Process(node.process.pid)
    before = sum(daemon.cpu_times()[:2])
    time.sleep(REST_S)
    cpu_s_a_day = (sum(daemon.cpu_times()[:2]) - before) / REST_S * 86400
    bare = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(9)"])
    time.sleep(0.5)
    bare_mb = psutil.Process(bare.pid).memory_info().rss / 1e6
    bare.kill()
    bare.wait()
    return cpu_s_a_day, daemon.memory_info().rss / 1e6, bare_mb


def reported(what: str, ours: Sequence[float], floor: Sequence[float], *, of: str) -> None:
    mine, its = statistics.median(ours) * 1000, statistics.median(floor) * 1000
    print(f"{what:28} {mine:7.1f} ms   {mine / its:5.1f} x {of} ({its:.1f} ms)")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EtcdServer(Path(folder) / "etcd") as etcd:
        node = Node(Path(folder) / "node", etcd)
        try:
            node.desire()
            node.start()
            started_s = time.monotonic()
            node.wait_ready("one")
            print(f"{'daemon start -> Ready':28} {(time.monotonic() - started_s) * 1000:7.1f} ms")
            with etcdctl_watch(node) as watch:
                puts = [put_to_file(node, watch, n) for n in range(ROUNDS)]
            reported("put -> agent.toml", *zip(*puts, strict=True), of="etcdctl watch")
            node.desire()
            node.wait_ready("one")
            repairs = [drift(node) for _ in range(ROUNDS)]
            reported("hand edit -> repaired", *zip(*repairs, strict=True), of="inotify")
            reported("death -> restarted", *zip(death(node), strict=True), of="start by hand")
            node.wait_ready("one")
            cpu_s, rss_mb, bare_mb = at_rest(node)
            print(
                f"{'at rest':28} {cpu_s:7.0f} CPU s a day, {rss_mb:.0f} MB resident"
                f" = {rss_mb / bare_mb:.1f} x bare Python ({bare_mb:.0f} MB)"
            )
        finally:
            node.close()


if __name__ == "__main__":
    main()
