"""`[agent.install]`: its schema, its mistakes, and its typed value. Pure."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ....desired import canonical
from ....paths import SYSTEM, hidden_by
from .environment_tool import AGENT, normalised

_RECIPE_DIGITS = 12
# A file's name has 255, and ours end with ".new" for a moment.
NAME_BYTES_AT_MOST = 251
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"$ref": "#/$defs/path"},
        "python": {"$ref": "#/$defs/path"},
        "packages": {
            "type": "array",
            "items": {
                "title": 'a package with its version, such as "backend.ai-agent==26.8.3"',
                "type": "string",
                "pattern": (
                    r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._,-]+\])?"
                    r"==[0-9][A-Za-z0-9.!+_-]*$"
                ),
            },
            "minItems": 1,
            "uniqueItems": True,
        },
        "wheels": {"$ref": "#/$defs/path"},
        "index": {
            "title": "an http:// or https:// address, without user, password or token",
            "type": "string",
            "pattern": r"^https?://[^\s@?#]+$",
        },
    },
    "required": ["path", "python", "packages"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class InstallSpec:
    """`[agent.install]`.

    path      the link, whose target is the environment in use
    python    the interpreter that environments are made with
    packages  "backend.ai-agent==26.8.3", sorted
    user      the account that makes them and that they belong to
    wheels    the only place where packages come from; None: an index
    index     ""; the one that pip on this node is set up for
    """

    path: Path
    python: Path
    packages: tuple[str, ...]
    user: str
    wheels: Path | None = None
    index: str = ""

    @property
    def recipe(self) -> str:
        """What an environment is made from, as part of its name. Where from doesn't count."""
        return recipe_of(self.python, self.packages)

    @property
    def source(self) -> tuple[str, ...]:
        """Options of pip."""
        if self.wheels is not None:
            return ("--no-index", "--find-links", str(self.wheels))
        return ("--index-url", self.index) if self.index else ()

    @property
    def agent_version(self) -> str:
        """The version of Backend.AI's agent that is asked for; "" where none is."""
        return pins(self.packages).get(AGENT, "")


def install_spec(agent: Mapping[str, Any]) -> InstallSpec | None:
    """From a checked `[agent]`; None where its environment is unmanaged."""
    section = agent.get("install")
    if section is None:
        return None
    wheels = section.get("wheels")
    return InstallSpec(
        path=Path(section["path"]),
        python=Path(section["python"]),
        packages=tuple(sorted(section["packages"])),
        user=agent["user"],
        wheels=Path(wheels) if wheels else None,
        index=section.get("index", ""),
    )


def mistakes(agent: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Of `[agent]`, of one layer alone as well, as in Kind.check."""
    section = agent.get("install")
    if section is None:
        return
    here = ("install",)
    if agent.get("user") == "root":
        yield here, "needs another [agent] user than root: packages are never installed as root"
    if "wheels" in section and "index" in section:
        yield (*here, "index"), "is set beside wheels; allowed: one of both, or neither"
    names = [normalised(_name(package)) for package in section.get("packages", ())]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (*here, "packages", index), f"{name} occurs more than once"
    if "path" in section:
        yield from _misplaced(section["path"], next(iter(agent.get("command", ())), None))


def _misplaced(link: str, program: str | None) -> Iterator[tuple[tuple[str | int, ...], str]]:
    name = PurePosixPath(link).name
    if not name:
        yield ("install", "path"), "is the root folder; allowed: the path of a link below it"
    elif folder := hidden_by(link, SYSTEM):
        text = f"lies in or above {folder}, which is the system's; allowed: another place"
        yield ("install", "path"), text
    elif ":" in link or len(os.fsencode(name)) > NAME_BYTES_AT_MOST:
        text = f"allowed: a path without ':', whose name has {NAME_BYTES_AT_MOST} bytes at most"
        yield ("install", "path"), f"can't be an environment's; {text}"
    # What is spelled by a variable is not known yet.
    is_known = program is not None and "${" not in f"{program}{link}"
    if is_known and not PurePosixPath(str(program)).is_relative_to(link):
        yield ("command", 0), f"lies outside of [agent.install] path, {link}"


def pins(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions by normalised name."""
    return {normalised(_name(p)): p.partition("==")[2] for p in packages}


def _name(package: str) -> str:
    return package.partition("==")[0].partition("[")[0]


def recipe_of(python: Path, packages: tuple[str, ...]) -> str:
    made_from = canonical([str(python), sorted(packages)])
    return hashlib.sha256(made_from).hexdigest()[:_RECIPE_DIGITS]
