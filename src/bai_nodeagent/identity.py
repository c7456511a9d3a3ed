"""Who this node is. Found out once, kept, and never quietly changed.

Backend.AI destroys sessions of an agent that comes back under another id, so
an id that would come out differently than last time stops all changes until a
person has looked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import toml
from .errors import Refused, Stuck
from .settings import NODE_ID
from .system import hostile
from .system.blocking import within
from .text import clean

AGENT_TOML = Path("/etc/backend.ai/agent.toml")
DMI = Path("/sys/class/dmi/id")
READ_DEADLINE_S = 5.0
_LINE_AT_MOST = 4096
_SHOWN_AT_MOST = 64


class NoIdentity(Exception):
    """The id can't be found out without guessing; the text says what to set."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`changed_to`: what the id would be by today's rules, where that is not the kept one."""

    node_id: str
    changed_to: str | None = None


def resolve(configured: str | None, hostname: str, kept: str | None) -> Identity:
    """The node's id; `kept` is the one that it had so far. Raises NoIdentity.

    Configured, else the id in the agent.toml that the node already has, else
    Backend.AI's own rule (src/ai/backend/common/identity.py): the instance id
    on a cloud, i-<hostname> elsewhere.
    """
    try:
        now = configured or _from_agent_toml(AGENT_TOML) or _by_rule(hostname, DMI)
    except Stuck as error:
        if kept:
            return Identity(kept)
        raise NoIdentity(f"{error}, and it may hold the id; set node-id") from error
    if not NODE_ID.match(now):
        if kept:  # whoever may write agent.toml ends no daemon by it
            return Identity(kept, clean(now, _SHOWN_AT_MOST))
        raise NoIdentity(f"node-id would be {now!r}, which is no allowed id; set node-id")
    return Identity(kept or now, now if kept not in (None, now) else None)


def parse(raw: bytes) -> str:
    """The id that a file holds. Raises ValueError."""
    text = raw.decode().strip()
    if not NODE_ID.match(text):
        raise ValueError("it holds no node-id")
    return text


def first_line(path: Path) -> str:
    """What the kernel or the system says in a line of a file of its own; "" where it does not,
    or says what is no text: an id that can't be read is no id."""
    try:
        with path.open("rb") as file:
            return file.read(_LINE_AT_MOST).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _from_agent_toml(path: Path) -> str | None:
    """[agent].id of an agent.toml that can be read and holds one. Raises Stuck."""
    what = f"reading {path}"
    try:
        file = within(what, lambda: hostile.read(path), READ_DEADLINE_S)
        data = toml.loads(file.raw.decode()) if file else {}
    except (OSError, ValueError, Refused):
        return None  # a broken file says nothing; the agent-config resource reports it
    agent = data.get("agent")
    found = agent.get("id") if isinstance(agent, dict) else None
    return found if isinstance(found, str) and found else None


def _by_rule(hostname: str, dmi: Path) -> str:
    vendor = _dmi(dmi, "sys_vendor")
    if vendor == "Amazon EC2" and (asset := _dmi(dmi, "board_asset_tag")).startswith("i-"):
        return asset
    is_azure = _dmi(dmi, "chassis_asset_tag") == "7783-7084-3265-9085-8269-3286-77"
    for cloud, is_here in (
        ("Amazon EC2", vendor == "Amazon EC2"),
        ("Google Compute Engine", _dmi(dmi, "product_name") == "Google Compute Engine"),
        ("Azure", is_azure),
    ):
        if is_here:
            raise NoIdentity(
                f"this is a machine of {cloud}, where Backend.AI takes the agent's id from the "
                "instance's metadata; set node-id to the id that the manager shows"
            )
    return f"i-{hostname}"


def _dmi(folder: Path, name: str) -> str:
    return first_line(folder / name)  # no DMI here, or one of none of those clouds: ""
