"""Rules of the house that no linter holds."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
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


LINES_OF_A_MODULE, LINES_OF_A_FUNCTION = 350, 50


def test_no_module_and_no_function_is_long() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= LINES_OF_A_MODULE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < LINES_OF_A_FUNCTION, (path, node.name)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph(bai_nodeagent.__name__)
    order = TopologicalSorter(
        {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}
    )
    order.prepare()  # raises CycleError, which names the cycle


def test_imports_inside_of_the_package_are_relative() -> None:
    assert bai_nodeagent.__name__ not in importers()
