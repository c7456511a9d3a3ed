"""Which agents one process is: from 25.12 on, agent.toml may hold several, each with an id. Pure.

Read in Backend.AI's source (ai/backend/agent/config/unified.py, `get_agent_configs`):
each table of `[[agents]]` is an agent of its own, whose `[agents.agent]` stands
over the file's `[agent]`. Where there is one, `[agent]` is no agent any more but
what they all have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .. import toml
from ..model import KeyPath

_AGENTS: KeyPath = ("agents",)
_ID: KeyPath = ("agent", "id")


def id_values(values: Mapping[KeyPath, Any]) -> Mapping[KeyPath, Any]:
    """What of the managed values bears on ids."""
    return {place: values[place] for place in (_ID, _AGENTS) if place in values}


def agent_ids(text: str | None, values: Mapping[KeyPath, Any], default: str) -> tuple[str, ...]:
    """The ids of all agents that read this agent.toml, once it holds the managed values.

    `default` is that of an agent which is given none. Raises ValueError where
    the text can't be read: then nobody knows whose agents they are.
    """
    own, others = _ids(text, values)
    own = own or default
    return tuple(dict.fromkeys(each or own for each in others)) or (own,)


def every_id(
    texts: Iterable[str | None], values: Mapping[KeyPath, Any], default: str
) -> frozenset[str]:
    """All that may be an agent's id with one of these texts, or has been: with the managed values
    and without, `[[agents]]` and `[agent]`. Raises ValueError."""
    found = {default}
    for text in (*texts, None):
        for managed in (values, {}):
            own, others = _ids(text, managed)
            found |= {own, *others}
    return frozenset(found - {""})


def _ids(text: str | None, values: Mapping[KeyPath, Any]) -> tuple[str, tuple[str, ...]]:
    """The id in `[agent]`, and those in each of `[[agents]]`; "" where none is given."""
    try:
        document = toml.loads(text or "")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    own = values[_ID] if _ID in values else _table(document, "agent").get("id")
    others = values[_AGENTS] if _AGENTS in values else document.get("agents")
    tables = others if isinstance(others, list) else []
    return _text(own), tuple(_text(_table(each, "agent").get("id")) for each in tables)


def _table(value: Any, key: str) -> Mapping[str, Any]:
    table = value.get(key) if isinstance(value, Mapping) else None
    return table if isinstance(table, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
