"""Accelerator plugins in the agent's environment, and the devices that they are for.

Verified, never mended: installing packages is the admin's, or AgentEnvironment's where
`[agent.install]` lists them. What goes into agent.toml is written by AgentConfig, and an
agent that runs with other plugins than are installed now is restarted by Agent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from ...core.watching import together
from ...model import Action, AnyResource, Host, KeyPath, Kind, NodeSpec, Plan, Wake
from . import devices, distributions
from .inputs import agent_input
from .rules import SECTION, Actual, PluginsSpec, plan, plugin_rules

NAME = "Plugins"


class Plugins:
    name = NAME
    deadline_s = distributions.OBSERVE_DEADLINE_S + devices.NVML_DEADLINE_S + 5.0

    def __init__(self, spec: PluginsSpec) -> None:
        self.spec = spec

    async def observe(self) -> Actual:
        installed = await distributions.observe(self.spec.rules, NAME)
        shown = await devices.observe(self.spec.expected)
        return Actual(installed, shown, installed is None or installed.is_quiet(time.time()))

    def plan(self, actual: Actual) -> Plan[Action]:
        return plan(self.spec, actual)

    async def apply(self, action: Action) -> None:
        raise NotImplementedError  # no plan has an action

    async def watch(self, wake: Wake) -> None:
        await together(lambda: self._wake_at_packages(wake), lambda: self._wake_at_devices(wake))

    async def _wake_at_packages(self, wake: Wake) -> None:
        async for _ in distributions.changes(self.spec.rules, f"{NAME} (watch)"):
            wake()

    async def _wake_at_devices(self, wake: Wake) -> None:
        async for _ in devices.changes(self.spec.expected):
            wake()


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    rules = plugin_rules(node.document)
    if rules is None:
        return []
    return [Plugins(PluginsSpec(rules, node.document[SECTION].get("expect-devices", {})))]


def _agent_values(section: Mapping[str, Any]) -> Mapping[KeyPath, Any]:
    return {
        ("agent", f"{key}-compute-plugins"): list(section[key])
        for key in ("allow", "block")
        if key in section
    }


def _check(section: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    allowed = section.get("allow", ())
    for index, item in enumerate(section.get("block", ())):
        if item in allowed:
            yield ("block", index), f'"{item}" is allowed as well; the agent would not start so'


_ITEMS: Mapping[str, Any] = {
    "title": 'a list of module paths such as ["ai.backend.accelerator.cuda_open"]',
    "type": "array",
    "items": {
        "title": 'a module path such as "ai.backend.accelerator.cuda_open"',
        "type": "string",
        "pattern": r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$",
    },
    "uniqueItems": True,
}

KIND = Kind(
    section=SECTION,
    schema={
        "type": "object",
        "properties": {
            "allow": _ITEMS,
            "block": _ITEMS,
            "python": {"$ref": "#/$defs/path"},
            "expect-devices": {
                "type": "object",
                "properties": {kind: {"type": "integer", "minimum": 0} for kind in devices.FILES},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    },
    resources=_resources,
    agent_input=agent_input,
    agent_values=_agent_values,
    check=_check,
)
