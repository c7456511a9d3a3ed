"""What an agent's account writes into the journal."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from bai_nodeagent.errors import Unavailable
from bai_nodeagent.system import journald

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("size", [100, 3 << 20, 40 << 20])
async def test_entries_of_the_journal_cost_no_memory(tmp_path: Path, size: int) -> None:
    """A field is as long as its writer likes, and there may be a thousand of them."""
    entries = tmp_path / "entries"
    with entries.open("w") as file:
        for number in (2, 1, 0):
            said = [f"line {number}", "x" * (size if number == 0 else 100)]
            entry = {"MESSAGE": said, "_SYSTEMD_INVOCATION_ID": "a"}
            file.write(json.dumps(entry) + "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    journalctl = ["/bin/sh", "-c", f"cat {entries}"]
    lines = await journald.last_lines(journalctl, "x.service", "a", 10, 5.0)
    assert lines.count("line") == (3 if size == 100 else 2)
    assert lines.startswith("line 0" if size == 100 else "line 1")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 64 << 20


async def test_a_journal_that_fails_is_said(tmp_path: Path) -> None:
    journalctl = ["/bin/sh", "-c", "echo 'no journal here' >&2; exit 1"]
    with pytest.raises(Unavailable, match="no journal here"):
        await journald.last_lines(journalctl, "x.service", "a", 10, 5.0)
