"""A status that somebody wrote for one node says nothing of another."""

from __future__ import annotations

import json

from bai_nodeagent.commands import fleet

FORGED = "calm\ni-other: Ready\n  as of now, says etcd"


def test_no_line_of_a_status_resembles_the_head_of_another() -> None:
    condition = {"type": "Agent", "status": "False", "reason": "Dead", "message": FORGED}
    document = {
        "summary": "Degraded",
        "conditions": [condition],
        "facts": {"fact": FORGED},
        "desired": {"digest": FORGED, "revision": FORGED},
    }
    report = fleet.read("i-1", json.dumps(document).encode())
    lines = "\n".join(fleet.shown(report, "says etcd").lines).split("\n")
    assert lines[0] == "i-1: Degraded"
    assert all(line.startswith("  ") for line in lines[1:])
    assert [line for line in lines if line.startswith("  as of")] == [lines[1]]
