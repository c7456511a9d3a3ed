"""Whose sessions a process has: every agent of its agent.toml."""

from __future__ import annotations

from typing import Any

import pytest

from bai_nodeagent.agent_toml.ids import agent_ids, every_id
from bai_nodeagent.model import UNSET, KeyPath

TWO = """\
[agent]
id = "i-all"
[[agents]]
agent = { id = "i-a" }
[[agents]]
[agents.agent]
id = "i-b"
"""
ID: KeyPath = ("agent", "id")
AGENTS: KeyPath = ("agents",)


@pytest.mark.parametrize(
    ("text", "values", "ids"),
    [
        (None, {}, ("i-node",)),
        ('[agent]\nid = "i-a"', {}, ("i-a",)),
        ('[agent]\nid = ""', {}, ("i-node",)),
        ('[agent]\nid = "i-a"', {ID: "i-b"}, ("i-b",)),
        ('[agent]\nid = "i-a"', {ID: UNSET}, ("i-node",)),
        (TWO, {}, ("i-a", "i-b")),
        (TWO, {ID: "i-c"}, ("i-a", "i-b")),
        (TWO, {AGENTS: UNSET}, ("i-all",)),
        (TWO, {AGENTS: [{"agent": {"id": "i-c"}}, {"container": {}}]}, ("i-c", "i-all")),
        ("agents = []", {}, ("i-node",)),
        ("agents = [1, {agent = 2}]\nagent = 3", {}, ("i-node",)),
    ],
)
def test_each_of_agents_is_one_and_what_they_share_is_none(
    text: str | None, values: dict[KeyPath, Any], ids: tuple[str, ...]
) -> None:
    assert agent_ids(text, values, "i-node") == ids


def test_the_guards_count_every_id_that_was_is_or_is_to_be() -> None:
    found = every_id([TWO, None], {ID: "i-new", AGENTS: [{"agent": {"id": "i-c"}}]}, "i-node")
    assert found == {"i-all", "i-a", "i-b", "i-c", "i-new", "i-node"}


@pytest.mark.parametrize("text", ["[agent\n", "a = " + "[" * 5000 + "]" * 5000])
def test_of_a_text_that_can_not_be_read_nobody_knows_the_ids(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        every_id([text], {}, "i-node")
