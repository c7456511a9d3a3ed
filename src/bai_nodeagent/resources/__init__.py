"""The kinds of resources that this daemon knows, in the order in which conditions are shown."""

from __future__ import annotations

from ..kinds.mount import kind as mount
from ..kinds.plugins import kind as plugins
from ..kinds.redis import kind as redis
from ..kinds.swarm import kind as swarm
from ..model import Kind
from . import agent, agent_config, agent_environment

KINDS: tuple[Kind, ...] = (
    agent_config.KIND,
    mount.KIND,
    swarm.KIND,
    plugins.KIND,
    redis.BACKENDAI,
    redis.KIND,
    agent_environment.KIND,
    agent.KIND,
)
