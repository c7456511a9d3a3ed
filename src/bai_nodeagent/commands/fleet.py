"""`status` and `nodes`: what nodes say of themselves, read by people."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio

from .. import blocking
from ..model import Stuck, Unavailable
from ..settings import Settings
from ..store.base import Store
from . import STORE_DEADLINE_S, Answer

HTTP_DEADLINE_S = 2.0
WORST_FIRST = ("Degraded", "Invalid", "Missing", "Unknown", "Progressing", "Paused", "Ready")


@dataclass(frozen=True, slots=True)
class Report:
    """A node's status document as it stands in the store. Whoever wrote it: trust nothing."""

    node: str
    document: dict[str, Any]
    is_alive: bool

    @property
    def summary(self) -> str:
        return str(self.document.get("summary", "Unknown")) if self.is_alive else "Unknown"

    @property
    def conditions(self) -> list[dict[str, Any]]:
        found = self.document.get("conditions")
        return [c for c in found if isinstance(c, dict)] if isinstance(found, list) else []


async def status(settings: Settings, store: Store, me: str, node: str) -> Answer:
    """0 Ready and alive, 3 else, 4 when neither the store nor the local daemon can be asked."""
    keys = [f"node/{node}/status", f"node/{node}/alive"]
    try:
        with anyio.fail_after(STORE_DEADLINE_S):
            found = (await store.read(keys)).entries
    except (Unavailable, TimeoutError) as error:
        why = str(error) or f"{store.where} does not answer"
        return await _from_daemon(settings, why) if node == me else _unreachable(why)
    if keys[0] not in found:
        text = f"{node}: has never reported to {store.where}"
        return Answer(3, value={"error": text}, notes=[text])
    report = Report(node, _document(found[keys[0]].raw), keys[1] in found)
    return shown(report)


async def nodes(store: Store) -> Answer:
    """The fleet, worst first. 0, or 4 when the store can't be reached."""
    try:
        with anyio.fail_after(STORE_DEADLINE_S):
            found = (await store.list("node/")).entries
    except (Unavailable, TimeoutError) as error:
        return _unreachable(str(error) or f"{store.where} does not answer")
    reports = [
        Report(key.split("/")[1], _document(entry.raw), f"node/{key.split('/')[1]}/alive" in found)
        for key, entry in found.items()
        if key.endswith("/status") and key.count("/") == 2
    ]
    reports.sort(key=lambda r: (_rank(r.summary), r.node))
    width = max((len(report.node) for report in reports), default=0)
    lines = [f"{r.node:{width}}  {r.summary:11}  {_headline(r)}".rstrip() for r in reports]
    value = [
        {"node": r.node, "summary": r.summary, "alive": r.is_alive, "headline": _headline(r)}
        for r in reports
    ]
    return Answer(0, lines, value)


def age(document: dict[str, Any], now: datetime) -> str:
    """Since when a status has not changed, for people: "3 h". Empty where nothing tells."""
    applied = document.get("applied")
    moments = [document.get("started-at"), applied.get("at") if isinstance(applied, dict) else None]
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


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _headline(report: Report) -> str:
    if not report.is_alive:
        return _silence(report)
    for condition in report.conditions:
        if condition.get("status") != "True":
            return f"{condition.get('type')}: {condition.get('reason')}: {condition.get('message')}"
    return ""


def _silence(report: Report) -> str:
    last = report.document.get("summary", "nothing readable")
    since = age(report.document, datetime.now(UTC))
    return f"has not reached the store for a lease's time; it said {last}" + (
        f", unchanged since {since}" if since else ""
    )


def shown(report: Report, note: str | None = None) -> Answer:
    """A node's status for people. 0 Ready and alive, 3 else."""
    code = 0 if report.summary == "Ready" else 3
    lines = [f"{report.node}: {report.summary}"]
    if not report.is_alive:
        lines[0] += f" ({_silence(report)})"
    width = max((len(str(c.get("type"))) for c in report.conditions), default=0)
    for c in report.conditions:
        text = f"  {c.get('type')!s:{width}}  {c.get('status')!s:7}  {c.get('reason')}"
        lines.append(f"{text}  {c.get('message') or ''}".rstrip())
    for name in ("desired", "applied"):
        part = report.document.get(name)
        if isinstance(part, dict):
            digest = part.get("digest") or "not valid"
            lines.append(f"  {name}: revision {part.get('revision')}, {digest}")
    facts = report.document.get("facts")
    if isinstance(facts, dict):
        lines += [f"  {name}: {value}" for name, value in facts.items()]
    return Answer(
        code, lines, {**report.document, "alive": report.is_alive}, [note] if note else []
    )


async def _from_daemon(settings: Settings, why: str) -> Answer:
    """The local daemon's own word, while the store is away."""
    host, port = settings.listen
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/status"

    def ask() -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=HTTP_DEADLINE_S) as response:
            return bytes(response.read())

    try:
        raw = await blocking.in_thread(url, ask, HTTP_DEADLINE_S)
    except (OSError, Stuck) as error:
        return _unreachable(f"{why}; and the daemon on this node does not answer: {error}")
    document = _document(raw)
    note = f"{why}; this is the local daemon's word"
    return shown(Report(str(document.get("node")), document, is_alive=True), note)


def _unreachable(why: str) -> Answer:
    return Answer(4, value={"error": why}, notes=[why])
