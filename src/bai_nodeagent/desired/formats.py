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
_ENDPOINT = re.compile(
    r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\s:/@\[\],]+))(?::(?P<port>[0-9]{1,5}))?"
)
_BROADCAST = ipaddress.ip_address("255.255.255.255")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
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
    """One under which a host is known beyond its link."""
    if not is_address(text):
        return False
    address = ipaddress.ip_address(text)
    if address.is_multicast or address.is_link_local:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped is None and not address.is_unspecified
    return address != _BROADCAST and address not in _THIS_NETWORK


def is_endpoint(text: str) -> bool:
    """HOST or HOST:PORT; an IPv6 address is in brackets."""
    found = _ENDPOINT.fullmatch(text)
    if found is None or not (found["port"] is None or 0 < int(found["port"]) < 65536):
        return False
    if found["v6"] is not None:
        return ":" in found["v6"] and is_address(found["v6"])
    labels = found["name"].removesuffix(".").split(".")
    is_number = all(label.isdigit() for label in labels)
    is_name = all(0 < len(label) < 64 for label in labels)
    return is_address(found["name"]) if is_number else is_name


def _is_http_endpoint(text: str) -> bool:
    rest = text.removeprefix("http://").removesuffix("/")
    return rest != text and re.search(r":[0-9]+$", rest) is not None and is_endpoint(rest)


def _is_agent_ip(text: str) -> bool:
    return text == "auto" or _INTERFACE.fullmatch(text) is not None or _is_host_address(text)


def _is_path(text: str) -> bool:
    return text.startswith("/") and text.isprintable() and ".." not in PurePosixPath(text).parts


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
    "endpoint": is_endpoint,
    "http-endpoint": _is_http_endpoint,
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "mode": lambda text: _MODE.fullmatch(text) is not None,
    "versions": _is_versions,
}

FORMATS = FormatChecker(formats=())
for _format, _check in _CHECKS.items():
    # What isn't text is for the schema's "type" to judge.
    FORMATS.checks(_format)(lambda value, check=_check: not isinstance(value, str) or check(value))
