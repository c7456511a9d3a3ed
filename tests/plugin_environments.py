"""Python environments with real accelerator plugins of Backend.AI, for tests.

The wheels are fetched once and kept below `.lab/`. Nothing of them is ever
imported, so neither what they depend on nor their Python version matters.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WHEELS = Path(__file__).parent.parent / ".lab/plugins"
CUDA = "backend.ai-accelerator-cuda-open"
MOCK = "backend.ai-accelerator-mock"
VERSION = "23.9.10"
OLDER = "23.9.8"
_WANTED = (f"{CUDA}=={VERSION}", f"{MOCK}=={VERSION}", f"{MOCK}=={OLDER}")
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_ANY = ("--no-deps", "--ignore-requires-python")


def fetch() -> None:
    """Makes sure that the wheels are there; without a network the test is skipped."""
    if len(list(WHEELS.glob("*.whl"))) >= len(_WANTED):
        return
    for each in _WANTED:
        command = [*_PIP, "download", *_ANY, "--dest", str(WHEELS), each]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{each} can't be fetched: {done.stderr[-300:]}")


class PythonEnvironment:
    """An environment of its own below `folder`, filled by the real pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin/python"
        command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        subprocess.run(command, check=True)

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob("lib/python3*/site-packages")
        return found

    def install(self, name: str, version: str = VERSION) -> None:
        """Installs or upgrades."""
        where = ("--no-index", "--find-links", str(WHEELS))
        how = ("--no-compile", "--upgrade", "--force-reinstall")
        self._pip("install", *_ANY, *where, *how, f"{name}=={version}")

    def remove(self, name: str) -> None:
        self._pip("uninstall", "--yes", name)

    def _pip(self, *words: str) -> None:
        command = [*_PIP, "--python", str(self.python), *words]
        subprocess.run(command, check=True, capture_output=True)
