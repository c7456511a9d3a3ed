"""The agent's virtual environment: which one is right, and what is done to have it. Pure.

`[agent.install] path` is a link into the folder `<path>.d`, where each
environment has a folder of its own, named after what it is made from.

- What is once whole is never changed again, and what differs from its pins by
  somebody's hand is no longer right: then another one is made beside it.
- The link is moved only while no agent lives: by Agent, between a stop and a start.
- What the agent was healthy with last stays, as the way back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ....model import Action, Plan, Scalar, Status, Verdict, in_sync
from .building import INSTALL_DEADLINE_S, TOOL_DEADLINE_S
from .environments import Environments, folder_of
from .spec import _RECIPE_DIGITS, InstallSpec, pins

NAME = "AgentEnvironment"
PART = "environment"
"""Of the inputs of an agent."""
_STEPS = 4
_NAMED = re.compile(rf"(?P<recipe>[0-9a-f]{{{_RECIPE_DIGITS}}})-(?P<number>[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Target:
    """The environment that the agent is to run in. `is_ready`: it is there, whole and verified."""

    name: str
    is_ready: bool


def target(spec: InstallSpec, observed: Environments) -> Target:
    """The one in use if it is right, else the newest that is, else the next to be made.

    That one has a number that no other has had: what may be in use is not built anew.
    """
    ours = {built.name: built for built in observed.built if _recipe(built.name) == spec.recipe}
    whole = sorted((name for name, built in ours.items() if built.is_whole), key=_number)
    if whole:
        return Target(observed.link if observed.link in whole else whole[-1], is_ready=True)
    occupied = [*ours, *([observed.link] if _recipe(observed.link) == spec.recipe else [])]
    number = max(map(_number, occupied), default=0) + 1
    return Target(f"{spec.recipe}-{number}", is_ready=False)


def _recipe(name: str) -> str:
    named = _NAMED.fullmatch(name)
    return named["recipe"] if named else ""


def _number(name: str) -> int:
    named = _NAMED.fullmatch(name)
    return int(named["number"]) if named else 0


Digest = Callable[[object], str]


def found_part(observed: Environments | None, digest: Digest) -> Mapping[str, str]:
    """The environment that an agent which starts now runs in, as part of its inputs."""
    return {PART: digest(observed.link)} if observed and observed.link else {}


def desired_part(
    spec: InstallSpec | None, observed: Environments | None, digest: Digest
) -> Mapping[str, str]:
    """The one that it is to run in; nothing if that is unmanaged, or not known."""
    if spec is None or observed is None or observed.strange:
        return {}
    return {PART: digest(target(spec, observed).name)}


def without_environment(inputs: Mapping[str, str]) -> Mapping[str, str]:
    """The inputs of an agent of which nobody knows in which environment it runs."""
    return {part: value for part, value in inputs.items() if part != PART}


def moved(program: str, link: Path, environment: Path) -> str:
    """Where a program will be once the link leads to that environment."""
    path = Path(program)
    return str(environment / path.relative_to(link)) if path.is_relative_to(link) else program


def due_switch(spec: InstallSpec | None, observed: Environments | None) -> str:
    """The environment that the link has to be put on before the next start; "": none."""
    if spec is None or observed is None or observed.strange:
        return ""
    wanted = target(spec, observed)
    return wanted.name if wanted.is_ready and wanted.name != observed.link else ""


@dataclass(frozen=True, kw_only=True)
class Build(Action):
    """Makes an environment beside the others. An earlier try's folder is made anew."""

    verb: ClassVar[str] = "build"
    folder: Path
    name: str
    diff: str = ""
    deadline_s: float = INSTALL_DEADLINE_S + _STEPS * TOOL_DEADLINE_S

    @property
    def summary(self) -> str:
        return f"build the environment {self.folder / self.name}"


@dataclass(frozen=True, kw_only=True)
class BuildBeside(Build):
    """A build while another environment is in use. It waits for the rollout's spread, since a
    thousand nodes may share an index."""

    is_disruptive: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Remove(Action):
    """Takes away what nobody runs in, and nobody would go back to."""

    verb: ClassVar[str] = "remove"
    folder: Path
    names: tuple[str, ...]
    deadline_s: float = 2 * TOOL_DEADLINE_S

    @property
    def summary(self) -> str:
        return f"remove {', '.join(self.names)} from {self.folder}"


@dataclass(frozen=True, kw_only=True)
class Switch(Action):
    """Puts the link on another environment. Only while no agent lives."""

    verb: ClassVar[str] = "switch"
    path: Path
    name: str
    deadline_s: float = 2 * TOOL_DEADLINE_S

    @property
    def summary(self) -> str:
        return f"put {self.path} on {folder_of(self.path).name}/{self.name}"


EnvironmentAction = Build | Remove


@dataclass(frozen=True, slots=True)
class EnvironmentActual:
    """
    observed     what is there
    healthy      the recipe of what the agent was healthy with last; "": nobody knows
    """

    observed: Environments
    healthy: str = ""


def plan_environment(spec: InstallSpec, actual: EnvironmentActual) -> Plan[EnvironmentAction]:
    observed, folder = actual.observed, folder_of(spec.path)
    facts: dict[str, Scalar] = {"agent-environment": observed.link} if observed.link else {}
    if observed.strange:
        text = (
            f"{spec.path} is {observed.strange}, not a link into {folder}: move it away while the "
            "agent is stopped, or choose another [agent.install] path"
        )
        return Plan(Verdict(Status.FALSE, "NotOurs", text), facts=facts)
    wanted = target(spec, observed)
    stale = _stale(spec, actual, wanted.name)
    removals = (Remove(folder=folder, names=stale),) if stale else ()
    listed = ", ".join(spec.packages)
    if not wanted.is_ready:
        why = _why_built(spec, observed)
        verdict = Verdict(Status.FALSE, why[0], f"{why[1]}; wanted: {listed}")
        kind = BuildBeside if observed.link else Build
        build = kind(folder=folder, name=wanted.name, diff=_diff(spec, observed))
        return Plan(verdict, (*removals, build), facts=facts)
    if wanted.name != observed.link:
        text = f"{folder / wanted.name} is built and verified; the agent's next start is in it"
        verdict = Verdict(Status.UNKNOWN, "Built", text)
        return Plan(verdict, removals, facts=facts, satisfies_dependents=True)
    return Plan(in_sync(f"{listed} in {spec.path}"), removals, facts=facts)


def _why_built(spec: InstallSpec, observed: Environments) -> tuple[str, str]:
    used = next((b for b in observed.built if b.name == observed.link), None)
    if used is None or _recipe(used.name) != spec.recipe:
        return ("Missing", f"there is no environment at {spec.path} that holds what is wanted")
    if not used.is_usable:
        return (
            "Broken",
            f"the interpreter of {spec.path} {used.fault}; it is built anew beside it",
        )
    now, then = dict(used.now), dict(used.then)
    changed = ", ".join(
        f"{name} {now.get(name, 'is gone')} instead of {then[name]}"
        for name in sorted(then)
        if now.get(name) != then[name]
    )
    return ("Drift", f"{spec.path} was changed by hand ({changed}); it is built anew beside it")


def _diff(spec: InstallSpec, observed: Environments) -> str:
    """Packages that change against the environment in use, for people."""
    used = next((dict(b.now) for b in observed.built if b.name == observed.link), {})
    wanted = pins(spec.packages)
    lines = []
    for name in sorted({*used, *wanted}):
        if used.get(name) != wanted.get(name):
            lines += [f"-{name}=={used[name]}"] if name in used else []
            lines += [f"+{name}=={wanted[name]}"] if name in wanted else []
    return "\n".join(lines)


def _stale(spec: InstallSpec, actual: EnvironmentActual, wanted: str) -> tuple[str, ...]:
    """What may go: all of our names but what is in use, what is wanted, and the way back.

    Whole ones of the recipes that are wanted and that the agent was healthy with are kept.
    """
    observed = actual.observed
    kept = {spec.recipe, actual.healthy}
    names = [*(built.name for built in observed.built), *observed.unfinished]
    return tuple(
        name
        for name in sorted(names)
        if _recipe(name) and name not in (observed.link, wanted)
        if _recipe(name) not in kept or name not in _whole(observed)
    )


def _whole(observed: Environments) -> frozenset[str]:
    return frozenset(built.name for built in observed.built if built.is_whole)
