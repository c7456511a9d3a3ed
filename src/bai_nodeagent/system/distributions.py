"""Accelerator plugins in another interpreter's environment, from its files alone.

Nothing of that environment is run: the daemon is root, the environment often
belongs to the agent's user, and a plugin's import may take a GPU driver with
it. So where an interpreter looks is judged by the layout that the `site`
module describes: prefix, pyvenv.cfg, and the plain lines of .pth files. What
only code could tell (an editable install's import hook) is given the benefit
of the doubt. Everything here blocks; call it through `look`.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from importlib.metadata import PathDistribution
from pathlib import Path

import anyio

from ..blocking import in_thread
from ..model import Stuck, Unavailable
from ..plugin_rules import QUIET_S, Environment, Plugin, PluginRules
from . import inotify
from .executable import EXEC_LINE

GROUP = "backendai_accelerator_v21"
LOOK_DEADLINE_S = 5.0
_PYTHON = re.compile(r"python[0-9.]*")


async def look(rules: PluginRules, asker: str) -> Environment | None:
    """The environment that `[plugins]` is about; None where it can't be told which one that is.

    `asker` tells apart who asks at the same time. Raises Unavailable, Stuck.
    """
    return await in_thread(
        f"{asker}: what is installed", lambda: environment(rules), LOOK_DEADLINE_S
    )


async def changes(
    rules: PluginRules, asker: str, *, are_settled: bool = False
) -> AsyncGenerator[None, None]:
    """Yields at the start of the watch, and when packages or a plugin's module come or go;
    if `are_settled`, then once nobody installs anything any more. Raises Unavailable.
    """
    try:
        while True:
            watched = _watched(await look(rules, asker), rules)
            async with aclosing(inotify.changes(watched)) as events:
                async for _ in events:
                    if are_settled:
                        await _settle(rules, asker)
                    yield
                    if _watched(await look(rules, asker), rules) != watched:
                        break
    except (Stuck, OSError) as error:
        raise Unavailable(f"{asker}: {error}") from error


async def _settle(rules: PluginRules, asker: str) -> None:
    seen = await look(rules, asker)
    while seen is not None and not seen.is_quiet(time.time()):
        await anyio.sleep(seen.changed_s + QUIET_S - time.time())
        seen = await look(rules, asker)


def _watched(seen: Environment | None, rules: PluginRules) -> list[Path]:
    if seen is None:
        return [Path(program) for program in rules.command[:1]]
    venv = seen.python.parent.parent / "pyvenv.cfg"
    return [seen.python, venv, *seen.folders, *(plugin.file for plugin in seen.plugins)]


def environment(rules: PluginRules) -> Environment | None:
    """See `look`. Blocks."""
    try:
        python = rules.python or interpreter_of(rules.command)
        if python is None:
            return None
        folders = folders_of(python) if python.exists() else ()
        return Environment(
            python,
            folders,
            tuple(sorted(_plugins(folders))),
            max((folder.stat().st_mtime for folder in folders), default=0.0),
        )
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Unavailable(f"what a package says of itself beside {python} is no UTF-8") from error


def interpreter_of(command: Sequence[str]) -> Path | None:
    """The interpreter that a command line runs with; None where it doesn't show. Blocks."""
    if not command:
        return None
    program = Path(command[0])
    if _PYTHON.fullmatch(program.name):
        return program
    try:
        with program.open("rb") as script:
            head = script.read(1024).decode(errors="replace")
    except FileNotFoundError:
        return None
    named = EXEC_LINE.search(head)
    path = Path(named[1] if named else _shebang(head))
    return path if path.is_absolute() and _PYTHON.fullmatch(path.name) else None


def _shebang(head: str) -> str:
    words = head.partition("\n")[0].removeprefix("#!").split()
    return words[0] if head.startswith("#!") and words else ""


def folders_of(python: Path) -> tuple[Path, ...]:
    """Where an interpreter looks for distributions, in its order. Blocks."""
    prefix = python.parent.parent
    venv = _settings(prefix / "pyvenv.cfg")
    if venv is None:
        real = python.resolve()
        found = _below(real.parent.parent, real.name.removeprefix("python"))
    else:
        version = venv.get("version", venv.get("version_info", ""))
        found = _below(prefix, ".".join(version.split(".")[:2]))
        if venv.get("include-system-site-packages", "").lower() == "true":
            found += folders_of(Path(venv.get("home", "/usr/bin")) / python.resolve().name)
    extended = [each for folder in found for each in (folder, *_named_in_pth(folder))]
    # lib64 is often a link to lib.
    return tuple({folder.resolve(): folder for folder in reversed(extended)}.values())[::-1]


def _settings(file: Path) -> Mapping[str, str] | None:
    try:
        lines = file.read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return None
    pairs = (line.partition("=") for line in lines)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _below(prefix: Path, version: str) -> tuple[Path, ...]:
    """Of a version such as "3.11"; of all that are there when it isn't known."""
    python = f"python{version}" if re.fullmatch(r"3\.\d+", version) else "python3.*"
    patterns = [f"lib*/{python}/site-packages"]
    if prefix == Path("/usr"):  # Debian's own interpreter
        patterns = [f"local/lib/{python}/dist-packages", *patterns, "lib/python3/dist-packages"]
    return tuple(folder for pattern in patterns for folder in sorted(prefix.glob(pattern)))


def _named_in_pth(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.glob("*.pth")):
        for line in file.read_text(errors="replace").split("\n"):
            name = line.strip()
            is_path = name and not name.startswith(("#", "import ", "import\t"))
            if is_path and (folder / name).is_dir():
                yield folder / name


def _plugins(folders: Sequence[Path]) -> Iterator[Plugin]:
    seen: set[str] = set()
    for metadata in _metadata_folders(folders):
        distribution = PathDistribution(metadata)
        # Asking for the text first: of hundreds of distributions few have plugins.
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            continue
        # .name and .version warn, or raise, where the file lacks them.
        told = distribution.metadata.json
        name = told.get("name")
        if not isinstance(name, str) or name in seen:
            continue  # half removed, or hidden by one of the same name
        seen.add(name)
        for point in distribution.entry_points.select(group=GROUP):
            file = _file_of(point.module, folders)
            yield Plugin(
                module=point.module,
                name=point.name,
                distribution=name,
                version=str(told.get("version", "")),
                file=file or metadata.parent.joinpath(*point.module.split(".")).with_suffix(".py"),
                is_found=file is not None or _is_editable(distribution),
                written_s=metadata.stat().st_mtime,
            )


def _metadata_folders(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.iterdir()):
            # pip leaves "~name" behind when it is ended in the middle.
            is_named = path.suffix in (".dist-info", ".egg-info") and path.name[0] != "~"
            if is_named and path.is_dir():
                yield path


def _is_editable(distribution: PathDistribution) -> bool:
    origin = distribution.read_text("direct_url.json") or ""  # PEP 610
    return re.search(r'"editable"\s*:\s*true', origin) is not None


def _file_of(module: str, folders: Iterable[Path]) -> Path | None:
    """The file of a module; its parents may be namespace packages, spread over folders."""
    for folder in folders:
        place = folder.joinpath(*module.split("."))
        names = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        # Compiled: plugin.cpython-311-x86_64-linux-gnu.so, for another Python than ours.
        compiled = place.parent.glob(f"{glob.escape(place.name)}.*so")
        for file in (*names, *sorted(compiled)):
            if file.is_file():
                return file
    return None
