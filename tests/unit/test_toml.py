from __future__ import annotations

import time
import tomllib

import pytest

from bai_nodeagent import toml
from bai_nodeagent.agent_toml import edit
from bai_nodeagent.kinds.agent.config.kind import KIND, VALUES_AT_MOST

# Of a whole MiB the parser alone takes a fifth of a second; these would take minutes, or for ever.
PATIENCE_S = 20.0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a" + ".a" * 500_000 + " = 1", "dotted key"),
        ('"' + '."' * 500_000, "dotted key"),
        ("".join(f"[a{i}.{'.'.join('b' * 90)}]\n" for i in range(5000)), "long dotted keys"),
        ("a = " + "[" * 500_000, "nested"),
        ("a = " + "{b = " * 100_000, "nested"),
        ("a = " + "1" * 5000, "64 bits"),
        ("a = [{b = 0x" + "f" * 5000 + "}]", "64 bits"),
    ],
)
def test_what_would_never_end_is_refused_at_once(text: str, what: str) -> None:
    started_s = time.monotonic()
    with pytest.raises(toml.TooComplex, match=what):
        toml.loads(text)
    assert time.monotonic() - started_s < PATIENCE_S


@pytest.mark.parametrize(
    "text",
    [
        "",
        "".join(f"k{i} = {i}\n" for i in range(60_000)),
        "".join(f"[t.k{i}]\na.b.c = {i}\n" for i in range(20_000)),
        'x = "' + "1.2.3.4, " * 50_000 + '"',
    ],
)
def test_what_is_only_large_means_what_tomllib_reads(text: str) -> None:
    assert toml.loads(text) == tomllib.loads(text)


def test_the_number_of_values_is_bounded_and_so_many_take_no_time() -> None:
    values = {f"k{i}": i for i in range(VALUES_AT_MOST)}
    assert list(KIND.check({"values": {"agent": values}})) == []
    reported = list(KIND.check({"values": {"agent": values, "etcd": {"one": "more"}}}))
    assert reported == [(("values",), "holds 2001 values; allowed: at most 2000")]
    places: dict[tuple[str, ...], int] = {("agent", name): v for name, v in values.items()}
    filler = "".join(f"x{i} = {i}\n" for i in range(5000))
    started_s = time.monotonic()
    text = edit(filler, places)
    changed = edit(text.replace(" = 1", " = 2"), places, (), text)
    assert time.monotonic() - started_s < PATIENCE_S
    assert tomllib.loads(changed)["agent"] == values
