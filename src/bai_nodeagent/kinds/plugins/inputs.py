"""The installed plugins among the inputs of the agent, which loads them at its start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...model import ABSENT, Digest, Host, Inputs
from . import distributions
from .rules import Environment, Plugin, PluginRules, is_loaded, plugin_rules

KNOWN = "plugins"
"""The part that says: what was installed at the start is noted beside it."""
_PART = "plugin "


@dataclass(frozen=True)
class PluginInput:
    """`model.AgentInput`. `observed`: an environment; None: which one counts is not known."""

    rules: PluginRules
    name: str = "the installed plugins"
    deadline_s: float = distributions.OBSERVE_DEADLINE_S

    def observe(self, _host: Host) -> Environment | None:
        return distributions.environment(self.rules)

    def found(self, observed: Environment | None, digest: Digest) -> Inputs:
        """All that is installed, allowed or not."""
        if observed is None:
            return {}
        versions = {_part(plugin): _version(plugin, digest) for plugin in observed.plugins}
        return {KNOWN: digest(True), **versions}

    def desired(
        self,
        observed: Environment | None,
        running: Inputs,
        started_s: float,
        now_s: float,
        digest: Digest,
    ) -> Inputs:
        """Of an agent whose start nobody noted it is held that it found whatever was installed
        before it started."""
        if observed is None or not observed.is_quiet(now_s):
            return {}
        loaded = [plugin for plugin in observed.plugins if is_loaded(self.rules, plugin.module)]
        if KNOWN not in running:
            loaded = [plugin for plugin in loaded if plugin.written_s > started_s]
        there = {plugin.module for plugin in observed.plugins}
        noted = [part.removeprefix(_PART) for part in running if part.startswith(_PART)]
        gone = [each for each in noted if each not in there and is_loaded(self.rules, each)]
        return {
            **{_part(plugin): _version(plugin, digest) for plugin in loaded},
            **{f"{_PART}{module}": ABSENT for module in gone},
        }

    def owns(self, part: str) -> bool:
        return part == KNOWN or part.startswith(_PART)

    def changes(self, _host: Host, asker: str) -> AsyncIterator[None]:
        return distributions.changes(self.rules, asker, are_settled=True)


def agent_input(document: Mapping[str, Any]) -> PluginInput | None:
    rules = plugin_rules(document)
    return PluginInput(rules) if rules else None


def _part(plugin: Plugin) -> str:
    return f"{_PART}{plugin.module}"


def _version(plugin: Plugin, digest: Digest) -> str:
    return digest([plugin.distribution, plugin.version])
