"""NVIDIA's GPUs through the real nvidia-ml-py, over a library of ours (FAKE)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import anyio
import pytest

from bai_nodeagent.errors import Stuck
from bai_nodeagent.kinds.plugins import devices
from bai_nodeagent.kinds.plugins.rules import Shown
from node_under_test import Node

SOURCE = Path(__file__).parent.parent / "fixtures/fake_nvml.c"

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the stub of NVML: apt-get install gcc")
    folder = tmp_path_factory.mktemp("nvml")
    options = ["-shared", "-fPIC", "-nostdlib", "-fno-builtin"]
    command = ["cc", *options, "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def gpus(library: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    before = os.environ.get("LD_LIBRARY_PATH")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{library}:{before}" if before else str(library))
    monkeypatch.setenv("FAKE_GPUS", "8")
    return monkeypatch


async def cuda() -> Shown:
    return (await devices.observe(["cuda"]))["cuda"]


async def test_gpus_that_answer_are_counted(gpus: pytest.MonkeyPatch) -> None:
    assert await cuda() == Shown(8)


async def test_a_gpu_that_fell_off_the_bus_is_named(gpus: pytest.MonkeyPatch) -> None:
    gpus.setenv("FAKE_LOST", "3")
    assert await cuda() == Shown(7, "GPU 3: GPU is lost")


async def test_a_driver_that_is_not_loaded_shows_none(gpus: pytest.MonkeyPatch) -> None:
    gpus.setenv("FAKE_INIT", "9")
    assert await cuda() == Shown(0, "the NVIDIA driver says: Driver Not Loaded")


async def test_without_a_driver_there_are_none_and_it_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = await cuda()
    if found.count:
        pytest.skip("this machine has GPUs")
    assert found == Shown(0, "no NVIDIA driver: libnvidia-ml.so.1 is not there")


async def test_a_driver_that_hangs_is_left_behind(gpus: pytest.MonkeyPatch) -> None:
    gpus.setenv("FAKE_HANG", "1")
    started_s = time.monotonic()
    with pytest.raises(Stuck, match="NVIDIA driver did not answer within 1 s"):
        await devices.observe(["cuda"], nvml_deadline_s=1.0)
    assert time.monotonic() - started_s < 30


def test_seven_gpus_of_eight_are_not_in_line(gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpus.setenv("FAKE_LOST", "3")
    node = Node(tmp_path / "node")
    node.desire("api-version = 1\n[plugins.expect-devices]\ncuda = 8\n")
    node.start()
    try:
        message = node.wait_reason("Plugins", "DevicesMissing")["message"]
        assert message == "7 of 8 cuda devices (GPU 3: GPU is lost)"
        node.wait_summary("Degraded")
        assert node.status()["facts"]["devices-cuda"] == 7
        planned = node.run("plan")
        assert (planned.returncode, message in planned.stdout) == (3, True)
        node.desire("api-version = 1\n[plugins.expect-devices]\ncuda = 7\n")
        node.wait_summary("Ready")
    finally:
        node.close()


async def test_a_device_file_that_comes_or_goes_is_an_event(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    observed = 0

    async def follow() -> None:
        nonlocal observed
        async for _ in devices.changes(["cuda", "rngd"], tmp_path):
            observed += 1

    async def until(count: int) -> None:
        with anyio.fail_after(5):
            while observed < count:
                await anyio.sleep(0.005)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await until(1)
        (tmp_path / "dev/nvidia0").touch()
        await until(2)
        (tmp_path / "dev/nvidia0").write_text("written and closed, as /dev/null is all the time")
        await anyio.sleep(0.1)
        assert observed == 2
        (tmp_path / "dev/rngd").mkdir()
        await until(3)
        (tmp_path / "dev/rngd/npu0mgmt").touch()
        await until(4)
        tasks.cancel_scope.cancel()
