"""How plugins and devices stand: a table of verdicts, and what the section may say."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from bai_nodeagent import desired
from bai_nodeagent.desired import Document
from bai_nodeagent.kinds.plugins import devices
from bai_nodeagent.kinds.plugins.kind import KIND
from bai_nodeagent.kinds.plugins.rules import (
    QUIET_S,
    Actual,
    Environment,
    Plugin,
    PluginRules,
    PluginsSpec,
    Shown,
    nearest,
    plan,
)
from bai_nodeagent.model import KeyPath, Status
from desired_kinds import HERE

CUDA = Plugin("ai.backend.accelerator.cuda_open.plugin", "cuda", "cuda-open", "23.9.10")
MOCK = Plugin("ai.backend.accelerator.mock.plugin", "mock", "mock", "23.9.10")
PYTHON = Path("/v/bin/python")
BOTH = Environment(PYTHON, (Path("/v/lib"),), (CUDA, MOCK))
NOWHERE = Environment(PYTHON)


def spec(*allow: str, python: Path | None = PYTHON, **expected: int) -> PluginsSpec:
    return PluginsSpec(PluginRules(python, allow=allow or None), expected)


def eight(count: int, note: str = "") -> dict[str, Shown]:
    return {"cuda": Shown(count, note)}


@pytest.mark.parametrize(
    ("spec", "actual", "reason", "words"),
    [
        (spec(), Actual(BOTH, {}), "InSync", "cuda-open 23.9.10, mock 23.9.10"),
        (spec("ai.backend.accelerator.mock"), Actual(BOTH, {}), "InSync", "mock 23.9.10"),
        (
            PluginsSpec(PluginRules(allow=())),
            Actual(None, {}),
            "InSync",
            "",
        ),
        (
            spec("ai.backend.accelerator.cuda_opne"),
            Actual(BOTH, {}),
            "NoMatch",
            'did you mean "ai.backend.accelerator.cuda_open"?',
        ),
        (
            spec("ai.backend.accelerator.rocm"),
            Actual(BOTH, {}),
            "NotInstalled",
            'no plugin "ai.backend.accelerator.rocm" is installed for /v/bin/python',
        ),
        (
            spec("ai.backend.accelerator.mock"),
            Actual(replace(BOTH, plugins=(CUDA, replace(MOCK, is_found=False))), {}),
            "Broken",
            "ai.backend.accelerator.mock.plugin of mock 23.9.10 is broken",
        ),
        (
            spec("ai.backend.accelerator.mock"),
            Actual(replace(BOTH, plugins=(replace(CUDA, is_found=False), MOCK)), {}),
            "InSync",
            "mock 23.9.10",
        ),
        (spec(), Actual(NOWHERE, {}), "NoPython", "/v/bin/python: no Python environment there"),
        (
            spec("a.b", python=None),
            Actual(None, {}),
            "NoPython",
            "set [plugins] python to its interpreter",
        ),
        (spec(python=None, cuda=8), Actual(None, eight(8)), "InSync", "8 cuda"),
        (spec(cuda=8), Actual(BOTH, eight(9)), "InSync", "9 cuda (8 expected)"),
        (
            spec(cuda=8),
            Actual(BOTH, eight(7, "GPU 3: GPU is lost")),
            "DevicesMissing",
            "7 of 8 cuda devices (GPU 3: GPU is lost)",
        ),
        (
            spec("ai.backend.accelerator.rocm", cuda=8),
            Actual(BOTH, eight(0)),
            "NotInstalled",
            "; 0 of 8 cuda devices",
        ),
    ],
)
def test_the_verdict(spec: PluginsSpec, actual: Actual, reason: str, words: str) -> None:
    found = plan(spec, actual)
    assert found.actions == ()
    assert found.verdict.reason == reason
    assert words in found.verdict.message
    assert (found.verdict.status is Status.TRUE) is (reason == "InSync")
    assert (found.observe_again_in_s is None) is (reason == "InSync")


@pytest.mark.parametrize("allowed", ["ai.backend.accelerator.mock", "ai.backend.accelerator.rocm"])
def test_while_something_is_being_installed_it_is_observed_again_soon(allowed: str) -> None:
    found = plan(spec(allowed), Actual(BOTH, {}, is_quiet=False))
    assert found.observe_again_in_s == QUIET_S


def test_a_crowd_of_long_modules_does_not_stop_the_loop() -> None:
    crowd = [replace(MOCK, module=".".join(["ab"] * 60) + f".{n}") for n in range(100)]
    began_s = time.process_time()
    nearest("ai.backend.accelerator.rocm", crowd)
    assert time.process_time() - began_s < 5


def test_versions_and_devices_are_facts() -> None:
    found = plan(spec(cuda=8), Actual(BOTH, eight(7)))
    assert found.facts == {"plugins": "cuda-open 23.9.10, mock 23.9.10", "devices-cuda": 7}


@pytest.mark.parametrize(
    ("item", "near"),
    [
        ("ai.backend.accelerator.cuda", "ai.backend.accelerator.cuda_open"),
        ("ai.backend.accelerator.cuda_opne.plugin", "ai.backend.accelerator.cuda_open.plugin"),
        ("ai.backend.accelerators.mock", "ai.backend.accelerator.mock"),
        ("ai.backend.accelerator.moock", "ai.backend.accelerator.mock"),
        ("cuda_open", "ai.backend.accelerator.cuda_open"),
        ("cuda", "ai.backend.accelerator.cuda_open.plugin"),
        ("ai.backend.accelerator.rocm", ""),
        ("ai.backend.accelerator.tpu", ""),
        ("something.else", ""),
    ],
)
def test_the_nearest_module_is_judged_where_the_paths_part(item: str, near: str) -> None:
    assert nearest(item, [CUDA, MOCK]) == near


def test_nothing_is_near_where_nothing_is_installed() -> None:
    assert nearest("cuda", []) == ""


# --- the section -------------------------------------------------------------------------


def document(text: str) -> Document:
    return Document("cluster", "desired/cluster", 1, b"api-version = 1\n" + text.encode())


def mistakes(text: str) -> list[str]:
    found = desired.evaluate([document(text)], (), [KIND], "0.1.0")
    return [str(mistake).removeprefix("cluster: ") for mistake in found.mistakes]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[plugins]\nallow = 'ai.backend.accelerator.mock'",
            "plugins.allow: is text; allowed: a list of module paths such as"
            ' ["ai.backend.accelerator.cuda_open"]',
        ),
        (
            "[plugins]\nallow = ['a.b', 'a.b']",
            "plugins.allow: holds the same item twice; allowed: each one once",
        ),
        (
            "[plugins]\nallow = ['a.b', 'c']\nblock = ['c']",
            'plugins.block[0]: "c" is allowed as well; the agent would not start so',
        ),
        (
            "[plugins]\nallow = ['backend.ai-accelerator-mock']",
            'plugins.allow[0]: "backend.ai-accelerator-mock" does not fit; allowed: a module path'
            ' such as "ai.backend.accelerator.cuda_open"',
        ),
        (
            "[plugins.expect-devices]\ncuda = '8'",
            "plugins.expect-devices.cuda: is text; allowed: a whole number (at least 0)",
        ),
    ],
)
def test_mistakes(text: str, sentence: str) -> None:
    assert mistakes(text) == [sentence]


def test_an_unknown_kind_of_device_is_reported_with_the_nearest() -> None:
    (sentence,) = mistakes("[plugins.expect-devices]\ncudda = 8")
    assert sentence.startswith("plugins.expect-devices.cudda: is an unknown key; allowed: ascend, ")
    assert sentence.endswith("did you mean cuda?")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[plugins]", {}),
        ("[plugins]\nallow = []", {("agent", "allow-compute-plugins"): []}),
        (
            "[plugins]\nallow = ['a.b']\nblock = ['c']",
            {
                ("agent", "allow-compute-plugins"): ["a.b"],
                ("agent", "block-compute-plugins"): ["c"],
            },
        ),
        ("[plugins.expect-devices]\ncuda = 1", {}),
    ],
)
def test_lists_go_into_agent_toml_as_they_are(text: str, values: dict[KeyPath, list[str]]) -> None:
    found = desired.evaluate([document(text)], (), [KIND], "0.1.0")
    node = desired.resolve(found, HERE, {}, 1, [KIND])
    assert (node.agent_values or {}) == values
    assert (node.agent_values is None) is (values == {})


# --- device files ------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "files", "count"),
    [
        ("ascend", ["dev/davinci0", "dev/davinci1", "dev/davinci_manager"], 2),
        ("tpu", ["dev/accel0", "dev/accel/accel0"], 1),
        ("gaudi2", ["dev/accel/accel0", "dev/accel/accel1", "dev/accel/accel_controlD0"], 2),
        ("rngd", ["dev/rngd/npu0mgmt", "dev/rngd/npu0pe0"], 1),
        ("atom", [], 0),
    ],
)
async def test_devices_are_counted_by_their_files(
    kind: str, files: list[str], count: int, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if not (tmp_path / name).is_dir():
            (tmp_path / name).touch()
    assert await devices.observe([kind], tmp_path) == {kind: Shown(count)}


@pytest.mark.anyio
async def test_of_render_nodes_only_those_of_amd_with_its_compute_driver_count(
    tmp_path: Path,
) -> None:
    for name, vendor in (("renderD128", "0x1002\n"), ("renderD129", "0x8086\n")):
        (tmp_path / "dev/dri").mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev/dri" / name).touch()
        (tmp_path / "sys/class/drm" / name / "device").mkdir(parents=True)
        (tmp_path / "sys/class/drm" / name / "device/vendor").write_text(vendor)
    assert await devices.observe(["rocm"], tmp_path) == {"rocm": Shown(0)}
    (tmp_path / "dev/kfd").touch()
    assert await devices.observe(["rocm"], tmp_path) == {"rocm": Shown(1)}
