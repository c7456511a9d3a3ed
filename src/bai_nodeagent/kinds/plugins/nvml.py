"""Counts the NVIDIA GPUs of this node. A program: `python -m bai_nodeagent.kinds.plugins.nvml`.

Not called in the daemon: a driver that hangs keeps whoever asks in the kernel,
and whoever has NVML open keeps the driver from being replaced. The only module
that imports pynvml.
"""

from __future__ import annotations

import json
import sys
from typing import TypedDict

import pynvml


class Answer(TypedDict):
    """`lost` and `why` are for people; `count` is of GPUs that answer."""

    count: int
    lost: list[str]
    why: str


def answer() -> Answer:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        why = "no NVIDIA driver: libnvidia-ml.so.1 is not there"
        return {"count": 0, "lost": [], "why": why}
    except pynvml.NVMLError as error:
        return {"count": 0, "lost": [], "why": f"the NVIDIA driver says: {error}"}
    try:
        lost = [
            fault for index in range(pynvml.nvmlDeviceGetCount()) if (fault := _fault_of(index))
        ]
        return {"count": pynvml.nvmlDeviceGetCount() - len(lost), "lost": lost, "why": ""}
    finally:
        pynvml.nvmlShutdown()


def _fault_of(index: int) -> str:
    """A GPU that has fallen off the bus is still counted, but no longer answers."""
    try:
        pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError as error:
        return f"GPU {index}: {error}"
    return ""


if __name__ == "__main__":
    json.dump(answer(), sys.stdout)
