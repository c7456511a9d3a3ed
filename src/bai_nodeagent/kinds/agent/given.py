"""The secrets that the agent was given, masked as long as the process lives that has them.

agent.toml holds some that no document names; and one that is replaced there is
still what the running agent has read, and may say. So those are kept until the
next start, of this boot and for root alone: a daemon that begins meanwhile
would not know them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ... import agent_toml
from ...model import KeyPath
from ...redact import is_too_much
from ...system import kept
from ...typed import json_value, typed

FILE = "agent-secrets.json"
NOT_SHOWN = "(not shown: agent.toml holds more secrets than can be masked)"


@dataclass(frozen=True)
class Given:
    """`learn` masks from now on, as `Host.learn_passing`."""

    runtime: Path
    learn: Callable[[Iterable[str]], None]

    def observe(self, text: str) -> bool:
        """Learns what agent.toml holds, and what it held when the agent was started; False: that
        is too much, and what is said of it is not to be shown."""
        found = agent_toml.secrets(text) | self._earlier()
        if is_too_much(found):
            return False
        self.learn(found)
        return True

    def replaced(self, text: str, secret_paths: Collection[KeyPath]) -> None:
        """agent.toml is about to become another one."""
        before = self._earlier()
        more = agent_toml.secrets(text, secret_paths) - before
        if more and not is_too_much(before):
            kept.keep_soon(self._path, json.dumps(sorted(before | more)).encode())

    def begin(self) -> None:
        """An agent is about to be started, which gets what is there now."""
        if self._earlier():
            kept.keep_soon(self._path, None)

    @property
    def _path(self) -> Path:
        return self.runtime / FILE

    def _earlier(self) -> frozenset[str]:
        return frozenset(kept.read(self._path, _parse) or ())


def _parse(raw: bytes) -> tuple[str, ...]:
    secrets: tuple[str, ...] = typed(tuple[str, ...], json_value(raw))
    return secrets
