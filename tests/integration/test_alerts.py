"""The alerts of docs/operations.md, as promtool sees them, over series that a daemon shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bai_nodeagent.core.metrics import Metrics
from bai_nodeagent.kinds import KINDS
from bai_nodeagent.model import Condition, Status

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
PREFIX = "bai_nodeagent_"
# What each expression is about: a series, and its values minute by minute that must
# raise the alert. "_" is a minute without the series.
RAISES = {
    'condition{status="False"} == 1': ('condition{resource="agent",status="False"}', "0 1x30"),
    "store_last_contact_timestamp_seconds > 300": (
        "store_last_contact_timestamp_seconds",
        "0x30",
    ),
    'condition{resource="store",status="True"} == 0': (
        'condition{resource="store",status="True"}',
        "0x30",
    ),
    "agent_up == 0": ("agent_up", "1 0x30"),
    "drift_total": ('drift_total{resource="agent_config"}', "0x20 1 1x9"),
    'agent_restarts_total{cause="died"}': ('agent_restarts_total{cause="died"}', "0x20 2 4 6 6x7"),
    'action="roll_back"': ('actions_total{action="roll_back",resource="agent"}', "0x20 1 1x9"),
    "stuck_operations > 0": ('stuck_operations{resource="mount/a"}', "0 1x30"),
    "desired_revision": ("desired_revision", "7x90"),
}

pytestmark = pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs Debian's package prometheus"
)


def alerts() -> list[str]:
    """The expressions of the table."""
    return re.findall(r"^\| `([^`]*bai_nodeagent[^`]*)`", OPERATIONS.read_text(), re.MULTILINE)


def shown_at_start() -> str:
    """Every series of a daemon that has begun to keep all that can be kept."""
    metrics = Metrics("1", "i-1", "c")
    names = {"agent-config": "AgentConfig", "agent": "Agent", "mount": "Mount/a"}
    for kind in KINDS:
        verbs = {action.verb for action in kind.actions}
        metrics.expect(names.get(kind.section, kind.section), verbs)
    observed = [Condition(n, Status.TRUE, "", "", "", 1) for n in (*names.values(), "Store")]
    metrics.conditions(observed, {})
    for gauge in (metrics.agent_up, metrics.store_last_contact, metrics.desired_revision):
        gauge.set(0)
    return metrics.text().decode()


def of(expression: str) -> tuple[str, str]:
    (found,) = (series for part, series in RAISES.items() if part in expression)
    return found


@pytest.mark.parametrize("expression", alerts())
def test_an_alert_is_raised_by_the_first_time_that_it_is_about(
    tmp_path: Path, expression: str
) -> None:
    series, values = of(expression)
    zero = "0.0\n" if "_total" in series else ""
    assert f"\n{PREFIX}{series} {zero}" in shown_at_start()
    rule = {"alert": "It", "expr": expression}
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "g", "rules": [rule]}]}))
    given = [{"series": f"{PREFIX}{series}", "values": values}]
    if "applied_revision" in expression:
        given.append({"series": f"{PREFIX}applied_revision", "values": "0x90"})
    labels = dict(re.findall(r'(\w+)="([^"]*)"', series))
    test = {
        "interval": "1m",
        "input_series": given,
        "alert_rule_test": [
            {"eval_time": "25m", "alertname": "It", "exp_alerts": [{"exp_labels": labels}]}
        ],
    }
    file = tmp_path / "test.json"
    file.write_text(json.dumps({"rule_files": ["rules.json"], "tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
