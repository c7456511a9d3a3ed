"""What is kept on disk: journal and orders; and what must not leave the process."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import structlog

from bai_nodeagent import logs
from bai_nodeagent.address import Kept
from bai_nodeagent.core.status import Applied
from bai_nodeagent.desired import MASK
from bai_nodeagent.follow import journal, orders
from bai_nodeagent.follow.journal import Journal
from bai_nodeagent.follow.reading import secrets_of
from bai_nodeagent.kinds.agent import rollback_order
from bai_nodeagent.kinds.agent.given import Given
from bai_nodeagent.redact import KEPT_AT_MOST, SECRETS_AT_MOST, Redactor, strings_in
from bai_nodeagent.system import kept, own_file
from bai_nodeagent.text import clean
from unit.fakes import node_spec

FULL = Journal(
    "i-1", 7, "epoch", {"desired/cluster": b"\x00\xff", "secret/cluster/a": b"s"},
    {"desired/cluster": 5}, ("gpu",), True, Applied(7, "sha256:a", "t"),
)  # fmt: skip


def test_a_journal_comes_back_as_it_was_and_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    kept.write(path, journal.encode(FULL))
    assert journal.load(path, "i-1") == FULL
    assert path.stat().st_mode & 0o777 == 0o600
    assert journal.snapshot(FULL).entries["desired/cluster"].revision == 5


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"format": 99}', b"\xff", b'{"format": 1}'])
def test_a_journal_that_can_not_be_read_is_set_aside_and_never_deleted(
    tmp_path: Path, raw: bytes
) -> None:
    path = tmp_path / journal.NAME
    path.write_bytes(raw)
    with pytest.raises(own_file.Unreadable):
        journal.peek(path, "i-1")
    assert journal.load(path, "i-1") == Journal("i-1")
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("journal.json.unreadable-")
    assert aside.read_bytes() == raw


def test_a_journal_lasts_without_the_secrets_that_only_a_kind_names() -> None:
    text = b"api-version = 1\nagent.env.A = { secret = 'api' }\nswarm.token = 'worker'"
    names = ("desired/cluster", "secret/cluster/api", "secret/cluster/worker")
    raw = dict(zip(names, (text, b"password", b"token"), strict=True))
    lasting = journal.lasting(Journal("i-1", raw=raw, revisions=dict.fromkeys(names, 5)))
    assert lasting.raw == {name: raw[name] for name in names[:2]}
    assert lasting.revisions.keys() == lasting.raw.keys()
    assert journal.lasting(lasting) == lasting
    assert journal.snapshot(lasting).is_journaled


def test_the_journal_of_another_node_is_not_acted_on(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    kept.write(path, journal.encode(FULL))
    assert journal.load(path, "i-2") == Journal("i-2")


def test_a_pause_holds_until_its_time_or_resume(tmp_path: Path) -> None:
    assert orders.current_pause(tmp_path, 0) is None
    orders.pause(tmp_path, 100.0)
    assert orders.current_pause(tmp_path, 99.0) == orders.Pause(100.0)
    assert orders.current_pause(tmp_path, 100.0) is None
    orders.pause(tmp_path, None)
    assert orders.current_pause(tmp_path, 1e11) == orders.Pause()
    orders.resume(tmp_path)
    orders.resume(tmp_path)
    assert orders.current_pause(tmp_path, 0) is None


SPOILT = [b"", b"\xff", b"garbage", b"[]", b"{}", b'{"until": "x"}', b'{"until": 1e300}', None]


@pytest.mark.parametrize("raw", SPOILT)
def test_a_pause_that_can_not_be_read_is_a_pause_and_reports_why(
    tmp_path: Path, raw: bytes | None
) -> None:
    path = tmp_path / orders.PAUSE
    path.mkdir() if raw is None else path.write_bytes(raw)
    found = orders.current_pause(tmp_path, 0)
    assert found is not None
    assert found.until_s is None
    assert str(path) in found.fault
    orders.resume(tmp_path)
    assert orders.current_pause(tmp_path, 0) is None


@pytest.mark.parametrize(
    ("until_s", "observe_in_s"), [(None, None), (10.0, 10.0), (90_000.0, 60.0), (-5.0, 0.0)]
)
def test_the_end_of_a_pause_follows_the_clock_as_it_is_set(
    until_s: float | None, observe_in_s: float | None
) -> None:
    assert orders.Pause(until_s).observe_in_s(0.0) == observe_in_s


@pytest.mark.parametrize("name", [orders.ADDRESS, rollback_order.NAME])
@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b'{"rule": 1, "address": []}', b"[" * 9999])
def test_an_order_that_can_not_be_read_is_none_and_set_aside_by_the_daemon(
    tmp_path: Path, name: str, raw: bytes
) -> None:
    (tmp_path / name).write_bytes(raw)
    assert orders.kept_address(tmp_path) is None
    assert rollback_order.current(tmp_path) is None
    assert (tmp_path / name).exists()
    orders.tidy(tmp_path)
    assert not (tmp_path / name).exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_kept_address_is_forgotten_by_rebind(tmp_path: Path) -> None:
    orders.keep_address(tmp_path, Kept("auto", "10.0.0.1"))
    assert orders.kept_address(tmp_path) == Kept("auto", "10.0.0.1")
    orders.rebind(tmp_path)
    assert orders.kept_address(tmp_path) is None


def test_every_known_secret_is_masked_old_ones_too_and_in_every_spelling() -> None:
    redactor = Redactor()
    redactor.learn(['pa"ss\\word', "line-one\nline-two"])
    redactor.learn(["newer-secret"])
    reported = 'x pa"ss\\word pa\\"ss\\\\word line-two newer-secret'
    assert redactor(reported) == "x ******** ******** ******** ********"
    assert redactor.value({"a": ["newer-secret", 1]}) == {"a": ["********", 1]}


def test_of_secrets_that_others_lay_down_the_newest_are_masked() -> None:
    """Each costs time of every text, and an edit of agent.toml may bring thousands."""
    redactor = Redactor()
    redactor.learn(["of-a-document"])
    redactor.learn_passing(["the-oldest"])
    redactor.learn_passing([f"passing-{number:05}" for number in range(KEPT_AT_MOST)])
    assert redactor("of-a-document") == MASK
    assert redactor("the-oldest") == "the-oldest"
    assert redactor("passing-00001 passing-00002") == f"{MASK} {MASK}"
    assert redactor.value({"a": "passing-00002"}) == {"a": MASK}
    redactor.learn_passing(["abc"])
    assert (redactor("x=abc y"), redactor("abcd")) == (f"x={MASK} y", "abcd")


def test_of_secrets_of_documents_the_newest_are_masked_and_those_in_force_are_among_them() -> None:
    """Whoever may put the node's own document may put a thousand, one after the other."""
    redactor = Redactor()
    redactor.learn(["the-oldest"])
    for number in range(KEPT_AT_MOST):
        redactor.learn(["in-all-of-them", f"in-one-{number:05}"])
    assert redactor("the-oldest") == "the-oldest"
    assert redactor("in-all-of-them in-one-00500") == f"{MASK} {MASK}"


def test_so_many_bytes_of_secrets_that_others_lay_down_are_masked() -> None:
    redactor = Redactor()
    redactor.learn_passing(["the-oldest"])
    for number in range(40):
        redactor.learn_passing([f"{number:02}" + "\U000e0001" * 4_000])
    assert redactor("the-oldest") == "the-oldest"
    assert redactor("39" + "\U000e0001" * 4_000) == MASK


@pytest.mark.parametrize("count", [SECRETS_AT_MOST, SECRETS_AT_MOST + 1])
def test_more_secrets_than_can_be_masked_are_not_learnt_and_texts_are_not_shown(
    tmp_path: Path, count: int
) -> None:
    known: set[str] = set()
    given = Given(tmp_path, known.update)
    words = ", ".join(f'"word{number:05}"' for number in range(count))
    assert given.observe(f"[x]\ntokens = [{words}]") is (count <= SECRETS_AT_MOST)
    assert len(known) == (count if count <= SECRETS_AT_MOST else 0)


def test_each_line_of_a_secret_counts_since_each_is_masked(tmp_path: Path) -> None:
    lines = "\\n".join(f"line{number}" for number in range(SECRETS_AT_MOST))
    assert not Given(tmp_path, set[str]().update).observe(f'[x]\ntoken = "{lines}"')


def test_a_secret_within_a_longer_one_leaves_no_rest() -> None:
    redactor = Redactor()
    redactor.learn(["abcd", "abcdefgh"])
    assert redactor("abcdefgh") == "********"


def test_a_secret_is_masked_in_every_form_in_which_programs_write_it() -> None:
    secret = 'p@ss/w"ö\\rd+ x\u202ey'
    redactor = Redactor()
    redactor.learn([secret])
    for form in (
        secret,
        clean(secret),
        repr(secret),
        json.dumps(secret),
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        secret.encode().hex(),
        *(base64.b64encode(f"{user}:{secret}".encode()).decode() for user in ("a", "ab", "abc")),
        base64.urlsafe_b64encode(secret.encode()).decode(),
    ):
        reported = redactor(f"x {form} y")
        assert "********" in reported, form
        assert len(reported) < 30, reported


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://user:hunter2@h:1/0", "redis://********@h:1/0"),
        ("https://ghp_abcdef@github.com/x and y@z", "https://********@github.com/x and y@z"),
        ("https://h/p?x=a@b", "https://h/p?x=a@b"),
        ("-o username=u,password=hunter2,ro", "-o username=u,password=********,ro"),
        ("credentials=/etc/cred,vers=3", "credentials=********,vers=3"),
        ("pip --token=hunter2 install", "pip --token=******** install"),
        ("x --auth-token hunter2 install", "x --auth-token ******** install"),
        ("DB_PASSWORD='hunter 2' run", "DB_PASSWORD='********' run"),
        ('{"api-key": "hunter2", "b": 1}', '{"api-key": "********", "b": 1}'),
        (r'"{\"password\": \"hunter2\"}"', r'"{\"password\": \"********\"}"'),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ********"),
        ('password = "hunter2"', 'password = "********"'),
        ('+password = "*** (another value)"', '+password = "*** (another value)"'),
        ("tokenizers==0.19.1", "tokenizers==0.19.1"),
        ("token==1", "token==1"),
        ("{ secret = NAME } may replace it", "{ secret = NAME } may replace it"),
        ("cluster: a.TOKEN: there is no secret x", "cluster: a.TOKEN: there is no secret x"),
        ("store.password-file: no such file", "store.password-file: no such file"),
    ],
)
def test_what_names_itself_a_secret_is_masked_unlearnt(text: str, expected: str) -> None:
    redactor = Redactor()
    assert redactor(text) == expected
    assert redactor(expected) == expected


def test_a_short_secret_is_masked_where_it_is_a_value_of_its_own() -> None:
    redactor = Redactor()
    redactor.learn(["abc"])
    assert redactor("abcdef abc x") == "abcdef abc x"
    assert redactor("opt=abc, 'abc' and \"abc\"") == "opt=********, '********' and \"********\""
    assert redactor("abc") == redactor.value("abc") == "********"


def test_lines_of_a_secret_that_say_nothing_are_left_in_other_texts() -> None:
    redactor = Redactor()
    redactor.learn(['{\n    \n    "key": "hunter2-a"\n}\n'])
    assert redactor('{"a": 1}\n    b') == '{"a": 1}\n    b'
    assert "hunter2" not in redactor('it says: `    "key": "hunter2-a"`')


@pytest.mark.parametrize("text", ["a" * 64_000, "-" * 64_000, "token=" * 10_000, "://" * 20_000])
def test_masking_takes_no_time_by_the_square(text: str) -> None:
    started_s = time.process_time()
    Redactor()(text)
    assert time.process_time() - started_s < 5


def test_keys_and_our_own_words_of_a_log_line_stay_whatever_a_secret_is(
    capfd: pytest.CaptureFixture[str],
) -> None:
    redactor = Redactor()
    words = ("event", "level", "timestamp", "info", "it.happened", "Blocked")
    redactor.learn(["\n".join(("-----BEGIN KEY-----", *words, "-----END KEY-----"))])
    logs.configure("info", "json", redactor)
    structlog.get_logger().info(
        "it.happened", reason="Blocked", said="the event was Blocked", path=Path("/\udcff\x1b")
    )
    structlog.reset_defaults()
    logs.flush()
    line = json.loads(capfd.readouterr().err)
    assert line.pop("timestamp")
    assert line == {
        "event": "it.happened",
        "level": "info",
        "reason": "Blocked",
        "said": "the ******** was ********",
        "path": r"/\xff\x1b",
    }


def test_no_line_on_a_console_resembles_ours(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console", Redactor())
    words = "a\n12:00:00 [error] forged\x1b[2J\u202e"
    try:
        int(words)
    except ValueError:
        structlog.get_logger().exception("it.happened", said=words)
    structlog.reset_defaults()
    logs.flush()
    first, *rest = capfd.readouterr().err.splitlines()
    assert "it.happened" in first
    assert all(line.startswith("    | ") for line in rest[1:])
    assert "".join([first, *rest]).isprintable()


def test_secrets_of_a_state_are_its_values_and_not_their_names() -> None:
    document = {
        "agent": {"env": {"TOKEN": "literal-token", "A_KEY": {"secret": "name"}, "LANG": "C"}},
        "agent-config": {"values": {"etcd": {"password": "literal-password"}}},
    }
    spec = replace(
        node_spec(),
        document=document,
        secrets={"name": "referred"},
        agent_values={("watcher", "token"): ["in-list"]},
        secret_paths=frozenset({("watcher", "token")}),
    )
    found = sorted(secrets_of(spec, ()))
    assert found == ["in-list", "literal-password", "literal-token", "referred"]


def test_strings_are_found_at_any_depth() -> None:
    assert sorted(strings_in({"a": ["x", {"b": "y"}], "c": 3})) == ["x", "y"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_log_shows_a_secret_not_even_in_a_traceback(
    capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    redactor = Redactor()
    redactor.learn(["hunter2-secret"])
    logs.configure("info", log_format, redactor)
    log = structlog.get_logger()
    local = "hunter2-secret"
    try:
        int(local)
    except ValueError:
        log.exception("went.wrong", detail={"nested": ["hunter2-secret"]})
    structlog.reset_defaults()
    logs.flush()
    text = capfd.readouterr().err
    assert "went.wrong" in text
    assert "ValueError" in text
    assert "hunter2-secret" not in text
    if log_format == "json":
        assert json.loads(text)["level"] == "error"


def test_a_secret_that_was_replaced_is_known_until_the_next_start(tmp_path: Path) -> None:
    known: set[str] = set()
    given = Given(tmp_path, known.update)
    given.observe('[etcd]\npassword = "first-one"\nuser = "u"\n[x]\ntokens = ["in-list", 5]')
    assert known == {"first-one", "in-list"}
    given.replaced('[etcd]\npassword = "first-one"', ())
    given.replaced('[etcd]\npassword = "second-one"\n[a]\nb = "by-name"', [("a", "b")])
    kept.flush(10)
    assert (tmp_path / "agent-secrets.json").stat().st_mode & 0o777 == 0o600
    known.clear()
    Given(tmp_path, known.update).observe('[etcd]\npassword = "third-one"')  # the next daemon
    assert known == {"first-one", "second-one", "by-name", "third-one"}
    given.begin()
    known.clear()
    Given(tmp_path, known.update).observe("not TOML")
    assert known == set()
