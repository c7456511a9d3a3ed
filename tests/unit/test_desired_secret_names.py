"""Places where a document names a secret by a bare text, as a kind declares them."""

from __future__ import annotations

import pytest

from bai_nodeagent import desired
from bai_nodeagent.errors import InvalidSpec
from bai_nodeagent.follow.reading import secrets_of
from bai_nodeagent.model import Kind, NodeSpec
from desired_kinds import AGENT_CONFIG, HEAD, HERE, VERSION, documents

SWARM = Kind(
    "swarm",
    {
        "type": "object",
        "properties": {
            "token": {"$ref": "#/$defs/name"},
            "title": {"type": "string"},
        },
        "additionalProperties": False,
    },
    lambda _node, _host: [],
    secret_names=frozenset({("token",)}),
)
KINDS = (SWARM, AGENT_CONFIG)
TEXT = HEAD + "[swarm]\ntoken = 'worker'\ntitle = 'worker'\n[meta]\ntoken = 'not-this'"
TOKEN = "SWMTKN-1-geheim"


def resolved(text: str, secrets: dict[str, bytes], *, is_journaled: bool = False) -> NodeSpec:
    verdict = desired.evaluate(documents({"cluster": text}), (), KINDS, VERSION)
    return desired.resolve(verdict, HERE, secrets, 1, KINDS, is_journaled=is_journaled)


def test_the_secret_is_read_from_every_layer() -> None:
    keys = desired.wanted_keys("n1", ["a"], {"desired/group/a": TEXT.encode()}, KINDS)
    assert {key for key in keys if key.startswith("secret/")} == {
        "secret/cluster/worker",
        "secret/group/a/worker",
        "secret/node/n1/worker",
    }


@pytest.mark.parametrize("text", ["swarm = 'x'", "[swarm]\ntoken = '../x'", "[swarm]\ntoken = 3"])
def test_nothing_but_a_name_makes_a_key(text: str) -> None:
    keys = desired.wanted_keys("n1", [], {"desired/cluster": text.encode()}, KINDS)
    assert keys == {"desired/cluster", "desired/node/n1"}


def test_the_document_keeps_the_name_and_the_secret_is_beside_it() -> None:
    spec = resolved(TEXT, {"secret/cluster/worker": f"{TOKEN}\n".encode()})
    assert spec.document["swarm"]["token"] == "worker"
    assert spec.secrets == {"worker": TOKEN}


def test_what_must_not_leave_is_the_secret_and_not_its_name() -> None:
    spec = resolved(TEXT, {"secret/cluster/worker": TOKEN.encode()})
    assert secrets_of(spec, KINDS) == [TOKEN]


def test_a_missing_secret_is_reported_at_its_place() -> None:
    with pytest.raises(InvalidSpec, match=r"cluster: swarm.token: there is no secret worker"):
        resolved(TEXT, {})


REFERRED = "[agent-config.values.a]\nb = { secret = 'worker' }\nc = { secret = 'other' }\n"


@pytest.mark.parametrize(
    ("referred", "kept"),
    [("", set()), (REFERRED, {"secret/cluster/worker", "secret/cluster/other"})],
)
def test_what_a_kind_names_is_not_kept_unless_it_is_in_a_file_anyway(
    referred: str, kept: set[str]
) -> None:
    secrets = {f"secret/cluster/{name}": b"x" for name in ("worker", "other")}
    raw = {"desired/cluster": (TEXT + "\n" + referred).encode(), **secrets}
    keys = desired.kept_keys("n1", ["a"], raw)
    assert keys & raw.keys() == {"desired/cluster", *kept}


def test_the_journal_lacks_what_a_kind_names_and_nothing_else() -> None:
    assert resolved(TEXT, {}, is_journaled=True).secrets == {}
    with pytest.raises(InvalidSpec) as caught:
        resolved(TEXT + "\n" + REFERRED, {"secret/cluster/worker": b"x"}, is_journaled=True)
    (mistake,) = caught.value.mistakes
    assert str(mistake).startswith("cluster: agent-config.values.a.c: there is no secret other")


def test_neither_a_token_nor_a_variable_is_a_name() -> None:
    for wrong in (TOKEN, "${cluster}"):
        verdict = desired.check_alone("x", TEXT.replace("worker", wrong).encode(), KINDS, VERSION)
        assert verdict, wrong
        assert TOKEN not in str(verdict)
