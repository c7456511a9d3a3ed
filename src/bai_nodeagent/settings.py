"""The daemon's own configuration: option before environment before file before default.

Every mistake is found at once and reported as `SOURCE: key: found; allowed`, since
an admin who has to start five times to learn of five mistakes stops reading.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .desired.secrecy import is_secret_key
from .errors import Refused
from .etcd_access import parse_endpoints
from .system import files
from .text import clean

DEFAULT_FILE = Path("/etc/bai-nodeagent/config.toml")
ENVIRONMENT = "environment"
ENVIRONMENT_PREFIX = "BAI_NODEAGENT_"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "console", "json")
LARGEST = 1 << 20
QUOTED_AT_MOST = 200
LATER = ("permit",)
"""Sections that are reserved: no daemon knows them yet."""


class InvalidSettings(Exception):
    """The configuration is wrong; `mistakes` holds a line for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True)
class StoreSettings:
    """Where the store is. `url` is "etcd://h1:p,h2:p" or "file:DIR"."""

    url: str
    prefix: str = "/bai-nodeagent"
    user: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    allow_plaintext: bool = False

    @property
    def folder(self) -> Path | None:
        """None where the store is an etcd."""
        return Path(self.url.removeprefix("file:")) if self.url.startswith("file:") else None


@dataclass(frozen=True)
class Settings:
    """The checked configuration. `node_id` is None where the default has to be found out."""

    store: StoreSettings
    node_id: str | None = None
    cluster: str = "local"
    groups: tuple[str, ...] = ()
    listen: tuple[str, int] = ("127.0.0.1", 9431)
    state: Path = Path("/var/lib/bai-nodeagent")
    runtime: Path = Path("/run/bai-nodeagent")
    log_level: str = "info"
    log_format: str = "auto"


class _Wrong(Exception):
    """What is allowed, and what was `found` where that may be quoted."""

    def __init__(self, allowed: str, *found: object) -> None:
        super().__init__(allowed)
        self._found = found

    def sentence(self, name: str) -> str:
        """For the key of that name: what belongs to a secret is not quoted."""
        if not self._found:
            return str(self)
        is_secret = is_secret_key(name)
        text = json.dumps(self._found[0], ensure_ascii=False, default=str)
        quoted = "what it has" if is_secret else clean(text, QUOTED_AT_MOST)
        return f"{quoted} is not allowed; allowed: {self}"


@dataclass(frozen=True)
class _Key:
    """One key of the file: how its value is checked, from TOML or from the environment."""

    check: Callable[[Any], Any]
    default: Any = None
    from_text: Callable[[str], Any] = field(default=lambda text: text)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Wrong("a text that is not empty", value)
    return value


def _name(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not pattern.match(value):
            raise _Wrong(f"a name of the form {pattern.pattern[:-2]}", value)
        return value

    return check


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Wrong("a list of names", value)
    return tuple(_name(NAME)(each) for each in value)


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or ".." in Path(value).parts:
        raise _Wrong('an absolute path without ".."', value)
    return Path(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true, false", value)
    return value


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise _Wrong(", ".join(allowed), value)
        return str(value)

    return check


def _address(value: Any) -> tuple[str, int]:
    match = re.match(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):(\d+)\Z", str(value))
    if not isinstance(value, str) or not match or not 0 <= int(match[3]) <= 65535:
        raise _Wrong("HOST:PORT, with an IPv6 address in brackets", value)
    return match[1] or match[2], int(match[3])


def _store_url(value: Any) -> str:
    text = _text(value)
    if text.startswith("file:") and text[5:].startswith("/") and ".." not in Path(text[5:]).parts:
        return text
    if "@" in text:  # not quoted: it may hold a password
        raise _Wrong("has a user in the URL; give store.user and store.password-file instead")
    if text.startswith("etcd://"):
        try:
            parse_endpoints(text)
        except ValueError as error:
            raise _Wrong(str(error)) from error
        return text
    raise _Wrong("etcd://HOST:PORT,… and file:/ABSOLUTE/FOLDER", text)


def _prefix(value: Any) -> str:
    text = _text(value)
    if not text.startswith("/") or text.endswith("/") or "//" in text:
        raise _Wrong("a text that begins with / and does not end with one", text)
    return text


def _as_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _as_flag(text: str) -> Any:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)


KEYS: Mapping[str, _Key] = {
    "node-id": _Key(_name(NODE_ID)),
    "cluster": _Key(_name(NAME), "local"),
    "groups": _Key(_names, (), _as_list),
    "store.url": _Key(_store_url),
    "store.prefix": _Key(_prefix, "/bai-nodeagent"),
    "store.user": _Key(_text),
    "store.password-file": _Key(_path),
    "store.ca": _Key(_path),
    "store.cert": _Key(_path),
    "store.key": _Key(_path),
    "store.allow-plaintext": _Key(_flag, False, _as_flag),
    "http.listen": _Key(_address, ("127.0.0.1", 9431)),
    "paths.state": _Key(_path, Path("/var/lib/bai-nodeagent")),
    "paths.runtime": _Key(_path, Path("/run/bai-nodeagent")),
    "log.level": _Key(_one_of(*LOG_LEVELS), "info"),
    "log.format": _Key(_one_of(*LOG_FORMATS), "auto"),
}


def load(file: Path | None, environment: Mapping[str, str]) -> Settings:
    """The configuration, from `--config FILE` (which must exist) or the default file
    (which may be absent), and `BAI_NODEAGENT_…`. Raises InvalidSettings."""
    mistakes: list[str] = []
    values = {name: key.default for name, key in KEYS.items()}
    sources: dict[str, str] = {}
    for source, given in (
        _from_file(file, mistakes),
        _from_environment(environment, mistakes),
    ):
        for name, value in given.items():
            try:
                sources[name] = source if source != ENVIRONMENT else f"{source}: {_variable(name)}"
                values[name] = KEYS[name].check(value)
            except _Wrong as wrong:
                mistakes.append(f"{sources[name]}: {name}: {wrong.sentence(name)}")
    mistakes += [f"{sources[name]}: {name}: {what}" for name, what in _contradictions(values)]
    if mistakes:
        raise InvalidSettings(mistakes)
    return _settings(values)


def _settings(values: Mapping[str, Any]) -> Settings:
    return Settings(
        store=StoreSettings(
            url=values["store.url"] or f"file:{values['paths.state']}/store",
            prefix=values["store.prefix"],
            user=values["store.user"],
            password_file=values["store.password-file"],
            ca=values["store.ca"],
            cert=values["store.cert"],
            key=values["store.key"],
            allow_plaintext=values["store.allow-plaintext"],
        ),
        node_id=values["node-id"],
        cluster=values["cluster"],
        groups=values["groups"],
        listen=values["http.listen"],
        state=values["paths.state"],
        runtime=values["paths.runtime"],
        log_level=values["log.level"],
        log_format=values["log.format"],
    )


def _from_file(file: Path | None, mistakes: list[str]) -> tuple[str, dict[str, Any]]:
    path = file or DEFAULT_FILE
    try:
        data = tomllib.loads(files.read_bounded(path, LARGEST).decode())
    except FileNotFoundError:
        if file is not None:
            mistakes.append(f"{path}: no such file")
        return str(path), {}
    except OSError as error:
        mistakes.append(f"{path}: can't be read: {error.strerror}")
        return str(path), {}
    except Refused as error:
        mistakes.append(error.message)
        return str(path), {}
    except (ValueError, RecursionError) as error:
        mistakes.append(f"{path}: is not TOML: {error}")
        return str(path), {}
    given = {}
    sections = _sections()
    for name, value in _flattened(data, sections):
        if name in KEYS:
            given[name] = value
        elif name in LATER:
            mistakes.append(f"{path}: {name}: is not supported yet")
        elif name in sections:
            mistakes.append(f"{path}: {name}: is not a table; allowed: a table [{name}]")
        else:
            mistakes.append(f"{path}: {name}: is an unknown key{_suggestion(name)}")
    return str(path), given


def _sections() -> set[str]:
    return {name.partition(".")[0] for name in KEYS if "." in name}


def _flattened(data: Mapping[str, Any], sections: Collection[str]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in data.items():
        if name in sections and isinstance(value, dict):
            flat += [(f"{name}.{inner}", v) for inner, v in value.items()]
        else:
            flat.append((name, value))
    return flat


def _from_environment(
    environment: Mapping[str, str], mistakes: list[str]
) -> tuple[str, dict[str, Any]]:
    known = {_variable(name): name for name in KEYS}
    given = {}
    for variable, text in environment.items():
        if variable in known:
            given[known[variable]] = KEYS[known[variable]].from_text(text)
        elif variable.startswith(ENVIRONMENT_PREFIX):
            near = difflib.get_close_matches(variable, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            mistakes.append(f"environment: {variable}: is an unknown variable{hint}")
    return ENVIRONMENT, given


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + re.sub(r"[.-]", "_", name).upper()


def _suggestion(name: str) -> str:
    """What is allowed where an unknown key stands, and which was probably meant."""
    section = name.rpartition(".")[0]
    here = [known for known in KEYS if known.rpartition(".")[0] == section]
    allowed = sorted({*here, *(f"[{each}]" for each in _sections() if not section)})
    near = difflib.get_close_matches(name, KEYS, 1) or [
        known for known in KEYS if known.rpartition(".")[2] == name
    ]
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"; allowed: {', '.join(allowed)}{hint}"


def _contradictions(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Combinations that would quietly be less safe than they look, by a key that is given."""
    is_etcd = str(values["store.url"] or "").startswith("etcd://")
    for name in ("store.cert", "store.key"):
        if values[name] and not values["store.ca"]:
            yield name, "is given without store.ca, so TLS would be off; give store.ca"
    for one, other in (
        ("store.cert", "store.key"),
        ("store.key", "store.cert"),
        ("store.user", "store.password-file"),
        ("store.password-file", "store.user"),
    ):
        if values[one] and not values[other]:
            yield one, f"is given without {other}; give both or none"
    plaintext = values["store.user"] and not values["store.ca"]
    if is_etcd and plaintext and not values["store.allow-plaintext"]:
        yield (
            "store.user",
            "its password would cross the network in plain text; give store.ca, or "
            "store.allow-plaintext = true where the network is trusted",
        )
    for name in ("store.password-file", "store.ca", "store.cert", "store.key"):
        if values[name] and not Path(values[name]).is_file():
            where = "" if is_secret_key(name) else f"{values[name]}: "
            yield name, f"{where}no such file"
