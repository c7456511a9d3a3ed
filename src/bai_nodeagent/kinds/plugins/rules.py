"""Which accelerator plugins an agent loads, and what is wrong with them and their devices. Pure.

Backend.AI's own rule: an item of either list stands for a module path that
equals it or starts with it and a dot; no allow list admits all that is
installed, an empty one none; what is blocked is never loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from typing import Any

from ...model import Action, Plan, Scalar, Status, Verdict, in_sync

SECTION = "plugins"
# While packages are being installed the old one is gone and the new one not
# there yet. What changed less than this long ago is no reason for a restart.
QUIET_S = 5.0
# A GPU that falls off the bus, or comes back, is no event.
OBSERVE_AGAIN_S = 30.0
NEAR = 0.6
# Likeness takes time by the square of lengths, and others choose these.
NEAR_AT_MOST = 20
PARTS_AT_MOST = 12


@dataclass(frozen=True, slots=True)
class PluginRules:
    """`[plugins]` as far as it decides what the agent loads.

    python   the interpreter whose environment counts, of `[agent.install]` where nothing is said;
             None: that of `command`
    command  of the agent
    allow    None: everything that is installed
    """

    python: Path | None = None
    command: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    block: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Plugin:
    """An entry point of an installed distribution.

    module     "ai.backend.accelerator.cuda_open.plugin"
    name       the entry point's: "cuda"
    file       of its module: where it is, or should be
    is_found   it is there; True as well where only an import could tell
    written_s  when the distribution was installed, in Unix time
    """

    module: str
    name: str
    distribution: str
    version: str
    file: Path = field(default=Path("/nowhere"), repr=False)
    is_found: bool = True
    written_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Environment:
    """What an interpreter has at hand.

    folders    where it looks for distributions; none: there is no such interpreter
    changed_s  when something was last added or taken away there, in Unix time
    """

    python: Path
    folders: tuple[Path, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    changed_s: float = 0.0

    def is_quiet(self, now_s: float) -> bool:
        """Nobody installs anything just now; a time in the future is a clock's fault."""
        return not 0.0 <= now_s - self.changed_s < QUIET_S


def plugin_rules(document: Mapping[str, Any]) -> PluginRules | None:
    """The typed `[plugins]` of a checked document; None where plugins are unmanaged."""
    section = document.get(SECTION)
    if section is None:
        return None
    agent = document.get("agent", {})
    python, allow = section.get("python"), section.get("allow")
    if python is None and "install" in agent:
        python = f"{agent['install']['path']}/bin/python"
    return PluginRules(
        python=Path(python) if python else None,
        command=tuple(agent.get("command", ())),
        allow=None if allow is None else tuple(allow),
        block=tuple(section.get("block", ())),
    )


def matches(item: str, module: str) -> bool:
    return module == item or module.startswith(f"{item}.")


def is_loaded(rules: PluginRules, module: str) -> bool:
    is_allowed = rules.allow is None or any(matches(item, module) for item in rules.allow)
    return is_allowed and not any(matches(item, module) for item in rules.block)


def listed(plugins: Sequence[Plugin]) -> str:
    """Distributions with their versions, for people."""
    return ", ".join(sorted({f"{each.distribution} {each.version}" for each in plugins}))


@dataclass(frozen=True, slots=True)
class Shown:
    """How many devices there are; `note` says why they are so few, where that is known."""

    count: int
    note: str = ""


@dataclass(frozen=True)
class PluginsSpec:
    """expected: devices per kind."""

    rules: PluginRules
    expected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Actual:
    """installed: None if it is not known with which Python the agent runs.
    is_quiet   nobody installs anything just now
    """

    installed: Environment | None
    shown: Mapping[str, Shown]
    is_quiet: bool = True


Complaint = tuple[str, str]
"""A reason and a sentence."""


def plan(spec: PluginsSpec, actual: Actual) -> Plan[Action]:
    """The verdict; there is nothing that the daemon would do about it."""
    plugins = actual.installed.plugins if actual.installed else ()
    loaded = [plugin for plugin in plugins if is_loaded(spec.rules, plugin.module)]
    facts: dict[str, Scalar] = {
        f"devices-{kind}": shown.count for kind, shown in actual.shown.items()
    }
    if actual.installed:
        facts["plugins"] = listed(loaded)
    complaints = [
        *_environment_complaints(spec.rules, actual.installed, loaded),
        *_device_complaints(spec.expected, actual.shown),
    ]
    again_s = OBSERVE_AGAIN_S if complaints else None
    if not actual.is_quiet:
        again_s = QUIET_S  # a distribution's folder is an event; the files that come in it are none
    if complaints:
        text = "; ".join(sentence for _, sentence in complaints)
        verdict = Verdict(Status.FALSE, complaints[0][0], text)
        return Plan(verdict, observe_again_in_s=again_s, facts=facts)
    parts = [listed(loaded)] if loaded else []
    parts += [_counted(kind, spec, shown) for kind, shown in actual.shown.items()]
    verdict = in_sync(", ".join(parts))
    return Plan(verdict, observe_again_in_s=again_s, facts=facts)


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
            "it is not known which Python the agent runs with; "
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
