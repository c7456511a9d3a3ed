"""A bug in a kind's own check is that document's fault, and nobody else's end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bai_nodeagent import desired
from bai_nodeagent.errors import InvalidSpec
from desired_kinds import AGENT_CONFIG, HEAD, HERE, PLAIN, VERSION, judged


def broken(_section: Any) -> Any:
    return [][1]


def test_a_check_that_breaks_is_a_mistake_with_its_place() -> None:
    text = f'{HEAD}[agent]\nsupervisor = "systemd"\n'.encode()
    kind = replace(PLAIN, check=broken)
    (mistake,) = desired.check_alone("cluster", text, [kind], VERSION)
    assert str(mistake).startswith("cluster: agent: can't be checked: a bug of this daemon: IndexE")
    assert "in broken, line" in str(mistake)


def test_values_that_break_are_a_mistake() -> None:
    verdict = judged({"cluster": f'{HEAD}[agent]\nsupervisor = "systemd"\n[agent-config]\n'})
    kinds = [replace(PLAIN, agent_values=broken), AGENT_CONFIG]
    with pytest.raises(InvalidSpec, match=r"can't be put into agent\.toml: a bug of this daemon"):
        desired.resolve(verdict, HERE, {}, 7, kinds)
