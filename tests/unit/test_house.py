"""Rules of the house that no linter holds."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from pathlib import Path

import pytest

import bai_nodeagent

SOURCE = Path(bai_nodeagent.__file__).parent
# Third-party client -> the one module, or the few whose names begin so, that may import it.
OWNERS = {
    "docker": "system/docker.py",
    "etcd3": "system/etcd",
    "grpc": "system/etcd",
    "h2": "kinds/swarm/manager.py",
    "inotify_simple": "system/inotify.py",
    "jeepney": "system/dbus.py",
    "prometheus_client": "core/metrics.py",
    "pynvml": "kinds/plugins/nvml.py",
    "pyroute2": "system/network.py",
    "redis": "kinds/redis/client.py",
    "tomlkit": "agent_toml/splice.py",
}


@functools.cache
def importers() -> dict[str, set[str]]:
    found = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for module in modules:
                found[module.partition(".")[0]].add(str(path.relative_to(SOURCE)))
    return found


@pytest.mark.parametrize("client", OWNERS)
def test_each_third_party_client_is_imported_in_one_place(client: str) -> None:
    found = importers().get(client, set())
    assert [module for module in found if not module.startswith(OWNERS[client])] == []


def test_nothing_is_run_by_a_shell() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "shell=True" not in text, path
        assert "os.system(" not in text, path
