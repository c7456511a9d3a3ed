"""The installed plugins among the inputs of the agent, which loads them at its start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...model import Digest, Host, Inputs
from . import distributions
from .rules import Environment, PluginRules, found_parts, is_part, plugin_rules, wanted_parts


@dataclass(frozen=True)
class PluginInput:
    """`model.AgentInput`. Seen is an environment; None where it can't be told which one counts."""

    rules: PluginRules
    name: str = "the installed plugins"
    deadline_s: float = distributions.LOOK_DEADLINE_S

    def observe(self, _host: Host) -> Environment | None:
        return distributions.environment(self.rules)

    def found(self, seen: Environment | None, digest: Digest) -> Inputs:
        return found_parts(seen, digest)

    def wanted(
        self,
        seen: Environment | None,
        has: Inputs,
        started_s: float,
        now_s: float,
        digest: Digest,
    ) -> Inputs:
        if seen is None:
            return {}
        return wanted_parts(self.rules, seen, has, started_s, now_s, digest)

    def owns(self, part: str) -> bool:
        return is_part(part)

    def changes(self, _host: Host, asker: str) -> AsyncIterator[None]:
        return distributions.changes(self.rules, asker, are_settled=True)


def agent_input(document: Mapping[str, Any]) -> PluginInput | None:
    rules = plugin_rules(document)
    return PluginInput(rules) if rules else None
