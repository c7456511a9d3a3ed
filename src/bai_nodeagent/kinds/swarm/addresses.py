"""Addresses of a swarm's members, compared. Pure."""

from __future__ import annotations

import contextlib
import ipaddress

PORT = 2377


def is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False  # of an interface, Docker finds the address


def is_same_address(one: str, other: str) -> bool:
    return is_address(one) and ipaddress.ip_address(one) == ipaddress.ip_address(other)


def host_and_port(address: str) -> tuple[str, int]:
    """Of "10.0.0.1:2377", "manager.example" or "[fd00::1]:2377"; also of anybody's words."""
    host, colon, port = address.rpartition(":")
    has_port = colon != "" and port.isdecimal() and len(port) <= 5
    return (host if has_port else address).strip("[]"), int(port) if has_port else PORT
