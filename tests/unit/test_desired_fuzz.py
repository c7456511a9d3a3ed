"""Whatever the bytes are, they get a verdict."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_nodeagent import desired, toml
from bai_nodeagent.errors import InvalidSpec
from desired_kinds import AGENT_CONFIG, HERE, KINDS, NAMED, PLAIN, VERSION, documents
from fuzz import many

_KEYS = st.sampled_from(
    [
        "api-version", "requires-daemon", "paused", "meta", "node", "rollout", "agent", "mount",
        "agent-config", "values", "swarm", "name", "target", "unset", "secret", "env", "on",
        "manager-ip", "agent-ip", "groups", "spread", "supervisor", "tries", "path", "password",
    ]
) | st.text(max_size=3)  # fmt: skip
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [1, True, "${agent-ip}", "${x}", "${", "$${", "auto", "10.0.0.1", "a", "/a", "5s", ">=0.1"]
    )
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_SECTIONS = st.fixed_dictionaries(
    {"api-version": st.just(1)},
    optional={
        "agent": _VALUES,
        "mount": st.lists(st.fixed_dictionaries({"name": st.just("a") | _VALUES}), max_size=3),
        "agent-config": st.fixed_dictionaries({}, optional={"values": _VALUES, "path": _VALUES}),
        "node": _VALUES,
        "x": _VALUES,
    },
)
_DOCUMENTS = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="replace"))
    | st.dictionaries(_KEYS, _VALUES, max_size=5).map(lambda value: json.dumps(value).encode())
    | _SECTIONS.map(lambda value: json.dumps(value).encode())
)


@many(60)
@given(_DOCUMENTS, _DOCUMENTS)
def test_any_two_documents_get_a_verdict(cluster: bytes, node: bytes) -> None:
    raw = {"desired/cluster": cluster, "desired/node/i-node01": node}
    assert desired.wanted_keys("i-node01", ["a"], raw, KINDS) >= raw.keys()
    layers: dict[str, str | bytes] = {"cluster": cluster, "node/i-node01": node}
    verdict = desired.evaluate(documents(layers), (), KINDS, VERSION)
    assert (verdict.merged is None) is bool(verdict.mistakes)
    assert all(str(mistake).isprintable() for mistake in verdict.mistakes)
    for layer, text in layers.items():
        alone = desired.check_alone(layer, text if isinstance(text, bytes) else b"", KINDS, VERSION)
        assert all(m in verdict.mistakes for m in alone if "this daemon is" not in m.what)
    if verdict.merged is not None:
        _resolve(verdict)


def _resolve(verdict: desired.Desired) -> None:
    secrets = {f"secret/cluster/{name}": b"x" for name in verdict.secret_names}
    try:
        spec = desired.resolve(verdict, HERE, secrets, 1, KINDS)
    except InvalidSpec:  # what a variable holds need not fit
        return
    places = list(spec.agent_values or ())
    prefixes = {place[:length] for place in places for length in range(len(place))}
    assert not prefixes & set(places), "no leaf lies below another one"


@pytest.mark.parametrize("kinds", [(), (PLAIN,), (NAMED, AGENT_CONFIG)])
@many(15)
@given(raw=_DOCUMENTS)
def test_with_any_kinds(kinds: tuple[Any, ...], raw: bytes) -> None:
    desired.check_alone("cluster", raw, kinds, VERSION)
    desired.json_schema(kinds)


@many(60)
@given(_DOCUMENTS | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_a_document_is_toml_where_tomllib_parses_it(raw: bytes) -> None:
    """And means the same, whatever else is wrong with it."""
    try:
        expected = tomllib.loads(raw.decode())
    except (ValueError, RecursionError):
        return
    if not raw.lstrip().startswith(b"{"):
        assert repr(toml.loads(raw.decode())) == repr(expected)


@pytest.mark.parametrize(
    "build",
    [
        lambda n: b"[" * n,
        lambda n: b"x = " + b"{a=" * n,
        lambda n: b'{"a":' * n,
        lambda n: b"a." * n,
        lambda n: b"[" + b"a." * n + b"a]",
        lambda n: b"x = " + b"9" * n,
        lambda n: b'{"x": -' + b"9" * n + b"}",
        lambda n: b'"' * n,
        lambda n: b"\x00" * n,
        lambda n: b"x = '''" + b"\n" * n,
        lambda n: b"#" + b"x" * n,
        lambda n: b'x = "' + b"a" * n + b'"',
    ],
)
def test_a_large_and_nasty_document_gets_a_verdict_soon(build: Callable[[int], bytes]) -> None:
    assert desired.check_alone("cluster", build(200_000), KINDS, VERSION)
