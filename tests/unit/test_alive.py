"""Who the holder of the `alive` key is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from bai_nodeagent import alive


@pytest.fixture
def me() -> dict[str, object]:
    return alive.mine("2026-01-01T00:00:00Z")


VALUE = """\
import json, sys
from bai_nodeagent import alive
print(json.dumps(alive.mine("t")), flush=True)
sys.stdin.read()
"""


@contextmanager
def a_daemon() -> Iterator[dict[str, object]]:
    """What a daemon in another process of this machine says. It ends with the context."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", VALUE], stdin=pipe, stdout=pipe) as child:
        assert child.stdout
        yield json.loads(child.stdout.readline())


@pytest.fixture
def dead() -> dict[str, object]:
    with a_daemon() as text:
        return text


def test_a_predecessor_is_one_whose_process_is_gone(me: dict[str, object]) -> None:
    with a_daemon() as other:
        assert not alive.is_predecessor(other, me)
        reported = alive.described(json.dumps(other).encode())
        assert reported is not None
        assert f"pid {other['pid']}" in reported
    assert alive.is_predecessor(other, me)
    old = {key: other[key] for key in ("machine-id", "boot-id", "since")}
    assert alive.is_predecessor(old, me)


@pytest.mark.parametrize(
    "other",
    [
        {"boot-id": "another"},
        {"machine-id": "another"},
        {"pid-namespace": "pid:[1]"},
        {"pid": "1"},
        {"start-ticks": None},
    ],
)
def test_of_whom_nobody_knows_is_no_predecessor(
    me: dict[str, object], dead: dict[str, object], other: dict[str, object]
) -> None:
    assert alive.is_predecessor(dead, me)
    assert not alive.is_predecessor({**dead, **other}, me)


def test_a_boot_id_that_can_not_be_read_is_no_id(me: dict[str, object]) -> None:
    assert not alive.is_predecessor({**me, "boot-id": "", "pid": None}, {**me, "boot-id": ""})


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b"5", b"[" * 9999, b'{"pid": NaN}'])
def test_what_is_no_value_is_nobody(me: dict[str, object], raw: bytes) -> None:
    assert alive.parse(raw) == {}
    assert not alive.is_predecessor(alive.parse(raw), me)
    assert alive.described(raw) == "machine-id ?, pid ?, since ?"


def test_a_value_is_written_anew_every_ten_minutes(me: dict[str, object]) -> None:
    at = datetime(2026, 1, 1, 12, 5, tzinfo=UTC)
    text = alive.value(me, at)
    assert alive.parse(text) == {**me, "at": "2026-01-01T12:00:00Z"}
    assert text == alive.value(me, at + timedelta(minutes=4.9))
    assert text != alive.value(me, at + timedelta(minutes=5))


def test_ours_and_what_nobody_has_written_anew_may_be_replaced(me: dict[str, object]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    other = {**me, "instance": "another", "boot-id": "another"}
    assert alive.may_replace(alive.value(me, now), me, 0.0)
    assert not alive.may_replace(alive.value(other, now), me, alive.STALE_S - 1)
    assert alive.may_replace(alive.value(other, now), me, alive.STALE_S)
    # Nor does it help to say nothing of a time.
    assert alive.may_replace(b"{}", me, alive.STALE_S)


@pytest.mark.parametrize("pid", [0, -1, 10**4200])
def test_a_pid_that_no_process_can_have_is_nobody_we_know(pid: int) -> None:
    """A path of thousands of digits is an error of its own, and ended the daemon."""
    me = {"machine-id": "m", "boot-id": "b", "pid-namespace": "n"}
    assert not alive.is_predecessor({**me, "pid": pid, "start-ticks": 1}, me)
