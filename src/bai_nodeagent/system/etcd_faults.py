"""What an error of etcd, or of gRPC, means, and what it becomes for those who ask. Pure.

Codes are `grpc.StatusCode`; they are distinguished by name, so that nobody need import grpc here.
"""

from __future__ import annotations

import enum
import re
from typing import Any

from ..errors import Unavailable

# What gRPC puts before the words of the system, with the address once more.
_WRAPPING = re.compile(
    r"failed to connect to all addresses; last error: \w+: (ipv[46]:\S+: )?"
    r"(Failed to connect to remote host: )?"
)
_NEW_TOKEN_FOR = ("invalid auth token", "auth store is old", "header is old", "user name is empty")


class Gone(Exception):
    """The revision that was asked for is compacted, or not reached yet."""


class Mismatch(Exception):
    """A key was not at its expected revision. Nothing was written."""


class Denied(Unavailable):
    """The user lacks the permission. Another endpoint would say the same."""


class Next(enum.Enum):
    """What to do about an error that etcd or grpc answered with."""

    REPORT = "report it"
    AUTHENTICATE = "authenticate again, then once more"
    OTHER_MEMBER = "another endpoint may know better"


_OTHER_MEMBER = {
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "INTERNAL",
    "UNKNOWN",
}


def judge(code: Any, details: str) -> Next:
    """By the text first: servers send the same complaint under codes that vary by version."""
    if code.name == "UNAUTHENTICATED" or any(text in details for text in _NEW_TOKEN_FOR):
        return Next.AUTHENTICATE
    return Next.OTHER_MEMBER if code.name in _OTHER_MEMBER else Next.REPORT


def translate(code: Any, details: str, endpoint: str, user: str | None, about: str) -> Exception:
    """The error for our callers; `about` is what was wanted: "read /a/b"."""
    if code.name == "OUT_OF_RANGE":
        return Gone(f"etcd {endpoint}: {details}")
    if code.name == "PERMISSION_DENIED":
        return Denied(f"etcd {endpoint}: user {user or '(none)'} may not {about}")
    if code.name == "DEADLINE_EXCEEDED":
        return Unavailable(f"etcd {endpoint}: no answer in time to {about}")
    said = _WRAPPING.sub("", details.strip())
    return Unavailable(f"etcd {endpoint}: {said or code.name} ({about})")


def verdict_of(error: Any) -> Next:
    return judge(error.code(), error.details() or "")
