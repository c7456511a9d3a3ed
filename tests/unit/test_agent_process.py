"""Reading /proc."""

from __future__ import annotations

import pytest

from bai_nodeagent.machine import TICKS_PER_S, Process
from bai_nodeagent.system.process import parse_stat

STAT = (
    "{pid} ({name}) {state} 1 4711 4710 0 -1 4194304 1063 0 0 0 1 0 0 0 20 0 1 0 110579 "
    "12947456 2349 18446744073709551615 0 0 0 0 0 0 0 16781312 2 0 0 0 17 0 0 0 0 0 0\n"
)


@pytest.mark.parametrize("name", ["python", "a b", "a) R 9 9 9 (b", ")", "(", ""])
@pytest.mark.parametrize("state", ["R", "S", "D", "Z"])
def test_a_name_may_hold_anything(name: str, state: str) -> None:
    found = parse_stat(STAT.format(pid=4712, name=name, state=state))
    assert found == (state, Process(4712, 110579))
    process = found[1]
    assert (process.parent, process.group, process.session) == (1, 4711, 4710)
    assert process.started_s == 110579 / TICKS_PER_S


def test_a_process_is_itself_whoever_its_parent_is() -> None:
    assert Process(7, 9, parent=3) == Process(7, 9, parent=1)
    assert Process(7, 9) != Process(7, 10)
    assert len({Process(7, 9, parent=3), Process(7, 9, parent=1)}) == 1
