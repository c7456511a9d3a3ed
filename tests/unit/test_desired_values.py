"""The small values: durations, canonical JSON, what is secret."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_nodeagent.desired import MASK, canonical, duration_s, is_secret_key, mask
from bai_nodeagent.desired.formats import is_endpoint
from bai_nodeagent.model import UNSET
from fuzz import many


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("10s", 10), ("5m", 300), ("2h", 7200), ("0s", 0)]
)
def test_a_duration_is_in_seconds(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["a", "a.b-c_d:1", "a.b.:65535", "10.0.0.1:2379", "[fd00::1]", "[fd00::1]:2379"]
)
def test_an_endpoint(text: str) -> None:
    assert is_endpoint(text)


@pytest.mark.parametrize(
    "text",
    ["", "a:0", "a:65536", "a,b:1", "a..b", "a" * 64, "10.0.0:1", "10.0.0.256", "fd00::1", "[::::]",
     "[10.0.0.1]:1", "[fe80::1%eth0]:1", "a b", "u@a", "a:1\n"],
)  # fmt: skip
def test_anything_else_is_no_endpoint(text: str) -> None:
    assert not is_endpoint(text)


@pytest.mark.parametrize("text", ["", "10", "s", "1.5s", "-1s", "1 s", "1d", "1s\n", "٣s"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        duration_s(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            {"b": [1, 1.0, True], "a": {"d": "ä", "c": {}}},
            '{"a":{"c":{},"d":"ä"},"b":[1,1.0,true]}',
        ),
        ((1, (2,)), "[1,[2]]"),
        (date(1979, 5, 27), '{"\\u0000time":"1979-05-27"}'),
        (time(7, 32), '{"\\u0000time":"07:32:00"}'),
        (datetime(1979, 5, 27, tzinfo=UTC), '{"\\u0000time":"1979-05-27T00:00:00+00:00"}'),
        (UNSET, '{"\\u0000unset":true}'),
    ],
)
def test_the_canonical_form_of_a_value(value: object, text: str) -> None:
    assert canonical(value) == text.encode()


_leaves = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
                    st.text(), st.dates(), st.times(), st.datetimes(), st.just(UNSET))  # fmt: skip
_keys = st.text(st.characters(exclude_categories=["Cc", "Cs"]))
_values = st.recursive(
    _leaves, lambda inner: st.lists(inner) | st.dictionaries(_keys, inner), max_leaves=8
)


def _typed(value: object) -> object:
    """Equal only for values of equal types: 1, 1.0 and True are three."""
    match value:
        case dict():
            return {key: _typed(item) for key, item in value.items()}
        case list():
            return [_typed(item) for item in value]
        case _:
            return (type(value), repr(value))


@many(60)
@given(_values, _values)
def test_only_equal_values_have_an_equal_canonical_form(one: object, other: object) -> None:
    assert (canonical(one) == canonical(other)) is (_typed(one) == _typed(other))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_number_that_json_lacks_has_a_form_of_its_own(text: str) -> None:
    assert canonical([float(text)]) == canonical((float(text),))
    others = ["nan", "inf", "-inf", text]
    forms = {canonical(float(other)) for other in others} | {canonical(text), canonical(None)}
    assert len(forms) == 5


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("password", True),
        ("redis-passwd", True),
        ("AWS_SECRET_ACCESS", True),
        ("client_token", True),
        ("credentials", True),
        ("api-key", True),
        ("APIKEY", True),
        ("key", True),
        ("keyring", False),
        ("pass", False),
        ("namespace", False),
    ],
)
def test_a_secret_is_known_by_its_key(name: str, is_secret: bool) -> None:
    assert is_secret_key(name) is is_secret


def test_masking_leaves_everything_else() -> None:
    value = {"etcd": {"password": {"a": [1]}, "addr": "x"}, "l": [{"token": "t", "n": 1}]}
    assert mask(value) == {
        "etcd": {"password": MASK, "addr": "x"},
        "l": [{"token": MASK, "n": 1}],
    }
    assert mask("x", ("a", "api-key", 0)) == MASK
    assert mask({"host": {"secret": "name"}}) == {"host": {"secret": MASK}}
