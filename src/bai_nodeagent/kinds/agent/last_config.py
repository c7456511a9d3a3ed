"""`<state>/agent-config.last`: the content of agent.toml that was in line last.

Beside it, `agent-config.last.json` says which file that content is of: what stood at
another path, or in another file that a link led to, is no content of this one. It
names the content by a digest, so a crash between the two writes leaves no wrong word.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...machine import File, Owner
from ...system import kept, own_file
from ...typed import json_value, typed

NAME = "agent-config.last"


@dataclass(frozen=True, slots=True)
class Facts:
    """`path` as it is configured, `target` what that led to, both as `_named` writes them."""

    path: str
    target: str
    owner: Owner
    mode: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Last:
    """`facts` None: not known which file it is of."""

    raw: bytes = field(repr=False)
    facts: Facts | None

    def of(self, path: Path, target: Path, *, is_there: bool) -> File | None:
        """As a content of that file; None: it is of another. Of one that is
        gone, with the link that led there, the path alone can tell."""
        facts = self.facts
        if facts is None or facts.path != _named(path):
            return None
        if is_there and facts.target != _named(target):
            return None
        return File(self.raw, facts.mode, facts.owner)


def read(state: Path) -> Last | None:
    """None: there is none that can be read. Blocks. Raises OSError."""
    try:
        raw = kept.peek(state / NAME, bytes)
        facts = kept.peek(_beside(state), lambda text: typed(Facts, json_value(text)))
    except own_file.Unreadable:
        return None
    if raw is None:
        return None
    is_of_this = facts is not None and facts.sha256 == _digest(raw)
    return Last(raw, facts if is_of_this else None)


def keep(state: Path, path: Path, target: Path, file: File) -> None:
    """As well as the disk allows. Blocks."""
    facts = Facts(_named(path), _named(target), file.owner, file.mode, _digest(file.raw))
    kept.keep(state / NAME, file.raw)
    kept.keep(_beside(state), json.dumps(asdict(facts)).encode())


def _beside(state: Path) -> Path:
    return state / f"{NAME}.json"


def _named(path: Path) -> str:
    """Of each path another text, in ASCII: names of files need be no UTF-8."""
    return ascii(str(path))


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
