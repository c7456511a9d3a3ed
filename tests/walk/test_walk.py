"""A short walk on each store. `make walk` goes on for as long as one likes."""

from __future__ import annotations

import os
import shutil

import pytest

from .__main__ import walked
from .stores import KINDS

SECONDS = 40.0
# Any will do; fixed, so that a red run is one of the change that is tested.
SEED = 20261127


@pytest.mark.skipif(not shutil.which("etcd") or os.geteuid() != 0, reason="needs etcd and root")
@pytest.mark.parametrize("store", KINDS)
def test_a_node_comes_to_rest_whatever_happens_to_it(store: str) -> None:
    assert walked(store, SEED, SECONDS) > 0
