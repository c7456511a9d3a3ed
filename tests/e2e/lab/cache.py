"""What the laboratory builds, kept below `.lab/vm/` in the repository under a hash of its inputs.

One laboratory at a time: whoever builds or runs one holds `.lab/vm/lock`. Two TCG machines on two
cores would only make each other's deadlines pass, and nobody's layer is replaced under him.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
LAYERS = REPO / ".lab/vm"
FAILURES = REPO / ".lab/failures"

LOCK_PATIENCE_S = 1800.0


def digest(inputs: Iterable[str | Path]) -> str:
    """Short hash of texts and files; a file counts by its name and content, a folder by its files.

    A missing path counts as absent, so that its appearance changes the hash.
    """
    total = hashlib.sha256()
    for item in inputs:
        for name, content in _contents(item):
            total.update(f"{name}\0{len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()[:12]


def cached(layer: str, inputs: Iterable[str | Path], build: Callable[[Path], None]) -> Path:
    """The folder of a layer, built by `build(folder)` if its inputs have changed.

    It gets its name only when it is complete; older ones of the same layer are removed.
    """
    finished = LAYERS / f"{layer}-{digest(inputs)}"
    if not finished.is_dir():
        building = LAYERS / f"{layer}.building"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        build(building)
        for outdated in LAYERS.glob(f"{layer}-*"):
            shutil.rmtree(outdated)
        building.rename(finished)
    return finished


def clean() -> None:
    """Remove all layers; the next use builds them from what Debian offers then."""
    for path in LAYERS.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


@contextlib.contextmanager
def the_only_laboratory() -> Iterator[None]:
    """Raises TimeoutError if another one holds the lock for LOCK_PATIENCE_S."""
    LAYERS.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    with (LAYERS / "lock").open("w") as lock:
        while not _is_locked(lock.fileno()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"another laboratory has held {lock.name} all the time")
            time.sleep(0.5)
        yield


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _contents(item: str | Path) -> Iterator[tuple[str, bytes]]:
    if isinstance(item, str):
        yield "", item.encode()
    elif item.is_dir():
        for path in sorted(item.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(item)), path.read_bytes()
    elif item.exists():
        yield item.name, item.read_bytes()
