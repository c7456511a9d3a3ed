"""Folders that others lay so that root watches more of them than it may."""

from __future__ import annotations

import itertools
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.errors import Unavailable
from bai_nodeagent.system import inotify

pytestmark = pytest.mark.anyio


async def test_no_watch_takes_more_folders_than_its_share(tmp_path: Path) -> None:
    ways = []
    for number in range(15):
        ways.append(tmp_path / str(number) / "/".join(["d"] * 200))
        ways[-1].mkdir(parents=True)
    watch = inotify.changes(ways, is_apart=True)
    with pytest.raises(Unavailable, match="more than 2000 folders lead there") as error:
        await anext(watch)
    assert len(str(error.value)) < 500


async def test_a_link_that_changes_without_end_holds_up_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner flips it as often as we walk: each walk is another one."""
    walks = itertools.count()
    monkeypatch.setattr(inotify, "_ways_to", lambda _: {str(tmp_path): {str(next(walks))}})
    with anyio.fail_after(5):
        await anext(inotify.changes([tmp_path], is_apart=True))
    assert next(walks) < 20
