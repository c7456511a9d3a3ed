"""Accelerator plugins in the agent's environment, and the devices that they are for.

Verified, never mended: installing packages is the admin's, or AgentEnvironment's where
`[agent.install]` lists them. What goes into agent.toml is written by AgentConfig, and an
agent that runs with other plugins than are installed now is restarted by Agent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from ...core.watching import together
from ...model import (
    Action,
    AnyResource,
    Host,
    KeyPath,
    Kind,
    NodeSpec,
    Plan,
    Scalar,
    Status,
    Verdict,
    Wake,
)
from . import devices, distributions
from .devices import Shown
from .inputs import agent_input
from .rules import (
    QUIET_S,
    SECTION,
    Environment,
    Plugin,
    PluginRules,
    is_loaded,
    matches,
    plugin_rules,
    told,
)

NAME = "Plugins"
# A GPU that falls off the bus, or comes back, is no event.
LOOK_AGAIN_S = 30.0
NEAR = 0.6
# Likeness takes time by the square of lengths, and others choose these.
NEAR_AT_MOST = 20
PARTS_AT_MOST = 12


@dataclass(frozen=True)
class PluginsSpec:
    """expected: devices per kind."""

    rules: PluginRules
    expected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Actual:
    """installed: None where it can't be told with which Python the agent runs.
    is_quiet   nobody installs anything just now
    """

    installed: Environment | None
    shown: Mapping[str, Shown]
    is_quiet: bool = True


Complaint = tuple[str, str]
"""A reason and a sentence."""


def plan(spec: PluginsSpec, actual: Actual) -> Plan[Action]:
    """How things stand; there is nothing that the daemon would do about it."""
    plugins = actual.installed.plugins if actual.installed else ()
    loaded = [plugin for plugin in plugins if is_loaded(spec.rules, plugin.module)]
    facts: dict[str, Scalar] = {
        f"devices-{kind}": shown.count for kind, shown in actual.shown.items()
    }
    if actual.installed:
        facts["plugins"] = told(loaded)
    complaints = [
        *_environment_complaints(spec.rules, actual.installed, loaded),
        *_device_complaints(spec.expected, actual.shown),
    ]
    again_s = LOOK_AGAIN_S if complaints else None
    if not actual.is_quiet:
        again_s = QUIET_S  # a distribution's folder is an event; the files that come in it are none
    if complaints:
        text = "; ".join(sentence for _, sentence in complaints)
        verdict = Verdict(Status.FALSE, complaints[0][0], text)
        return Plan(verdict, look_again_in_s=again_s, facts=facts)
    said = [told(loaded)] if loaded else []
    said += [_counted(kind, spec, shown) for kind, shown in actual.shown.items()]
    verdict = Verdict(Status.TRUE, "InSync", ", ".join(said))
    return Plan(verdict, look_again_in_s=again_s, facts=facts)


def _counted(kind: str, spec: PluginsSpec, shown: Shown) -> str:
    more = f" ({spec.expected[kind]} expected)" if shown.count > spec.expected[kind] else ""
    return f"{shown.count} {kind}{more}"


def _environment_complaints(
    rules: PluginRules, installed: Environment | None, loaded: Iterable[Plugin]
) -> Iterator[Complaint]:
    if installed is None or not installed.folders:
        if rules.python or rules.allow:
            yield "NoPython", _no_python(installed)
        return
    for plugin in loaded:
        if not plugin.is_found:
            text = (
                f"{plugin.module} of {plugin.distribution} {plugin.version} is broken: there is "
                f"no {plugin.file}; the agent would die at its start; install it anew, or block it"
            )
            yield "Broken", text
    for item in rules.allow or ():
        if not any(matches(item, plugin.module) for plugin in installed.plugins):
            near = nearest(item, installed.plugins)
            if near:
                text = f'"{item}" matches no installed plugin; did you mean "{near}"?'
                yield "NoMatch", text
            else:
                text = (
                    f'no plugin "{item}" is installed for {installed.python}; the agent would '
                    "start without it and say nothing; install its package there"
                )
                yield "NotInstalled", text


def _no_python(installed: Environment | None) -> str:
    if installed is None:
        return (
            "it can't be told which Python the agent runs with; "
            "set [plugins] python to its interpreter"
        )
    return f"{installed.python}: no Python environment there; correct [plugins] python, or make it"


def _device_complaints(
    expected: Mapping[str, int], shown: Mapping[str, Shown]
) -> Iterator[Complaint]:
    for kind, count in expected.items():
        if shown[kind].count < count:
            why = f" ({shown[kind].note})" if shown[kind].note else ""
            yield "DevicesMissing", f"{shown[kind].count} of {count} {kind} devices{why}"


def nearest(item: str, plugins: Iterable[Plugin]) -> str:
    """The module path that an item which matches nothing probably means; "" for none.

    Likeness is judged where the paths part: that both are accelerators of
    Backend.AI says nothing. A short name may be an entry point's, or a last part.
    """
    scores: dict[str, float] = {}
    for plugin in islice(plugins, NEAR_AT_MOST):
        parts = plugin.module.split(".", PARTS_AT_MOST)[:PARTS_AT_MOST]
        for end in range(len(parts), 0, -1):
            path = ".".join(parts[:end])
            likeness = _likeness(item, path)
            if "." not in item:
                likeness = max(likeness, _ratio(item, parts[end - 1]))
            scores[path] = max(likeness, scores.get(path, 0.0))
        if item == plugin.name:
            scores[plugin.module] = 1.0
    best = max(scores, key=lambda path: scores[path], default="")
    return best if best and scores[best] >= NEAR else ""


def _likeness(one: str, other: str) -> float:
    mine, theirs = one.split("."), other.split(".")
    while mine and theirs and mine[0] == theirs[0]:
        del mine[0], theirs[0]
    return _ratio(".".join(mine), ".".join(theirs))


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


class Plugins:
    name = NAME
    deadline_s = distributions.LOOK_DEADLINE_S + devices.NVML_DEADLINE_S + 5.0

    def __init__(self, spec: PluginsSpec) -> None:
        self.spec = spec

    async def observe(self) -> Actual:
        installed = await distributions.look(self.spec.rules, NAME)
        shown = await devices.look(self.spec.expected)
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
