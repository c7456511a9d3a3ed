"""Runs in the environment of Backend.AI's agent: enters a running container into its registry.

As the agent does when it creates a session: arguments are the agent's id, the kernel's id, the
container's id, and the agent's `var-base-path` and `scratch-root`.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path
from uuid import UUID, uuid4

import ai.backend.agent.agent as agent  # type: ignore[import-not-found]
from ai.backend.agent.docker.kernel import DockerKernel  # type: ignore[import-not-found]
from ai.backend.agent.resources import KernelResourceSpec  # type: ignore[import-not-found]
from ai.backend.common.docker import ImageRef  # type: ignore[import-not-found]
from ai.backend.common.types import ResourceSlot  # type: ignore[import-not-found]

agent_id, kernel_id, container_id, var, scratches = sys.argv[1:]
kernel, session = UUID(kernel_id), uuid4()
data = {
    "container_id": container_id,
    "repl_in_port": 2000,
    "repl_out_port": 2001,
    "kernel_host": "127.0.0.1",
    "host_ports": [],
}
parts = {"agent_config": {}, "service_ports": [], "environ": {}, "data": data}
try:
    from ai.backend.agent.kernel import KernelOwnershipData  # type: ignore[import-not-found]
except ImportError:  # 23.09
    spec = KernelResourceSpec("", {}, {}, 0)
    image = ImageRef("cr.backend.ai/stable/python:3.9-ubuntu20.04", ["*"])
    kernel_object = DockerKernel(kernel, session, agent_id, image, 1, resource_spec=spec, **parts)
else:
    spec = KernelResourceSpec(ResourceSlot(), {}, 0)
    image = ImageRef("python", "stable", "3.9-ubuntu20.04", "cr.backend.ai", "x86_64", False)
    owner = KernelOwnershipData(kernel, session, agent_id)
    kernel_object = DockerKernel(owner, "", image, 1, "bridge", resource_spec=spec, **parts)
    config = Path(scratches, kernel_id, "config")
    config.mkdir(parents=True)
    (config / "environ.txt").touch()
    (config / "resource.txt").write_text(spec.write_to_string())
kernel_object["container_id"] = container_id
local = hashlib.md5(agent.__file__.encode(), usedforsecurity=False).hexdigest()[:12]
Path(var).mkdir(parents=True, exist_ok=True)
with Path(var, f"last_registry.{local}.dat").open("wb") as registry:
    pickle.dump({kernel: kernel_object}, registry)
