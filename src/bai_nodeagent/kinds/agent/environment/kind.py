"""The agent's virtual environment: built beside the old one, verified, kept as long as needed.

Which one is right, and what to do about it, says kinds/agent/environment/rules.py; that the
agent moves into it, and when, is Agent's affair.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from ....core.watching import together
from ....errors import Refused
from ....model import AnyResource, Host, Kind, NodeSpec, Plan, Wake
from ....system import inotify
from ..process.memory import KEPT, kept_healthy
from ..process.observe import environment_place
from ..section import SCHEMA, SECTION
from . import building, environments
from .rules import NAME, Build, EnvironmentAction, EnvironmentActual, Remove, plan_environment
from .spec import InstallSpec, install_spec, mistakes, recipe_of


class AgentEnvironment:
    name = NAME
    deadline_s = environments.OBSERVE_DEADLINE_S + 5.0

    def __init__(self, spec: InstallSpec, host: Host) -> None:
        self.spec = spec
        self._host = host
        self._place = environment_place(spec, host)

    async def observe(self) -> EnvironmentActual:
        observed = await environments.observe(self.spec.path, NAME)
        return EnvironmentActual(observed, self._healthy())

    def _healthy(self) -> str:
        """The recipe of what the agent was healthy with last; "": nobody knows."""
        kept = kept_healthy(self._host.state)
        install = kept.agent.get("install") if kept else None
        if install is None:
            return ""
        return recipe_of(Path(install["python"]), tuple(install["packages"]))

    def plan(self, actual: EnvironmentActual) -> Plan[EnvironmentAction]:
        return plan_environment(self.spec, actual)

    async def apply(self, action: EnvironmentAction) -> None:
        spec, place = self.spec, self._place
        try:
            match action:
                case Build(name=name):
                    await building.build(place, name, spec.python, spec.packages, spec.source)
                case Remove(names=names):
                    await building.remove(place, names)
        except Refused as error:
            raise Refused(error.reason, self._host.redact(error.message)) from error

    async def watch(self, wake: Wake) -> None:
        await together(lambda: self._wake_at_environments(wake), lambda: self._wake_at_health(wake))

    async def _wake_at_environments(self, wake: Wake) -> None:
        async for _ in environments.changes(self.spec.path, f"{NAME} (watch)"):
            wake()

    async def _wake_at_health(self, wake: Wake) -> None:
        """Once the agent is healthy in a new environment, an older one may go."""
        async for _ in inotify.changes([self._host.state / KEPT]):
            wake()


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    spec = install_spec(node.document.get(SECTION, {}))
    return [] if spec is None else [AgentEnvironment(spec, host)]


# `[agent]` is a section of two kinds, with one schema.
KIND = Kind(
    section=SECTION,
    schema=SCHEMA,
    resources=_resources,
    check=mistakes,
    actions=get_args(EnvironmentAction),
)
