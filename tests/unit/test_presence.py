from __future__ import annotations

import pytest

from bai_nodeagent.store.base import reconnect_s
from bai_nodeagent.store.presence import Claim

LEASE_S = 90.0


@pytest.fixture
def claim() -> Claim:
    return Claim(lambda: b"me", replaces=lambda there, _: there == b"old me", lease_s=LEASE_S)


@pytest.mark.parametrize("there", [None, b"me", b"old me"])
def test_free_own_and_predecessors_key_is_written(claim: Claim, there: bytes | None) -> None:
    assert claim.may_write(there, now=0.0)


def test_stranger_is_no_rival_before_a_lease_is_over(claim: Claim) -> None:
    assert not claim.may_write(b"stranger", now=1000.0)
    assert not claim.may_write(b"stranger", now=1000.0 + LEASE_S - 0.1)
    assert claim.rival is None
    assert not claim.may_write(b"stranger", now=1000.0 + LEASE_S)
    assert claim.rival == b"stranger"


def test_stranger_that_leaves_is_forgotten(claim: Claim) -> None:
    claim.may_write(b"stranger", now=0.0)
    claim.may_write(b"stranger", now=LEASE_S)
    assert claim.may_write(None, now=LEASE_S + 1)
    assert claim.rival is None
    assert not claim.may_write(b"stranger", now=LEASE_S + 2)
    assert claim.rival is None


def test_own_key_taken_over_counts_from_then(claim: Claim) -> None:
    assert claim.may_write(b"me", now=0.0)
    assert not claim.may_write(b"stranger", now=LEASE_S * 10)
    assert claim.rival is None


def test_a_fleet_comes_back_to_the_store_out_of_step_but_soon() -> None:
    assert [reconnect_s(chance) for chance in (0.0, 1.0)] == [1.5, 3.0]
