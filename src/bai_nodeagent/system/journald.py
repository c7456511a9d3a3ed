"""The journal: what one run of a unit wrote. journalctl(1), systemd.journal-fields(7)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import anyio

from ..errors import Unavailable
from . import blocking, output
from .programs import program

# journald notes a unit's last words some time after the unit has died. `journalctl
# --sync` does not wait for what journald has not read yet.
_LAG_S = (0.0, 0.05, 0.2, 0.5, 1.0)
_BYTES_AT_MOST = 1 << 20
_WHY_BYTES = 1000
# What systemd itself says of a unit around a start and an end, at the most.
_MARKS = 16
# Its last word on a run: it succeeded, failed, or was skipped. systemd/sd-messages.h
_ENDS = (
    "7ad2d189f7e94e70a38c781354912448",
    "d9b373ed55a64feb8242e02dbe79a49c",
    "0e4284a0caca4bfc81c0bb6786972673",
)


async def last_lines(
    journalctl: Sequence[str],
    unit: str,
    invocation_id: str,
    count: int,
    deadline_s: float,
    *,
    is_over: bool = False,
) -> str:
    """The last lines of one invocation; "" when there are none, which takes 1.8 s.

    `is_over`: the unit has ended, so what it wrote ends with systemd's own word on that. Until
    this is there some of it may be missing, and it is waited for as long.

    Raises Unavailable when journalctl fails or is not done by the deadline,
    and Stuck while an earlier call has not come back.
    """
    command = [
        *(journalctl or (program("journalctl"),)),
        "--quiet",
        "--no-pager",
        "--reverse",
        "--output=json",
        "--output-fields=MESSAGE,MESSAGE_ID,UNIT,INVOCATION_ID,_SYSTEMD_INVOCATION_ID",
        f"--lines={count + _MARKS}",
        f"_SYSTEMD_UNIT={unit}",
        "+",
        *(f"UNIT={unit}", "_PID=1"),
    ]
    lines: list[str] = []
    was_whole = False
    for lag_s in _LAG_S:
        await anyio.sleep(lag_s)
        entries = await blocking.in_thread(
            f"journald: read what {unit} wrote",
            lambda: _read(command, deadline_s),
            deadline_s=2 * deadline_s,
        )
        lines = written(entries, invocation_id)[-count:]
        # Words and marks come to journald by different ways, some milliseconds out of order.
        if lines and (was_whole or not is_over):
            break
        was_whole = ended(entries, invocation_id)
    return "\n".join(lines)


def ended(entries: str, invocation_id: str) -> bool:
    """Whether systemd's word on the end of an invocation is among the entries."""
    found = map(json.loads, filter(None, entries.split("\n")))
    return any(
        e.get("MESSAGE_ID") in _ENDS and e.get("INVOCATION_ID") == invocation_id for e in found
    )


def written(entries: str, invocation_id: str) -> list[str]:
    """What an invocation wrote, oldest first, from entries as JSON lines, newest first.

    What a process writes in its last milliseconds, journald may note without
    an invocation, as it looks that up when the process is gone. Such a line
    counts unless something of another invocation is newer. systemd's own
    entries on the unit (they have a field UNIT) serve as marks; they may come
    some milliseconds out of order, so they don't end the search.
    """
    lines: list[str] = []
    is_last = True
    for entry in map(json.loads, filter(None, entries.split("\n"))):
        is_mark = "UNIT" in entry
        its = entry.get("INVOCATION_ID" if is_mark else "_SYSTEMD_INVOCATION_ID")
        is_last = is_last and its in (None, invocation_id)
        if not is_mark and (its == invocation_id or (its is None and is_last)):
            lines.append(_text(entry.get("MESSAGE")))
    return lines[::-1]


def _text(message: object) -> str:
    """Numbers stand for bytes that are not all printable UTF-8, null for what is too long,
    and a list for a field that the writer has given several times."""
    match message:
        case str():
            return message
        case [int(), *_]:
            return bytes(int(str(byte)) for byte in message).decode(errors="replace")
        case list():
            return "\n".join(map(_text, message))
        case _:
            return ""


def _read(command: Sequence[str], deadline_s: float) -> str:
    """What journalctl prints, the newest entries, as many as fit. Blocks, on a broken disk for
    ever. One entry has hundreds of megabytes if its writer likes."""
    with output.bounded() as out, output.bounded() as err:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                check=False,
                timeout=deadline_s,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"journald: {error}") from error
        if done.returncode != 0 and not output.is_full(out):
            raise Unavailable(f"journald: {output.last_of(err, _WHY_BYTES).strip()}")
        found = output.first_of(out, _BYTES_AT_MOST)
    return found[: found.rfind("\n") + 1]  # whole entries
