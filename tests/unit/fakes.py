"""Values and a resource for tests of what is around resources."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import anyio

from bai_nodeagent.model import (
    Action,
    AnyResource,
    Host,
    Kind,
    NodeSpec,
    Plan,
    Status,
    Verdict,
    Wake,
    in_sync,
)


@dataclass(frozen=True)
class Step(Action):
    """Takes one off what is left to do."""

    verb: ClassVar[str] = "step"
    is_disruptive: bool = False  # type: ignore[misc]
    is_rescue: bool = False
    needs: tuple[str, ...] = ()
    deadline_s: float = 5.0

    @property
    def summary(self) -> str:
        return "take a step"


@dataclass
class Countdown:
    """In line when `left` is 0. What happens on the way can be told by the test."""

    name: str = "AgentConfig"
    spec: object = "spec"
    left: int = 0
    step: Step = field(default_factory=Step)
    raises: Exception | None = None
    applying: Exception | None = None
    takes_s: float = 0.0
    deadline_s: float = 5.0
    observations: int = 0
    verdict: Verdict = field(default_factory=in_sync)
    wake: Wake | None = None

    async def observe(self) -> int:
        self.observations += 1
        if self.raises is not None:
            raise self.raises
        await anyio.sleep(self.takes_s)
        return self.left

    def plan(self, actual: int) -> Plan[Step]:
        if actual == 0:
            return Plan(self.verdict)
        return Plan(Verdict(Status.FALSE, "Drift", f"{actual} left"), (self.step,) * actual)

    async def apply(self, action: Step) -> None:
        if self.applying is not None:
            raise self.applying
        self.left -= 1

    async def watch(self, wake: Wake) -> None:
        self.wake = wake
        await anyio.sleep_forever()


def node_spec(digest: str = "sha256:a", revision: int = 1, **more: Any) -> NodeSpec:
    return NodeSpec("i-1", "local", revision, digest, {"desired/cluster": revision}, {}, **more)


def host(folder: Path = Path("/nowhere")) -> Host:
    return Host(folder, folder, lambda value: f"digest:{value}", lambda text: text)


def kind(*resources: AnyResource) -> Kind:
    return Kind("fake", {}, lambda _spec, _host: list(resources))
