"""What a look at the agent's environments finds, by files that belong to somebody else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bai_nodeagent.errors import Refused
from bai_nodeagent.kinds.agent.environment.environments import (
    MARKER,
    Environments,
    environments,
    version_of,
)
from bai_nodeagent.system.survey import ENTRIES_AT_MOST, Survey


def lay_out(folder: Path, version: str = "3.11") -> Path:
    """A node's interpreter, an environment that was made with it, and the link; the environment."""
    python = folder / "usr/bin/python3"
    python.parent.mkdir(parents=True)
    (python.parent / f"python{version}").touch()
    python.symlink_to(f"python{version}")
    environment = folder / "venv.d/a-1"
    packages = environment / "lib/python3.11/site-packages/plug-1.0.dist-info"
    packages.mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin/python").symlink_to(python)
    (environment / MARKER).write_text(json.dumps({"packages": {"plug": "1.0"}}))
    (folder / "venv").symlink_to("venv.d/a-1")
    return environment


def observe_once(folder: Path) -> Environments:
    return environments(folder / "venv")


def test_an_environment_is_whole_with_the_interpreter_that_it_was_made_with(tmp_path: Path) -> None:
    lay_out(tmp_path)
    (found,) = observe_once(tmp_path).built
    assert found.is_whole


def test_an_interpreter_of_another_version_leaves_none_whole(tmp_path: Path) -> None:
    lay_out(tmp_path, "3.12")
    (found,) = observe_once(tmp_path).built
    assert not found.is_whole
    assert found.fault == "is Python 3.12 now, and the packages are for python3.11"


def test_an_interpreter_that_is_gone_is_reported(tmp_path: Path) -> None:
    environment = lay_out(tmp_path)
    (environment / "bin/python").unlink()
    assert observe_once(tmp_path).built[0].fault == "is gone"


def test_a_version_is_known_by_the_name_or_the_library(tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.touch()
    assert version_of(python, Survey()) == ""
    library = tmp_path / "lib/python3.12/os.py"
    library.parent.mkdir(parents=True)
    library.touch()
    assert version_of(python, Survey()) == "3.12"


@pytest.mark.parametrize("odd", ["fifo", "folder", "large", "deep", "zero", "list"])
def test_a_marker_that_is_none_makes_an_environment_unfinished(odd: str, tmp_path: Path) -> None:
    marker = lay_out(tmp_path) / MARKER
    marker.unlink()
    match odd:
        case "fifo":
            os.mkfifo(marker)
        case "folder":
            marker.mkdir()
        case "large":
            marker.touch()
            os.truncate(marker, 3 << 30)
        case "deep":
            marker.write_text("[" * 100_000)
        case "zero":
            marker.symlink_to("/dev/zero")
        case "list":
            marker.write_text('{"packages": ["x"]}')
    assert observe_once(tmp_path).unfinished == ("a-1",)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of other accounts")
def test_a_link_of_theirs_in_place_of_a_marker_is_refused(tmp_path: Path) -> None:
    marker = lay_out(tmp_path) / MARKER
    marker.rename(tmp_path / "roots")
    marker.symlink_to(tmp_path / "roots")
    os.chown(marker.parent, 61001, 61001)
    with pytest.raises(Refused, match="61001"):
        observe_once(tmp_path)


@pytest.mark.parametrize(
    "where", ["venv.d", "venv.d/a-1/lib", "venv.d/a-1/lib/python3.11/site-packages"]
)
def test_a_crowd_of_entries_is_not_observed(tmp_path: Path, where: str) -> None:
    lay_out(tmp_path)
    for number in range(ENTRIES_AT_MOST):
        (tmp_path / where / f"lib{number}").touch()
    with pytest.raises(Refused) as refused:
        observe_once(tmp_path)
    assert refused.value.reason == "TooLarge"
    assert str(tmp_path / where) in refused.value.message
