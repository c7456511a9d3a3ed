"""agent.toml as it lies on the disk, and what is done to it there. All of this blocks."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ....errors import Overtaken, Refused, Unavailable
from ....machine import Account, File
from ....system import config_file, hostile, launch
from ....system.place import Place
from .. import last_config
from . import begun_write
from .rules import (
    BROKEN,
    KEPT_FIRST,
    KEPT_NEWEST,
    OTHERS,
    AgentConfigAction,
    KeepBroken,
    Remember,
    SetAccess,
    Write,
)
from .state import Actual, AgentConfigSpec, text_of

FOLDER_MODE = 0o755
_TIME = r"\d{8}T\d{6}Z"


class Disk:
    """Raises Refused, Unavailable."""

    def __init__(self, spec: AgentConfigSpec, state: Path) -> None:
        self._spec = spec
        self._state = state
        self._kept_as = ""  # the newest copy: among names without end it may not be found

    def observe(self) -> Actual:
        with self._faults():
            try:
                with hostile.place(self._spec.path) as place:
                    return self._observed(place)
            except hostile.NoFolder as gone:
                return self._actual(gone.path, None)

    def _observed(self, place: Place) -> Actual:
        file, copies = place.read(), _copies(place)
        near = (*copies, self._kept_as) if self._kept_as else copies
        return self._actual(
            place.path,
            file,
            copies=copies,
            is_kept=file is not None and text_of(file) is None and _has_copy(place, near, file),
            is_being_written=place.is_being_written(),
        )

    def _actual(self, target: Path, file: File | None, **more: Any) -> Actual:
        last, begun = last_config.read(self._state), begun_write.read(self._state)
        is_torn = file is not None and begun is not None and begun.is_torn(target, file.raw)
        return Actual(
            target,
            time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            file,
            last.of(self._spec.path, target, is_there=file is not None) if last else None,
            config_file.ids(self._spec.owner) if self._spec.owner else None,
            is_root=os.geteuid() == 0,
            user=self._user(),
            is_begun=begun is not None,
            torn=begun.text if begun and is_torn else None,
            **more,
        )

    def _user(self) -> Account | None:
        """The account that the document names for the agent; None if it names none, or one that
        does not exist: the condition Agent reports that."""
        agent = self._spec.agent
        with contextlib.suppress(Refused):
            return launch.account(agent.user) if agent and agent.user else None
        return None

    def apply(self, action: AgentConfigAction) -> None:
        make = FOLDER_MODE if isinstance(action, Write) else None
        with self._faults(), hostile.place(self._spec.path, make=make) as place:
            match action:
                case Remember(target=target, file=file):
                    self._remember(target, file)
                case KeepBroken(file=file) if _is_still(place, action.target, file.raw):
                    _keep(place, action)
                    self._kept_as = action.copy.name
                case Write() if _is_still(place, action.target, action.expected):
                    self._write(place, action)
                    owner = action.owner or (os.geteuid(), os.getegid())
                    self._remember(place.path, File(action.data, action.mode, owner))
                case SetAccess(mode=mode, owner=owner) if place.path == action.target:
                    place.set_access(mode=mode, owner=owner)
                case _:
                    raise Overtaken(f"somebody else has just changed {self._spec.path}")

    def _write(self, place: Place, action: Write) -> None:
        if action.expected is None or not action.is_in_place:
            place.replace(action.data, mode=action.mode, owner=action.owner)
            return
        begun_write.begin(self._state, place.path, action.expected, action.data)
        file, owner = place.read(), action.owner
        # Never more than either content may be read by: what is looser comes last.
        if owner is not None and file is not None:
            place.set_access(mode=file.mode & action.mode, owner=owner)
        try:
            place.overwrite(action.data, is_private=not action.mode & OTHERS)
        except (OSError, Refused, Unavailable):
            if _is_still(place, place.path, action.expected):  # else an edit would count as torn
                begun_write.end(self._state)
            raise
        if owner is not None and file is not None and action.mode & ~file.mode:
            place.set_access(mode=action.mode, owner=owner)

    def sweep(self) -> None:
        """Removes what crashes have left of writes."""
        with (
            self._faults(),
            contextlib.suppress(hostile.NoFolder),
            hostile.place(self._spec.path) as place,
        ):
            file = place.read()
            place.sweep(*([file.owner[0]] if file else []))

    def _remember(self, target: Path, file: File) -> None:
        last_config.keep(self._state, self._spec.path, target, file)
        begun_write.end(self._state)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise config_file.fault(error, self._spec.path) from error


def _is_still(place: Place, target: Path, expected: bytes | None) -> bool:
    if place.path != target:
        return False
    file = place.read()
    return (file.raw if file else None) == expected


def _copies(place: Place) -> tuple[str, ...]:
    """The names of what was set aside, the oldest first."""
    named = re.compile(re.escape(place.name + BROKEN) + _TIME)
    return tuple(name for name in place.names() if named.fullmatch(name))


def _has_copy(place: Place, copies: Sequence[str], file: File) -> bool:
    """Of those that are kept: whose folder it is lays as many more as he likes."""
    for name in dict.fromkeys((*copies[:KEPT_FIRST], *copies[-KEPT_NEWEST:])):
        with place.beside(name) as beside, contextlib.suppress(Refused):
            copy = beside.read(len(file.raw))
            if copy is not None and copy.raw == file.raw:
                return True
    return False


def _keep(place: Place, action: KeepBroken) -> None:
    """Those that are dropped go last: a crash leaves one too many."""
    with place.beside(action.copy.name) as copy:
        if copy.fd is not None:
            raise Unavailable(f"{action.copy} is taken; tried again under the next second")
        copy.replace(action.file.raw, mode=0o600, owner=action.file.owner)
    for name in action.dropped:
        with place.beside(name) as surplus:
            surplus.remove()
