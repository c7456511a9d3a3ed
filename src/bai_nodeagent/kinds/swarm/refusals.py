"""What Docker means when it refuses to join a swarm. Pure."""

from __future__ import annotations

from .model import SwarmSpec

_REFUSALS = (
    ("will continue in the background", "", ""),
    ("already part of a swarm", "", ""),
    (
        "valid join token is necessary",
        "InvalidToken",
        "the swarm doesn't accept the token: it may have been rotated",
    ),
    ("does not match fingerprint", "InvalidToken", "the token is of another swarm"),
    ("invalid join token", "InvalidToken", "it is no join token"),
    ("connection error", "ManagerUnreachable", "no manager answers"),
    ("deadline exceeded", "ManagerUnreachable", "no manager answers"),
)
"""What a part of Docker's sentence means: reason and words; no reason where the join goes on,
or nothing is left to do. Seen with Docker 20.10."""


def refusal(spec: SwarmSpec, text: str) -> tuple[str, str] | None:
    """Reason and message for a join that Docker refused; None: it goes on, or is done."""
    at = ", ".join(spec.remote_addrs)
    for part, reason, words in _REFUSALS:
        if part in text:
            if not reason:
                return None
            where = f"{words} (secret {spec.token_name}, managers {at})"
            return reason, f"{where}: {text}"
    return "JoinRefused", f"Docker can't join the swarm at {at}: {text}"
