"""`status` and `nodes`: what nodes say of themselves, read by people."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import Any

import anyio

from .. import alive, http
from ..errors import Stuck, Unavailable
from ..model import Digest
from ..settings import NODE_ID, Settings
from ..store.base import Entry, Store
from ..system import blocking
from ..text import clean
from . import STORE_DEADLINE_S, Answer, reported
from .reported import ReportedStatus

HTTP_DEADLINE_S = 2.0
# A daemon reports all conditions, which the store has no room for.
WHOLE_AT_MOST = 1 << 20
UNREADABLE = "Unreadable"
WORST_FIRST = (
    UNREADABLE,
    "Degraded",
    "Invalid",
    "Missing",
    "Unknown",
    "Progressing",
    "Paused",
    "Ready",
)
_NAME_AT_MOST = 64
_READ = re.compile(r"node/[^/]+/(status|alive)")
_BLANKS = re.compile(r"[\s\u115f\u1160\u2800\u3164\uffa0]+")
_HEADLINE_AT_MOST = 300


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says of itself.

    status   None where nobody can read it, and `fault` says why
    silence  why it is not alive, as a clause; "": it is
    """

    node: str
    status: ReportedStatus | None
    silence: str = ""
    fault: str = ""

    @property
    def is_alive(self) -> bool:
        return not self.silence

    @property
    def summary(self) -> str:
        if self.status is None:
            return UNREADABLE
        return self.status.summary if self.is_alive else "Unknown"

    @property
    def document(self) -> Mapping[str, Any]:
        return self.status.document if self.status else {}


def read(node: str, raw: bytes, silence: str = "", limit: int = reported.READ_AT_MOST) -> Report:
    """From a status document as it was written, by whomever; of at most `limit` bytes."""
    node = clean(node, _NAME_AT_MOST)
    try:
        return Report(node, reported.read(raw, limit), silence)
    except reported.Unreadable as error:
        return Report(node, None, silence, f"its status can't be read: {error}")


async def status(settings: Settings, store: Store, me: str, node: str, digest: Digest) -> Answer:
    """0 Ready and alive, 3 else, 4 when neither the store nor the local daemon can be asked.

    Of this node its daemon is asked first: what is in the store may be half a minute old.
    """
    if not NODE_ID.match(node):
        text = f"{node}: is not a node id"
        return Answer(2, value={"error": text}, notes=[text])
    why = ""
    if node == me:
        try:
            return shown(await _from_daemon(settings, me, digest), "says the daemon on this node")
        except Unavailable as error:
            why = f"the daemon on this node does not answer: {error}"
    keys = [f"node/{node}/status", f"node/{node}/alive"]
    try:
        with anyio.fail_after(STORE_DEADLINE_S):
            found = (await store.read(keys)).entries
    except (Unavailable, TimeoutError) as error:
        text = str(error) or f"{store.where} does not answer"
        return _unreachable(f"{text}; and {why}" if why else text)
    if keys[0] not in found:
        text = f"{node}: has never reported to {store.where}"
        return Answer(3, value={"error": text}, notes=[text])
    value = found[keys[1]].raw if keys[1] in found else None
    report = read(node, found[keys[0]].raw, alive.silence(value, datetime.now(UTC)))
    answer = shown(report, f"says {store.where}")
    return replace(answer, notes=[why]) if why else answer


async def nodes(store: Store) -> Answer:
    """The fleet, worst first. 0, or 4 when the store can't be reached."""
    try:
        with anyio.fail_after(STORE_DEADLINE_S):
            found = await reports(store)
    except (Unavailable, TimeoutError) as error:
        return _unreachable(str(error) or f"{store.where} does not answer")
    found.sort(key=lambda r: (_rank(r.summary), r.node))
    width = max((len(report.node) for report in found), default=0)
    lines = [f"{r.node:{width}}  {r.summary:11}  {headline(r)}".rstrip() for r in found]
    value = [
        {"node": r.node, "summary": r.summary, "alive": r.is_alive, "headline": headline(r)}
        for r in found
    ]
    return Answer(0, lines, value, is_table=True)


async def reports(store: Store) -> list[Report]:
    """Of every node that has a status. Nothing else below `node/` is fetched: a node may write
    what it likes below its own name, and as much of it."""
    names = await store.names("node/")
    keys = [name for name in sorted(names) if _READ.fullmatch(name)]
    return reports_of((await store.read(keys)).entries, datetime.now(UTC))


def reports_of(entries: Mapping[str, Entry], now: datetime) -> list[Report]:
    """From the statuses and what the nodes say of being alive, by key."""

    def value(node: str) -> bytes | None:
        entry = entries.get(f"node/{node}/alive")
        return None if entry is None else entry.raw

    ids = {key: key.split("/")[1] for key in entries if key.endswith("/status")}
    return [
        read(node, entries[key].raw, alive.silence(value(node), now)) for key, node in ids.items()
    ]


def age(document: Mapping[str, Any], now: datetime) -> str:
    """How old a status is, for people: "3 h". Empty if not known."""
    applied = document.get("applied")
    moments = [document.get("started-at"), document.get("reported-at")]
    moments += [applied.get("at") if isinstance(applied, dict) else None]
    moments += [c.get("since") for c in document.get("conditions") or [] if isinstance(c, dict)]
    stamps = []
    for moment in moments:
        try:
            stamps.append(datetime.fromisoformat(str(moment)))
        except ValueError:
            continue
    aware = [stamp for stamp in stamps if stamp.tzinfo is not None]
    if not aware:
        return ""
    seconds = max(0, int((now - max(aware)).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _rank(summary: str) -> int:
    return WORST_FIRST.index(summary) if summary in WORST_FIRST else 0


def headline(report: Report) -> str:
    """The worst that a node says, in one line."""
    if report.status is None:
        return report.fault
    if not report.is_alive:
        return _silence(report)
    for each in report.status.conditions:
        if each["status"] != "True":
            first = each["message"].partition("\n")[0]
            # Blanks would push the rest to where the terminal begins its next line.
            text = _BLANKS.sub(" ", f"{each['type']}: {each['reason']}: {first}")
            return clean(text, _HEADLINE_AT_MOST)
    return ""


def _silence(report: Report) -> str:
    last = report.status.summary if report.status else "nothing readable"
    since = age(report.document, datetime.now(UTC))
    return f"{report.silence}; it said {last}" + (f", {since} ago" if since else "")


def shown(report: Report, source: str) -> Answer:
    """A node's status for people. 0 Ready and alive, 3 else."""
    if report.status is None:
        text = f"{report.node}: {UNREADABLE}: {report.fault}"
        return Answer(
            3, [text], {"node": report.node, "summary": UNREADABLE, "alive": report.is_alive}
        )
    known = report.status
    at = clean(str(known.document.get("reported-at") or "an unknown time"), 40)
    silence = f" ({_silence(report)})" if not report.is_alive else ""
    lines = [f"{report.node}: {report.summary}{silence}", f"  as of {at}, {source}"]
    width = max((len(c["type"]) for c in known.conditions), default=0)
    for c in known.conditions:
        text = f"  {c['type']:{width}}  {c['status']:7}  {c['reason']}"
        lines.append(f"{text}  {c['message']}".rstrip())
    for name in ("desired", "applied"):
        if part := known.part(name):
            digest = part.get("digest") or ("not valid" if part.get("documents") else "no document")
            lines.append(f"  {name}: revision {part.get('revision')}, {digest}")
    lines += [f"  {name}: {value}" for name, value in known.part("facts").items()]
    # Whatever has lines of its own stays below its node: no line of it begins as a node's does.
    lines = [line.replace("\n", "\n    ") for line in lines]
    code = 0 if report.summary == "Ready" else 3
    return Answer(code, lines, {**known.document, "alive": report.is_alive})


async def _from_daemon(settings: Settings, me: str, digest: Digest) -> Report:
    """The local daemon's own word, by which it shows that it has this node's key. Raises
    Unavailable."""
    host, port = settings.listen

    def ask() -> bytes:
        nonce = secrets.token_hex(16)
        with closing(HTTPConnection(host, port, timeout=HTTP_DEADLINE_S)) as connection:
            connection.request("GET", "/status", headers={http.NONCE: nonce})
            response = connection.getresponse()
            raw, given = response.read(WHOLE_AT_MOST + 1), response.headers.get(http.PROOF, "")
        if not hmac.compare_digest(given.encode(), http.proof(digest, nonce, raw).encode()):
            raise Unavailable("what answers there is not this node's daemon")
        return raw

    where = f"{host}:{port}"
    try:
        raw = await blocking.in_thread(where, ask, HTTP_DEADLINE_S)
    except (OSError, HTTPException, Stuck, Unavailable) as error:
        raise Unavailable(f"{where}: {error}") from error
    report = read(me, raw, limit=WHOLE_AT_MOST)
    if report.document.get("node") != me:
        raise Unavailable(f"{where}: something else answers there")
    return report


def _unreachable(why: str) -> Answer:
    return Answer(4, value={"error": why}, notes=[why])
