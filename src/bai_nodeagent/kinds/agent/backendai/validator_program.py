"""Asks the Backend.AI agent of an environment whether it would start with an agent.toml.

    python -I -c TEXT < agent.toml

Runs in the agent's own environment, and stands alone, for any Python that an
agent may need. It answers on its standard output, in one line of JSON: {"accepts":
true}, false or null, which means that it can't tell, and "why" as a list of
sentences, which quote no value.

It is the agent's own start that is run (23.09 to 26.9: `ai.backend.agent.server.main`),
with a subcommand, so that it ends where the configuration is read. What follows
there before anything is done, the logger's own check and the one of the kernel's
core pattern, is added. Folders that reading creates are not created.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SERVER = "ai.backend.agent.server"
_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


class NotKnown(Exception):
    """Nothing is known of the file; the text says why."""


def answer(path: str) -> dict[str, Any]:
    """What the agent says of the file at `path`."""
    try:
        why = list(faults(path))
    except NotKnown as error:
        return {"accepts": None, "why": [str(error)]}
    return {"accepts": not why, "why": why}


def faults(path: str) -> Iterator[str]:
    """Why the agent would not start with it. Raises CantTell."""
    try:
        import click

        server = importlib.import_module(SERVER)
        main = server.main
        main.add_command(click.Command("only-check", callback=lambda: None))
    except BaseException as error:
        raise NotKnown(f"{SERVER} can't be asked: {_text_of(error)}") from error
    stderr, read = io.StringIO(), _what_is_read(server)
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
            main.main(["-f", path, "only-check"], standalone_mode=False)
            _check_the_rest(server, read)
    except (click.UsageError, MemoryError) as error:
        raise NotKnown(f"{SERVER} can't be asked: {_text_of(error)}") from error
    except click.exceptions.Abort as error:
        # The agent prints the error that it has caught, values and all.
        cause = error.__cause__ or error.__context__
        yield from _sentences(cause) if cause else stderr.getvalue().splitlines()[-1:]
    except NotKnown:
        raise
    except Exception as error:
        yield from _sentences(error)


def _what_is_read(server: Any) -> list[Any]:
    """Gets the configuration as the agent has it in the end, once it has read it."""
    from ai.backend.common import config  # type: ignore[import-not-found]

    read: list[Any] = []
    schema = getattr(server, "AgentUnifiedConfig", None)  # from 25.12 on
    place, name = (config, "check") if schema is None else (schema, "model_validate")
    original = getattr(place, name)

    def check(*words: Any, **more: Any) -> Any:
        found = original(*words, **more)
        read.append(found)
        return found

    setattr(place, name, check)
    return read


def _check_the_rest(server: Any, everything_read: list[Any]) -> None:
    if not everything_read:
        raise NotKnown(f"{SERVER} reads its configuration in another way than it did")
    read = everything_read[0]
    words = {"is_master": True, "log_endpoint": "", "msgpack_options": {}}
    logger = server.Logger
    accepted = inspect.signature(logger).parameters
    logger(_at(read, "logging"), **{name: words[name] for name in words if name in accepted})
    if _at(_at(_at(read, "debug"), "coredump"), "enabled"):
        pattern = _CORE_PATTERN.read_text().strip()
        if not pattern.startswith("/"):
            raise ValueError(f"debug.coredump needs an absolute path in {_CORE_PATTERN}")


def _at(table: Any, key: str) -> Any:
    return table[key] if isinstance(table, Mapping) else getattr(table, key)


def _sentences(error: BaseException) -> Iterator[str]:
    """Of trafaret, pydantic and the agent's own errors: place and text, without values."""
    if callable(errors := getattr(error, "errors", None)):
        found = [f"{_place(e['loc'])}: {e['msg']}" for e in errors()]
        yield from found or [type(error).__name__]
    elif isinstance(data := getattr(error, "invalid_data", None), Mapping):
        yield from _leaves(data)
    elif callable(as_dict := getattr(error, "as_dict", None)):
        yield from _leaves({"logging": as_dict()})
    else:
        yield _text_of(error)


def _leaves(data: Mapping[Any, Any], place: tuple[str, ...] = ()) -> Iterator[str]:
    for key, value in data.items():
        here = (*place, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, here)
        else:
            yield f"{_place(here)}: {value}"


def _place(parts: Any) -> str:
    return ".".join(str(part) for part in parts) or "the file"


def _text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def create_no_folders() -> None:
    """Lets a folder that reading would create count as created: validation is to change nothing."""
    made: set[str] = set()
    is_dir = Path.is_dir

    def mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        way = next(path for path in (self, *self.parents) if path.exists())
        if not is_dir(way):
            raise NotADirectoryError(f"{way} is no folder")
        made.add(str(self.resolve()))

    def is_there(self: Path, **more: Any) -> bool:
        return str(self.resolve()) in made or is_dir(self, **more)

    Path.mkdir, Path.is_dir = mkdir, is_there  # type: ignore[method-assign]


if __name__ == "__main__":
    create_no_folders()
    # Whatever else is written while the agent is imported is no answer.
    result = os.dup(1)
    os.dup2(2, 1)
    os.write(result, json.dumps(answer("/proc/self/fd/0")).encode())
    sys.stdout.flush()
    os._exit(0)  # threads that an import has started may not hold it up
