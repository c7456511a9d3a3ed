"""The kinds of resources that this daemon knows, in the order in which conditions are shown."""

from __future__ import annotations

from ..model import Kind
from .agent.config.kind import KIND as AGENT_CONFIG
from .agent.environment.kind import KIND as AGENT_ENVIRONMENT
from .agent.process.kind import KIND as AGENT
from .backendai.kind import KIND as BACKENDAI
from .mount.kind import KIND as MOUNT
from .plugins.kind import KIND as PLUGINS
from .redis.kind import KIND as REDIS
from .swarm.kind import KIND as SWARM

KINDS: tuple[Kind, ...] = (
    AGENT_CONFIG,
    MOUNT,
    SWARM,
    PLUGINS,
    BACKENDAI,
    REDIS,
    AGENT_ENVIRONMENT,
    AGENT,
)
