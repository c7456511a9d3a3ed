"""Whether a Backend.AI agent really works: what it shows of itself, and what that means. Pure.

A living main process proves nothing: 23.09's lives on for ever without its
worker, and either waits as long as it takes for a manager or for Redis. So an
agent counts as running when main process and worker live, and its RPC port
answers with ZeroMQ's greeting.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ....agent_toml import is_usable
from ....agent_toml.places import as_address
from ....machine import Process
from ....model import Status, Verdict
from ....system.sockets import Answer, Listener
from .log_patterns import not_bound, what_it_waits_for
from .schema_faults import Version

# The worker is forked once agent.toml is read and all of the agent imported, which
# took 20 s on a machine with too much else to do.
WORKER_S = 60.0
# Cold, and with images for its helpers to load, up to 6 s; much more on a busy machine.
START_S = 90.0
STARTING_INTERVAL_S = 0.5
TROUBLE_INTERVAL_S = 2.0
LIVING_INTERVAL_S = 10.0

A_CONNECTION = "a connection of "
MAIN_TITLE = "backend.ai: agent "
WORKER_TITLE = "backend.ai: agent worker-"

_AGENT = "agent"
# key, the port by default, the address that the agent binds it to
_OTHERS = (
    ("agent-sock-port", 6007, "127.0.0.1"),
    ("metadata-server-port", 40128, ""),
)
# Read in the wheels of each: the agent's own HTTP server, and aiomonitor's, which
# makes it hang where its port is taken.
_SERVICE = ("service-addr", "internal-addr", "service_addr")
_HAS_SERVICE_SINCE: Version = (25, 6)
_MONITOR = ("aiomonitor-webui-port", "aiomonitor_webui_port")
_MONITOR_PORTS: tuple[tuple[Version, int], ...] = (((25, 6), 39200), ((), 49200))
_VARIABLES = {"host": "BACKEND_AGENT_HOST_OVERRIDE", "port": "BACKEND_AGENT_PORT"}


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

    @property
    def all(self) -> tuple[Endpoint, ...]:
        return (self.rpc, *self.others)

    def occupied(self, listeners: Sequence[Listener]) -> tuple[Listener, ...]:
        """The listeners that may keep an agent from binding."""
        return tuple(
            one
            for one in listeners
            for each in self.all
            if one.port == each.port and one.is_in_the_way_of(each.host)
        )


@dataclass(frozen=True, slots=True)
class Liveness:
    """What a living agent shows.

    worker  None: there is none
    rpc     how its RPC port answers
    at      that port, for people
    frozen  those of its processes that a signal has stopped
    occupied  strangers on its ports, as "port 6001 by process 77 (nc)"
    """

    worker: Process | None
    rpc: Answer
    at: str
    frozen: tuple[int, ...] = ()
    occupied: tuple[str, ...] = ()

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


def endpoints(
    text: str | None, version: Version = (), env: Mapping[str, str] | None = None
) -> Endpoints:
    """The ports of an agent of that version, and with these variables, that reads this agent.toml.

    Of an unknown version ("()") only those count that every one has, or that the file names.
    """
    document = _document(text)
    common = _table(document, _AGENT)
    further = document.get("agents")
    tables = further if isinstance(further, list) else []
    # From 25.12 on one process may be several agents: each says what it has for itself.
    agents = [common, *(_table(each, _AGENT) for each in tables if isinstance(each, dict))]
    rpc, *others = (_rpc(agent) for agent in agents)
    others += [each for agent in agents for each in _local(agent, is_first=agent is common)]
    others += [*_service(common, version), *_monitor(common, version)]
    host = (env or {}).get(_VARIABLES["host"], rpc.host if rpc else "")
    port = (env or {}).get(_VARIABLES["port"], "")
    first = Endpoint(host, _port(port, rpc.port if rpc else 6001))
    return Endpoints(first, tuple(dict.fromkeys(o for o in others if o and o != first)))


def _rpc(agent: Mapping[str, Any]) -> Endpoint | None:
    return _address(agent.get("rpc-listen-addr"), 6001)


def _local(agent: Mapping[str, Any], *, is_first: bool) -> Iterator[Endpoint]:
    for key, default, host in _OTHERS:
        if is_first or key in agent:
            yield Endpoint(host, _port(agent.get(key), default))


def _service(agent: Mapping[str, Any], version: Version) -> Iterator[Endpoint]:
    value = next((agent[key] for key in _SERVICE if key in agent), None)
    if version >= _HAS_SERVICE_SINCE or (value is not None and not version):
        yield _address(value, 6003) or Endpoint("", 6003)


def _monitor(agent: Mapping[str, Any], version: Version) -> Iterator[Endpoint]:
    value = next((agent[key] for key in _MONITOR if key in agent), None)
    if version or value is not None:
        default = next(port for since, port in _MONITOR_PORTS if version >= since)
        yield Endpoint("127.0.0.1", _port(value, default))


def _address(value: object, default: int) -> Endpoint | None:
    """Of a table, "host:port" or a pair; what a table lacks is the default."""
    table = value if isinstance(value, dict) else as_address(value)
    if table is None:
        return None
    return Endpoint(str(table.get("host", "")), _port(table.get("port"), default))


def _port(value: object, default: int) -> int:
    text = str(value)
    number = int(text) if text.isdecimal() and len(text) < 6 else 0
    return number if 0 < number < 65536 else default


def _document(text: str | None) -> Mapping[str, Any]:
    return tomllib.loads(text) if text and is_usable(text.encode()) else {}


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def pid_file(text: str | None, env: Mapping[str, str] | None = None) -> Path | None:
    """Where an agent with this agent.toml and these variables notes its pid, if it does."""
    value = (env or {}).get("BACKEND_PID_FILE", _table(_document(text), _AGENT).get("pid-file"))
    return Path(value) if isinstance(value, str) and value.startswith("/") else None


def judge_liveness(
    liveness: Liveness, output: str, last_lines: str, lived_s: float, *, was_well: bool
) -> tuple[Verdict, float]:
    """The verdict on a living agent, and when to observe it again.

    `output` is what it has said in this life; `was_well`: in this life it ran already.
    """
    if liveness.frozen:
        pids = ", ".join(map(str, liveness.frozen))
        text = f"process {pids} of the agent is stopped by a signal: `kill -CONT` lets it go on"
        return Verdict(Status.FALSE, "Frozen", text), TROUBLE_INTERVAL_S
    if liveness.worker is None and (was_well or lived_s >= WORKER_S):
        text = "its main process lives, but its worker does not: nothing of it works"
        return Verdict(Status.FALSE, "WorkerDead", text), TROUBLE_INTERVAL_S
    if liveness.is_well:
        return Verdict(Status.TRUE, "Running"), LIVING_INTERVAL_S
    if liveness.occupied:
        return port_occupied(liveness.occupied), TROUBLE_INTERVAL_S
    if not was_well and (trouble := not_bound(output)):
        return Verdict(Status.FALSE, trouble.reason, trouble.message), TROUBLE_INTERVAL_S
    quoted = f"; its last lines:\n{last_lines}" if last_lines else ""
    answer = f"{liveness.at} {liveness.rpc}"
    if was_well:
        text = f"the agent lives but does not answer any more: {answer}{quoted}"
        return Verdict(Status.FALSE, "NotAnswering", text), TROUBLE_INTERVAL_S
    if trouble := what_it_waits_for(output):
        return Verdict(Status.FALSE, trouble.reason, trouble.message), TROUBLE_INTERVAL_S
    if lived_s < START_S:
        text = f"the agent is starting: {answer}"
        return Verdict(Status.UNKNOWN, "Starting", text), STARTING_INTERVAL_S
    text = f"the agent is starting for more than {START_S:.0f} s: {answer}{quoted}"
    return Verdict(Status.FALSE, "StartHangs", text), TROUBLE_INTERVAL_S


def port_occupied(occupied: Sequence[str]) -> Verdict:
    text = (
        f"others have what the agent needs: {', '.join(occupied)}; end them, or change agent.toml"
    )
    if any(A_CONNECTION in each for each in occupied):
        text += "; net.ipv4.ip_local_reserved_ports keeps outgoing connections off its ports"
    return Verdict(Status.FALSE, "PortTaken", text)
