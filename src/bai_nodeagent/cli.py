"""Arguments, exit codes, printing.

0 done, 1 a bug (and "no" of may-start), 2 usage or an invalid document or
configuration, 3 not in line, 4 something could not be reached in time, 5
somebody else is at it, 74 the answer could not be printed (EX_IOERR of
sysexits.h), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TextIO

import anyio

from . import __version__, logs, settings
from .commands import Answer
from .core.status import timestamp, to_json
from .desired import duration_s
from .redact import Redactor
from .settings import InvalidSettings, Settings
from .site import AlreadyRunning, CannotStart, Site, open_site, store_of
from .store.base import Store
from .text import clean_lines
from .text import to_json as json_text

UNPRINTED = 74
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `bai-nodeagent`."""
    _complete_descriptors()
    for stream in (sys.stdout, sys.stderr):  # of whatever encoding
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Options may be before and after the command: argparse keeps both only
    # when neither parser has a default of its own.
    given = argparse.Namespace(config=None, json=False, redactor=Redactor())
    arguments = _parser().parse_args(argv, given)
    try:
        answer = arguments.does(arguments)
    except InvalidSettings as error:
        answer = _failed(2, *error.mistakes)
    except CannotStart as error:
        answer = _failed(2, str(error))
    except AlreadyRunning as error:
        answer = _failed(5, str(error))
    except KeyboardInterrupt:
        answer = Answer(INTERRUPTED)
    logs.flush()
    code = _print(answer, arguments.redactor, as_json=arguments.json)
    sys.exit(answer.code if arguments.does is _may_start else code)


def _complete_descriptors() -> None:
    """Opens what of 0, 1 and 2 is closed, so that no other file gets its number."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def _print(answer: Answer, redactor: Redactor, *, as_json: bool) -> int:
    """Prints, and gives the exit code: another one where stdout took no answer.

    The one place where words reach a terminal: without secrets, printable, and
    what is of several lines told apart from lines of our own.
    """

    def shown(line: str) -> str:
        return clean_lines(redactor(line)).replace("\n", "\n    | ")

    with contextlib.suppress(OSError):  # stderr is a comfort
        for note in answer.notes:
            print(f"bai-nodeagent: {shown(note)}", file=sys.stderr)
        sys.stderr.flush()
    try:
        if as_json and answer.value is not None:
            print(json_text(redactor.value(answer.value)))
        elif not as_json:
            width = terminal_width() if answer.is_table else None
            for line in answer.lines:
                print(fitting(shown(line), width))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough: `schema | head`
        _give_up(sys.stdout)
    except OSError as error:
        _give_up(sys.stdout)
        with contextlib.suppress(OSError):
            print(f"bai-nodeagent: stdout: {error.strerror}", file=sys.stderr, flush=True)
        return UNPRINTED
    return answer.code


def terminal_width() -> int | None:
    """None where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitting(line: str, width: int | None) -> str:
    """As much of it as fits. Wide characters take two columns; others do so on some terminals."""
    if width is None:
        return line
    columns = 0
    for at, character in enumerate(line):
        columns += 2 if unicodedata.east_asian_width(character) in "WFA" else 1
        if columns > width:
            return line[:at]
    return line


def _give_up(stream: TextIO) -> None:
    """Else Python tries to write the rest when it ends, and ends with a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _failed(code: int, *lines: str) -> Answer:
    return Answer(code, value={"error": "; ".join(lines)}, notes=lines)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(clean_lines(message))  # it quotes arguments


def _common() -> _Parser:
    """What every command takes."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"the daemon's configuration (default: {settings.DEFAULT_FILE}, if it is there)",
    )
    common.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="one JSON value on stdout"
    )
    return common


def _parser() -> argparse.ArgumentParser:
    common = _common()
    parser = _Parser(
        prog="bai-nodeagent",
        description="Keeps a Backend.AI node in line with a desired state.",
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"bai-nodeagent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: Callable[[argparse.Namespace], Answer], text: str) -> Any:
        added = commands.add_parser(name, parents=[common], help=text, description=text)
        added.set_defaults(does=does)
        return added

    command("run", _run, "keep this node in line until SIGTERM: the daemon")
    command("plan", _plan, "what would change; touches nothing")
    command(
        "apply", _apply, "bring this node into line once, then end; not beside a running daemon"
    )
    added = command("validate", _validate, "check documents alone, without the store")
    added.add_argument("files", nargs="+", metavar="FILE", help="TOML; - is stdin")
    added = command("put", _put, "check a document and write it to the store")
    added.add_argument("layer", metavar="LAYER", help="cluster, group/NAME or node/NAME")
    added.add_argument("file", metavar="FILE", help="TOML; - is stdin")
    added = command("status", _status, "conditions of this or another node")
    added.add_argument("node", nargs="?", metavar="NODE", help="its id (default: this node)")
    command("nodes", _nodes, "the fleet, worst first")
    added = command("pause", _pause, "from now on observe and report only")
    added.add_argument(
        "--for",
        dest="for_s",
        type=_duration,
        metavar="DURATION",
        help="end by itself after that time, such as 90s, 5m or 2h",
    )
    command("resume", _resume, "end a pause")
    command("rebind", _rebind, "choose agent-ip anew")
    command("retry", _retry, "give the inputs that a rollback has given up another try")
    command(
        "may-start",
        _may_start,
        "whether the agent may start now: ExecCondition= of its unit",
    )
    command("schema", _schema, "JSON Schema of the document")
    return parser


def _duration(text: str) -> float:
    wrong = argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 5m or 2h")
    try:
        found_s = duration_s(text)
    except ValueError as error:
        raise wrong from error
    if found_s <= 0:
        raise wrong
    return found_s


def _settings(arguments: argparse.Namespace) -> Settings:
    loaded = settings.load(arguments.config, os.environ)
    logs.configure(loaded.log_level, loaded.log_format, arguments.redactor)
    return loaded


def _site(arguments: argparse.Namespace, *, writes: bool) -> Site:
    return open_site(_settings(arguments), arguments.redactor, writes=writes)


def _asking(store: Store, work: Callable[[], Awaitable[Answer]]) -> Answer:
    async def ask() -> Answer:
        try:
            return await work()
        finally:
            await store.close()

    return anyio.run(ask)


def _run(arguments: argparse.Namespace) -> Answer:
    from . import daemon

    anyio.run(daemon.run, _site(arguments, writes=True))
    return Answer(0)


def _apply(arguments: argparse.Namespace) -> Answer:
    from . import daemon
    from .commands import fleet

    newest = anyio.run(daemon.apply, _site(arguments, writes=True))
    raw = to_json(replace(newest, reported_at=timestamp(datetime.now(UTC))))
    return fleet.shown(fleet.read(newest.node, raw), "says this run")


def _plan(arguments: argparse.Namespace) -> Answer:
    from .commands import plan

    site = _site(arguments, writes=False)
    return _asking(site.store, lambda: plan.plan(site))


def _validate(arguments: argparse.Namespace) -> Answer:
    from .commands import documents

    return documents.validate(arguments.files)


def _schema(_arguments: argparse.Namespace) -> Answer:
    from .commands import documents

    return documents.schema()


def _put(arguments: argparse.Namespace) -> Answer:
    from .commands import documents

    store = store_of(_settings(arguments), writes=True)
    return _asking(store, lambda: documents.put(store, arguments.layer, arguments.file))


def _status(arguments: argparse.Namespace) -> Answer:
    from .commands import fleet

    site = _site(arguments, writes=False)
    me = site.place.identity.node_id
    node = arguments.node or me
    return _asking(
        site.store, lambda: fleet.status(site.settings, site.store, me, node, site.host.digest)
    )


def _nodes(arguments: argparse.Namespace) -> Answer:
    from .commands import fleet

    store = store_of(_settings(arguments), writes=False)
    return _asking(store, lambda: fleet.nodes(store))


def _pause(arguments: argparse.Namespace) -> Answer:
    from .commands import local

    return local.pause(_settings(arguments), arguments.for_s)


def _resume(arguments: argparse.Namespace) -> Answer:
    from .commands import local

    return local.resume(_settings(arguments))


def _rebind(arguments: argparse.Namespace) -> Answer:
    from .commands import local

    return local.rebind(_settings(arguments))


def _retry(arguments: argparse.Namespace) -> Answer:
    from .commands import local

    return local.retry(_settings(arguments))


def _may_start(arguments: argparse.Namespace) -> Answer:
    from .commands import gate

    return gate.may_start(_site(arguments, writes=False), os.environ)
