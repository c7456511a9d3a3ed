"""The kinds of resources that this daemon knows, in the order in which conditions are shown."""

from __future__ import annotations

from ..model import Kind
from . import agent, agent_config

KINDS: tuple[Kind, ...] = (
    agent_config.KIND,
    agent.KIND,
)
