"""A Debian root folder with chosen packages, made once by debootstrap and kept below `.lab/`.

Containers and virtual machines of the tests start from copies of it. Mirror
and suite are this machine's own, so its proxies and certificates apply too.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

LAB = Path(__file__).resolve().parent.parent / ".lab"


class NotPossible(Exception):
    """This machine can't make a Debian root; the text says what is missing."""


def debian_root(packages: Iterable[str]) -> Path:
    """A minbase tree with `packages` on top; about 40 s the first time, then at once.

    Shared by all who ask for the same packages: copy it, never write into it.
    A change of the list makes a new tree. Raises NotPossible.
    """
    wanted = sorted(set(packages))
    if os.geteuid() != 0:
        raise NotPossible("debootstrap needs root")
    if shutil.which("debootstrap") is None:
        raise NotPossible("debootstrap is missing: apt-get install debootstrap")
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    name = hashlib.sha256(" ".join([suite, *wanted]).encode()).hexdigest()[:12]
    tree = LAB / "debian" / f"{suite}-{name}"
    with _alone(tree):
        if not tree.exists():
            _debootstrap(tree, suite, wanted)
    return tree


def _debootstrap(tree: Path, suite: str, packages: list[str]) -> None:
    partial = tree.with_name(tree.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    include = [f"--include={','.join(packages)}"] if packages else []
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", *include, suite, partial, _mirror(suite)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        last = (made.stdout + made.stderr).strip().splitlines()[-5:]
        raise NotPossible("debootstrap failed: " + " | ".join(last))
    for package in (partial / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    partial.rename(tree)


def _mirror(suite: str) -> str:
    """Where this machine's apt gets the suite from, in either format of its sources."""
    try:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(SITE)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotPossible(f"apt-get doesn't name its mirrors: {error}") from error
    for line in listed.splitlines():
        release, component, site = line.split(maxsplit=2)
        if (release, component) == (suite, "main"):
            return site
    raise NotPossible(f"apt knows no mirror of {suite}/main: apt-get update")


@contextlib.contextmanager
def _alone(tree: Path) -> Iterator[None]:
    """Makes others who want the same tree wait until it is there."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tree.with_name(tree.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
