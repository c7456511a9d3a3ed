"""A Debian root folder with chosen packages, made once by mmdebstrap and kept below `.lab/`.

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
from collections.abc import Iterable, Iterator
from pathlib import Path

from e2e.lab import rootfs

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
        raise NotPossible("mmdebstrap needs root")
    if shutil.which("mmdebstrap") is None:
        raise NotPossible("mmdebstrap is missing: apt-get install mmdebstrap")
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    name = hashlib.sha256(" ".join([suite, *wanted]).encode()).hexdigest()[:12]
    tree = LAB / "debian" / f"{suite}-{name}"
    with _alone(tree):
        if not tree.exists():
            _unpack(tree, suite, wanted)
    return tree


def _unpack(tree: Path, suite: str, packages: list[str]) -> None:
    partial = tree.with_name(tree.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        rootfs.unpack_debian(partial, packages, partial.with_name(f"{tree.name}.apt"))
    except RuntimeError as error:
        raise NotPossible(str(error)) from error
    partial.rename(tree)


@contextlib.contextmanager
def _alone(tree: Path) -> Iterator[None]:
    """Makes others who want the same tree wait until it is there."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tree.with_name(tree.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
