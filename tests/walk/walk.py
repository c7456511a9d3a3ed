"""A random walk over one node: documents, hand edits, kills and faults, and what must hold after.

A round is a handful of random steps, then everything that the walk itself has
broken is mended, and the node has to come to rest: the invariants of
`Walk.violations` hold then. All chance comes from one seed.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError

from node_under_test import Node

from .stores import Servers

# A restart for changed inputs may have to wait for its turn: once a minute, after three.
REST_S = 180.0
STEPS_AT_MOST = 5
# An edit of agent.toml is found within moments, and then the agent has been starting for a second.
STARTING_S = 3.0
DESCRIPTORS_AT_MOST = 80
THREADS_AT_MOST = 40
BROKEN_AT_MOST = 10

BY_HAND = """\
# Written by hand; the walk adds lines to [custom].
[agent]
backend = "docker"   # not managed
[custom]
first = 1
"""
# Files of the daemon's own, below its state and its runtime folder.
STATE = ("journal.json", "pause", "agent-ip", "rollback.toml", "agent-launch.json", "digest.key")
RUNTIME = ("agent.json",)
BAD = (
    b"api-version = 1\n[agent\n",
    b"api-version = 1\nnonsense = true\n",
    b"api-version = 1\n[agent]\nsupervisor = 3\n",
    b"\xff\xfe\x00",
    b"{}",
    b"api-version = 1\n" + b"[a" + b".b" * 300 + b"]\n",
    b"{" * 2000,
)


class Violation(AssertionError):
    """What does not hold, with the steps of the round."""


class Walk:
    def __init__(self, node: Node, servers: Servers, seed: int) -> None:
        self.node, self.servers = node, servers
        self.chance = random.Random(seed)
        self.marker = "m0"
        self.secret = "walk-secret-0"
        self.secrets = [self.secret]
        self.lines = ["first = 1"]
        self.count = 0
        self.steps: list[str] = []
        self.causes = 0  # of restarts in this round
        self.touched: set[str] = set()
        self.is_repaired = False  # agent.toml was, since the agent's last start
        self.are_notes_spoilt = False  # and that may not have been found since then
        self.snapshot = node.folder / "snapshot.db"
        self.is_saved = False

    # -- the desired state

    def document(self) -> str:
        return self.node.document(
            self.marker, values='[agent-config.values.etcd]\npassword = { secret = "pw" }'
        )

    def put_all(self) -> None:
        self.node.put("secret/cluster/pw", self.secret)
        self.node.desire(self.document())

    def start(self) -> None:
        self.node.agent_toml.write_text(BY_HAND)
        self.put_all()
        self.node.start()
        self.rest()

    # -- steps; each says whether it was taken

    def new_document(self) -> bool:
        self.count += 1
        self.marker = f"m{self.count}"
        self.causes += 1
        self.node.desire(self.document())
        return True

    def new_secret(self) -> bool:
        self.count += 1
        self.secret = f"walk-secret-{self.count}"
        self.secrets.append(self.secret)
        self.causes += 1
        self.node.put("secret/cluster/pw", self.secret)
        return True

    def equal_document(self) -> bool:
        self.node.desire(f"# {self.chance.random()}\n{self.document()}")
        return True

    def bad_document(self) -> bool:
        key = f"{self.node.prefix}/local/desired/cluster"
        self.servers.admin.etcdctl("put", key, stdin=self.chance.choice(BAD))
        return True

    def no_document(self) -> bool:
        self.node.remove("desired/cluster")
        return True

    def flapping(self) -> bool:
        for _ in range(5):
            self.bad_document()
            self.equal_document()
        return True

    def status_deleted(self) -> bool:
        self.node.remove(f"node/{self.node.id}/status")
        return True

    # -- steps by hand on agent.toml: one sort of them a round

    def drift(self) -> bool:
        return self._by_hand("drift", lambda text: text.replace(self.marker, "by-hand"))

    def unmanaged_line(self) -> bool:
        self.count += 1
        line = f"line{self.count} = {self.count}  # by hand"
        done = self._by_hand("lines", lambda text: _added(text, line))
        if done and line in self.node.agent_toml.read_text():
            self.lines.append(line)
        return done

    def deleted(self) -> bool:
        return self._destroy(lambda path: path.unlink())

    def truncated(self) -> bool:
        return self._destroy(lambda path: os.truncate(path, 0))

    def garbled(self) -> bool:
        return self._destroy(lambda path: path.write_bytes(b"[agent\n\xff" * 3))

    def other_mode(self) -> bool:
        if not self.node.agent_toml.exists():
            return False
        self.node.agent_toml.chmod(self.chance.choice([0o600, 0o640, 0o666]))
        return True

    def _by_hand(self, sort: str, change: Callable[[str], str]) -> bool:
        """Not beside what destroys the file: what is lost then nobody can know."""
        if self.touched & {"destroyed", "last"}:
            return False
        try:
            text = self.node.agent_toml.read_text()
            tomllib.loads(text)
        except (OSError, ValueError):
            return False
        self.touched.add(sort)
        self.is_repaired = True
        self.causes += sort == "drift" and self._costs_a_restart()
        self.node.agent_toml.write_text(change(text))
        return True

    def _destroy(self, how: Callable[[Path], object]) -> bool:
        if self.touched & {"drift", "lines", "last"} or not self.node.agent_toml.exists():
            return False
        self.causes += self._costs_a_restart()
        self.touched.add("destroyed")
        self.is_repaired = True
        how(self.node.agent_toml)
        return True

    def _costs_a_restart(self) -> bool:
        """Nobody knows with what an agent runs beside spoilt notes, nor what one has read that
        was just starting."""
        age_s = time.time() - (self.node.folder / "starts").stat().st_mtime
        return self.are_notes_spoilt or self.causes > 0 or age_s < STARTING_S

    # -- steps against processes

    def daemon_killed(self) -> bool:
        self.node.stop(signal.SIGKILL)
        self.node.start()
        return True

    def daemon_restarted(self) -> bool:
        # One that is still being loaded ends as every program does.
        allowed = {0} if self._is_caught(signal.SIGTERM) else {0, -signal.SIGTERM}
        code = self.node.stop()
        if code not in allowed:
            raise Violation(f"the daemon ended with {code} at SIGTERM")
        self.node.start()
        return True

    def _is_caught(self, how: signal.Signals) -> bool:
        assert self.node.process is not None
        status = Path(f"/proc/{self.node.process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (how - 1) & 1)

    def agent_killed(self) -> bool:
        self.causes += 1
        for pid in self.node.living():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return True

    def paused(self) -> bool:
        self.node.run("pause")
        return True

    def waited(self) -> bool:
        time.sleep(self.chance.uniform(0.1, 2.0))
        return True

    # -- steps against the store

    def member_killed(self) -> bool:
        self.servers.kill(self.chance.randrange(len(self.servers.members)))
        return True

    def member_frozen(self) -> bool:
        self.servers.freeze(self.chance.randrange(len(self.servers.members)))
        return True

    def store_replaced(self) -> bool:
        self.servers.replace()
        time.sleep(self.chance.uniform(0.0, 1.5))
        self.put_all()
        return True

    def store_saved(self) -> bool:
        self.servers.mend()
        self.servers.save(self.snapshot)
        self.is_saved = True
        return True

    def store_restored(self) -> bool:
        if not self.is_saved or len(self.servers.members) > 1:
            return False
        self.causes += 2  # it runs with what stood there for a while, maybe
        self.servers.go_back(self.snapshot)
        return True

    def compacted(self) -> bool:
        self.servers.admin.etcdctl("compact", str(self._revision()))
        return True

    def _revision(self) -> int:
        shown = self.servers.admin.etcdctl("get", "/", "-w", "fields")
        found = re.search(r'"Revision" : (\d+)', shown)
        return int(found[1]) if found else 1

    # -- steps against files of the daemon's own

    def own_file_spoilt(self) -> bool:
        if not self._may_lose_notes():
            return False
        folder, names = self.chance.choice([("state", STATE), ("runtime", RUNTIME)])
        path = self.node.folder / folder / self.chance.choice(names)
        is_stopped = self.chance.random() < 0.5
        if is_stopped:
            self.node.stop(signal.SIGKILL)
        self._spoil(path)
        if is_stopped:
            self.node.start()
        return True

    def _may_lose_notes(self) -> bool:
        """Not where the last good content is needed. Where the daemon has written the file since
        nobody knows with what the agent was started: then a restart is right."""
        if "destroyed" in self.touched:
            return False
        self.causes += self.is_repaired
        self.touched.add("last")
        self.are_notes_spoilt = True
        return True

    def _spoil(self, path: Path) -> None:
        with suppress(OSError):  # of an earlier time there is still something that is no file
            path.unlink(missing_ok=True)
            match self.chance.randrange(5):
                case 0:
                    path.mkdir()
                case 1:
                    path.write_bytes(b"")
                case 2:
                    path.write_bytes(b"\xff\x00" * 50)
                case 3:
                    path.write_bytes(b"[" * 5000)
                case 4:
                    path.write_bytes(b'{"format": Infinity}')

    def state_lost(self) -> bool:
        if not self._may_lose_notes():
            return False
        self.node.stop(signal.SIGKILL)
        with suppress(FileNotFoundError):  # a daemon that has just been started makes it
            shutil.rmtree(self.node.folder / "state")
        self.node.start()
        return True

    # -- a round

    def steps_known(self) -> list[tuple[int, Callable[[], bool]]]:
        return [
            (2, self.new_document),
            (1, self.new_secret),
            (3, self.equal_document),
            (4, self.bad_document),
            (2, self.no_document),
            (1, self.flapping),
            (1, self.status_deleted),
            (4, self.drift),
            (3, self.unmanaged_line),
            (2, self.deleted),
            (2, self.truncated),
            (2, self.garbled),
            (1, self.other_mode),
            (3, self.daemon_killed),
            (2, self.daemon_restarted),
            (3, self.agent_killed),
            (1, self.paused),
            (5, self.waited),
            (2, self.member_killed),
            (2, self.member_frozen),
            (2, self.store_replaced),
            (1, self.store_saved),
            (1, self.store_restored),
            (1, self.compacted),
            (3, self.own_file_spoilt),
            (1, self.state_lost),
        ]

    def round(self) -> None:
        """Some steps, then rest. Raises Violation."""
        self.steps, self.causes, self.touched = [], 0, set()
        starts = len(self.node.starts)
        weights, steps = zip(*self.steps_known(), strict=True)
        for step in self.chance.choices(steps, weights, k=self.chance.randint(1, STEPS_AT_MOST)):
            self.steps.append(step.__name__)
            with suppress(SubprocessError):  # a store that is down takes no step of an admin's
                step()
            self._still_up()
        self.servers.mend()
        self._resume()
        self.put_all()
        self.rest()
        more = len(self.node.starts) - starts
        if more > self.causes:
            raise self._violation([f"{more} starts of the agent, {self.causes} causes"])
        if more:
            self.are_notes_spoilt = "last" in self.touched
            self.is_repaired = "destroyed" in self.touched or "drift" in self.touched

    def _resume(self) -> None:
        """Also from a pause that is none: a folder in its place counts as one."""
        pause = self.node.folder / "state" / "pause"
        if pause.is_dir():
            pause.rmdir()
        self.node.run("resume")

    def rest(self) -> None:
        """Waits until all invariants hold, twice in a row."""
        until_s = time.monotonic() + REST_S
        held = 0
        while held < 2:
            self._still_up()
            found = self._observed_at()
            held = 0 if found else held + 1
            if found and time.monotonic() > until_s:
                raise self._violation(found)
            time.sleep(0.3)

    def _observed_at(self) -> list[str]:
        try:
            return self.violations()
        except (OSError, ValueError, KeyError, SubprocessError) as error:
            return [f"nothing to be seen: {error!r}"]

    def _still_up(self) -> None:
        process = self.node.process
        if process is None or process.poll() is not None:
            raise self._violation([f"the daemon ended by itself: {process and process.poll()}"])

    def _violation(self, what: list[str]) -> Violation:
        return Violation(
            f"{'; '.join(what)}\nsteps: {', '.join(self.steps)}\n"
            f"status: {self.node.http('/status')[1]}\n{self.node.log[-4000:]}"
        )

    def violations(self) -> list[str]:
        """What does not hold of a node at rest."""
        node = self.node
        status = node.status()
        text = node.agent_toml.read_text()
        document = tomllib.loads(text)
        living, starts = node.living(), node.starts
        log = (node.folder / "daemon.log").read_text(errors="replace")
        shown = {"log": log, "status": str(status), "metrics": node.http("/metrics")[1]}
        process = Path(f"/proc/{node.process.pid if node.process else 0}")
        checks = {
            f"the status is {status['summary']}": status["summary"] == "Ready",
            "/readyz says otherwise": node.http("/readyz")[0] == 200,
            "a managed value is not as desired": document["agent"]["marker"] == self.marker
            and document["agent"]["id"] == node.id,
            "a secret is not as desired": document["etcd"]["password"] == self.secret,
            "an unmanaged line is gone": all(line in text for line in self.lines),
            "an unmanaged comment is gone": 'backend = "docker"   # not managed' in text,
            f"{len(living)} agents live": len(living) == 1,
            "the agent runs with other inputs": bool(starts)
            and [starts[-1]] == [(pid, self.marker) for pid in living],
            "agent.toml with a secret can be read by others": not (
                node.agent_toml.stat().st_mode & 0o007
            ),
            "descriptors are left": len(list((process / "fd").iterdir())) < DESCRIPTORS_AT_MOST,
            "threads are left": len(list((process / "task").iterdir())) < THREADS_AT_MOST,
            "temporary files are left": not list(node.folder.rglob("*.tmp")),
            "too many broken copies": len(list(node.folder.glob("agent.toml.broken-*")))
            <= BROKEN_AT_MOST,
        }
        leaks = [
            f"{secret} is in the {where}"
            for where, content in shown.items()
            for secret in self.secrets
            if secret in content
        ]
        return [what for what, holds in checks.items() if not holds] + leaks


def _added(text: str, line: str) -> str:
    head, table, rest = text.partition("[custom]\n")
    return f"{head}{table}{line}\n{rest}"
