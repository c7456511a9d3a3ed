"""`${name}` in the strings of a document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from difflib import get_close_matches

from ..model import Verdict

NAMES = ("node-id", "hostname", "agent-ip", "manager-ip", "manager-host", "cluster")
_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")


@dataclass(frozen=True)
class Variables:
    """What this node fills in.

    agent_ip  the resolved [node] agent-ip; None while there is none
    address   the doubt about it that conditions have to tell
    """

    node_id: str
    hostname: str
    cluster: str
    agent_ip: str | None
    address: Verdict | None = None

    def values(self, manager_ip: str | None) -> Mapping[str, str | None]:
        """By name; None for what isn't known now."""
        is_v6 = manager_ip is not None and ":" in manager_ip
        return {
            "node-id": self.node_id,
            "hostname": self.hostname,
            "cluster": self.cluster,
            "agent-ip": self.agent_ip,
            "manager-ip": manager_ip,
            "manager-host": f"[{manager_ip}]" if is_v6 else manager_ip,
        }


def names_in(text: str) -> Set[str]:
    return {match[1] for match in _TOKEN.finditer(text) if match[1] is not None}


def mistake(text: str) -> str | None:
    """What is wrong with the variables of a string. Quotes nothing but a variable's name."""
    for match in _TOKEN.finditer(text):
        name = match[1]
        if name is None or (match[2] and name in NAMES):
            continue
        if not match[2]:
            return "has a ${ without }; allowed: ${name}, or $${ for the two characters themselves"
        near = get_close_matches(name[:64], NAMES, n=1)
        hint = f"; did you mean ${{{near[0]}}}?" if near else ""
        return f"uses an unknown variable; allowed: {_all_names()}, or $${{ for a plain ${{{hint}"
    return None


def _all_names() -> str:
    return ", ".join(f"${{{name}}}" for name in NAMES)


def expand(text: str, values: Mapping[str, str | None]) -> str | None:
    """The string with its variables filled in; None if one of them isn't known now.

    The string has been checked: it has no `mistake`.
    """
    if any(values[name] is None for name in names_in(text)):
        return None
    return _TOKEN.sub(lambda match: "${" if match[1] is None else str(values[match[1]]), text)
