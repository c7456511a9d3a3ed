"""Fixtures of the laboratory: a node, and the servers that it talks to.

Each test has a fresh node and fresh servers. When one fails, what the node says about it is kept
in `.lab/failures/`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .lab import Etcd, Nfs, Node, cache, image, install


@pytest.fixture(scope="session")
def lab() -> Iterator[Path]:
    """The layer from which nodes are restored, built if it has to be; skips where none can be."""
    if reason := install.why_not():
        pytest.skip(reason)
    with cache.the_only_laboratory():
        yield image.node_layer()


@pytest.fixture
def node(lab: Path) -> Iterator[Node]:
    """The project installed, its unit enabled; nothing configured, nothing of it started yet."""
    with image.restored_node(lab) as restored:
        yield restored


@pytest.fixture
def etcd(lab: Path, tmp_path: Path) -> Iterator[Etcd]:
    server = Etcd(tmp_path / "etcd")
    yield server
    server.close()


@pytest.fixture
def nfs(lab: Path, tmp_path: Path) -> Iterator[Nfs]:
    server = Nfs(tmp_path / "nfs")
    yield server
    server.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    node = getattr(item, "funcargs", {}).get("node")
    if report.failed and isinstance(node, Node):
        cache.FAILURES.mkdir(parents=True, exist_ok=True)
        file_name = re.sub(r"[^\w.-]+", "_", item.name)
        kept = cache.FAILURES / f"{file_name}.journal"
        kept.write_text(node.evidence())
        report.sections.append(("the node's journal", str(kept)))
    return report
