"""Which accelerator plugins an agent loads, and which of them it has to be restarted for. Pure.

Backend.AI's own rule: an item of either list stands for a module path that
equals it or starts with it and a dot; no allow list admits all that is
installed, an empty one none; what is blocked is never loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...model import ABSENT, Digest, Inputs

SECTION = "plugins"
# While packages are being installed the old one is gone and the new one not
# there yet. What changed less than this long ago is no reason for a restart.
QUIET_S = 5.0
KNOWN = "plugins"
"""The part of the inputs that says: what was installed at the start is noted beside it."""
_PART = "plugin "


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


def found_parts(installed: Environment | None, digest: Digest) -> Inputs:
    """What an agent that starts now finds installed, allowed or not, as parts of its inputs."""
    if installed is None:
        return {}
    versions = {_part(plugin): _version(plugin, digest) for plugin in installed.plugins}
    return {KNOWN: digest(True), **versions}


def is_part(part: str) -> bool:
    return part == KNOWN or part.startswith(_PART)


def wanted_parts(
    rules: PluginRules,
    installed: Environment,
    has: Inputs,
    started_s: float,
    now_s: float,
    digest: Digest,
) -> Inputs:
    """What an agent that runs with the inputs `has` ought to have found installed.

    Of an agent whose start nobody noted it is held that it found whatever was
    installed before it started (`started_s`, Unix time).
    """
    if not installed.is_quiet(now_s):
        return {}
    loaded = [plugin for plugin in installed.plugins if is_loaded(rules, plugin.module)]
    if KNOWN not in has:
        loaded = [plugin for plugin in loaded if plugin.written_s > started_s]
    there = {plugin.module for plugin in installed.plugins}
    noted = [part.removeprefix(_PART) for part in has if part.startswith(_PART)]
    gone = [module for module in noted if module not in there and is_loaded(rules, module)]
    return {
        **{_part(plugin): _version(plugin, digest) for plugin in loaded},
        **{f"{_PART}{module}": ABSENT for module in gone},
    }


def told(plugins: Sequence[Plugin]) -> str:
    """Distributions with their versions, for people."""
    return ", ".join(sorted({f"{each.distribution} {each.version}" for each in plugins}))


def _part(plugin: Plugin) -> str:
    return f"{_PART}{plugin.module}"


def _version(plugin: Plugin, digest: Digest) -> str:
    return digest([plugin.distribution, plugin.version])
