"""What the output of Backend.AI's agent says about its troubles. Pure.

Its exit codes say nothing: nearly every failure at start exits 0. What it
prints on the way does. The words are those of 23.09 and 26.8, seen in real
runs; an agent that logs to a file alone says none of them here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps the agent from running: a reason for a condition, and a sentence."""

    reason: str
    message: str


_PORT = re.compile(
    r"[Aa]ddress already in use \(addr='tcp://[^']*:(?P<zmq>\d+)'\)"
    r"|bind on address \('[^']*', (?P<tcp>\d+)[^)]*\)"
)

# The first that is found counts: the more telling come first.
_DEATHS: tuple[tuple[re.Pattern[str], Trouble], ...] = tuple(
    (re.compile(pattern), Trouble(reason, message))
    for pattern, reason, message in (
        (
            r"TOMLDecodeError",
            "BadConfig",
            "the agent can't read its agent.toml: it is not valid TOML",
        ),
        (
            r"ConfigurationError|InvalidConfigError|ValidationError: \d+ validation error",
            "BadConfig",
            "the agent refuses its agent.toml",
        ),
        (
            r"Cannot connect to Docker Engine",
            "DockerUnreachable",
            "the agent can't reach Docker: is dockerd up, and may the agent's user use its socket",
        ),
        (
            r"AioRpcError|GRPCStatusError",
            "EtcdUnreachable",
            "the agent can't reach etcd: see etcd.addr in agent.toml, and whether that etcd is up",
        ),
        (
            r"assert redis_url is not None|RedisTarget must have an address",
            "NoRedisAddress",
            "etcd has no config/redis/addr for this agent: the manager's installation sets it",
        ),
        (
            r"WRONGPASS|NOAUTH|AuthenticationError|invalid username-password",
            "RedisRefuses",
            "Redis refuses the agent: see config/redis/password in etcd",
        ),
        (
            r"glide_shared\.exceptions|redis\.exceptions\.ConnectionError",
            "RedisUnreachable",
            "the agent can't reach Redis: see config/redis/addr in etcd, and whether it is up",
        ),
        (
            r"ModuleNotFoundError|ImportError",
            "ImportFailed",
            "a module of the agent, or of a plugin, can't be imported",
        ),
    )
)

_WAITS: tuple[tuple[re.Pattern[str], Trouble | None], ...] = tuple(
    (re.compile(pattern), trouble)
    for pattern, trouble in (
        (r"detected at least one manager", None),
        (
            r"wait for the manager being available",
            Trouble(
                "WaitingForManager",
                "the agent waits for a manager: etcd has none at nodes/manager/ of its namespace",
            ),
        ),
        (
            r"interruption of Redis connection \(AuthenticationError|WRONGPASS|NOAUTH",
            Trouble(
                "WaitingForRedis",
                "Redis refuses the agent's password, which goes on trying: "
                "see config/redis/password in etcd",
            ),
        ),
        (
            r"interruption of Redis connection",
            Trouble(
                "WaitingForRedis",
                "the agent can't reach Redis and goes on trying: see config/redis/addr in etcd, "
                "and whether Redis is up",
            ),
        ),
    )
)
_LINES_READ = 30
_TRACEBACK_LINES = 60
_WORKS = re.compile(r"started handling RPC requests")
# 26.9: each further agent of the process tries it, and goes on without.
_HARMLESS = "6007"


def why_dead(output: str, exit_text: str = "") -> Trouble | None:
    """Why an agent ended, from the last that it said; None where it said nothing that we know.

    What it said before it worked has not kept it from working, and what a
    signal has ended was not ended by words.
    """
    if exit_text.startswith("killed by"):
        return None
    lines = _after_work_began(output).splitlines()
    last = next((n for n in range(len(lines) - 1, -1, -1) if _trouble_in(lines[n])), None)
    if last is None:
        return None
    # Of one traceback, in which errors come as each other's causes, the more telling.
    return _trouble_in("\n".join(lines[max(0, last - _TRACEBACK_LINES) :]))


def _after_work_began(output: str) -> str:
    return output[max((match.end() for match in _WORKS.finditer(output)), default=0) :]


def _trouble_in(output: str) -> Trouble | None:
    return _occupied_in(output) or next(
        (trouble for pattern, trouble in _DEATHS if pattern.search(output)), None
    )


def _occupied_in(output: str, but: str = "") -> Trouble | None:
    ports = [match["zmq"] or match["tcp"] for match in _PORT.finditer(output)]
    port = next((port for port in ports if port != but), None)
    if port is None:
        return None
    return Trouble("PortTaken", f"port {port} is taken: the agent can't listen on it")


def not_bound(output: str) -> Trouble | None:
    """That an agent which is starting could not bind a port: it may live on for ever."""
    return _occupied_in(_after_work_began(output), but=_HARMLESS)


def what_it_waits_for(output: str) -> Trouble | None:
    """What an agent that lives waits for, from its last lines; None where they don't say."""
    for line in reversed(output.splitlines()[-_LINES_READ:]):
        for pattern, trouble in _WAITS:
            if pattern.search(line):
                return trouble
    return None
