"""An agent's environment as its owner may lay it out: looked at by the real daemon as root."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bai_nodeagent.system.survey import ENTRIES_AT_MOST
from node_under_test import Node

STRANGER = 61001
MODULE = "ai.backend.accelerator.fast.plugin"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Lay = Callable[[Path], object]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A daemon that runs; each test gives it another environment."""
    node = Node(tmp_path_factory.mktemp("node"))
    node.start()
    yield node
    assert "resource.bug" not in node.log
    assert node.stop() == 0
    node.close()


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Those of an environment with one plugin, by hand: nothing of it is ever run."""
    folder = tmp_path / "venv/lib/python3.11/site-packages"
    metadata, module = folder / "fast-1.0.dist-info", folder / "ai/backend/accelerator/fast"
    for each in (tmp_path / "venv/bin", metadata, module):
        each.mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(sys.executable)
    (tmp_path / "venv/pyvenv.cfg").write_text("version = 3.11.2\n")
    (metadata / "METADATA").write_text("Name: fast\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[backendai_accelerator_v21]\nfast = {MODULE}:Plugin\n"
    )
    (module / "plugin.py").touch()
    return folder


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def desire(node: Node, packages: Path) -> None:
    """That environment, which is its owner's."""
    venv = packages.parents[2]
    for top, folders, files in os.walk(venv.parent):
        for name in (*folders, *files):
            os.chown(Path(top) / name, STRANGER, STRANGER, follow_symlinks=False)
    section = f'[plugins]\npython = "{venv}/bin/python"\nallow = ["{MODULE}"]\n'
    node.desire(node.document() + section)


def reported(node: Node, reason: str, about: str = "") -> None:
    def is_so() -> bool:
        found = [c for c in node.status_now()["conditions"] if c["type"] == "Plugins"]
        return any(c["reason"] == reason and about in c["message"] for c in found)

    node.wait(f"Plugins {reason} about {about}", is_so)


@pytest.mark.parametrize(
    ("lay", "reason"),
    [(pipe, "NotAFile"), (zeros, "NotAFile"), (endless, "TooLarge")],
)
@pytest.mark.parametrize(
    "name",
    [
        "../../../pyvenv.cfg",
        "extra.pth",
        "fast-1.0.dist-info/entry_points.txt",
        "fast-1.0.dist-info/METADATA",
        "other-1.0.dist-info/entry_points.txt",
    ],
)
def test_what_is_no_file_or_has_no_end_is_reported_by_its_path(
    node: Node, packages: Path, name: str, lay: Lay, reason: str
) -> None:
    path = Path(os.path.normpath(packages / name))
    path.parent.mkdir(exist_ok=True)
    lay(path)
    desire(node, packages)
    reported(node, reason, f"{path} ")


def test_what_is_put_right_is_in_line(node: Node, packages: Path) -> None:
    pipe(packages / "extra.pth")
    desire(node, packages)
    reported(node, "NotAFile", f"{packages}/extra.pth ")
    (packages / "extra.pth").unlink()
    reported(node, "InSync", "fast 1.0")


def test_a_crowd_of_entries_is_reported_by_its_folder(node: Node, packages: Path) -> None:
    for number in range(ENTRIES_AT_MOST):
        (packages / f"{number}").touch()
    desire(node, packages)
    reported(node, "TooLarge", f"{packages} ")


def test_a_crowd_of_plugins_is_not_watched(node: Node, packages: Path) -> None:
    points = "".join(f"p{number} = m{number}\n" for number in range(10_000))
    path = packages / "fast-1.0.dist-info/entry_points.txt"
    path.write_text(f"[backendai_accelerator_v21]\n{points}")
    desire(node, packages)
    reported(node, "TooLarge", f"{packages.parents[2]}/bin/python has more than")


@pytest.mark.parametrize("points", ["fast", "fast = !"])
def test_entry_points_that_nobody_can_parse_are_broken(
    node: Node, packages: Path, points: str
) -> None:
    folder = packages / "fast-1.0.dist-info"
    (folder / "entry_points.txt").write_text(f"[backendai_accelerator_v21]\n{points}\n")
    desire(node, packages)
    reported(node, "Broken", str(folder))


@pytest.mark.parametrize("home", ["{venv}/bin", "{venv}/loop"])
def test_an_environment_that_leads_back_to_itself_has_an_end(
    node: Node, packages: Path, home: str
) -> None:
    venv = packages.parents[2]
    (venv / "loop").symlink_to("loop")
    settings = f"version = 3.11.2\ninclude-system-site-packages = true\nhome = {home}\n"
    (venv / "pyvenv.cfg").write_text(settings.format(venv=venv))
    (packages / "ai/backend/accelerator/fast/plugin.py").unlink()
    desire(node, packages)
    reported(node, "Broken", str(packages))
