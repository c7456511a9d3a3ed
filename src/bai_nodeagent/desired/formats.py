"""The small languages that strings of a document are written in."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePosixPath
from typing import TypeGuard

from jsonschema import FormatChecker

# Longer names would not fit into a file's name, where the store is a folder.
NAME = r"^[a-z0-9][a-z0-9._-]{0,199}$"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MODE = re.compile(r"[0-7]{3,4}")
_INTERFACE = re.compile(r"interface:[^\s/]{1,15}")
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<)\s*([0-9]{1,9}(?:\.[0-9]{1,9}){0,9})")
_RELEASE = re.compile(r"[0-9]+(?:\.[0-9]+)*")

VERBATIM = frozenset({"host-address", "agent-ip", "versions"})
"""Formats of strings in which variables are not filled in."""


def is_name(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def duration_s(text: str) -> float:
    """Seconds, from "250ms", "10s", "5m" or "2h". ValueError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("a duration is a whole number with ms, s, m or h")
    return int(match[1]) * _SECONDS[match[2]]


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is within "==1.2" or ">=0.1, <2". ValueError if `wanted` is not like that.

    Only the numbers count, missing ones as 0: 0.2.0.dev1 is taken for 0.2.
    """
    release = _RELEASE.match(version)
    ours = _numbers(release[0]) if release else ()
    held = [_holds(ours, clause.strip()) for clause in wanted.split(",")]  # judge every clause
    return all(held)


def _holds(ours: tuple[int, ...], clause: str) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise ValueError(f"not a comparison of versions: {clause}")
    theirs = _numbers(match[2])
    return {
        ">=": ours >= theirs,
        "<=": ours <= theirs,
        "==": ours == theirs,
        "!=": ours != theirs,
        ">": ours > theirs,
        "<": ours < theirs,
    }[match[1]]


def _numbers(release: str) -> tuple[int, ...]:
    numbers = [int(part) for part in release.split(".")]
    while numbers and numbers[-1] == 0:  # so that 1, 1.0 and 1.0.0 are equal
        numbers.pop()
    return tuple(numbers)


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address, without a zone: `%eth0` means something on one node only."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _is_host_address(text: str) -> bool:
    if not is_address(text):
        return False
    address = ipaddress.ip_address(text)
    return not (address.is_unspecified or address.is_multicast)


def _is_agent_ip(text: str) -> bool:
    return text == "auto" or _INTERFACE.fullmatch(text) is not None or _is_host_address(text)


def _is_path(text: str) -> bool:
    return text.startswith("/") and ".." not in PurePosixPath(text).parts


def _is_versions(text: str) -> bool:
    try:
        satisfies("0", text)
    except ValueError:
        return False
    return True


_CHECKS = {
    "path": _is_path,
    "address": is_address,
    "host-address": _is_host_address,
    "agent-ip": _is_agent_ip,
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "mode": lambda text: _MODE.fullmatch(text) is not None,
    "versions": _is_versions,
}

FORMATS = FormatChecker(formats=())
for _format, _check in _CHECKS.items():
    # What isn't text is for the schema's "type" to judge.
    FORMATS.checks(_format)(lambda value, check=_check: not isinstance(value, str) or check(value))
