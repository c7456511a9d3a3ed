"""Which tests run side by side, and in which tier (tiers.py): groups of them share a process.

The tests of a file share its fixtures, and some files one thing that there is once on a machine.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tiers import is_matrix

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# Those that wait for minutes begin first.
GROUPS = (r"/e2e/test_(lab|mount)", r"/test_real_agent", r"/test_(agent_unit|systemd|units)\.py$")


def _place(path: str) -> tuple[int, str]:
    """The place of a file among those that begin first, and its group."""
    for place, group in enumerate(GROUPS):
        if re.search(group, path):
            return place, group
    return len(GROUPS), path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(str(item.path))[0])
    for item in items:
        if is_matrix(str(item.path), item.name):
            item.add_marker("matrix")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    # Its groups by marks (loadgroup) come to nothing with this pytest: there a mark no longer
    # changes the name that the scheduler sees.
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _place(f"/{nodeid.partition('::')[0]}")[1]

    return ByGroup(config, log)
