"""Versions of the real agent between and after the two lines that the tests run.

They are never started in full, so the images that their sessions would need are left out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path

from debian_root import NotPossible
from real_agent import AGENTS, NEW, OLD, Line, agent_python, alone, find_python

BETWEEN = tuple(
    Line(name, version, python)
    for name, version, python in (
        ("24.03", "24.3.11", "3.12"),
        ("24.09", "24.9.14", "3.12"),
        ("25.6", "25.6.17", "3.13"),
        ("25.15", "25.15.12", "3.13"),
        ("25.19", "25.19.2", "3.13"),
        ("26.4", "26.4.16", "3.13"),
        ("26.9", "26.9.6", "3.13"),
    )
)
VERSIONS = (OLD, *BETWEEN, NEW)
_OWN = re.compile(r"backend\.ai-(?!krunner|kernel-binary)")
INSTALL_S = 300.0


def python_of(line: Line) -> Path:
    """The interpreter of an environment that holds that agent; made on first use.

    Raises NotPossible.
    """
    if line in (OLD, NEW):
        return agent_python(line)
    venv = AGENTS / "versions" / line.version
    with alone(venv):
        if not (venv / ".complete").exists():
            shutil.rmtree(venv, ignore_errors=True)
            _build(venv, line)
            (venv / ".complete").touch()
    return venv / "bin/python"


def _build(venv: Path, line: Line) -> None:
    interpreter = find_python(line.python)
    if interpreter is None:
        raise NotPossible(f"backend.ai-agent {line.name} needs Python {line.python}: none is here")
    subprocess.run([interpreter, "-m", "venv", venv], check=True)
    _pip(venv, "--no-deps", line.requirement)
    agent = _requirements(venv)
    _pip(venv, "--no-deps", *(each for each in agent if _OWN.match(each)))
    _pip(venv, *(each for each in _requirements(venv) if not each.startswith("backend.ai-")))


def _requirements(venv: Path) -> list[str]:
    """Of all that is installed there."""
    (folder,) = venv.glob("lib/python3.*/site-packages")
    found = (each.requires or [] for each in distributions(path=[str(folder)]))
    return sorted({text for texts in found for text in texts if "extra ==" not in text})


def _pip(venv: Path, *words: str) -> None:
    try:
        done = subprocess.run(
            [venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_S,
        )
    except subprocess.TimeoutExpired as error:
        raise NotPossible(f"{words[-1]}: not installed within {INSTALL_S:g} s") from error
    if done.returncode:
        raise NotPossible(f"{words[-1]} can't be installed: {done.stderr[-300:]}")
