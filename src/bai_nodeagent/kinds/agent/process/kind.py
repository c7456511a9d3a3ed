"""The agent process: kept running with the inputs that are desired.

What it runs with is noted when it starts (kinds/agent/record.py) and compared with
what is desired (spec.py there). rules.py, starting.py, child.py and unit.py plan;
child_agent.py and unit_agent.py observe, and apply one action.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from ....desired import duration_s
from ....model import AnyResource, Host, Kind, NodeSpec
from ....system.systemd import Systemd
from ..section import SCHEMA, SECTION
from ..spec import agent_spec
from .child import ChildAction
from .child_agent import ChildAgent
from .health import HealthAction
from .unit import UnitAction
from .unit_agent import UnitAgent


def _resources(node: NodeSpec, host: Host) -> list[AnyResource]:
    if SECTION not in node.document:
        return []
    spec = agent_spec(node)
    if spec.supervisor == "systemd":
        return [UnitAgent(spec, node, host, Systemd())]
    return [ChildAgent(spec, node, host)]


def _check(section: Mapping[str, Any]) -> Iterable[tuple[tuple[str | int, ...], str]]:
    if duration_s(section.get("health-timeout", "5m")) == 0:
        yield ("health-timeout",), "0 leaves an agent no time to start; leave it out for 5m"


KIND = Kind(
    section=SECTION,
    schema=SCHEMA,
    resources=_resources,
    check=_check,
    actions=get_args(ChildAction | UnitAction | HealthAction),
)
