import json

from hypothesis import given
from hypothesis import strategies as st

from bai_nodeagent.text import clean, clean_lines, to_json
from fuzz import many

ANYTHING = st.one_of(
    st.binary(max_size=200),
    st.text(st.characters(), max_size=200),  # lone surrogates as well
)


@many(100)
@given(ANYTHING, st.integers(1, 100))
def test_whatever_enters_is_one_printable_line_and_stays_so(value: str | bytes, limit: int) -> None:
    line = clean(value, limit)

    assert line.isprintable()
    assert len(line) <= limit
    assert line.encode() is not None  # no lone surrogate is left
    assert clean(line, limit) == line


@many(100)
@given(ANYTHING, st.integers(1, 100))
def test_text_keeps_line_feeds_and_tabs_alone(value: str | bytes, limit: int) -> None:
    text = clean_lines(value, limit)

    assert text.replace("\n", "").replace("\t", "").isprintable()
    assert len(text) <= limit
    assert clean_lines(text, limit) == text


@many(100)
@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=100))
def test_what_is_printable_stays_as_it_is(value: str) -> None:
    assert clean(value) == clean(value.encode()) == clean_lines(value) == value


def test_what_a_terminal_would_obey_is_written_out() -> None:
    cases: dict[str | bytes, str] = {
        "a\x1b[31mb\x07": r"a\x1b[31mb\x07",
        "a\nb\r\tc": r"a\nb\r\tc",
        "abc\u202edef\u2066\u200f": r"abc\u202edef\u2066\u200f",
        "a\u2028b\u2029c\x85d\x9be": r"a\u2028b\u2029c\x85d\x9be",
        "a\udcffb\ud800": r"a\xffb\ud800",
        b"a\xff\xfe\x00b": r"a\xff\xfe\x00b",
        "\U000e0041": r"\U000e0041",
        "C:\\new": "C:\\new",
        "Größe 大小 🙂": "Größe 大小 🙂",
    }

    assert {value: clean(value) for value in cases} == cases
    assert clean_lines("a\n\tb\r\nc\u2028d") == "a\n\tb\\r\nc\\u2028d"


def test_what_is_cut_off_is_visible() -> None:
    assert clean("a" * 10, 10) == "a" * 10
    assert clean("a" * 11, 10) == "a" * 9 + "…"
    assert clean("ä".encode() * 11, 10) == "ä" * 9 + "…"
    assert clean("🙂".encode() * 10, 10) == "🙂" * 10
    assert len(clean(b"\xff" * 10**6)) == 2000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@many(100)
@given(JSON)
def test_json_is_printable_and_means_the_same(value: object) -> None:
    text = to_json(value)

    assert text.isprintable()
    assert json.loads(text) == value
    assert text.encode()
    assert json.loads(to_json(value, indent=2)) == value


def test_json_keeps_what_people_can_read() -> None:
    assert to_json({"a": "Größe\x9b\u202e"}) == '{"a": "Größe\\u009b\\u202e"}'
