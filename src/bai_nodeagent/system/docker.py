"""Docker: the sessions that run on this node.

The SDK is heavy and not every node needs it: import this module only where a
document asks for something of Docker.
"""

from __future__ import annotations

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from ..blocking import in_thread
from ..model import Unavailable

DEADLINE_S = 5.0
# What Backend.AI calls a session's container by: the agent that owns it.
OWNER_LABEL = "ai.backend.owner"


async def session_containers(agent_id: str) -> list[str]:
    """The ids of the running containers that belong to an agent.

    Raises Unavailable when Docker can't be asked, Stuck when it doesn't answer.
    """
    return await in_thread(
        "docker: running sessions", lambda: _session_containers(agent_id), DEADLINE_S
    )


def _session_containers(agent_id: str) -> list[str]:
    try:
        client = docker.from_env(timeout=DEADLINE_S)
        try:
            # Without their details: one that ends in between would be an error.
            found = client.containers.list(
                filters={"label": f"{OWNER_LABEL}={agent_id}"}, sparse=True
            )
            return [container.id for container in found]
        finally:
            client.close()
    except (DockerException, RequestException, OSError) as error:
        raise Unavailable(f"docker: {error}") from error
