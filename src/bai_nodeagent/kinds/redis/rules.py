"""What Backend.AI publishes of its Redis, and its state as this node finds it. Pure.

Backend.AI's own rules: `config/redis/addr` is "host:port"; where
`config/redis/sentinel` is given ("h1:p,h2:p"), that and `service_name` count
instead. One password is used for Redis and for its Sentinels alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...address import is_loopback
from ...etcd_access import EtcdAccess
from ...model import Action, KeyPath, Plan, Scalar, Status, Verdict, in_sync

NAMES = ("addr", "sentinel", "service_name", "password")
DEFAULT_PORT = 6379
# The manager counts an agent as lost when it has not heard of it for so long.
SEEN_WITHIN_S = 40.0
# How long a start of an agent may take until the manager has heard of it.
APPEARS_WITHIN_S = 60.0
OBSERVE_AGAIN_S = 30.0
VALUE_AT_MOST = 4096  # bytes of a key's value; a longer one is a mistake
SENTINELS = "HOST1:26379,HOST2:26379"  # as an example
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Server:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class RedisSpec:
    """`[redis]`, with all of the document that bears on it.

    access            of the etcd with Backend.AI's keys; None: there is none to ask
    manager_ip        None: nobody knows where the manager is
    agent_id          the id of an agent that agent.toml gives none
    config_path       of agent.toml, which may give several; None: it is unmanaged
    id_values         managed values of agent.toml that decide about ids
    is_seen_checked   whether the manager sees the agent counts as well
    is_agent_managed  the document speaks of the agent; without, nobody knows whether one runs
    is_agent_desired  an agent is to run here
    """

    access: EtcdAccess | None
    namespace: str = "local"
    manager_ip: str | None = None
    agent_id: str = ""
    config_path: Path | None = None
    id_values: Mapping[KeyPath, Any] = field(default_factory=dict)
    is_seen_checked: bool = False
    is_agent_managed: bool = False
    is_agent_desired: bool = False

    def key(self, name: str) -> str:
        return f"/sorna/{self.namespace}/config/redis/{name}"


Published = Mapping[str, str]
"""The keys that are there, by their last part."""


@dataclass(frozen=True, slots=True)
class Target:
    """service: the master's name, when `servers` are Sentinels; "" when the server is Redis."""

    servers: tuple[Server, ...]
    service: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of an attempt to talk to Redis.

    server     the last one that was tried: the master, or a Sentinel
    addresses  what its name leads to
    reason     of the fault; "" when it went well
    role       "master", "replica", "sentinel"; "" when it may not be asked
    """

    server: Server
    addresses: tuple[str, ...] = ()
    reason: str = ""
    text: str = ""
    role: str = "master"

    @property
    def outcome(self) -> tuple[Server, str, str]:
        """What another attempt is compared by: texts and addresses may differ each time."""
        return self.server, self.reason, self.role


@dataclass(frozen=True)
class Actual:
    """An observation of Redis; times are Unix time on Redis's own clock.

    published        None: there is no etcd to ask
    is_manager_here  the manager's address is this node's, or nobody knows it
    last_seen        when the manager heard of each agent that runs here; None: never
    agent_age_s          how long the agent has been running; None: it does not
    """

    published: Published | None = field(repr=False)
    is_manager_here: bool = True
    attempt: Attempt | None = None
    now_s: float = 0.0
    last_seen: Mapping[str, float | None] = field(default_factory=dict)
    agent_age_s: float | None = None


class Unusable(Exception):
    """What is published leads nowhere; `reason` and the text are for the condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def target_of(spec: RedisSpec, published: Published) -> Target:
    """Where Backend.AI says that its Redis is. Raises Unusable."""
    for name, value in published.items():
        if len(value.encode()) > VALUE_AT_MOST or (name == "password" and not value.isprintable()):
            text = f"{spec.key(name)} is above {VALUE_AT_MOST} bytes, or not one line of text; "
            raise Unusable("BadKey", text + _command(name, f"NEW_{name.upper()}"))
    if "sentinel" in published:
        servers = tuple(
            _server(spec, "sentinel", part) for part in published["sentinel"].split(",")
        )
        if not published.get("service_name"):
            text = f"{spec.key('service_name')} is not there, and Sentinels need it; "
            raise Unusable("NoKey", text + _command("service_name", "NAME"))
        return Target(servers, published["service_name"])
    if not published.get("addr"):
        text = f"{spec.key('addr')} is not there: no agent can find Redis; "
        raise Unusable("NoKey", text + _publish(spec, DEFAULT_PORT))
    return Target((_server(spec, "addr", published["addr"]),))


def _server(spec: RedisSpec, name: str, text: str) -> Server:
    found = _SERVER.fullmatch(text.strip())
    if found is None or not 0 < int(found["port"]) < 65536:
        sentence = f"{spec.key(name)} is not of the form host:port; "
        is_redis = name == "addr"
        example = _publish(spec, DEFAULT_PORT) if is_redis else _command(name, SENTINELS)
        raise Unusable("BadKey", sentence + example)
    return Server(found["host"].strip("[]"), int(found["port"]))


def plan(spec: RedisSpec, actual: Actual) -> Plan[Action]:
    """The verdict; there is nothing that the daemon would do about it."""
    if actual.published is None:
        text = (
            "the daemon's store is a folder, without Backend.AI's keys; say where its etcd is: "
            '[backendai.etcd] endpoints = ["http://MANAGER:2379"]'
        )
        return _fault("NoEtcd", text)
    try:
        target = target_of(spec, actual.published)
    except Unusable as error:
        return _fault(error.reason, str(error))
    if actual.attempt is None:
        raise ValueError("no attempt was made, although it is known where Redis is")
    return _judged(spec, actual, target, actual.attempt)


def _judged(spec: RedisSpec, actual: Actual, target: Target, attempt: Attempt) -> Plan[Action]:
    if not actual.is_manager_here and _is_loopback(attempt):
        return _fault("Loopback", _loopback(spec, target, attempt))
    if attempt.reason:
        return _fault(attempt.reason, f"{attempt.text}; {_remedy(spec, target, attempt.reason)}")
    if attempt.role not in ("master", ""):
        return _fault(
            "NotMaster", f"{attempt.server} is a {attempt.role}; {_master_remedy(spec, target)}"
        )
    facts: dict[str, Scalar] = {"redis": str(attempt.server)}
    if not spec.is_seen_checked:
        return Plan(in_sync(f"{attempt.server} answers"), facts=facts)
    if times := [at_s for at_s in actual.last_seen.values() if at_s is not None]:
        facts["agent-last-seen"] = _moment(min(times))
    verdict, observe_again_in_s = _judge_last_seen(spec, actual, attempt)
    return Plan(verdict, observe_again_in_s=observe_again_in_s, facts=facts)


def _judge_last_seen(
    spec: RedisSpec, actual: Actual, attempt: Attempt
) -> tuple[Verdict, float | None]:
    left_s = {
        agent: SEEN_WITHIN_S - (actual.now_s - at_s) if at_s is not None else 0.0
        for agent, at_s in actual.last_seen.items()
    }
    unseen = [agent for agent in left_s if left_s[agent] <= 0]
    if not unseen:
        text = f"{attempt.server} answers; the manager sees {', '.join(left_s)}"
        return in_sync(text), min(left_s.values())
    listed = ", ".join(f"{agent} {_since(actual.last_seen[agent])}" for agent in unseen)
    text = f"{attempt.server} answers; the manager has not seen {listed}"
    if not spec.is_agent_managed:
        text = f"{text}; whether an agent runs is not known: [agent] is not in the document"
        return in_sync(text), None
    if not spec.is_agent_desired or actual.agent_age_s is None:
        return in_sync(f"{text}; no agent runs here"), None
    if actual.agent_age_s < APPEARS_WITHIN_S:
        text = f"{text}; its agent has just been started"
        return in_sync(text), APPEARS_WITHIN_S - actual.agent_age_s
    remedy = (
        "is the manager running, is agent.id what the manager expects, and does the agent "
        "use this etcd, namespace and Redis? The agent's log tells"
    )
    return Verdict(Status.FALSE, "NotSeen", f"{text}; {remedy}"), OBSERVE_AGAIN_S


def _since(at_s: float | None) -> str:
    return f"since {_moment(at_s)}" if at_s is not None else "ever"


def _fault(reason: str, text: str) -> Plan[Action]:
    return Plan(Verdict(Status.FALSE, reason, text), observe_again_in_s=OBSERVE_AGAIN_S)


def _is_loopback(attempt: Attempt) -> bool:
    addresses = attempt.addresses or (attempt.server.host,)
    return all(_is_loopback_address(address) for address in addresses)


def _is_loopback_address(text: str) -> bool:
    try:
        return is_loopback(text.partition("%")[0])
    except ValueError:
        return text == "localhost"


def _loopback(spec: RedisSpec, target: Target, attempt: Attempt) -> str:
    """What the single-node installer leaves, and the guide for several nodes begins with.

    The port that is published is right: only the address is one that leads nowhere else.
    """
    what = (
        f"{attempt.server} is this node itself, and the manager is {spec.manager_ip}: the first "
        "step of Backend.AI's multi-node guide, Redis's address in etcd, is missing; "
    )
    if not target.service:
        return what + _publish(spec, attempt.server.port)
    if attempt.server in target.servers:
        return what + _command("sentinel", SENTINELS)
    return (
        what + f"let the Sentinels monitor {target.service} under an address that all nodes reach"
    )


def _remedy(spec: RedisSpec, target: Target, reason: str) -> str:
    match reason:
        case "WrongPassword":
            return (
                f"what Redis wants and {spec.key('password')} differ; "
                + _command("password", "PASSWORD")
                + ", or take the key out where Redis has no password"
            )
        case "Unresolvable":
            wanted = "publish an address instead of the name, or teach the name to this node"
            port = target.servers[0].port
            return wanted if target.service else f"{wanted}; {_publish(spec, port)}"
        case "SentinelNoMaster":
            return f"correct {spec.key('service_name')}, or the Sentinels' `sentinel monitor`"
        case _:
            return (
                "does Redis run there, does it listen on an address that other nodes reach "
                "(`bind`, and a password or `protected-mode no`), and is the port open?"
            )


def _master_remedy(spec: RedisSpec, target: Target) -> str:
    if target.service:
        return "the Sentinels name it all the same; a failover may be under way"
    return f"agents have to write there; publish the master: {_command('addr', 'MASTER_IP:PORT')}"


def _publish(spec: RedisSpec, port: int) -> str:
    return _command("addr", str(Server(spec.manager_ip or "MANAGER_IP", port)))


def _command(name: str, value: str) -> str:
    return f"on the manager: `backend.ai mgr etcd put config/redis/{name} {value}`"


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
