"""The program that works inside of a new virtual environment, run by that one's own Python.

    python -I -c TEXT verify /opt/backend.ai/venv backend.ai-agent==23.9.10 …
    python -I -c TEXT switch /opt/backend.ai/venv 3f9a12bc04de-1

It stands alone, for any Python that an agent may need. What it refuses, it
says on its last lines, and exits with 1.

The agent names its registry after the path that its own module was imported
by, unresolved (23.09 and 26.8: `generate_local_instance_id(__file__)`), and
destroys the sessions that a registry of another name does not know. So what
pip writes into bin/ must start the interpreter by way of the link, not by the
environment's own folder: `verify` puts the link's path there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

MARKER = ".bai-nodeagent.json"
AGENT = "backend-ai-agent"
SERVER = "ai.backend.agent.server"


def verify(link: Path, requirements: list[str]) -> None:
    """Marks this environment as whole, or exits with what it can't be used for."""
    environment = Path(sys.prefix)
    relocate(environment, link)
    versions: dict[str, str] = {}
    faults: list[str] = []
    for requirement in requirements:
        name = requirement.partition("==")[0].partition("[")[0]
        found = importlib.metadata.distribution(name)
        versions[normalised(name)] = found.version
        faults += unusable(name, found)
    if faults:
        sys.exit("\n".join(faults))
    replace(environment / MARKER, json.dumps({"packages": versions}).encode(), 0o644)


def relocate(environment: Path, link: Path) -> None:
    """Lets the scripts in bin/ name the link instead of this environment's own folder."""
    own, shown = os.fsencode(f"{environment}/"), os.fsencode(f"{link}/")
    for script in (environment / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        text = script.read_bytes()
        if text.startswith(b"#!") and own in text:
            replace(script, text.replace(own, shown), script.stat().st_mode & 0o777)


def unusable(name: str, distribution: Distribution) -> Iterator[str]:
    """What of a distribution Backend.AI would import, and can't, as sentences."""
    points = [p for p in distribution.entry_points if p.group.startswith("backendai_")]
    loads = {f"{p.group}: {p.name} = {p.value}": p.load for p in points}
    if normalised(name) == AGENT:
        loads[SERVER] = lambda: importlib.import_module(SERVER)
    for what, load in loads.items():
        try:
            load()
        except BaseException as error:  # whatever a package does at its import
            yield f"{name}: {what}: {type(error).__name__}: {error}"


def switch(link: Path, name: str) -> None:
    """Puts the link on another environment, in one step."""
    fresh = link.with_name(f"{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path(f"{link.name}.d") / name)
    fresh.replace(link)
    sync(link.parent)


def replace(path: Path, data: bytes, mode: int) -> None:
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.chmod(mode)
    fresh.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def normalised(name: str) -> str:
    """PyPA's name normalisation."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    if sys.argv[1] == "verify":
        verify(Path(sys.argv[2]), sys.argv[3:])
    else:
        switch(Path(sys.argv[2]), sys.argv[3])
