"""The daemon's own tasks, and what others write for them."""

from __future__ import annotations

import anyio
import pytest
from structlog.testing import capture_logs

from bai_nodeagent.store.presence import Claim, held
from bai_nodeagent.system import lasting

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "PAUSE_MOST_S", 0.001)


async def test_a_task_that_breaks_is_begun_anew_and_the_error_is_logged() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise ValueError("of somebody else's")

    with capture_logs() as logged:
        await lasting.lasting("reporter", work)
    assert runs == 4
    assert [(each["event"], each["task"]) for each in logged] == [("daemon.bug", "reporter")] * 3


async def test_a_value_of_somebody_elses_does_not_end_who_looks_after_the_key() -> None:
    """Whatever it is: what it is checked with may have a bug."""
    observed = anyio.Event()
    values = [ValueError("odd"), OSError(36, "File name too long"), None]

    async def observe() -> None:
        if error := values.pop(0):
            raise error
        observed.set()
        await anyio.sleep_forever()

    async def leave() -> None:
        pass

    claim = Claim(lambda: b"me", lambda _there, _unchanged_s: False, 90.0)
    with anyio.fail_after(5):
        async with held(claim, observe, leave):
            await observed.wait()
