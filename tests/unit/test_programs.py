"""Which file is run when the daemon needs a program of the system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bai_nodeagent.errors import Unavailable
from bai_nodeagent.system.programs import program


def placed(folder: Path, mode: int = 0o755, owner: int = 0) -> str:
    folder.mkdir()
    file = folder / "mount"
    file.write_text("#!/bin/sh\n")
    file.chmod(mode)
    os.chown(file, owner, owner)
    return str(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of other accounts")
def test_only_what_is_roots_alone_is_run(tmp_path: Path) -> None:
    folders = tuple(str(tmp_path / name) for name in ("theirs", "open", "no-program", "ours"))
    placed(tmp_path / "theirs", owner=61001)
    placed(tmp_path / "open", mode=0o777)
    placed(tmp_path / "no-program", mode=0o644)
    with pytest.raises(Unavailable, match="mount is not in"):
        program("mount", folders)
    ours = placed(tmp_path / "ours")
    assert program("mount", folders) == ours


def test_the_search_path_of_the_daemon_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    placed(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/local/sbin")
    assert Path(program("mount")).parent in {Path(each) for each in ("/usr/bin", "/bin")}
