"""Folders that others lay so that root watches more of them than it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from bai_nodeagent.model import Unavailable
from bai_nodeagent.system import inotify

pytestmark = pytest.mark.anyio


def deep(folder: Path, levels: int) -> Path:
    """Deeper than a path may be long, made level by level; gives a way to it by links."""
    links = folder / "links"
    links.mkdir()
    here = folder
    for part in range(levels // 500):
        below = here / "/".join(["d"] * 500)
        below.mkdir(parents=True)
        here = links / str(part)
        here.symlink_to(below)
    return here


async def test_no_watch_takes_more_folders_than_its_share(tmp_path: Path) -> None:
    way = deep(tmp_path, 3000)
    watch = inotify.changes([way], is_apart=True)
    with pytest.raises(Unavailable, match="more than 2000 folders lead there") as error:
        await anext(watch)
    assert len(str(error.value)) < 500
    assert len(inotify.way_to(tmp_path)) < 20
