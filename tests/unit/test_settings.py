from __future__ import annotations

from pathlib import Path

import pytest

from bai_nodeagent import identity, settings
from bai_nodeagent.settings import InvalidSettings


def load(tmp_path: Path, text: str, **environment: str) -> settings.Settings:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return settings.load(file, {f"BAI_NODEAGENT_{k}": v for k, v in environment.items()})


def mistakes(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load(tmp_path, text, **environment)
    return caught.value.mistakes


def test_defaults(tmp_path: Path) -> None:
    found = load(tmp_path, "")
    assert found.store.url == "file:/var/lib/bai-nodeagent/store"
    assert (found.cluster, found.listen) == ("local", ("127.0.0.1", 9431))
    assert found.node_id is None


def test_the_default_store_lies_below_the_state_folder(tmp_path: Path) -> None:
    assert load(tmp_path, '[paths]\nstate = "/srv/x"').store.url == "file:/srv/x/store"


def test_environment_goes_before_the_file(tmp_path: Path) -> None:
    text = 'node-id = "i-file"\ngroups = ["a"]\n[store]\nurl = "etcd://a:1"'
    found = load(tmp_path, text, NODE_ID="i-Env", GROUPS="gpu, big", STORE_URL="etcd://[::1]:2,b:3")
    assert (found.node_id, found.groups) == ("i-Env", ("gpu", "big"))
    assert found.store.url == "etcd://[::1]:2,b:3"


def test_every_mistake_is_reported_with_its_place_and_what_is_allowed(tmp_path: Path) -> None:
    text = """
nodeid = "x"
cluster = "Über"
groups = "gpu"
[permit]
mount = true
[store]
url = "http://x"
uri = "etcd://x"
[http]
listen = 9431
[log]
level = "loud"
[paths]
state = "relative"
"""
    found = "\n".join(mistakes(tmp_path, text, LOG_FORMATT="json"))
    for part in (
        "config.toml: nodeid: is an unknown key; allowed: [http], [log], [paths], [store], cluster"
        ", groups, node-id; did you mean node-id?",
        "config.toml: store.uri: is an unknown key; allowed: store.allow-plaintext, store.ca, ",
        "config.toml: permit: is not supported yet",
        'cluster: "Über" is not allowed; allowed: a name',
        'groups: "gpu" is not allowed; allowed: a list',
        'store.url: "http://x" is not allowed; allowed: etcd://',
        "http.listen: 9431 is not allowed; allowed: HOST:PORT",
        'log.level: "loud" is not allowed; allowed: debug, info',
        'paths.state: "relative" is not allowed; allowed: an absolute path',
        "environment: BAI_NODEAGENT_LOG_FORMATT: is an unknown variable; did you mean",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('cert = "{f}"\nkey = "{f}"', "without store.ca"),
        ('ca = "{f}"\ncert = "{f}"', "store.cert: is given without store.key"),
        ('ca = "{f}"\nkey = "{f}"', "store.key: is given without store.cert"),
        ('user = "u"', "store.user: is given without store.password-file"),
        ('password-file = "{f}"', "store.password-file: is given without store.user"),
        ('user = "u"\npassword-file = "{f}"', "plain text"),
        ('ca = "/nowhere/ca.pem"', "no such file"),
        ("ca = 3", "absolute path"),
    ],
)
def test_unsafe_combinations_are_refused(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "f"
    file.touch()
    text = text.replace("{f}", str(file))
    found = mistakes(tmp_path, f'[store]\nurl = "etcd://a:1"\n{text}')
    assert part in "\n".join(found)
    assert all(line.startswith(f"{tmp_path}/config.toml: store.") for line in found)


def test_a_contradiction_names_the_source_of_its_key(tmp_path: Path) -> None:
    found = mistakes(tmp_path, '[store]\nurl = "etcd://a:1"', STORE_USER="u")
    assert all(
        line.startswith("environment: BAI_NODEAGENT_STORE_USER: store.user: ") for line in found
    )


@pytest.mark.parametrize(
    "url", ["etcd://root:geheim@a:1", "http://root:geheim@a:1", "root:geheim@a"]
)
def test_a_password_in_the_url_is_refused_and_not_quoted(tmp_path: Path, url: str) -> None:
    (line,) = mistakes(tmp_path, f'[store]\nurl = "{url}"')
    assert "geheim" not in line
    assert "store.password-file instead" in line


def test_a_value_in_the_place_of_a_table_is_reported_as_such(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, 'http = "x"')
    assert "http: is not a table; allowed: a table [http]" in line


def test_a_password_over_plaintext_can_be_allowed(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    text = (
        f'[store]\nurl = "etcd://a:1"\nuser = "u"\npassword-file = "{file}"\nallow-plaintext = true'
    )
    assert load(tmp_path, text).store.allow_plaintext


def test_a_named_file_must_exist_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no such file"):
        settings.load(tmp_path / "none.toml", {})
    assert "is not TOML" in mistakes(tmp_path, "a = [")[0]


def resolve(
    tmp_path: Path, configured: str | None = None, hostname: str = "host"
) -> identity.Identity:
    kept_in = tmp_path / "node-id"
    kept = identity.parse(kept_in.read_bytes()) if kept_in.exists() else None
    return identity.resolve(configured, hostname, kept)


def test_identity_is_configured_or_follows_the_hostname(tmp_path: Path) -> None:
    assert resolve(tmp_path, "i-X1").node_id == "i-X1"
    assert resolve(tmp_path).node_id == "i-host"


def test_an_identity_that_would_change_is_kept_and_reported(tmp_path: Path) -> None:
    (tmp_path / "node-id").write_text("i-host\n")
    assert resolve(tmp_path) == identity.Identity("i-host")
    assert resolve(tmp_path, hostname="other") == identity.Identity("i-host", "i-other")
    assert resolve(tmp_path, "i-new") == identity.Identity("i-host", "i-new")


def test_an_agent_toml_that_is_there_names_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "agent.toml"
    monkeypatch.setattr(identity, "AGENT_TOML", file)
    file.write_text('[agent]\nid = "i-old"')
    assert resolve(tmp_path).node_id == "i-old"
    file.write_text("broken = [")
    assert resolve(tmp_path).node_id == "i-host"


def test_an_agent_toml_with_no_id_at_all_ends_no_daemon_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "agent.toml"
    monkeypatch.setattr(identity, "AGENT_TOML", file)
    file.write_text('[agent]\nid = "no id\\u0007"')
    with pytest.raises(identity.NoIdentity, match="no allowed id"):
        resolve(tmp_path)
    (tmp_path / "node-id").write_text("i-kept\n")
    assert resolve(tmp_path) == identity.Identity("i-kept", r"no id\x07")


@pytest.mark.parametrize(
    ("dmi", "expected"),
    [
        ({"sys_vendor": "Amazon EC2", "board_asset_tag": "i-0abc123"}, "i-0abc123"),
        ({"sys_vendor": "Amazon EC2"}, None),
        ({"product_name": "Google Compute Engine"}, None),
        ({"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"}, None),
        ({"sys_vendor": "Dell Inc."}, "i-host"),
        ({"sys_vendor": b"\xff\xfe", "product_name": b"caf\xe9"}, "i-host"),
    ],
)
def test_on_a_cloud_the_id_is_the_instances_or_has_to_be_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dmi: dict[str, str | bytes],
    expected: str | None,
) -> None:
    monkeypatch.setattr(identity, "DMI", tmp_path)
    for name, text in dmi.items():
        raw = text if isinstance(text, bytes) else f"{text}\n".encode()
        (tmp_path / name).write_bytes(raw)
    if expected:
        assert resolve(tmp_path).node_id == expected
    else:
        with pytest.raises(identity.NoIdentity, match="set node-id"):
            resolve(tmp_path)


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ('[store]\nurl = "file:/s"\nkey = "hunter2"\npassword-file = 5', {}),
        ('[store]\nurl = "etcd//u:hunter2@h"', {}),
        ('[store]\npassword = "hunter2"', {}),
        ('store = "etcd://u:hunter2@h"', {}),
        ("", {"STORE_PASSWORD_FILE": "hunter2"}),
        ("", {"STORE_KEY": "/hunter2", "STORE_URL": "file:/s"}),
        ("", {"STORE_URL": "http://u:hunter2@h"}),
    ],
)
def test_no_mistake_quotes_a_secret(tmp_path: Path, text: str, environment: dict[str, str]) -> None:
    reported = mistakes(tmp_path, text, **environment)
    assert reported
    assert "hunter2" not in "".join(reported)


def test_what_a_mistake_quotes_is_printable_and_short(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "", NODE_ID="\udcff\x1b" + "x" * 5000)
    assert line.isprintable()
    assert len(line) < 500
