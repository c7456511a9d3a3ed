"""A value that an observation finds, and what follows it meanwhile."""

from __future__ import annotations

import anyio
import pytest

from bai_nodeagent.core.watching import Followed

pytestmark = pytest.mark.anyio


async def test_another_value_ends_what_follows_and_an_equal_one_does_not() -> None:
    events: list[str] = []

    async def follow(value: str) -> None:
        events.append(f"begins {value}")
        try:
            await anyio.sleep_forever()
        finally:
            events.append(f"ends {value}")

    followed = Followed("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(followed.run, follow)
        await anyio.wait_all_tasks_blocked()
        followed.become("a")
        await anyio.wait_all_tasks_blocked()
        followed.become("b")
        await anyio.wait_all_tasks_blocked()
        assert events == ["begins a", "ends a", "begins b"]
        tasks.cancel_scope.cancel()


async def test_what_returns_is_begun_anew_only_with_another_value() -> None:
    seen: list[int] = []

    async def follow(value: int) -> None:
        seen.append(value)

    followed = Followed(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(followed.run, follow)
        await anyio.wait_all_tasks_blocked()
        followed.become(2)
        followed.become(3)
        await anyio.wait_all_tasks_blocked()
        assert seen == [1, 3]
        tasks.cancel_scope.cancel()
