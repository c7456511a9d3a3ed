"""Whether a process could be started, found out without stopping the one that runs.

The real start but for the program: another one, that only check, is started by
the same account, in the same folder, with the same arguments and environment.
So what the kernel would refuse then it refuses now.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ....errors import Refused, Unavailable
from ....machine import Account
from ....system import executable, hostile, launch, output
from ....system.programs import program
from ....text import clean

DEADLINE_S = 10.0
CHECK_S = 5.0
_OUTPUT_AT_MOST = 65_536
# A name with what is said of it, in argv, up to the kernel's limit: execve(2).
_STRING_AT_MOST = 131_071
# Looks at its arguments up to "--"; what follows is there to be passed.
_CHECK = """
for each; do
  [ "$each" = -- ] && exit 0
  [ -f "$each" ] || { echo "this account finds no program $each"; exit 1; }
  [ -x "$each" ] || { echo "$each may not be executed by this account"; exit 1; }
done
"""


def obstacle(
    command: Sequence[str],
    *,
    user: str | None,
    env: Mapping[str, str],
    workdir: Path,
    tried: Sequence[str] = (),
) -> str:
    """What would keep that command from being started, as a sentence; "" for nothing. Blocks.

    `tried` is a command that is really run, and has to end well.
    """
    try:
        run_as = launch.account(user)
        search_path = env.get("PATH", launch.SEARCH_PATH)
        found = executable.program_of(command, workdir, search_path)
        if found is None:
            return (
                f"this account finds no program {clean(command[0])} in {search_path}"
                if command
                else ""
            )
        wanted = executable.executable(command, workdir, search_path)
        files = [str(found), *([wanted.named] if wanted and wanted.before else [])]
        check = [program("sh"), "-c", _CHECK, "sh", *files, "--", *command]
        for argv in (check, list(tried)):
            if argv and (why := _run(argv, run_as, env, workdir)):
                return why
    except (Refused, Unavailable) as error:
        return str(error)
    return ""


def entrusted(command: Sequence[str], env: Mapping[str, str], workdir: Path) -> str:
    """Of a command that root runs: who else decides what that is, as a sentence; "" for nobody.
    Blocks."""
    search_path = env.get("PATH", launch.SEARCH_PATH)
    found = executable.program_of(command, workdir, search_path)
    if found is None:
        return ""
    run = executable.executable(command, workdir, search_path)
    named = [Path(word) for word in (run.named if run else "", *command[1:]) if word[:1] == "/"]
    folders = [workdir] if "-m" in command else []
    for path in dict.fromkeys([found, *named, *folders]):
        if why := _in_other_hands(path):
            text = f"root runs {path}, which others can replace ({why})"
            return f"{text}; let their account run it: [agent] user"
    return ""


def _in_other_hands(path: Path) -> str:
    """Whose, as a clause; "" where that is nobody's but root's, or nothing is there."""
    try:
        with hostile.place(path) as place:
            status = None if place.fd is None else os.fstat(place.fd)
    except Refused:
        return "a link on the way is not root's"
    except OSError:
        return ""  # it runs all the same, or is no path
    if place.doubt or status is None:
        return place.doubt
    if status.st_uid != 0:
        return f"it belongs to uid {status.st_uid}"
    return "others can write in it" if status.st_mode & 0o022 else ""


def _run(argv: list[str], run_as: Account, env: Mapping[str, str], workdir: Path) -> str:
    try:
        with output.bounded() as fd:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=fd,
                stderr=subprocess.STDOUT,
                cwd=workdir,
                env=launch.environment(run_as, env),
                timeout=CHECK_S,
                check=False,
                start_new_session=True,
                **launch.credentials(run_as),
            )
            text = output.last_of(fd, _OUTPUT_AT_MOST)
    except subprocess.TimeoutExpired:
        return f"{argv[0]} does not end within {CHECK_S:.0f} s in {workdir}"
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return _refused(error, argv, env, workdir)
    if done.returncode == 0:
        return ""
    lines = output.quoted(text, 3)
    if argv[1:2] == ["-c"]:
        return lines or f"{argv[0]} fails in {workdir}"
    return f"{argv[0]} does not run: {lines or f'exit status {done.returncode}'}"


def _refused(error: Exception, argv: list[str], env: Mapping[str, str], workdir: Path) -> str:
    if not isinstance(error, OSError):
        return f"it can't be started in {workdir}: {error}"
    if error.errno == errno.E2BIG:
        named = [n for n, value in env.items() if len(f"{n}={value}".encode()) > _STRING_AT_MOST]
        which = f": {', '.join(named)} has more than 128 KiB" if named else ""
        return f"its arguments and environment are too long for the kernel{which}"
    return f"it can't be started in {workdir}: {error.filename or argv[0]}: {error.strerror}"
