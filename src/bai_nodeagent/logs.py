"""structlog: for a terminal to read, else one JSON object a line (journald keeps it whole).

No traceback ever shows local variables: they hold secrets.
"""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from .log_writer import LogWriter
from .redact import Redactor
from .text import clean, clean_lines, to_json

FLUSH_DEADLINE_S = 1.0


def _loss(lines: int) -> str:
    return json.dumps({"event": "log.lost", "level": "warning", "lines": lines})


_writer = LogWriter(2, _loss)


class _Lines:
    """What structlog hands finished lines to."""

    def msg(self, line: str) -> None:
        _writer.write(line)

    debug = info = warning = error = critical = exception = msg


_OUR_WORDS = frozenset({"event", "level", "resource", "status", "reason"})


def flush() -> None:
    """Waits, not for long, until what was logged is written."""
    _writer.flush(FLUSH_DEADLINE_S)


def configure(level: str, log_format: str, redactor: Redactor) -> None:
    """Sends all logs to stderr; `log_format` is "auto", "console" or "json"."""
    is_console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    if is_console:
        ends: list[Processor] = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
            _with_diff_below(
                structlog.dev.ConsoleRenderer(
                    colors=sys.stderr.isatty(),
                    exception_formatter=structlog.dev.plain_traceback,
                    pad_event_to=18,
                    sort_keys=False,
                )
            ),
        ]
        tracer: Processor = structlog.processors.format_exc_info
    else:
        tracer = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        )
        ends = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(lambda event, **_: to_json(event)),
        ]

    def shown(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Masked and printable before it is a line. Keys and our own words stay, also where
        somebody's secret is such a word: alerts are made of them."""
        return {
            key: _printable(value if key in _OUR_WORDS else redactor.value(value))
            for key, value in event.items()
        }

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.contextvars.merge_contextvars,
            tracer,
            shown,
            *ends,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=False,
    )


def _printable(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case dict():
            return {clean(str(key)): _printable(each) for key, each in value.items()}
        case list():
            return [_printable(each) for each in value]
        case _:
            return clean_lines(str(value))


def _with_diff_below(render: Processor) -> Processor:
    """People read a diff line by line, not within one; of a traceback no line looks like ours."""

    def rendered(logger: WrappedLogger, method: str, event: EventDict) -> str:
        diff = event.pop("diff", "")
        if "exception" in event:
            event["exception"] = event["exception"].replace("\n", "\n    | ")
        return str(render(logger, method, event)) + textwrap.indent(f"\n{diff}", "    ").rstrip()

    return rendered
