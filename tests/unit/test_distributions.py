"""Where an interpreter looks, and which plugins stand there: folders as installers leave them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bai_nodeagent.errors import Refused
from bai_nodeagent.kinds.plugins.distributions import GROUP, environment
from bai_nodeagent.kinds.plugins.rules import PluginRules
from bai_nodeagent.system.interpreter import folders_of, interpreter_of
from bai_nodeagent.system.survey import Survey

MODULE = "ai.backend.accelerator.fast.plugin"


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment without any interpreter in it but a link."""
    return make_venv(tmp_path / "venv")


def make_venv(prefix: Path, settings: str = "version = 3.11.2\n") -> Path:
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python").symlink_to(sys.executable)
    (prefix / "pyvenv.cfg").write_text(settings)
    (prefix / "lib/python3.11/site-packages").mkdir(parents=True)
    (prefix / "lib64").symlink_to("lib")
    return prefix


def site(venv: Path) -> Path:
    return venv / "lib/python3.11/site-packages"


def install(
    folder: Path,
    name: str = "fast",
    version: str = "1.0",
    *,
    file: str | None = "plugin.py",
    group: str = GROUP,
    module: str = MODULE,
) -> Path:
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\nfast = {module}:Plugin\n")
    if file:
        package = folder.joinpath(*module.split(".")[:-1])
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text("raise SystemExit('imported')")
    return metadata


def plugins_of(venv: Path) -> dict[str, tuple[str, bool]]:
    found = environment(PluginRules(python=venv / "bin/python"))
    assert found is not None
    return {plugin.distribution: (plugin.version, plugin.is_found) for plugin in found.plugins}


def test_a_plugin_with_its_module(venv: Path) -> None:
    install(site(venv))
    found = environment(PluginRules(python=venv / "bin/python"))
    assert found is not None
    (plugin,) = found.plugins
    assert (plugin.module, plugin.name, plugin.distribution) == (MODULE, "fast", "fast")
    assert plugin.is_found
    assert plugin.file == site(venv) / "ai/backend/accelerator/fast/plugin.py"
    assert found.folders == (site(venv),)


@pytest.mark.parametrize(
    ("file", "is_found"),
    [
        ("plugin/__init__.py", True),
        ("plugin.cpython-312-x86_64-linux-gnu.so", True),
        ("plugin.abi3.so", True),
        ("plugins.py", False),
        (None, False),
    ],
)
def test_what_counts_as_the_module(venv: Path, file: str | None, is_found: bool) -> None:
    install(site(venv), file=file)
    assert plugins_of(venv) == {"fast": ("1.0", is_found)}


def test_other_entry_points_are_none_of_ours(venv: Path) -> None:
    install(site(venv), group="console_scripts")
    install(site(venv), "older", group="backendai_accelerator_v20")
    assert plugins_of(venv) == {}


def test_leftovers_of_an_installer_don_t_count(venv: Path) -> None:
    install(site(venv), "~ast")
    (install(site(venv), "half") / "METADATA").unlink()
    (site(venv) / "file.dist-info").write_text("")
    assert plugins_of(venv) == {}


def test_the_first_of_two_with_one_name_hides_the_other(venv: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    later.mkdir()
    (site(venv) / "later.pth").write_text(f"# a comment\nimport os\n{later}\nmissing\n")
    install(site(venv), version="1.0")
    install(later, version="2.0")
    assert plugins_of(venv) == {"fast": ("1.0", True)}


def test_an_editable_install_is_trusted_where_only_code_could_decide(venv: Path) -> None:
    metadata = install(site(venv), file=None)
    (metadata / "direct_url.json").write_text(
        '{"url": "file:///src", "dir_info": {"editable": true}}'
    )
    assert plugins_of(venv) == {"fast": ("1.0", True)}


def test_system_packages_count_where_the_environment_takes_them_in(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "bin").mkdir(parents=True)
    (base / "bin/python3.11").write_text("")
    shared = base / "lib/python3.11/site-packages"
    shared.mkdir(parents=True)
    venv = make_venv(
        tmp_path / "venv",
        f"home = {base}/bin\ninclude-system-site-packages = true\nversion_info = 3.11.2\n",
    )
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(base / "bin/python3.11")
    assert folders_of(venv / "bin/python", Survey()) == (site(venv), shared)


def test_an_environment_of_an_older_python_is_not_observed(venv: Path) -> None:
    (venv / "lib/python3.9/site-packages").mkdir(parents=True)
    assert folders_of(venv / "bin/python", Survey()) == (site(venv),)


def test_an_interpreter_that_is_not_there_has_no_folders(tmp_path: Path) -> None:
    found = environment(PluginRules(python=tmp_path / "bin/python"))
    assert found is not None
    assert found.folders == ()


@pytest.mark.parametrize(
    ("head", "python"),
    [
        ("#!/opt/venv/bin/python3.11\nimport sys\n", "/opt/venv/bin/python3.11"),
        ("#! /opt/venv/bin/python -I\n", "/opt/venv/bin/python"),
        (
            "#!/bin/sh\n'''exec' \"/a long/venv/bin/python\" \"$0\" \"$@\"\n' '''\n",
            "/a long/venv/bin/python",
        ),
        (
            "#!/bin/sh\n'''exec' /very/long/bin/python3 \"$0\" \"$@\"\n' '''\n",
            "/very/long/bin/python3",
        ),
        ("#!/usr/bin/env python3\n", None),
        ("#!/bin/sh\nexec something\n", None),
        ("\x7fELF\x02\x01", None),
        ("", None),
    ],
)
def test_the_interpreter_of_a_script(tmp_path: Path, head: str, python: str | None) -> None:
    script = tmp_path / "backend.ai"
    script.write_text(head)
    found = interpreter_of([str(script), "ag", "start-server"])
    assert found == (Path(python) if python else None)


def test_the_interpreter_of_other_commands(tmp_path: Path) -> None:
    assert interpreter_of(["/v/bin/python3.11", "-m", "agent"]) == Path("/v/bin/python3.11")
    assert interpreter_of([str(tmp_path / "missing")]) is None
    assert interpreter_of([]) is None


def test_a_module_path_without_end_is_broken(venv: Path) -> None:
    install(site(venv), module=".".join(["part"] * 60), file=None)
    with pytest.raises(Refused, match="a module of more than 200 characters"):
        plugins_of(venv)
