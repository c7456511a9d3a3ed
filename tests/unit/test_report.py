from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest

from bai_nodeagent.core import report
from bai_nodeagent.core.metrics import Metrics
from bai_nodeagent.core.report import Origin, Reporter
from bai_nodeagent.core.status import Applied, InForce, Reading
from bai_nodeagent.errors import Unavailable
from bai_nodeagent.model import Outcome, Status, Verdict
from bai_nodeagent.redact import Redactor
from bai_nodeagent.store import base
from bai_nodeagent.store.base import Entry, Snapshot, Store
from unit.fakes import node_spec

pytestmark = pytest.mark.anyio

VALID = InForce(
    Reading(1, "sha256:a", {"desired/cluster": 1}),
    Verdict(Status.TRUE, "Valid"),
    Verdict(Status.TRUE, "Connected"),
    node_spec(),
)
GOOD = {"Agent": Outcome("Agent", "in_sync", Verdict(Status.TRUE, "Running"))}


KEY = "node/i-1/status"


class Shelf:
    """A store that notes what is put, and can be away."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.value: bytes | None = None
        self.is_away = False
        self.moved = anyio.Event()

    async def put(self, key: str, value: bytes, expected: int | None = None) -> int:
        self.moved.set()
        self.moved = anyio.Event()
        if self.is_away:
            raise Unavailable("away")
        assert key == KEY
        self.value = value
        self.written.append(json.loads(value))
        return 1

    async def read(self, keys: Iterable[str], at: int | None = None) -> Snapshot:
        if self.is_away:
            raise Unavailable("away")
        return Snapshot(1, {} if self.value is None else {KEY: Entry(self.value, 1)})

    async def until(self, count: int) -> None:
        with anyio.fail_after(5):
            while len(self.written) < count:
                await self.moved.wait()


class Rig:
    def __init__(self) -> None:
        self.shelf = Shelf()
        self.applied: list[Applied] = []
        self.reporter = Reporter(
            Origin("i-1", "0", "boot", "t0"),
            cast("Store", self.shelf),
            Redactor(),
            Metrics("test", "i-1", "c"),
            self.applied.append,
        )

    def update(self, in_force: InForce = VALID, outcomes: dict[str, Outcome] | None = None) -> None:
        last = self.applied[-1] if self.applied else None
        self.reporter.update(in_force, GOOD if outcomes is None else outcomes, last)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.reporter.run)
            yield
            tasks.cancel_scope.cancel()


def agent(reason: str, status: Status = Status.FALSE, message: str = "") -> dict[str, Outcome]:
    return {"Agent": Outcome("Agent", "failed", Verdict(status, reason, message))}


async def test_in_line_with_what_is_in_the_store_is_applied_once() -> None:
    rig = Rig()
    rig.update()
    rig.update()
    assert [(a.revision, a.digest) for a in rig.applied] == [(1, "sha256:a")]
    assert rig.reporter.newest.summary == "Ready"
    newer = replace(VALID, reading=replace(VALID.reading, revision=2))
    rig.update(newer)
    assert rig.applied[-1].revision == 2


async def test_an_older_state_in_force_is_not_applied_as_the_newest() -> None:
    rig = Rig()
    rig.update(replace(VALID, reading=Reading(2, None)))
    assert rig.applied == []


async def test_answers_come_at_once_and_faults_through_a_budget() -> None:
    rig = Rig()
    async with rig.running():
        rig.update()
        await rig.shelf.until(1)
        for number in range(5):
            rig.update(outcomes=agent(f"Bad{number}"))
            await rig.shelf.until(2 + number)
        rig.update(outcomes=agent("Bad5"))
        await anyio.wait_all_tasks_blocked()
        assert len(rig.shelf.written) == 6
        reading = Reading(2, "sha256:b", {"desired/cluster": 2})
        rig.update(replace(VALID, reading=reading), agent("Bad6"))
        await rig.shelf.until(7)
    assert rig.shelf.written[-1]["conditions"][-1]["reason"] == "Bad6"


async def test_facts_alone_cause_no_write() -> None:
    rig = Rig()
    async with rig.running():
        rig.update()
        await rig.shelf.until(1)
        rig.update(outcomes={"Agent": replace(GOOD["Agent"], facts={"agent-pid": 5})})
        await anyio.wait_all_tasks_blocked()
    assert len(rig.shelf.written) == 1


async def test_a_quick_repair_is_reported_as_done_and_not_as_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "UNDER_WAY_S", 60.0)
    rig = Rig()
    busy = Outcome("Agent", "changed", Verdict(Status.UNKNOWN, "Progressing"), is_progressing=True)
    async with rig.running():
        rig.update()
        await rig.shelf.until(1)
        rig.update(outcomes={"Agent": busy})
        await anyio.wait_all_tasks_blocked()
        rig.update()
        await anyio.wait_all_tasks_blocked()
        assert len(rig.shelf.written) == 1


async def test_a_store_that_is_away_gets_the_newest_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "RECONNECT_S", 0.01)
    rig = Rig()
    rig.shelf.is_away = True
    async with rig.running():
        rig.update()
        await rig.shelf.moved.wait()
        rig.update(outcomes=agent("Bad"))
        assert rig.reporter.newest.conditions[1].reason == "StatusNotWritten"
        rig.shelf.is_away = False
        await rig.shelf.until(1)
    assert rig.shelf.written[0]["conditions"][-1]["reason"] == "Bad"


async def test_a_store_that_takes_statuses_again_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "RECONNECT_S", 0.01)
    rig = Rig()
    rig.shelf.is_away = True
    async with rig.running():
        rig.update()
        await rig.shelf.moved.wait()
        assert rig.reporter.newest.conditions[1].reason == "StatusNotWritten"
        rig.shelf.is_away = False
        await rig.shelf.until(2)
    assert [each["conditions"][1]["reason"] for each in rig.shelf.written] == [
        "StatusNotWritten",
        "Connected",
    ]
    assert rig.shelf.written[-1]["summary"] == "Ready"
    assert len(rig.applied) == 1


def converged(rig: Rig) -> str:
    text = rig.reporter._metrics.text().decode()
    return next(line for line in text.splitlines() if "converge_seconds_count" in line)


async def test_only_a_new_desired_state_counts_as_converged() -> None:
    rig = Rig()
    rig.update(outcomes=agent("Starting", Status.UNKNOWN))
    assert converged(rig).endswith(" 0.0")
    rig.update()
    rig.update(outcomes=agent("Died"))
    rig.update()
    assert converged(rig).endswith(" 1.0")
    newer = replace(
        VALID, reading=Reading(2, "sha256:b"), spec=replace(node_spec(), digest="sha256:b")
    )
    rig.update(newer)
    assert converged(rig).endswith(" 2.0")


async def test_a_daemon_that_starts_again_has_not_converged_anew() -> None:
    rig = Rig()
    rig.applied.append(Applied(1, "sha256:a", "t0"))
    rig.update(outcomes=agent("Starting", Status.UNKNOWN))
    rig.update()
    assert rig.reporter.newest.summary == "Ready"
    assert converged(rig).endswith(" 0.0")


async def test_no_secret_gets_into_a_message() -> None:
    rig = Rig()
    rig.reporter._redactor.learn(["hunter2-secret"])
    rig.update(outcomes=agent("Bad", message="said hunter2-secret"))
    assert rig.reporter.newest.conditions[-1].message == "said ********"


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (
            Outcome("Agent", "in_sync", Verdict(Status.TRUE, "Running"), facts={"agent-pid": 1}),
            "1.0",
        ),
        (Outcome("Agent", "failed", Verdict(Status.FALSE, "CrashLoop")), "0.0"),
        (Outcome("Agent", "failed", Verdict(Status.UNKNOWN, "Timeout"), is_observed=False), None),
    ],
)
async def test_whether_the_agent_runs_is_shown_only_while_it_is_known(
    outcome: Outcome, shown: str | None
) -> None:
    rig = Rig()
    rig.update(outcomes={"Agent": outcome})
    text = rig.reporter._metrics.text().decode()
    found = [line for line in text.splitlines() if line.startswith("bai_nodeagent_agent_up")]
    assert found == ([f"bai_nodeagent_agent_up {shown}"] if shown else [])


@pytest.mark.parametrize("found_state", [None, b"garbage"])
async def test_a_status_that_somebody_removed_or_replaced_is_written_again(
    monkeypatch: pytest.MonkeyPatch, found_state: bytes | None
) -> None:
    monkeypatch.setattr(report, "resync_s", lambda _chance: 0.05)
    rig = Rig()
    rig.update()
    async with rig.running():
        await rig.shelf.until(1)
        await anyio.sleep(0.3)
        assert len(rig.shelf.written) == 1
        rig.shelf.value = found_state
        await rig.shelf.until(2)
        assert rig.shelf.written[1]["summary"] == "Ready"
