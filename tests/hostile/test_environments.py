"""The agent's environment in a folder of somebody who would have root write elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bai_nodeagent.system import environments
from bai_nodeagent.system.launch import Account

pytestmark = pytest.mark.root

STRANGER = 61001


@pytest.fixture
def who() -> Account:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes folders for another account")
    return Account("stranger", STRANGER, STRANGER, (STRANGER,), "/")


def test_no_folder_is_made_where_a_link_of_the_account_leads(who: Account, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", STRANGER, STRANGER)
    (tmp_path / "home/link").symlink_to(tmp_path / "etc")
    environments._make_parent(tmp_path / "home/link/cron.d", who)
    assert list((tmp_path / "etc").iterdir()) == []


def test_a_missing_folder_below_one_of_root_s_is_given_to_the_account(
    who: Account, tmp_path: Path
) -> None:
    environments._make_parent(tmp_path / "opt/backend.ai", who)
    assert (tmp_path / "opt").stat().st_uid == 0
    assert (tmp_path / "opt/backend.ai").stat().st_uid == STRANGER
