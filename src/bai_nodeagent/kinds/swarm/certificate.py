"""What a node's own certificate and its join token say about a swarm. Pure.

A worker can't ask Docker which swarm it is in, but its certificate shows it: the
organization is the id of the swarm (what `docker info` shows on managers as
ClusterID), the unit is the role, the common name the node's id. A join token
holds a digest of the certificate authority of the swarm that it leads to:
SWMTKN-1-<digest>-<secret>.

Source: SwarmKit, ca/certificates.go and ca/config.go (GenerateJoinToken);
seen so with Docker 20.10.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_TOKEN = re.compile(r"SWMTKN-1-([0-9a-z]{50})-[0-9a-z]{25}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_DIGEST_LENGTH = 50  # of a SHA-256 to the base of 36
_MANAGER = "swarm-manager"

# DER: tags, and the object identifiers of a name's parts. X.690; RFC 5280, 4.1.
_EXPLICIT_VERSION = 0xA0
_UTC_TIME = 0x17
_COMMON_NAME = bytes.fromhex("550403")
_ORGANIZATION = bytes.fromhex("55040a")
_UNIT = bytes.fromhex("55040b")


@dataclass(frozen=True, slots=True)
class Certificate:
    """Times are Unix time."""

    cluster: str
    node: str
    is_manager: bool
    starts_s: float
    expires_s: float


def parse_certificate(pem: bytes) -> Certificate:
    """The first certificate of a swarm-node.crt. Raises ValueError."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("there is no certificate in it")
    try:
        # TBSCertificate: version, serial, algorithm, issuer, validity, subject, …
        fields = list(_parts(_content(_content(base64.b64decode(found[1])))))
        if fields[0][0] == _EXPLICIT_VERSION:
            fields.pop(0)
        starts, expires = _parts(fields[3][1])
        names = dict(_names(fields[4][1]))
        return Certificate(
            cluster=names[_ORGANIZATION],
            node=names[_COMMON_NAME],
            is_manager=names[_UNIT] == _MANAGER,
            starts_s=_time_s(*starts),
            expires_s=_time_s(*expires),
        )
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError(f"it is no certificate of a swarm's node: {error!r}") from error


def digest_of_ca(pem: bytes) -> str:
    """As it is in join tokens; of the whole swarm-root-ca.crt."""
    number = int.from_bytes(hashlib.sha256(pem).digest())
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text.rjust(_DIGEST_LENGTH, "0")


def digest_in_token(token: str) -> str | None:
    """Which swarm a join token leads to, by its authority's digest; None: it is no token."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each value in a row. Raises ValueError, IndexError."""
    while der:
        tag, length, at = der[0], der[1], 2
        if length & 0x80:
            at += length & 0x7F
            length = int.from_bytes(der[2:at])
        if at + length > len(der):
            raise ValueError("it is cut off")
        yield tag, der[at : at + length]
        der = der[at + length :]


def _content(der: bytes) -> bytes:
    (_, content), *_ = _parts(der)
    return content


def _names(der: bytes) -> Iterator[tuple[bytes, str]]:
    """Object identifier and text of each part of a Name: a sequence of sets of pairs."""
    for _, one in _parts(der):
        for _, pair in _parts(one):
            (_, kind), (_, text) = _parts(pair)
            yield kind, text.decode()


def _time_s(tag: int, text: bytes) -> float:
    layout = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode(), layout).replace(tzinfo=UTC).timestamp()
