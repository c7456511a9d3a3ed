"""The README's quick start, word by word, in a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def quick_start() -> str:
    section = (ROOT / "README.md").read_text().split("## Quick start")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_quick_start_works(tmp_path: Path) -> None:
    if not (shutil.which("etcd") and is_free(2379) and is_free(9432)):
        pytest.skip("needs etcd, and its port 2379 free")
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "examples", clone / "examples")
    (clone / ".venv").symlink_to(Path(sys.executable).parent.parent)
    script = "set -em\n" + quick_start()
    env = {**os.environ, "ETCDCTL_API": "3"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=clone,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "cluster: written, revision",
        "i-quick: Ready",
        'bai_nodeagent_drift_total{resource="agent_config"} 1.0',
        'id = "i-quick"',
    ):
        assert part in done.stdout, done.stdout + done.stderr
    assert "i-spoilt" not in done.stdout
    for part in ("did you mean supervisor", "supervisr", "atuo"):
        assert part in done.stderr
    assert not (clone / ".run" / "quick").exists()
