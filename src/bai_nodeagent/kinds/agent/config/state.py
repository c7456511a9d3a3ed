"""The desired agent.toml, and what one observation finds. Values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .... import agent_toml
from ....machine import Account, File, Owner
from ....model import KeyPath, Verdict
from ..backendai import schema_faults
from ..backendai.schema_faults import Opinion
from ..guard import SessionRisk
from ..spec import AgentSpec


@dataclass(frozen=True)
class AgentConfigSpec:
    """What agent.toml has to be.

    owner        "user" or "user:group"; None: as it is
    mode         None: as it is, 0640 for a new file
    agent        who reads the file; None: that is not for us to say
    rolled_back  why the values are those of an earlier state; "": they are not
    derived_id   the node's id, where nobody has said it; "": somebody has
    is_in_place  the file is written into, instead of being replaced by a new one
    fingerprint  the values for comparison: 1 == True, but not here
    """

    path: Path
    owner: str | None
    mode: int | None
    values: Mapping[KeyPath, Any] = field(repr=False, compare=False)
    optional: frozenset[KeyPath] = frozenset()
    secret_paths: frozenset[KeyPath] = frozenset()
    address: Verdict | None = None
    agent: AgentSpec | None = None
    rolled_back: str = ""
    derived_id: str = ""
    is_in_place: bool = False
    fingerprint: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Actual:
    """What is on the disk.

    target      the file that the path leads to, through links
    file        None: there is none
    last        the last content in line, with the owner that it had
    owner       the desired one, by number
    is_kept     a copy of this very content lies beside the file
    is_root     we may give files away
    at          the time of this observation, as in the names of copies
    copies      the names of broken files that lie beside, the oldest first
    user        as whom the document lets the agent run; None: it does not say
    is_being_written  somebody has the file open for that
    is_begun    a write in place is noted, done or not
    torn        what that was to write, where the file holds neither that nor the old content
    risk        what a change would cost
    is_real     it is Backend.AI's agent that reads it
    version     of that agent; "": not known
    coming      the version that its environment is to hold; "": nobody says
    opinions    what an agent makes of a text, by its version and the text
    """

    target: Path
    at: str
    file: File | None = None
    last: File | None = None
    owner: Owner | None = None
    is_kept: bool = False
    is_root: bool = True
    copies: tuple[str, ...] = ()
    user: Account | None = None
    is_being_written: bool = False
    is_begun: bool = False
    torn: str | None = field(default=None, repr=False)
    risk: SessionRisk = field(default_factory=SessionRisk)
    is_real: bool = False
    version: str = ""
    coming: str = ""
    opinions: Mapping[tuple[str, str], Opinion] = field(default_factory=dict, repr=False)

    @property
    def reader(self) -> str:
        """The version that is to read the file next."""
        return self.coming or self.version

    @property
    def is_early(self) -> bool:
        """Another version than that is still to read what is written now."""
        return self.is_real and self.version != "" and self.coming not in ("", self.version)

    def opinion(self, version: str, text: str) -> Opinion:
        known = self.opinions.get((version, text)) if self.is_real else Opinion()
        return known or schema_faults.opinion(version, text, schema_faults.NOBODY)


def text_of(file: File | None) -> str | None:
    return file.raw.decode() if file and agent_toml.is_usable(file.raw) else None
