"""What docs/desired-state.md shows is what the daemon says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bai_nodeagent import desired
from bai_nodeagent.kinds import KINDS
from bai_nodeagent.model import Kind

DOCS = Path(__file__).parents[2] / "docs"
TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGE = (DOCS / "desired-state.md").read_text()
EXAMPLES = TOML.findall(PAGE)
ROWS = re.findall(r"^\| (`[^|]*`) \| `cluster: (.*)` \|$", PAGE, re.MULTILINE)


def _told(text: str, layer: str = "cluster") -> list[str]:
    if "api-version" not in text:
        text = f"api-version = 1\n{text}"
    found = desired.check_alone(layer, text.encode(), KINDS, "0.1.0")
    return [f"{mistake.key}: {mistake.what}" for mistake in found]


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_right(example: str) -> None:
    assert _told(example) == []


@pytest.mark.parametrize(("cell", "sentence"), ROWS)
def test_each_mistake_is_reported_as_shown(cell: str, sentence: str) -> None:
    assert _told("\n".join(re.findall(r"`([^`]*)`", cell))) == [sentence]


def test_the_page_has_them() -> None:
    assert len(EXAMPLES) >= 5
    assert len(ROWS) >= 6


@pytest.mark.parametrize("section", [each.section for each in KINDS])
def test_each_kind_has_its_place_in_the_reference_and_an_example_in_a_page(section: str) -> None:
    """A new kind is not finished without them."""
    assert re.search(rf"`\[\[?{section}[].]", PAGE)
    head = re.compile(rf"^\[\[?{section}[].]", re.MULTILINE)
    pages = [page.read_text() for page in DOCS.glob("*.md")]
    found = [text for page in pages for text in TOML.findall(page) if head.search(text)]
    shown = [text.replace("sha256:…", f"sha256:{0:064}") for text in found]
    assert shown
    assert [_told(text) for text in shown if _told(text, "node/i-1")] == []


@pytest.mark.parametrize("kind", KINDS, ids=[each.section for each in KINDS])
def test_each_key_of_a_kind_is_in_the_reference(kind: Kind) -> None:
    schema = kind.schema.get("items", kind.schema)
    for key, value in schema["properties"].items():
        is_there = re.search(rf"[`.]{key}[]`.]", PAGE) is not None
        assert is_there or value == {"$ref": "#/$defs/reserved"}, key
