"""What is noted of the agent in `<runtime>/agent.json`: how it runs, how often it died.

The notes are of this boot only, and their digests of one key: with another one
nobody can tell what a life found. They are facts about a process, never orders:
after a crash at any moment the next observation of the node and these notes say
what is left to do. Who changes them reads and writes under a lock, since
`may-start` does so beside the daemon.

Times are seconds since boot, as `process.now_s`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from ...errors import Refused, Stuck, Unavailable
from ...machine import Process
from ...model import AgentInput, Host, Inputs
from ...system import hostile, kept, own_file, process
from ...system.blocking import in_thread
from ...typed import json_value, typed
from .backendai.log_patterns import Trouble
from .environment import environments
from .environment.environments import Environments
from .spec import AgentSpec, differing, is_in_step, is_of_file

# A process that lived longer than this starts the count of deaths anew.
STABLE_S = 60.0
# A process that dies in its first moment was never running. By then it has also read its
# agent.toml; Backend.AI's own has when it first answers.
STARTING_S = 1.0
_TIMES_AT_MOST = 16
CONFIG_DEADLINE_S = 5.0
# Of the notes: an input has some 100, and the names of 2,000 may be long.
BYTES_AT_MOST = 8 << 20

Cause = Literal["", "first", "died", "changed", "stopped"]


@dataclass(frozen=True, slots=True)
class Life:
    """One run of the agent.

    inputs          its running inputs: those that it found; empty: not known
    pid             None: we are about to start it, or systemd supervises it
    is_leader       it leads a session of its own, which is then all its own
    invocation_id   of the unit, when systemd runs it; "" otherwise
    desired_digest  of the desired state that it was started or adopted under
    is_over         it is dead, and its end is recorded
    well_s          when it was first observed to work; 0: not yet
    rpc             the address at which it answered then
    output          the file that its output goes to; "" if the daemon did not set it
    is_background   its main process has ended by itself, and the agent runs on
    unwritten       why `output` is not <state>/agent.log
    spared          the desired inputs when it was adopted as-is: they cause no restart
    """

    inputs: Inputs
    pid: int | None = None
    start_ticks: int = 0
    is_leader: bool = True
    invocation_id: str = ""
    started_s: float = 0.0
    is_adopted: bool = False
    desired_digest: str = ""
    is_over: bool = False
    well_s: float = 0.0
    rpc: str = ""
    output: str = ""
    is_background: bool = False
    unwritten: str = ""
    spared: Inputs = field(default_factory=dict)

    @property
    def process(self) -> Process | None:
        """Its main process as it was, living or not."""
        if self.pid is None:
            return None
        leads = self.pid if self.is_leader else 0
        return Process(self.pid, self.start_ticks, group=leads, session=leads)


def due(spec: AgentSpec, desired: Inputs, life: Life) -> tuple[str, ...]:
    """The parts of the inputs that a living agent is to be restarted for."""
    return tuple(
        p for p in differing(spec, desired, life.inputs) if life.spared.get(p) != desired[p]
    )


def ended_by(spec: AgentSpec, life: Life) -> tuple[str, ...]:
    """The keys of `[agent]` that end a living agent, whatever it runs with."""
    stops = ("state",) if spec.state == "stopped" else ()
    is_child = life.pid is not None and not life.invocation_id
    return (*stops, *(("supervisor",) if is_child and spec.supervisor == "systemd" else ()))


def adopted(
    spec: AgentSpec, desired: Inputs, found: Inputs, started_s: float, wrote_s: float
) -> Life:
    """The life of an agent that somebody else started; `found` is what a start would find now.

    It is in step where agent.toml holds what is desired, whatever the file's times; but not when
    it was we who have written that since. As-is, the document vouches for it. Else
    nobody knows what it runs with.
    """
    is_vouched = spec.adopt == "as-is"
    is_known = is_vouched or (is_in_step(spec, desired, found) and wrote_s < started_s)
    return Life(
        inputs=found if is_known else {},
        started_s=started_s,
        is_adopted=True,
        desired_digest=spec.desired_digest,
        spared=desired if is_vouched else {},
    )


@dataclass(frozen=True, slots=True)
class UnhealthyTime:
    """For how long the agent has not been healthy with the inputs that it was given.

    of           keyed digest of these inputs
    unhealthy_s  as far as it counts
    at_s         when that was counted last
    is_counting  time counted then
    """

    of: str
    unhealthy_s: float
    at_s: float
    is_counting: bool


@dataclass(frozen=True, slots=True)
class Record:
    """All notes of this boot.

    ending   why we are ending, or have ended, the last life: "changed" or "stopped"
    deaths   of processes that did not live long, one after the other; the last of any
    changes  when the agent was restarted for changed inputs
    exit     how the last death came about, where that is known
    trouble  what the agent said of it
    unhealthy  of inputs with which it is not healthy yet
    wrote_s  when we last wrote agent.toml
    key      a digest that says by which key the others were made
    """

    boot_id: str
    life: Life | None = None
    ending: Cause = ""
    deaths: tuple[float, ...] = ()
    changes: tuple[float, ...] = ()
    exit: str = ""
    trouble: Trouble | None = None
    unhealthy: UnhealthyTime | None = None
    wrote_s: float = 0.0
    key: str = ""

    def begins(self, life: Life | None, cause: Cause, now_s: float) -> Record:
        """A life begins; None: `may-start` will note it. The deaths are forgotten unless this start
        is another try after a death."""
        record = self._changed(now_s) if cause == "changed" else self
        deaths = record.deaths if cause == "died" else ()
        return replace(record, life=life or self.ended().life, ending="", deaths=deaths)

    def ends(self, cause: Cause, now_s: float) -> Record:
        """The daemon is about to end the life, so its end will not count as a death."""
        record = self._changed(now_s) if cause == "changed" else self
        return replace(record, ending=cause)

    def writes(self, now_s: float, current: Inputs, *, is_real: bool) -> Record:
        """agent.toml is about to be written, and `current` is of what is in it.

        An agent that is only just starting has read `current`, or will read the new content. It
        counts as having read `current`, so that it is restarted if in doubt.
        """
        record, life = replace(self, wrote_s=now_s), self.life
        if life is None or life.is_over or not life.inputs:
            return record
        is_reading = is_real and not life.well_s and not life.is_adopted
        if not is_reading and now_s - life.started_s > STARTING_S:
            return record
        own = {part: value for part, value in life.inputs.items() if not is_of_file((part,))}
        read = {part: value for part, value in current.items() if is_of_file((part,))}
        return replace(record, life=replace(life, inputs={**own, **read}))

    def works(self, now_s: float, rpc: str) -> Record:
        """The life is seen to work for the first time."""
        life = self.life and replace(self.life, well_s=now_s, rpc=rpc)
        return replace(self, life=life, trouble=None)

    def _changed(self, now_s: float) -> Record:
        """Counts a restart for changed inputs, once for its stop and its start together."""
        if self.ending == "changed":
            return self
        return replace(self, changes=(*self.changes, now_s)[-_TIMES_AT_MOST:])

    def ended(self) -> Record:
        return replace(self, life=self.life and replace(self.life, is_over=True))

    def died(self, now_s: float, exit_text: str, trouble: Trouble | None = None) -> Record:
        """The life ended. That is a death unless we were ending it.

        If we end the main process because the worker is dead, that is a death as well.
        """
        if self.ending not in ("", "died"):
            return self.ended()
        earlier = self.deaths if self.is_dying_again(now_s) else ()
        deaths = (*earlier, now_s)[-_TIMES_AT_MOST:]
        return replace(self.ended(), ending="", deaths=deaths, exit=exit_text, trouble=trouble)

    def is_dying_again(self, now_s: float) -> bool:
        """Whether an end now would go on with the deaths so far, or be the first of new ones."""
        return self.life is None or now_s - self.life.started_s <= STABLE_S

    def ended_by_us(self, now_s: float) -> Record:
        """We end it; one that is ended since its worker is dead has died, and counts as such."""
        if self.ending != "died":
            return self
        return self.died(now_s, "its main process lived on without its worker")

    @property
    def is_open(self) -> bool:
        """Whether the end of a life would have to be noted; False for one that was never seen."""
        life = self.life
        return life is not None and not life.is_over and bool(life.pid or life.invocation_id)


@dataclass(frozen=True)
class Notes:
    """The record on disk. `key` as in Record."""

    runtime: Path
    boot_id: str = field(default_factory=process.boot_id)
    key: str = ""

    @staticmethod
    def of(host: Host) -> Notes:
        return Notes(host.runtime, key=host.digest("the key of these notes"))

    @property
    def path(self) -> Path:
        return self.runtime / "agent.json"

    def running_s(self) -> float | None:
        """How long the agent has been running; None: it does not."""
        life = self.read().life
        return process.now_s() - life.started_s if life and not life.is_over else None

    def read(self) -> Record:
        """The notes of this boot; a file that is missing or unreadable holds none.

        Without notes, or with such as another key has made, a living agent is adopted.
        """
        record = kept.read(self.path, _parse, BYTES_AT_MOST)
        if record is None or record.boot_id != self.boot_id:
            return Record(self.boot_id, key=self.key)
        if record.key != self.key:
            return replace(record, key=self.key, life=None, unhealthy=None)
        return record

    def update(self, change: Callable[[Record], Record]) -> Record:
        """Changes the notes; nobody else does so at the same time. Gives the new ones.

        If the disk can't be written, they are valid as long as this daemon lives.
        """
        with self._locked():
            record = change(self.read())
            kept.keep(self.path, json.dumps(asdict(record)).encode(), limit=BYTES_AT_MOST)
        return record

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Another file than the notes: those are replaced, and a lock sticks to the old one.
        fd = own_file.open_lock(self.path.with_name(f"{self.path.name}.lock"))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _parse(raw: bytes) -> Record:
    record: Record = typed(Record, json_value(raw))
    return record


def config_text(spec: AgentSpec) -> str | None:
    """agent.toml as it is; None when it is unmanaged, or there is none to be read. Blocks.

    AgentConfig reports why it can't be read; the agent is kept alive without it.
    """
    with contextlib.suppress(OSError, Refused):
        return hostile.text(spec.config_path) if spec.config_path else None
    return None


async def config_text_soon(spec: AgentSpec, asker: str) -> tuple[str | None, str]:
    """The same, and why it can't be read now; "" where it can, or is not there. `asker` tells
    apart who asks at once."""
    path = spec.config_path
    if path is None:
        return None, ""
    try:
        text = await in_thread(
            f"{asker}: read {path}", lambda: hostile.text(path), CONFIG_DEADLINE_S
        )
    except (Stuck, Refused) as error:
        return None, str(error)
    except OSError as error:
        return None, f"{path}: {error.strerror}"
    return text, ""


def found_of(each: AgentInput, host: Host) -> Inputs:
    """What an agent that starts now finds of that input; nothing if it is not known. Blocks.

    Why it is not known, the kind's own condition reports.
    """
    with contextlib.suppress(OSError, Refused, Unavailable):
        return each.found(each.observe(host), host.digest)
    return {}


def located(spec: AgentSpec) -> Environments | None:
    """The agent's environments; None: they are unmanaged, or can't be observed. Blocks."""
    with contextlib.suppress(Refused, Unavailable):
        return environments.environments(spec.install.path) if spec.install else None
    return None
