"""What a version of the agent says of an agent.toml, asked of that version itself.

Its own Python runs its own start, as far as its configuration is read (see
`validator_program`). That is code of others: it runs as the agent's account in
a session of its own, in / and with nothing of our environment, gets what it has to
read as a file that it can't change, and is bounded in time, memory and output.

Everything here blocks: call it through `blocking.in_thread`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import subprocess
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....errors import Refused, Unavailable
from ....machine import Account
from ....system.launch import account, credentials, environment
from ....system.programs import program
from ....text import clean
from . import validator_program
from .release import Release

DEADLINE_S = 20.0
_REPLY_AT_MOST = 64 << 10
# It takes a second of CPU, 160 MB and 300 MB of addresses. By a program of its own: what the
# kernel lets root set in another account's process depends on more than being root.
_BOUNDED = ("--cpu=60", f"--as={2 << 30}", f"--fsize={_REPLY_AT_MOST}", "--core=0", "--")
_SENTENCES_AT_MOST = 10
_SENTENCE_AT_MOST = 300
_KEPT_AT_MOST = 16
# What was refused may be mended beside the file, such as a certificate that it names.
_REFUSED_FOR_S = 60.0
_UNKNOWN_FOR_S = 300.0
# Read at once: the package may be another one by the time of the first question.
_PROGRAM = Path(validator_program.__file__).read_text()

_Key = tuple[object, ...]
_kept: OrderedDict[_Key, tuple[Answer, float]] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Answer:
    """accepts  None: it can't tell, and `why` says what keeps it from that"""

    accepts: bool | None
    why: tuple[str, ...] = field(default=(), repr=False)


def ask(release: Release, user: str | None, env: Mapping[str, str], text: str) -> Answer:
    """What the agent says of that agent.toml, under that account (None: ours), with more of its
    environment. Kept as long as neither its installation nor the question changes. Blocks."""
    try:
        run_as = account(user)
        digest = hashlib.sha256(text.encode()).digest()
        key = (*_identity(release), run_as, tuple(sorted(env.items())), digest)
        known, until_s = _kept.get(key, (None, 0.0))
        if known is None or time.monotonic() > until_s:
            known = _asked(release, run_as, env, text)
            _keep(key, known)
    except Refused as error:
        return Answer(None, (error.message,))
    except (Unavailable, OSError, subprocess.SubprocessError) as error:
        return Answer(None, (clean(f"{release.python} can't be asked: {error}"),))
    return known


def _identity(release: Release) -> Iterator[object]:
    for path in (release.python, release.metadata):
        status = path.stat()
        yield from (path, status.st_dev, status.st_ino, status.st_mtime_ns)


def _keep(key: _Key, answer: Answer) -> None:
    for_s = {True: float("inf"), False: _REFUSED_FOR_S, None: _UNKNOWN_FOR_S}[answer.accepts]
    _kept[key] = (answer, time.monotonic() + for_s)
    while len(_kept) > _KEPT_AT_MOST:
        _kept.popitem(last=False)


def _asked(release: Release, run_as: Account, env: Mapping[str, str], text: str) -> Answer:
    with _file(text.encode()) as question, _file() as reply:
        child = subprocess.Popen(
            (program("prlimit"), *_BOUNDED, str(release.python), "-I", "-B", "-c", _PROGRAM),
            stdin=question,
            stdout=reply,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment(run_as, env),
            start_new_session=True,
            **credentials(run_as),
        )
        if not _has_ended_by_itself(child):
            return Answer(None, (f"{release.python} did not answer within {DEADLINE_S:g} s",))
        return _read(os.pread(reply, _REPLY_AT_MOST, 0), child.returncode)


@contextlib.contextmanager
def _file(data: bytes | None = None) -> Iterator[int]:
    """A file without a name; one with data can't be changed any more."""
    fd = os.memfd_create("agent.toml", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        if data is not None:
            os.pwrite(fd, data, 0)
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield fd
    finally:
        os.close(fd)


def _has_ended_by_itself(child: subprocess.Popen[bytes]) -> bool:
    """Waits until the deadline, then ends whatever is left of its group."""
    try:
        pidfd = os.pidfd_open(child.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            return bool(poll.poll(DEADLINE_S * 1000))
        finally:
            os.close(pidfd)
    finally:
        # Not reaped yet, so the number is still that of its group alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _read(raw: bytes, code: int) -> Answer:
    try:
        reply: Any = json.loads(raw)
        accepts, why = reply["accepts"], reply["why"]
        if accepts not in (True, False, None) or not isinstance(why, list):
            raise ValueError("another answer than the program gives")  # noqa: TRY301
    except (ValueError, TypeError, KeyError, RecursionError):
        return Answer(None, (f"its validator ended without an answer, with {code}",))
    sentences = [clean(str(each), limit=_SENTENCE_AT_MOST) for each in why[:_SENTENCES_AT_MOST]]
    return Answer(accepts, tuple(sentences) if sentences or accepts else ("it gives no reason",))
