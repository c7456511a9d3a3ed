from __future__ import annotations

import functools
import itertools
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bai_nodeagent.agent_toml import (
    Drift,
    Values,
    diff,
    difference,
    edit,
    holds_secret,
    is_same,
    is_usable,
    managed,
)
from bai_nodeagent.agent_toml.places import owned
from bai_nodeagent.agent_toml.text import nodes, scan
from bai_nodeagent.errors import Refused
from bai_nodeagent.model import UNSET, KeyPath
from fuzz import many

FIXTURES = Path(__file__).parent.parent / "fixtures" / "agent_toml"
HALFSTACK = (FIXTURES / "halfstack.toml").read_bytes().decode()
BY_HAND = (FIXTURES / "written-by-hand.toml").read_bytes().decode()

HOST: KeyPath = ("etcd", "addr", "host")
PORT: KeyPath = ("etcd", "addr", "port")
ID: KeyPath = ("agent", "id")


# --- what differs ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "desired"),
    [
        ("x = 1", True),
        ("x = true", 1),
        ("x = 1", 1.0),
        ("x = 0.0", -0.0),
        ("x = [1]", [1.0]),
        ("x = { a = 1 }", {"a": True}),
        ('x = "2024-01-01"', datetime(2024, 1, 1, tzinfo=UTC).date()),
        ("x = 2024-01-01T01:00:00+01:00", datetime(2024, 1, 1, tzinfo=UTC)),
        ("", 1),
        ("x.y = 1", 1),
    ],
)
def test_values_differ_by_type_as_well(text: str, desired: object) -> None:
    assert [str(d) for d in difference(text, {("x",): desired})] == ["x"]
    assert is_same(tomllib.loads(edit(text, {("x",): desired}))["x"], desired)


@pytest.mark.parametrize(
    "text",
    ["x = nan", "x = 1", "x = [ 1, { a = 'b' } ]", "x = 2024-01-01 10:00:00Z", "x = 0x10"],
)
def test_equal_values_in_any_spelling_do_not_differ(text: str) -> None:
    values: Values = {("x",): tomllib.loads(text)["x"]}
    assert difference(text, values) == ()
    assert edit(text, values) == text


def test_a_drift_never_shows_its_values() -> None:
    assert "hunter2" not in repr(Drift(("a", "password"), "hunter2", "hunter2"))


def test_an_empty_table_asks_for_any_table() -> None:
    values: Values = {("resource",): {}}
    assert difference("[resource]\nx = 1\n", values) == ()
    assert tomllib.loads(edit("[a]\n", values)) == {"a": {}, "resource": {}}


def test_optional_places_count_only_where_their_table_is() -> None:
    values: Values = {("watcher", "service-addr", "host"): "10.0.0.1"}
    optional = frozenset(values)
    assert difference("[agent]\n", values, optional) == ()
    assert edit("[watcher]\n", values, optional) == (
        '[watcher]\nservice-addr = { host = "10.0.0.1", port = 6009 }\n'
    )


# --- addresses ------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('addr = { host = "a", port = 1 } # c', 'addr = { host = "10.9.9.9", port = 1 } # c'),
        ("addr = { port = 1 }", 'addr = { port = 1, host = "10.9.9.9" }'),
        ('addr = "a:1" # c', 'addr = "10.9.9.9:1" # c'),
        ('addr = "[fd00::1]:1"', 'addr = "10.9.9.9:1"'),
        ('addr = ["a", 1]', 'addr = ["10.9.9.9", 1]'),
        ('addr.host = "a"\naddr.port = 1', 'addr.host = "10.9.9.9"\naddr.port = 1'),
        ("", 'addr = { host = "10.9.9.9", port = 2379 }'),
        ('addr = "nonsense"', 'addr = { host = "10.9.9.9", port = 2379 }'),
    ],
)
def test_addresses_are_edited_in_their_form(before: str, after: str) -> None:
    text = f"[etcd]\n{before}\n".replace("\n\n", "\n")
    out = edit(text, {HOST: "10.9.9.9"})
    assert out == f"[etcd]\n{after}\n"
    assert managed(out, {HOST: "", PORT: 0})[HOST] == "10.9.9.9"


@pytest.mark.parametrize("form", ['"{}:1"', "['{}', 1]", "{{ host = '{}', port = 1 }}"])
@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1", "manager"])
def test_addresses_are_read_in_every_form(form: str, host: str) -> None:
    is_string = form.startswith('"')
    text = "etcd.addr = " + form.format(f"[{host}]" if is_string and ":" in host else host)
    assert managed(text, {HOST: "", PORT: 0}) == {HOST: host, PORT: 1}


def test_an_ipv6_host_in_a_string_gets_brackets() -> None:
    assert edit('etcd.addr = "a:1"', {HOST: "fd00::1"}) == 'etcd.addr = "[fd00::1]:1"'


def test_a_managed_port_is_the_port_of_a_new_address() -> None:
    assert edit("[etcd]\n", {HOST: "a", PORT: 7}) == '[etcd]\naddr = { host = "a", port = 7 }\n'


def test_a_port_that_its_form_cannot_hold_makes_a_table() -> None:
    out = edit('etcd.addr = "a:1"', {PORT: UNSET})
    assert tomllib.loads(out) == {"etcd": {"addr": {"host": "a"}}}


# --- edits ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "value", "after"),
    [
        ("a = 1 # c\n", ("a",), 2, "a = 2 # c\n"),
        ("a = 1", ("b",), 2, "a = 1\nb = 2\n"),
        ("# top\n\n# of a\n[a]\n", ("b",), 2, "# top\n\nb = 2\n\n# of a\n[a]\n"),
        ("[a]\n  x = 1\n# tail\n", ("a", "y"), 2, "[a]\n  x = 1\n  y = 2\n# tail\n"),
        ("[a]\n[b]\n", ("a", "y", "z"), 2, "[a]\ny = { z = 2 }\n[b]\n"),
        ("[a.b]\nx = 1\n", ("a", "y"), 2, "[a.b]\nx = 1\n\n[a]\ny = 2\n"),
        ("a.b.c = 1\n", ("a", "b", "d"), 2, "a.b.c = 1\na.b.d = 2\n"),
        ("a = { b.c = 1 }\n", ("a", "b", "d"), 2, "a = { b.c = 1, b.d = 2 }\n"),
        ("a = { b.c = 1 }\n", ("a", "b"), 2, "a = { b = 2 }\n"),
        ("b = 1\na.b.c = 1\n", ("a", "b"), 2, "b = 1\n\n[a]\nb = 2\n"),
        ("[a.b]\n[c]\n", ("a", "b"), 2, "[c]\n\n[a]\nb = 2\n"),
        ("a = {}\n", ("a", "b", "d"), 2, "a = { b = { d = 2 } }\n"),
        ("a = 1\r\n", ("b",), 2, "a = 1\r\nb = 2\r\n"),
        ("", ("a", "b"), "ü\n\t\x7f", '[a]\nb = "ü\\n\\t\\u007f"\n'),
        ("[a]\n", ("a", "b c"), [1, {"d e": [True]}], '[a]\n"b c" = [1, { "d e" = [true] }]\n'),
        ("[[a]]\nx = 1\n[b]\n", ("a", "y"), 2, "[b]\n\n[a]\ny = 2\n"),
        ("a = 1\nb = 2\n", ("a",), UNSET, "b = 2\n"),
        ("a = { x = 1, y = 2 }", ("a", "x"), UNSET, "a = { y = 2 }"),
        ("a = { x = 1, y = 2 }", ("a", "y"), UNSET, "a = { x = 1 }"),
        ("a = { y = 2 }", ("a", "y"), UNSET, "a = {}"),
        ("[a]\nx = 1\n\n# of b\n[b]\n", ("a",), UNSET, "\n# of b\n[b]\n"),
        ("[a]\nx = 1\n# of y\ny = 1\n", ("a", "x"), UNSET, "[a]\n# of y\ny = 1\n"),
        ("[[a.c]]\n[b]\n[a.d]\n", ("a",), UNSET, "[b]\n"),
    ],
)
def test_an_edit_touches_nothing_else(text: str, path: KeyPath, value: Any, after: str) -> None:
    assert edit(text, {path: value}) == after


def test_keys_in_arrays_of_tables_are_never_mistaken_for_managed_ones() -> None:
    text = "[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\nx = 3\n[b]\nx = 4\n"
    assert edit(text, {("b", "x"): 5}) == text.replace("4", "5")


def test_contradicting_values_write_nothing() -> None:
    with pytest.raises(Refused) as refused:
        edit("", {("a",): 1, ("a", "b"): 2})
    assert refused.value.reason == "EditFailed"
    assert "a" in refused.value.message


# --- the last good text ---------------------------------------------------

VALUES: Values = {
    HOST: "10.20.30.1",
    ID: "i-node01",
    ("agent", "rpc-listen-addr", "host"): "10.20.30.11",
    ("agent", "backend"): "docker",
    ("agent", "allow-compute-plugins"): ["ai.backend.accelerator.cuda_open"],
    ("container", "bind-host"): "10.20.30.11",
    ("watcher", "service-addr", "host"): "10.20.30.11",
    ("etcd", "password"): "not-a-real-one",
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("'docker'", '"podman"'),
        ("backend = 'docker'\n", ""),
        ('id = "i-node01"\n', "id = 1\n"),
        ('id = "i-node01"', 'id    =    "other"'),
        ('addr = { host = "10.20.30.1", port = 8121 }', "addr={host='x',port=8121}"),
        ('addr = { host = "10.20.30.1", port = 8121 }', "addr={ port = 8121 }"),
        ('addr = { host = "10.20.30.1", port = 8121 }\n', ""),
        ("10.20.30.11:6009", "x:6009"),
        ('service-addr = "10.20.30.11:6009"\n', ""),
        ('  "ai.backend.accelerator.cuda_open",  # the two cards\n', ""),
        (
            'allow-compute-plugins = [\n  "ai.backend.accelerator.cuda_open",  # the two cards\n'
            '  # "ai.backend.accelerator.mock",\n]\n',
            "allow-compute-plugins = ''\n",
        ),
        ('password = "not-a-real-one"  # rotated by hand, ticket 12', 'password = """\nx\n"""'),
        ('# The storage proxy sees these nodes under their ids.\nid = "i-node01"\n', "id = 'x'\n"),
    ],
)
def test_drift_of_managed_keys_leaves_no_trace(old: str, new: str) -> None:
    assert difference(HALFSTACK, VALUES) == ()
    spoiled = HALFSTACK.replace(old, new)
    repaired = edit(spoiled, VALUES, reference=HALFSTACK)
    if "# The storage" in old:  # the comment was not ours: its removal stays
        assert repaired == HALFSTACK.replace(old, 'id = "i-node01"\n')
    else:
        assert repaired == HALFSTACK


def test_a_managed_line_that_was_moved_comes_back() -> None:
    line = 'id = "i-node01"\n'
    moved = HALFSTACK.replace(line, "").replace("[debug]", f"[debug]\n{line}")
    moved = moved.replace('pid-file = "./agent.pid"\n', 'pid-file = "./agent.pid"\nid = "x"\n')
    out = edit(moved, VALUES, reference=HALFSTACK)
    # The one below [debug] is nobody's managed key.
    assert out == HALFSTACK.replace("[debug]", f"[debug]\n{line}")


def test_other_peoples_edits_stay_beside_repaired_drift() -> None:
    theirs = (
        HALFSTACK.replace('region = "local"\n', "region = 'mars' # moved\n# and this\n")
        .replace("[debug.coredump]\nenabled = false\n", "")
        .replace("[container]", "# where sessions run\n[container]")
    )
    drifted = theirs.replace('id = "i-node01"', 'id = "x" ').replace("'docker'", '"x"')
    assert edit(drifted, VALUES, reference=HALFSTACK) == theirs


def test_a_comment_that_a_hand_put_on_a_managed_line_stays() -> None:
    drifted = HALFSTACK.replace('id = "i-node01"', 'id = "x" # for the demo')
    out = edit(drifted, VALUES, reference=HALFSTACK)
    assert out == HALFSTACK.replace('id = "i-node01"', 'id = "i-node01" # for the demo')


def test_a_hand_edited_port_of_a_managed_address_stays() -> None:
    drifted = HALFSTACK.replace('"10.20.30.1", port = 8121', '"x", port = 9')
    out = edit(drifted, VALUES, reference=HALFSTACK)
    assert out == HALFSTACK.replace("port = 8121", "port = 9")


def test_a_table_of_managed_keys_comes_back_where_it_stood() -> None:
    reference = "[a]\nx = 1\n\n[b]\ny = 2 # mine\n\n[c]\nz = 3\n"
    assert edit("[a]\nx = 1\n\n[c]\nz = 3\n", {("b", "y"): 2}, reference=reference) == reference


def test_new_desired_values_win_over_the_reference() -> None:
    values = {**VALUES, ID: "i-node02"}
    drifted = HALFSTACK.replace('id = "i-node01"\n', "")
    expected = HALFSTACK.replace('"i-node01"', '"i-node02"')
    assert edit(drifted, values, reference=HALFSTACK) == expected


# --- what people may see --------------------------------------------------


def test_secrets_are_masked_on_both_sides() -> None:
    old = 'user = "u"\npassword = """\nold\nlines"""\n[x]\napi-key = [ "k1",\n "k2" ]\n'
    new = 'user = "v"\npassword = "new"\n[x]\napi-key = [ "k1",\n "k2" ]\n'
    text = diff(old, new, frozenset(), "/etc/agent.toml")
    assert not re.search(r"old|lines|new\b|k1|k2", text)
    assert '-user = "u"' in text
    assert '+user = "v"' in text
    assert '-password = "***"' in text
    assert '+password = "*** (another value)"' in text


@pytest.mark.parametrize(
    "text",
    [
        'a = { Password = "hunter2" }',
        'a = [ { b = { my-TOKEN = "hunter2" } } ]',
        '[[a]]\n[a.credentials]\nx.y = "hunter2"',
        "ssh-key = '''\nhunter2'''",
        '# password = "hunter2"',
        "a = [ # token: hunter2\n]",
        'etcd.motd = "hunter2"',
        'etcd = { motd = { x = "hunter2" } }',
        'secrets = [\n# hunter2\n"hunter2"]',
    ],
)
def test_every_secret_is_found(text: str) -> None:
    assert "hunter2" not in diff(text, "", {("etcd", "motd")}, "f")
    assert "hunter2" not in diff(None, text, {("etcd", "motd")}, "f")


@pytest.mark.parametrize("old", ['password = "hunter2', "hunter2 = \n", "a = hunter2"])
def test_what_is_not_toml_is_not_quoted(old: str) -> None:
    text = diff(old, "a = 1\n", frozenset(), "f")
    assert "hunter2" not in text
    assert "not valid TOML" in text


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('token = "x"', True),
        ('token = ""', False),
        ("use-token = true", False),
        ('x = "y"', False),
        ('motd = "x"', True),
        ('# token = "x"', False),
    ],
)
def test_a_file_holds_a_secret(text: str, holds: bool) -> None:
    assert holds_secret(text, {("motd",)}) is holds


@pytest.mark.parametrize(
    "raw", [b"", b" \r\n\t", b"a", b"a = \xff", b"\xef\xbb\xbfa = 1", b"a=" + b"[" * 20_000]
)
def test_broken_content(raw: bytes) -> None:
    assert not is_usable(raw)


@pytest.mark.parametrize("raw", [b"# only this", b"a = 1", b"[a]\r\n"])
def test_usable_content(raw: bytes) -> None:
    assert is_usable(raw)


# --- any document ---------------------------------------------------------

NAMES = st.sampled_from(
    ["etcd", "addr", "agent", "id", "host", "port", "a b", "x", "ü", 'q"\\', ""]
)
SCALARS = st.sampled_from(
    [
        "1", "0x_f".replace("_", ""), "1_000", "-0.0", "1e3", "inf", "true", "2024-02-29",
        "2024-02-29 10:00:00.5Z", "07:32:00", '"a#b"', "'c\\'", '"\\"]}"', "'''\n[x]\n# no\n'''",
        '"""\\"""a""\n  y = 1\n"""""', '"10.0.0.1:1"', '["h", 2]', '""',
    ]
)  # fmt: skip
COMMENTS = st.sampled_from(["", "", "", " # c1", "\t# 'c2\"", " # x = { ["])


@st.composite
def spelled_keys(draw: st.DrawFn) -> str:
    name = draw(NAMES)
    if re.fullmatch(r"[\w-]+", name, re.ASCII) and draw(st.booleans()):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f"'{name}'" if draw(st.booleans()) else f'"{escaped}"'


@st.composite
def dotted_keys(draw: st.DrawFn) -> str:
    separator = draw(st.sampled_from([".", " . "]))
    return separator.join(draw(st.lists(spelled_keys(), min_size=1, max_size=3)))


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joints = st.sampled_from([", ", ",\n  ", ",# in 'an array\n", " , "])
    return st.builds(lambda joint, items: f"[{joint.join(items)}]", joints, st.lists(values))


@st.composite
def inline_tables(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(dotted_keys(), values), max_size=3))
    return "{ " + ", ".join(f"{key} = {value}" for key, value in pairs) + " }"


VALUE_TEXTS = st.recursive(SCALARS, lambda v: arrays(v) | inline_tables(v), max_leaves=5)


@st.composite
def statements(draw: st.DrawFn) -> str:
    indent = draw(st.sampled_from(["", "", "  ", "\t"]))
    comment = draw(COMMENTS)
    match draw(st.sampled_from(["pair"] * 4 + ["table"] * 2 + ["item", "blank"])):
        case "pair":
            return f"{indent}{draw(dotted_keys())} = {draw(VALUE_TEXTS)}{comment}"
        case "table":
            return f"{indent}[{draw(dotted_keys())}]{comment}"
        case "item":
            return f"{indent}[[{draw(dotted_keys())}]]{comment}"
        case _:
            return indent + comment.strip()


def is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except ValueError:
        return False
    return True


@st.composite
def documents(draw: st.DrawFn, start: str = "") -> str:
    """TOML documents: behind `start` statements; one that would make it invalid is left out."""
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    text = start
    for statement in draw(st.lists(statements(), max_size=14)):
        longer = text + (statement + "\n").replace("\n", newline)
        text = longer if is_toml(longer) else text
    return text.removesuffix(newline) if draw(st.booleans()) else text


DESIRED = st.one_of(
    st.just(UNSET),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    st.dates(),
    st.just({}),
    st.lists(st.one_of(st.integers(), st.dictionaries(NAMES, st.integers(), max_size=2))),
)


@st.composite
def desires(draw: st.DrawFn) -> Values:
    """Values of which none speaks of a place within another's."""
    values: dict[KeyPath, Any] = {}
    paths = st.lists(NAMES.filter(bool), min_size=1, max_size=3).map(tuple)
    for path in draw(st.lists(paths | st.sampled_from([HOST, PORT, ID]), max_size=4)):
        if not any(path[: len(p)] == p or p[: len(path)] == path for p in values):
            values[path] = draw(DESIRED)
    return values


def comments_of(text: str, values: Values) -> list[str]:
    """Every comment but those on the lines of what is managed, or has to make way for it."""
    comments: list[str] = []
    for s in scan(text):
        place = s.node.place if s.node else s.section if s.is_header else ()
        names = tuple(itertools.takewhile(lambda name: isinstance(name, str), place))
        if not any(names and p[: len(names)] == names[: len(p)] for p in owned(values)):
            comments += (text[start:end] for start, end in s.comments)
    return comments


@many(100)
@given(documents())
def test_statements_make_up_the_text_and_nodes_its_values(text: str) -> None:
    assert "".join(text[s.start : s.end] for s in scan(text)) == text
    for node in nodes(text).values():
        here = value_at(tomllib.loads(text), node.place)
        assert is_same(here, tomllib.loads(f"_={text[node.value : node.end]}")["_"])


@many(100)
@given(documents(), desires())
def test_an_edit_changes_what_is_managed_and_nothing_else(text: str, values: Values) -> None:
    out = edit(text, values)
    assert difference(out, values) == ()
    assert edit(out, values) == out
    left = list(comments_of(out, values))
    for comment in comments_of(text, values):
        left.remove(comment)


@st.composite
def drifts(draw: st.DrawFn) -> tuple[str, str, Values]:
    """A text, the same with some of its keys deleted or changed, and what these keys are."""
    # Now and then behind a file as it really occurs.
    start = draw(st.sampled_from(["", "", "", "", HALFSTACK, BY_HAND]))
    reference = draw(documents(start))
    pairs = [s for s in scan(reference) if s.node and is_path(s.node.place)]
    document = tomllib.loads(reference)
    values: dict[KeyPath, Any] = {}
    drifted = reference
    for s in draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []:
        assert s.node
        value = value_at(document, s.node.place)
        if value != {}:  # of an empty table, only that it is there would be managed
            values[tuple(map(str, s.node.place))] = value
    for s in reversed(pairs):
        assert s.node
        if s.node.place in values and draw(st.booleans()):
            other = draw(VALUE_TEXTS.filter(lambda value: "#" not in value))
            changed = reference[s.start : s.node.value] + other + reference[s.node.end : s.end]
            line = draw(st.sampled_from(["", changed]))
            longer = drifted[: s.start] + line + drifted[s.end :]
            drifted = longer if is_toml(longer) else drifted
    return reference, drifted, values


def value_at(document: Any, place: tuple[str | int, ...]) -> Any:
    return functools.reduce(lambda table, name: table[name], place, document)


def is_path(place: tuple[str | int, ...]) -> bool:
    return all(isinstance(name, str) for name in place)


@many(100)
@given(drifts())
@example(('"x" = 1', "", {("x",): 1}))
def test_drift_of_managed_keys_alone_is_undone_byte_by_byte(case: tuple[str, str, Values]) -> None:
    reference, drifted, values = case
    assert difference(reference, values) == ()
    if difference(drifted, values):
        assert edit(drifted, values, reference=reference) == reference
    else:
        assert edit(drifted, values, reference=reference) == drifted


@many(100)
@given(documents(), documents(), desires())
def test_any_reference_is_safe(text: str, other: str, values: Values) -> None:
    reference = edit(other, values)
    out = edit(text, values, reference=reference)
    assert difference(out, values) == ()
    assert edit(out, values, reference=reference) == out
    if difference(text, values) == ():
        assert out == text


@many(100)
@given(documents())
def test_a_masked_diff_shows_every_change_of_other_keys(text: str) -> None:
    shown = diff(None, text, frozenset(), "f")
    plain = [line for line in text.splitlines() if "#" not in line and line]
    assert all(f"+{line}" in shown for line in plain)
