"""When the agent has to start again because of the swarm."""

from __future__ import annotations

import pytest

from bai_nodeagent.core.metrics import Metrics
from bai_nodeagent.kinds.swarm.inputs import PART, found_part, wanted_part, without_swarm
from bai_nodeagent.kinds.swarm.record import Record


def digest(value: object) -> str:
    return f"digest:{value}"


OUT = Record(trusted="a")
IN = Record(member="a", since_s=100.0, trusted="a")
STRANGE = Record(member="b", since_s=100.0, trusted="a")
HAS = {PART: "digest:a"}


@pytest.mark.parametrize(
    ("record", "has", "started_s", "wanted"),
    [
        (IN, {}, 50.0, HAS),  # it started outside
        (IN, {}, 150.0, {}),  # nobody noted it, but the swarm was there
        (IN, HAS, 50.0, HAS),  # back in the same one
        (Record("b", 200.0, "b"), HAS, 50.0, {PART: "digest:b"}),
        (OUT, HAS, 50.0, {}),
        (OUT, {}, 50.0, {}),
        (STRANGE, {}, 50.0, {}),  # not the one that is desired: it will be left
    ],
)
def test_the_swarm_is_wanted_of_who_started_outside(
    record: Record, has: dict[str, str], started_s: float, wanted: dict[str, str]
) -> None:
    assert wanted_part(record, has, started_s, digest) == wanted


def test_a_start_finds_the_swarm_that_is_desired() -> None:
    assert found_part(IN, digest) == HAS
    assert found_part(OUT, digest) == found_part(STRANGE, digest) == {}
    assert without_swarm({**HAS, "env": "x"}) == {"env": "x"}


def test_the_certificates_expiry_is_a_gauge_while_there_is_a_certificate() -> None:
    metrics = Metrics("test", "i-1", "c")
    name = b"bai_nodeagent_swarm_certificate_expiry_timestamp_seconds"
    assert name not in metrics.text()
    metrics.conditions((), {"swarm-certificate-expires": "1970-01-02T00:00:00Z"})
    assert name + b" 86400.0" in metrics.text()
    metrics.conditions((), {})
    assert name not in metrics.text()
