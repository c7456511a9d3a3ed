"""One document: what parses, and what no document may hold."""

from __future__ import annotations

import pytest

from bai_nodeagent import desired
from desired_kinds import HEAD, reported

NAME_OF_BEL = "U+0007"


@pytest.mark.parametrize(
    "raw",
    [
        b"api-version = 1",
        b"api-version = 1\r\n[rollout]\r\nspread = '5s'\r\n",
        b'{"api-version": 1}',
        b' \n\t{"api-version": 1,\r\n "paused": true}\n',
        b"\xef\xbb\xbfapi-version = 1",
        b'\xef\xbb\xbf{"api-version": 1}',
        'api-version = 1\n[meta]\nauthor = "Zoë\ttab\\nline 雪"'.encode(),
        b"api-version = 1\nmeta = [1, 1979-05-27, {a = 0.5}]",
    ],
)
def test_a_right_document_has_no_mistakes(raw: bytes) -> None:
    assert reported(raw) == []


def test_toml_and_json_are_equal() -> None:
    toml = b"api-version = 1\npaused = true\n[rollout]\nspread = '5s'"
    json = b'{"api-version": 1, "rollout": {"spread": "5s"}, "paused": true}'
    assert desired.parse(toml) == desired.parse(json)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "api-version: is missing; allowed: 1"),
        (b"api-version = 1.0", "api-version: is a number; allowed: 1"),
        (b"api-version = true", "api-version: is true; allowed: 1"),
        (b"api-version = 2", "api-version: 2 is not allowed; allowed: 1"),
        (b'api-version = "1"', "api-version: is text; allowed: 1"),
        (b"api-version = 1\nx", "is not TOML: Expected '=' after a key in a key/value pair"),
        (b"api-version = 1\napi-version = 1", "is not TOML: Cannot overwrite a value"),
        (b"{]", "is not JSON: Expecting property name enclosed in double quotes (at line 1"),
        (b'{"api-version": 1} x', "is not JSON: Extra data"),
        (b"api-version = 1\n# \xff", "is not UTF-8 at byte 18; save the file as UTF-8"),
        (b"#" * ((1 << 20) + 1), "is 1048577 bytes long; allowed: at most 1048576 (1 MiB)"),
        (b"x = " + b"[" * 9999, "is nested too deeply; allowed: 32 levels"),
        (b'{"x": ' + b"[" * 99999, "is nested too deeply; allowed: 32 levels"),
        (b"a." * 99999 + b"a = 1", "holds a dotted key of more than 100 parts"),
        (b"[" + b"'a' . " * 100 + b"a]", "holds a dotted key of more than 100 parts"),
        (b"x = " + b"1" * 5000, "holds a number beyond 64 bits"),
        (b'{"x": ' + b"1" * 5000 + b"}", "holds a number beyond 64 bits"),
    ],
)
def test_what_can_not_be_read_reports_why(raw: bytes, sentence: str) -> None:
    assert len(reported(raw)) == 1
    assert reported(raw)[0].startswith(sentence)


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ('x = "\\u0007"', f"meta.x: holds the control character {NAME_OF_BEL}; allowed: of these "),
        ('x = "a\\rb"', "meta.x: holds the control character U+000D; "),
        ('x = "\\u009f"', "meta.x: holds the control character U+009F; "),
        ('"a\\u0007" = 1', f'meta."a\\u0007": the key holds the control character {NAME_OF_BEL}; '),
        ("x = nan", "meta.x: is not a finite number"),
        ("x = [1, -inf]", "meta.x[1]: is not a finite number"),
        ("x = 9223372036854775808", "meta.x: is a number beyond 64 bits"),
        ("x = " + "[" * 31 + "]" * 31, f"meta.x{'[0]' * 30}: is nested too deeply; "),
        (f"{'.'.join('a' * 40)} = 1", f"meta.{'.'.join('a' * 31)}: is nested too deeply; "),
    ],
)
def test_what_no_document_may_hold_is_found_even_in_meta(meta: str, sentence: str) -> None:
    found = reported(f"{HEAD}[meta]\n{meta}")
    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_as_deep_and_as_large_as_is_allowed_is_no_mistake() -> None:
    assert reported(f"{HEAD}meta = " + "[" * 31 + "]" * 31) == []
    assert reported(f"{HEAD}[meta]\nx = [9223372036854775807, -9223372036854775808]") == []


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ("null", "meta.x: is null; leave the key out instead"),
        ("NaN", "meta.x: is not a finite number"),
        ("1e999", "meta.x: is not a finite number"),
        ('"\\ud800"', "meta.x: holds U+D800, half of a pair; allowed: whole characters"),
        ('{"y": 1, "y": 2}', "meta.x.y: occurs more than once; allowed: once"),
    ],
)
def test_what_json_has_and_toml_lacks_is_a_mistake(meta: str, sentence: str) -> None:
    assert reported(f'{{"api-version": 1, "meta": {{"x": {meta}}}}}') == [sentence]


def test_a_sentence_has_no_raw_control_character_and_no_endless_key() -> None:
    found = reported('{"api-version": 1, "\\u001b[31m": 1, "\\ud800": 1, "' + "k" * 9999 + '": 1}')
    assert all(sentence.isprintable() and len(sentence) < 400 for sentence in found)
    assert len(found) >= 3


def test_more_than_a_hundred_mistakes_are_cut() -> None:
    many = "\n".join(f"k{n} = 1" for n in range(5000))
    found = reported(f"{HEAD}{many}")
    assert len(found) == 101
    assert found[-1] == "has more than 100 mistakes; the others are not shown"
