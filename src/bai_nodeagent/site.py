"""The daemon's own folders, lock, keys and identity: what every command finds or makes first."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import structlog

from . import identity
from .desired import canonical
from .etcd_access import EtcdAccess, parse_endpoints
from .follow.reading import Place
from .kinds.agent.record import Notes
from .model import Host
from .redact import Redactor
from .settings import Settings
from .store import EtcdSettings, FileSettings, open_store
from .store.base import Store
from .system import kept, own_file

LOCK = "lock"
NODE_ID_FILE = "node-id"
DIGEST_KEY = "digest.key"
KEY_BYTES = 32

T = TypeVar("T")

log = structlog.get_logger()


class CannotStart(Exception):
    """What the daemon finds around itself is wrong; the text says what to change."""


class AlreadyRunning(Exception):
    """Another `run` or `apply` keeps this node."""


@dataclass(frozen=True)
class Site:
    """What a command works with."""

    settings: Settings
    place: Place
    host: Host
    redactor: Redactor
    store: Store


def open_site(settings: Settings, redactor: Redactor, *, writes: bool) -> Site:
    """Finds out who we are and where things lie; with `writes` makes what is missing.

    Raises CannotStart.
    """
    try:
        if writes:
            for folder in (settings.state, settings.runtime):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_own(folder)
            _warn_of_readers(settings.store.password_file)
        was = _found(settings.state / NODE_ID_FILE, identity.parse, writes=writes)
        resolved = identity.resolve(settings.node_id, socket.gethostname(), was)
        key = _found(settings.state / DIGEST_KEY, _key, writes=writes)
        if writes and was is None:
            kept.keep(settings.state / NODE_ID_FILE, f"{resolved.node_id}\n".encode())
        if key is None:
            key = secrets.token_bytes(KEY_BYTES)
            if writes:
                kept.keep(settings.state / DIGEST_KEY, key)
    except identity.NoIdentity as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(f"{error.filename}: {error.strerror}") from error
    digest = _keyed(key)
    hostname = socket.gethostname()
    place = Place(resolved, settings.cluster, hostname, settings.groups, settings.state, digest)
    host = Host(
        settings.state,
        settings.runtime,
        digest,
        redactor,
        learn_passing=redactor.learn_passing,
        etcd=None if settings.store.folder else _etcd_of(settings),
        is_id_given=settings.node_id is not None,
    )
    host = replace(host, agent_running_s=Notes.of(host).running_s)
    return Site(settings, place, host, redactor, store_of(settings, writes=writes))


def _check_own(folder: Path) -> None:
    """What lies in our folders is believed, so nobody else may put anything there."""
    status = folder.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in (0, os.geteuid()):
        raise CannotStart(
            f"{folder}: it has uid {status.st_uid} and mode {mode:04o}, so others can put files "
            f"there that this daemon would believe; look through it, then chown and chmod 0700 it"
        )


def _warn_of_readers(password_file: Path | None) -> None:
    mode = stat.S_IMODE(password_file.stat().st_mode) if password_file else 0
    if mode & stat.S_IRWXO:
        what = "others can read the password: chmod 0600, and change it"
        log.warning("password-file.open", file=str(password_file), mode=f"{mode:04o}", message=what)


def store_of(settings: Settings, *, writes: bool) -> Store:
    """The store that the configuration names. Connects to nothing yet."""
    folder = settings.store.folder
    if folder is not None:
        return open_store(FileSettings(folder, settings.state, is_counted=writes))
    access = _etcd_of(settings)
    return open_store(EtcdSettings(access, settings.cluster, settings.store.prefix))


def _etcd_of(settings: Settings) -> EtcdAccess:
    given = settings.store
    return EtcdAccess(
        parse_endpoints(given.url),
        given.user,
        given.password_file,
        given.ca,
        given.cert,
        given.key,
    )


@contextmanager
def locked(runtime: Path) -> Iterator[None]:
    """Holds the node for one `run` or `apply`. Raises AlreadyRunning, CannotStart."""
    try:
        fd = own_file.open_lock(runtime / LOCK)
    except OSError as error:
        raise CannotStart(f"{error.filename}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise AlreadyRunning(f"{runtime / LOCK}: another bai-nodeagent keeps this node") from error
    finally:
        os.close(fd)


def _found(path: Path, parse: Callable[[bytes], T], *, writes: bool) -> T | None:
    """What is kept there. Raises OSError."""
    if writes:
        return kept.read(path, parse)
    try:
        return kept.peek(path, parse)
    except own_file.Unreadable:
        return None  # for the daemon to set aside, and to tell


def _key(raw: bytes) -> bytes:
    if len(raw) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(raw)}")
    return raw


def _keyed(key: bytes) -> Callable[[object], str]:
    def digest(value: object) -> str:
        return "hmac-sha256:" + hmac.new(key, canonical(value), hashlib.sha256).hexdigest()

    return digest
