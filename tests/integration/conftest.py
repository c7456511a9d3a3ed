from __future__ import annotations

from pathlib import Path

import pytest

from fixtures import anyio_backend, etcd, one_loop, prefix

__all__ = ["anyio_backend", "etcd", "one_loop", "prefix"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"
