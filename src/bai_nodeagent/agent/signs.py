"""Whether a Backend.AI agent really works: what it shows of itself, and what that means. Pure.

A living main process proves nothing: 23.09's lives on for ever without its
worker, and either waits as long as it takes for a manager or for Redis. So an
agent counts as running when main process and worker live, and its RPC port
answers with ZeroMQ's greeting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..agent_toml import is_usable, managed
from ..model import KeyPath, Status, Verdict
from ..system.process import Process
from ..system.sockets import Answer, Listener
from .words import what_it_waits_for

# The worker is forked once agent.toml is read and all of the agent imported, which
# took 20 s on a machine with too much else to do.
WORKER_S = 60.0
# Cold, and with images for its helpers to load, up to 6 s; much more on a busy machine.
START_S = 90.0
STARTING_LOOK_S = 0.5
TROUBLE_LOOK_S = 2.0
LIVING_LOOK_S = 10.0

MAIN_TITLE = "backend.ai: agent "
WORKER_TITLE = "backend.ai: agent worker-"

_HOST: KeyPath = ("agent", "rpc-listen-addr", "host")
_RPC: KeyPath = ("agent", "rpc-listen-addr", "port")
# key, the port by default, the address that the agent binds it to
_OTHERS: tuple[tuple[KeyPath, int, str], ...] = (
    (("agent", "agent-sock-port"), 6007, "127.0.0.1"),
    (("agent", "metadata-server-port"), 40128, ""),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A port that an agent needs for itself. `host` "" stands for every address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @staticmethod
    def parse(text: str) -> Endpoint:
        host, _, port = text.rpartition(":")
        return Endpoint(host, int(port))


@dataclass(frozen=True, slots=True)
class Endpoints:
    rpc: Endpoint = Endpoint("", 6001)
    others: tuple[Endpoint, ...] = ()

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(each.port for each in (self.rpc, *self.others))

    def taken(self, listeners: Sequence[Listener]) -> tuple[Listener, ...]:
        """The listeners that keep an agent from binding."""
        return tuple(
            one
            for one in listeners
            for each in (self.rpc, *self.others)
            if one.port == each.port and one.is_in_the_way_of(each.host)
        )


@dataclass(frozen=True, slots=True)
class Signs:
    """What a living agent shows.

    worker  None: there is none
    rpc     how its RPC port answers
    at      that port, for people
    frozen  those of its processes that a signal has stopped
    taken   strangers on its ports, as "port 6001 by process 77 (nc)"
    """

    worker: Process | None
    rpc: Answer
    at: str
    frozen: tuple[int, ...] = ()
    taken: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        return self.worker is not None and self.rpc == "greets" and not self.frozen


def is_backendai(health: str, words: Sequence[str]) -> bool:
    """Whether this command line is Backend.AI's agent, as far as `health` leaves it open."""
    if health != "auto":
        return health == "backendai"
    is_module = any(w == "ai.backend.agent" or w.startswith("ai.backend.agent.") for w in words)
    is_cli = any(PurePath(word).name == "backend.ai" for word in words[:2])
    return is_module or (is_cli and "start-server" in words and bool({"ag", "agent"} & {*words}))


def endpoints(text: str | None) -> Endpoints:
    """The ports of an agent that reads this agent.toml."""
    places: dict[KeyPath, None] = dict.fromkeys([_HOST, _RPC, *(key for key, _, _ in _OTHERS)])
    found = managed(text, places) if text and is_usable(text.encode()) else {}

    def port(key: KeyPath, default: int) -> int:
        value = found.get(key, default)
        return value if isinstance(value, int) else default

    others = tuple(Endpoint(host, port(key, default)) for key, default, host in _OTHERS)
    return Endpoints(Endpoint(str(found.get(_HOST, "")), port(_RPC, 6001)), others)


def pid_file(text: str | None) -> Path | None:
    """Where an agent with this agent.toml notes its pid, if it does."""
    place: KeyPath = ("agent", "pid-file")
    found = managed(text, {place: None}) if text and is_usable(text.encode()) else {}
    value = found.get(place)
    return Path(value) if isinstance(value, str) and value.startswith("/") else None


def judge_signs(
    signs: Signs, output: str, last_lines: str, lived_s: float, *, was_well: bool
) -> tuple[Verdict, float]:
    """How a living agent stands, and when to look again.

    `output` is what it has said in this life; `was_well`: in this life it ran already.
    """
    if signs.frozen:
        pids = ", ".join(map(str, signs.frozen))
        text = f"process {pids} of the agent is stopped by a signal: `kill -CONT` lets it go on"
        return Verdict(Status.FALSE, "Frozen", text), TROUBLE_LOOK_S
    if signs.worker is None and (was_well or lived_s >= WORKER_S):
        text = "its main process lives, but its worker does not: nothing of it works"
        return Verdict(Status.FALSE, "WorkerDead", text), TROUBLE_LOOK_S
    if signs.is_well:
        return Verdict(Status.TRUE, "Running"), LIVING_LOOK_S
    if signs.taken:
        return port_taken(signs.taken), TROUBLE_LOOK_S
    said = f"; its last lines:\n{last_lines}" if last_lines else ""
    answer = f"{signs.at} {signs.rpc}"
    if was_well:
        text = f"the agent lives but does not answer any more: {answer}{said}"
        return Verdict(Status.FALSE, "NotAnswering", text), TROUBLE_LOOK_S
    if trouble := what_it_waits_for(output):
        return Verdict(Status.FALSE, trouble.reason, trouble.message), TROUBLE_LOOK_S
    if lived_s < START_S:
        text = f"the agent is starting: {answer}"
        return Verdict(Status.UNKNOWN, "Starting", text), STARTING_LOOK_S
    text = f"the agent is starting for more than {START_S:.0f} s: {answer}{said}"
    return Verdict(Status.FALSE, "StartHangs", text), TROUBLE_LOOK_S


def port_taken(taken: Sequence[str]) -> Verdict:
    text = f"others have what the agent needs: {', '.join(taken)}; end them, or change agent.toml"
    return Verdict(Status.FALSE, "PortTaken", text)
