"""What is remembered of swarms in `<state>/swarm.json`: facts that were seen, never orders.

No token is there, nor anything that it could be guessed from: of a token
only the digest of the authority that it names, which every member of the
swarm knows, and a digest of all that a join was asked with, keyed by this node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...system import kept
from ...typed import json_value, typed

FORMAT = 1
NAME = "swarm.json"
# Tokens come and go; the oldest are forgotten.
LEADS_AT_MOST = 16


@dataclass(frozen=True, slots=True)
class Record:
    """All that is remembered.

    member         id of the swarm that the node is in; "": in none
    since_s        when it came in, Unix time
    trusted        the last swarm in which the node was as desired
    leads          a token's digest -> id of the swarm that it was seen to lead to
    asked          what the last join was asked with, digested
    removed        the id that the node had when a manager removed it; "": nobody did
    removed_asked  what would have been asked for then, digested; "" until that is known
    """

    member: str = ""
    since_s: float = 0.0
    trusted: str = ""
    leads: Mapping[str, str] = field(default_factory=dict)
    asked: str = ""
    removed: str = ""
    removed_asked: str = ""

    @property
    def home(self) -> str:
        """The swarm that the node is in, if that is as desired."""
        return self.member if self.member == self.trusted else ""

    def leading(self, digest: str, cluster: str) -> Mapping[str, str]:
        """`leads` with one more."""
        others = {d: c for d, c in self.leads.items() if d != digest}
        newest = list(others.items())[-(LEADS_AT_MOST - 1) :]
        return {**dict(newest), digest: cluster}


@dataclass(frozen=True)
class Notes:
    """The record on disk. One that is missing or can't be read holds nothing:
    then the node's certificate shows it, and a token is tried once more."""

    state: Path

    @property
    def path(self) -> Path:
        return self.state / NAME

    def read(self) -> Record:
        """Raises OSError."""
        return kept.read(self.path, _parse) or Record()

    def update(self, change: Callable[[Record], Record]) -> None:
        """From now on; it stands on disk a little later. Raises OSError."""
        data = {"format": FORMAT, **asdict(change(self.read()))}
        kept.keep_soon(self.path, json.dumps(data, indent=1).encode())


def _parse(raw: bytes) -> Record:
    data = json_value(raw)
    if data.pop("format") != FORMAT:
        raise ValueError("another format")
    record: Record = typed(Record, data)
    return record
