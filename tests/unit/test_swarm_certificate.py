"""What a certificate and a token say; of real ones, made by Docker 20.10."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bai_nodeagent.kinds.swarm.certificate import (
    Certificate,
    digest_in_token,
    digest_of_ca,
    parse_certificate,
)

FOLDER = Path(__file__).parent.parent / "fixtures/swarm"
CLUSTER = "3b3xh0rqenrkjtzpq8moth3it"
# What `docker swarm join-token worker` gave in that swarm, with another secret.
CA = "5h9w400iyqzkpg4ptznqpv9cvc071576tzy57yob2byc0di2nr"
TOKEN = f"SWMTKN-1-{CA}-{'0' * 25}"


def test_a_certificate_names_swarm_role_and_node() -> None:
    worker = parse_certificate((FOLDER / "worker.crt").read_bytes())
    assert worker == Certificate(
        cluster=CLUSTER,
        node="pe053xmykx4sxd3twl7facogl",
        is_manager=False,
        starts_s=datetime(2026, 11, 23, 20, 59, tzinfo=UTC).timestamp(),
        expires_s=datetime(2027, 2, 21, 21, 59, tzinfo=UTC).timestamp(),
    )
    manager = parse_certificate((FOLDER / "manager.crt").read_bytes())
    assert (manager.cluster, manager.is_manager) == (CLUSTER, True)


def test_the_authority_is_the_one_that_the_token_names() -> None:
    assert digest_of_ca((FOLDER / "root-ca.crt").read_bytes()) == CA == digest_in_token(TOKEN)


@pytest.mark.parametrize("text", ["", "SWMTKN-1-abc-def", f"{TOKEN}x", f"x{TOKEN}", TOKEN.upper()])
def test_anything_else_is_no_token(text: str) -> None:
    assert digest_in_token(text) is None


def test_an_authority_is_no_certificate_of_a_node() -> None:
    with pytest.raises(ValueError, match="it is no certificate of a swarm's node"):
        parse_certificate((FOLDER / "root-ca.crt").read_bytes())
    with pytest.raises(ValueError, match="there is no certificate in it"):
        parse_certificate(b"")


@settings(deadline=None)  # a busy machine is no fault
@given(st.data())
def test_a_torn_certificate_is_a_value_error(data: st.DataObject) -> None:
    pem = (FOLDER / "worker.crt").read_bytes()
    lines = b"".join(pem.split(b"-----")[2].split())
    der = bytearray(base64.b64decode(lines))
    for at in data.draw(st.lists(st.integers(0, len(der) - 1), max_size=4)):
        der[at] = data.draw(st.integers(0, 255))
    der = der[: data.draw(st.integers(0, len(der)))]
    body = base64.b64encode(bytes(der))
    try:
        parse_certificate(b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----")
    except ValueError:
        return
