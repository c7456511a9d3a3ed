"""How to reach an etcd, as a value. Apart from `etcd.py`, so that reading it loads no grpc."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_PORT = 2379
_ENDPOINT = re.compile(r"(?P<host>\[(?P<v6>[0-9A-Fa-f:.]+)\]|[^\s:/@\[\]]+)(:(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Endpoints, and how to prove who we are.

    endpoints      "host:port", IPv6 in brackets; tried in this order
    user           None: without authentication
    password_file  read at every authentication, so that it may change; one
                   line end is cut off
    ca             turns TLS on; None: plaintext
    cert, key      of this client, for mutual TLS
    """

    endpoints: tuple[str, ...]
    user: str | None = None
    password_file: Path | None = field(default=None, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("no endpoint; name at least one as host:port")
        if self.ca is None and (self.cert or self.key):
            # python-etcd3 would connect in plaintext without a word.
            raise ValueError("cert and key need ca: without it nothing would be encrypted")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password-file go together")

    @property
    def where(self) -> str:
        return f"etcd://{','.join(self.endpoints)}"

    @property
    def tls_files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.ca, self.cert, self.key) if path is not None)


def backendai_access(document: Mapping[str, Any], own: EtcdAccess | None) -> EtcdAccess | None:
    """To the etcd with Backend.AI's keys: `[backendai.etcd]` of a document, else the daemon's own;
    None where there is none."""
    endpoints = document.get("backendai", {}).get("etcd", {}).get("endpoints")
    if endpoints is None:
        return own
    hosts = ",".join(endpoint.removeprefix("http://").rstrip("/") for endpoint in endpoints)
    return EtcdAccess(parse_endpoints(f"etcd://{hosts}"))


def parse_endpoints(url: str) -> tuple[str, ...]:
    """("h1:2379", "[::1]:2379") of "etcd://h1,[::1]:2379". Raises ValueError with a sentence."""
    scheme, _, rest = url.partition("://")
    if scheme != "etcd" or not rest:
        raise ValueError(f"{url!r} is not of the form etcd://host:port,host:port")
    return tuple(_parse_endpoint(part.strip()) for part in rest.rstrip("/").split(","))


def _parse_endpoint(text: str) -> str:
    found = _ENDPOINT.fullmatch(text)
    if found is None or not _is_ipv6(found["v6"] or "::"):
        raise ValueError(f"{text!r} is not host:port; an IPv6 address is in brackets")
    port = int(found["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"{text!r}: the port is not between 1 and 65535")
    return f"{found['host']}:{port}"


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
