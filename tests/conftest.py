"""Which tests run side by side: `make test` gives groups of them to several processes."""

from __future__ import annotations

import pytest

# These wait for minutes, each on one thing that there is once: they begin first.
LONG = ("e2e", "real agent", "systemd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: groups[item] not in LONG)


def _group(item: pytest.Item) -> str:
    """The tests of a file share its fixtures; some files share a server that is slow to start."""
    fixtures = getattr(item, "fixturenames", ())
    if "e2e" in item.path.parts:
        return "e2e"
    if "cluster" in fixtures:
        return "real agent"
    if "container" in fixtures:
        return "systemd"
    return item.path.name
