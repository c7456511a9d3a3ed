"""The real agent with a plugin in three versions, for environments that are built: as wheels, and
as a desired state.

The plugin is Backend.AI's own for accelerators that aren't there. Two more
versions of it are made: one that is as good, and one that breaks the agent.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from debian_root import NotPossible
from plugin_environments import MOCK
from real_agent import AGENTS, ETCD_PORT, Line, find_python
from wheels import USER, repacked

# What the plugin reads where the agent works, as mock-accelerator.toml.
DEVICES = """\
slot_name = "cuda"
device_plugin_name = "CUDADevice"
[[devices]]
mother_uuid = "c59395cd-ac91-4cd3-a1b0-3d2568aa2d01"
model_name = "A100 (FAKE)"
numa_node = 0
subproc_count = 108
memory_size = "2G"
is_mig_device = false
[attributes]
nvidia_driver = "450.00.00"
cuda_runtime = "11.0"
[formats.device]
human_readable_name = "GPU"
description = "CUDA-capable GPU (FAKE)"
display_unit = "GPU"
number_format = { binary = false, round_length = 0 }
display_icon = "gpu1"
"""


def upgraded(line: Line) -> str:
    """The plugin's next version."""
    return f"{line.version}.post1"


def broken(line: Line) -> str:
    """A version that can be imported, so that only the agent finds out."""
    return f"{line.version}.post2"


def document(
    line: Line, mock: str, home: Path, python: Path, venv: Path, agent: str, config: str = ""
) -> str:
    """A whole desired state: the agent works in `home`, in an environment at `venv` that `python`
    makes and that has the plugin in version `mock`. `agent` and `config` are more of their tables.
    """
    return f"""\
api-version = 1
[node]
manager-ip = "127.0.0.1"
agent-ip = "127.0.0.1"
[agent-config]
owner = "{USER}"
{config}
[agent-config.values.etcd.addr]
port = {ETCD_PORT}
[agent-config.values.agent]
id = "${{node-id}}"
var-base-path = "{home}/var"
ipc-base-path = "{home}/ipc"
mount-path = "{home}/vfroot"
[agent-config.values.container]
scratch-root = "{home}/scratches"
[plugins]
allow = ["ai.backend.accelerator.mock"]
[agent]
user = "{USER}"
{agent}
[agent.install]
path = "{venv}"
python = "{python}"
packages = ["{line.requirement}", "{MOCK}=={mock}"]
wheels = "{wheels_of(line)}"
"""


def wheels_of(line: Line) -> Path:
    """A folder with the agent, the plugin, and all that they need. Raises NotPossible."""
    python = find_python(line.python)
    if python is None:
        raise NotPossible(f"needs Python {line.python}")
    folder = AGENTS / f"{line.name}-wheels"
    if not (folder / ".complete").exists():
        wanted = (line.requirement, f"{MOCK}=={line.version}")
        command = [str(python), "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
        done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotPossible(f"{line.requirement} can't be fetched: {done.stderr[-300:]}")
        (mock,) = folder.glob(f"*accelerator_mock-{line.version}-*.whl")
        repacked(mock, upgraded(line), folder)
        repacked(mock, broken(line), folder, _broken_at_its_start)
        (folder / ".complete").touch()
    return folder


def _broken_at_its_start(path: str, text: str) -> str:
    start = "    def get_metadata(self) -> AcceleratorMetadata:\n"
    if not path.endswith("mock/plugin.py"):
        return text
    assert start in text
    return text.replace(start, f"{start}        raise RuntimeError('this plugin is no good')\n")
