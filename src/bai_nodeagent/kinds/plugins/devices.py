"""Accelerators that this node shows, per kind as Backend.AI names them.

NVIDIA's are those that NVML can talk to; what others show are device files,
which tell neither a model nor whether the device works. The names of files
are those of the vendors' Linux drivers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path

from ...errors import Stuck, Unavailable
from ...system import inotify
from ...system.blocking import in_thread
from .rules import Shown

NVIDIA = "cuda"
# The first call of NVML wakes every GPU up where no persistence daemon runs.
NVML_DEADLINE_S = 15.0
_KILL_S = 2.0

FILES: Mapping[str, str] = {
    NVIDIA: r"dev/nvidia\d+",
    "rocm": r"dev/dri/renderD\d+",
    "ascend": r"dev/davinci\d+",
    "atom": r"dev/rbln\d+",
    "atom-max": r"dev/rbln\d+",
    "atom-plus": r"dev/rbln\d+",
    "gaudi2": r"dev/accel/accel\d+",
    "gaudi3": r"dev/accel/accel\d+",
    "ipu": r"dev/ipu\d+",
    "rngd": r"dev/rngd/npu\d+mgmt",
    "tpu": r"dev/accel\d+",
    "tt-n300": r"dev/tenstorrent/\d+",
    "warboy": r"dev/npu\d+",
}
"""Kind -> one file per device, below the root."""
_AMD = "0x1002"


async def observe(
    kinds: Iterable[str], root: Path = Path("/"), nvml_deadline_s: float = NVML_DEADLINE_S
) -> Mapping[str, Shown]:
    """What the node shows of each kind. Raises Stuck when a driver hangs, Unavailable."""
    return {
        kind: await _nvidia(nvml_deadline_s) if kind == NVIDIA else Shown(len(_files(kind, root)))
        for kind in kinds
    }


async def changes(kinds: Iterable[str], root: Path = Path("/")) -> AsyncGenerator[None, None]:
    """Yields at the start of the watch, and when device files come or go. Raises Unavailable."""
    folders = {(root / FILES[kind]).parent for kind in kinds}
    async with aclosing(inotify.changes(folders, of_names_alone=True)) as events:
        async for _ in events:
            yield


def _files(kind: str, root: Path) -> list[Path]:
    place = root / FILES[kind]
    try:
        files = [file for file in place.parent.iterdir() if re.fullmatch(place.name, file.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [file for file in files if kind != "rocm" or _is_amd(file.name, root)]


def _is_amd(node: str, root: Path) -> bool:
    """Every graphics card has a render node; AMD's compute driver has /dev/kfd as well."""
    try:
        vendor = (root / "sys/class/drm" / node / "device/vendor").read_text()
    except OSError:
        return False
    return vendor.strip() == _AMD and (root / "dev/kfd").exists()


async def _nvidia(deadline_s: float) -> Shown:
    return await in_thread("the NVIDIA driver", lambda: _ask_nvml(deadline_s), deadline_s + _KILL_S)


def _ask_nvml(deadline_s: float) -> Shown:
    # A child that hangs in the driver survives its SIGKILL: waiting for its end
    # is what keeps this thread, and so the next question, until it comes back.
    command = [sys.executable, "-I", "-m", "bai_nodeagent.kinds.plugins.nvml"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise Stuck(f"the NVIDIA driver did not answer within {deadline_s:g} s") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"NVML could not be asked: {error}") from error
    return Shown(answer["count"], answer["why"] or "; ".join(answer["lost"]))
