"""The swarm among the inputs of the agent. Pure.

The agent looks for a swarm when it starts, so one that started outside has to
start again inside. The input is the swarm's id alone: a node that comes back
into the same swarm, under a new node id, is no news to its agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .record import Record

PART = "swarm"


def found_part(record: Record, digest: Callable[[object], str]) -> Mapping[str, str]:
    """What an agent that starts now finds."""
    return {PART: digest(record.home)} if record.home else {}


def wanted_part(
    record: Record, has: Mapping[str, str], started_s: float, digest: Callable[[object], str]
) -> Mapping[str, str]:
    """What an agent that runs with the inputs `has` ought to have found.

    An agent at whose start nobody noted a swarm found it all the same if the
    node was in it before (`started_s`, Unix time).
    """
    if PART not in has and record.since_s <= started_s:
        return {}
    return found_part(record, digest)


def without_swarm(inputs: Mapping[str, str]) -> Mapping[str, str]:
    """The inputs of an agent at whose start nobody looked for the swarm."""
    return {part: value for part, value in inputs.items() if part != PART}
