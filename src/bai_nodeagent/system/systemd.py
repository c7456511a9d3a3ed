"""systemd: the state of a unit, jobs on it, word of its changes, and what it wrote.

Interface: org.freedesktop.systemd1(5), on the system bus.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from ..errors import Refused, Stuck, Unavailable
from . import dbus, journald

SYSTEM_BUS = Path("/run/dbus/system_bus_socket")
CALL_DEADLINE_S = 5.0
_GATE_LINES = 3

_SERVICE = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"


@dataclass(frozen=True, slots=True)
class UnitState:
    """A unit at one moment, in the words of systemctl(1) and systemd.exec(5), $SERVICE_RESULT.

    name             its own, also when asked by an alias
    load_state       "loaded", "not-found", "masked", "bad-setting", "error"
    active_state     "active", "activating", "deactivating", "inactive", "failed", "reloading"
    sub_state        of a service: "running", "auto-restart", "dead", "exited", …
    main_pid         0 without a main process
    invocation_id    32 hex digits, others for each start; "" when systemd knows of none
    result           why a service last ended: "success", "exit-code", "signal", "timeout",
                     "start-limit-hit", "exec-condition", …; "" for other kinds of unit
    exec_conditions  argument lists of ExecCondition=
    n_restarts       automatic restarts since somebody last started it
    exec_start       argument lists of ExecStart=
    user             User=; "" stands for root
    group, groups    Group=, SupplementaryGroups=
    workdir          WorkingDirectory=; "" where none has to be there
    is_apart         it has a root folder, or an account, of systemd's making
    """

    name: str
    load_state: str
    active_state: str
    sub_state: str
    main_pid: int
    invocation_id: str
    result: str
    exec_conditions: tuple[tuple[str, ...], ...]
    n_restarts: int
    exec_start: tuple[tuple[str, ...], ...] = ()
    user: str = ""
    group: str = ""
    groups: tuple[str, ...] = ()
    workdir: str = ""
    is_apart: bool = False

    @property
    def is_over(self) -> bool:
        """Its last run has ended, and no other has begun."""
        return self.active_state in ("inactive", "failed") or "auto-restart" in self.sub_state


class Systemd:
    """The systemd that answers on a bus.

    Every method raises Unavailable when there is no bus, no systemd on it, or
    no answer within the deadline, and Refused with the last word of systemd's
    error name ("NoSuchUnit", "UnitMasked", "AccessDenied") and its own
    sentence when it says no.

    journalctl  the command that reads the journal of that systemd; none: the node's own
    """

    def __init__(
        self,
        bus: Path = SYSTEM_BUS,
        journalctl: Sequence[str] = (),
        deadline_s: float = CALL_DEADLINE_S,
    ) -> None:
        self._bus = bus
        self._journalctl = tuple(journalctl)
        self._deadline_s = deadline_s

    async def unit(self, name: str) -> UnitState:
        """The state of a unit; one that doesn't exist has load_state "not-found"."""
        with self._deadline(f"how does {name} stand"):
            async with self._connect() as bus:
                return _unit_state(await _properties(bus, name))

    async def start(self, name: str) -> None:
        """Starts a unit and waits until systemd calls the job done.

        That is after the fork with Type=simple, after READY=1 with Type=notify.
        There is no deadline once systemd has taken the job: a unit has its own
        (TimeoutStartSec=), and a cancelled wait doesn't cancel the job.
        Refused: "Job…" with the job's result ("JobFailed", "JobTimeout"), or
        "GateClosed" when a condition of the unit kept it from starting, which
        systemd counts as success; the message quotes what the condition said.
        """
        await self._check_gate(await self._run_job("StartUnit", name))

    async def stop(self, name: str) -> None:
        """Stops a unit and waits until it is down: as `start`."""
        await self._run_job("StopUnit", name)

    async def restart(self, name: str) -> None:
        """Stops a unit if it is up, then starts it: as `start`."""
        await self._check_gate(await self._run_job("RestartUnit", name))

    async def reset_failed(self, name: str) -> None:
        """Forgets a unit's failure and its count towards the start limit."""
        with self._deadline(f"reset {name}"):
            async with self._connect() as bus:
                await _keep_loaded(bus, name)
                await _ask_manager(bus, "ResetFailedUnit", "s", name)

    async def changes(self, name: str) -> AsyncGenerator[None]:
        """Yields once when the watch is in place, then whenever the unit may have changed.

        Bursts come as one. Raises Unavailable when the bus or systemd goes
        away, which a re-execution of systemd is too.
        """
        async with contextlib.AsyncExitStack() as stack:
            with self._deadline(f"watch {name}"):
                bus = await stack.enter_async_context(self._connect())
                await bus.listen(_PROPERTIES, "PropertiesChanged", path=await _load(bus, name))
                await bus.listen(_MANAGER, "Reloading")
                await _ask_manager(bus, "Subscribe")
                await _keep_loaded(bus, name)
            yield
            while True:
                if any(signal.member == "Reloading" for signal in await bus.signals()):
                    with self._deadline(f"watch {name}"):
                        await _keep_loaded(bus, name)
                yield

    async def last_lines(self, unit: UnitState, count: int) -> str:
        """What the invocation that `unit` shows wrote last, its conditions included.

        "" when unknown. Of that one also while the next already runs: systemd restarts
        units by itself.
        It forgets an invocation when it unloads a unit: one that is down, not failed,
        not wanted by another unit and not watched by `changes`.
        Errors and times: journald.last_lines.
        """
        if not unit.invocation_id:
            return ""
        return await journald.last_lines(
            self._journalctl,
            unit.name,
            unit.invocation_id,
            count,
            self._deadline_s,
            is_over=unit.is_over,
        )

    async def _run_job(self, method: str, name: str) -> dict[str, Any]:
        """The unit's properties after the job. Raises Refused when it did not end as "done"."""
        async with contextlib.AsyncExitStack() as stack:
            with self._deadline(f"{method} {name}"):
                bus = await stack.enter_async_context(self._connect())
                await bus.listen(_MANAGER, "JobRemoved")
                await _ask_manager(bus, "Subscribe")
                await _keep_loaded(bus, name)
                (job,) = await _ask_manager(bus, method, "ss", name, "replace")
            result = await _job_result(bus, job)
            with self._deadline(f"how does {name} stand"):
                properties = await _properties(bus, name)
        if result != "done":
            unit = _unit_state(properties)
            raise Refused(
                f"Job{result.capitalize()}",
                f"systemd: {method} {name}: {result}; the unit is {unit.active_state}"
                f" ({unit.sub_state}), its result {unit.result or 'none'}",
            )
        return properties

    async def _check_gate(self, properties: dict[str, Any]) -> None:
        if properties.get("Result") != "exec-condition" and properties["ConditionResult"]:
            return
        unit = _unit_state(properties)
        lines = ""
        with contextlib.suppress(Unavailable, Stuck):
            lines = await self.last_lines(unit, _GATE_LINES)
        raise Refused(
            "GateClosed",
            f"systemd: a condition of {unit.name} keeps it from starting"
            + (f": {lines}" if lines else ""),
        )

    def _connect(self) -> contextlib.AbstractAsyncContextManager[dbus.Conversation]:
        return dbus.connect(self._bus, _SERVICE, label="systemd")

    @contextlib.contextmanager
    def _deadline(self, question: str) -> Iterator[None]:
        try:
            with anyio.fail_after(self._deadline_s):
                yield
        except TimeoutError as error:
            raise Unavailable(
                f"systemd: no answer within {self._deadline_s:g} s to: {question}"
            ) from error


async def _ask_manager(
    bus: dbus.Conversation, method: str, signature: str = "", *body: str
) -> tuple[Any, ...]:
    return await bus.call(_PATH, _MANAGER, method, signature, *body)


async def _load(bus: dbus.Conversation, name: str) -> str:
    """The unit's object path; systemd has read its files then, if there are any."""
    (path,) = await _ask_manager(bus, "LoadUnit", "s", name)
    return str(path)


async def _keep_loaded(bus: dbus.Conversation, name: str) -> None:
    """As long as the connection lives; else a unit that is down is forgotten, result and all."""
    # One that is masked or not found has nothing that is worth keeping.
    with contextlib.suppress(Refused):
        await _ask_manager(bus, "RefUnit", "s", name)


async def _job_result(bus: dbus.Conversation, job: str) -> str:
    while True:
        for signal in await bus.signals():
            _id, path, _unit, result = signal.body
            if path == job:
                return str(result)


async def _properties(bus: dbus.Conversation, name: str) -> dict[str, Any]:
    """Every property of a unit by its name, all read in one moment."""
    # An empty interface name stands for all of them.
    (properties,) = await bus.call(await _load(bus, name), _PROPERTIES, "GetAll", "s", "")
    return {key: value for key, (_signature, value) in properties.items()}


def _unit_state(properties: dict[str, Any]) -> UnitState:
    workdir = str(properties.get("WorkingDirectory", ""))
    return UnitState(
        name=properties["Id"],
        load_state=properties["LoadState"],
        active_state=properties["ActiveState"],
        sub_state=properties["SubState"],
        main_pid=properties.get("MainPID", 0),
        invocation_id=bytes(properties["InvocationID"]).hex(),
        result=properties.get("Result", ""),
        exec_conditions=_commands(properties.get("ExecCondition", ())),
        n_restarts=properties.get("NRestarts", 0),
        exec_start=_commands(properties.get("ExecStart", ())),
        user=properties.get("User", ""),
        group=properties.get("Group", ""),
        groups=tuple(properties.get("SupplementaryGroups", ())),
        workdir=workdir if workdir.startswith("/") else "",  # neither "~" nor "!/may/be/missing"
        is_apart=any(properties.get(key) for key in ("DynamicUser", "RootDirectory", "RootImage")),
    )


def _commands(lines: Iterable[Sequence[Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(arguments) for _path, arguments, *_times in lines)
