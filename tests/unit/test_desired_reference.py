"""What docs/desired-state.md shows is what the daemon says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bai_nodeagent import desired
from bai_nodeagent.kinds import KINDS

PAGE = (Path(__file__).parents[2] / "docs/desired-state.md").read_text()
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ROWS = re.findall(r"^\| (`[^|]*`) \| `cluster: (.*)` \|$", PAGE, re.MULTILINE)


def _told(text: str) -> list[str]:
    if "api-version" not in text:
        text = f"api-version = 1\n{text}"
    found = desired.check_alone("cluster", text.encode(), KINDS, "0.1.0")
    return [f"{mistake.key}: {mistake.what}" for mistake in found]


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_right(example: str) -> None:
    assert _told(example) == []


@pytest.mark.parametrize(("cell", "sentence"), ROWS)
def test_each_mistake_is_told_as_shown(cell: str, sentence: str) -> None:
    assert _told("\n".join(re.findall(r"`([^`]*)`", cell))) == [sentence]


def test_the_page_has_them() -> None:
    assert len(EXAMPLES) >= 5
    assert len(ROWS) >= 6


@pytest.mark.parametrize("section", [each.section for each in KINDS])
def test_each_kind_has_an_example(section: str) -> None:
    """A new kind is not finished without its section in the reference."""
    assert any(re.search(rf"^\[\[?{section}[].]", text, re.MULTILINE) for text in EXAMPLES)
