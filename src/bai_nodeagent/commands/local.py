"""`pause`, `resume`, `rebind`, `retry`: orders of root here, with or without daemon or store."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from .. import identity
from ..follow import orders
from ..kinds.agent import rollback_order
from ..settings import Settings
from ..site import NODE_ID_FILE
from ..system import kept, own_file
from . import Answer


def pause(settings: Settings, for_s: float | None) -> Answer:
    until_s = None if for_s is None else time.time() + for_s
    text = f"paused{orders.Pause(until_s).end}: observed and reported, not changed"
    return _ordered(settings, lambda state: orders.pause(state, until_s), text)


def resume(settings: Settings) -> Answer:
    return _ordered(settings, orders.resume, "resumed, unless a document says paused as well")


def rebind(settings: Settings) -> Answer:
    return _ordered(
        settings, orders.rebind, "the daemon chooses agent-ip anew; `bai-nodeagent status` shows it"
    )


def retry(settings: Settings) -> Answer:
    return _ordered(settings, _retry)


def _retry(state: Path) -> str:
    is_given_up = rollback_order.current(state) is not None
    rollback_order.retry(state)
    return "what was given up is tried again" if is_given_up else "nothing was rolled back"


def _ordered(settings: Settings, give: Callable[[Path], str | None], text: str = "") -> Answer:
    """Gives an order in the state folder; what was done is `text`, or what `give` says."""
    if os.geteuid() != 0 and not os.access(settings.state, os.W_OK):
        text = f"{settings.state}: not yours to write; this is an order of root"
        return Answer(2, value={"error": text}, notes=[text])
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = give(settings.state) or text
    except OSError as error:
        text = f"{error.filename}: {error.strerror}"
        return Answer(2, value={"error": text}, notes=[text])
    node = _node(settings)
    return Answer(0, [f"{node}: {text}"], {"done": text, "node": node})


def _node(settings: Settings) -> str:
    """Whose order it is: an admin has many terminals."""
    if settings.node_id:
        return settings.node_id
    with contextlib.suppress(OSError, own_file.Unreadable):
        if found := kept.peek(settings.state / NODE_ID_FILE, identity.parse):
            return found
    return socket.gethostname()
