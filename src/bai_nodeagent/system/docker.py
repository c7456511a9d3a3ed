"""Docker, through its own SDK: sessions, swarm, overlay networks, events.

The SDK is heavy and not every node needs it: import this module only where a
document asks for something of Docker. Which daemon is asked, DOCKER_HOST says;
without it the local socket. Questions raise Unavailable when Docker can't be
asked, or doesn't answer: a frozen daemon costs one thread for each question,
until it goes on or dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import docker
from docker.errors import APIError, DockerException
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from ..errors import Stuck, Unavailable
from .blocking import in_thread

DEADLINE_S = 5.0
# Beyond all deadlines: what hangs is left to `blocking`, which distinguishes it from what is down.
_SOCKET_DEADLINE_S = 300.0
# What Backend.AI calls a session's container by: the agent that owns it.
OWNER_LABEL = "ai.backend.owner"

T = TypeVar("T")


class Denied(Unavailable):
    """Docker answered, and said no; `text` is its own sentence."""

    def __init__(self, text: str) -> None:
        super().__init__(f"docker: {text}")
        self.text = text


@dataclass(frozen=True, slots=True)
class Info:
    """What `docker info` says of the swarm, and where the daemon keeps its files.

    state     "inactive", "pending", "active", "error" or "locked"
    managers  addresses
    cluster   "" on a worker, which can't know it
    address   by which the others know this node
    """

    root: Path
    state: str
    node: str
    is_manager: bool
    managers: tuple[str, ...]
    cluster: str
    error: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What a join is asked with; "" leaves an address to Docker."""

    remote_addrs: tuple[str, ...]
    token: str = field(repr=False)
    advertise_addr: str = ""
    data_path_addr: str = ""
    listen_addr: str = ""


async def sessions(agent_ids: Collection[str] | None, asker: str) -> list[float]:
    """Since when, in Unix time, each container runs that belongs to one of these agents.

    None: nobody knows their ids, so those of any agent count.

    `asker` keeps concurrent callers apart. Raises as the others here.
    """

    def find(client: Any) -> list[float]:
        # Without their details: one that ends in between would be an error.
        found = client.api.containers(filters={"label": OWNER_LABEL})
        owned = [(float(c["Created"]), c["Labels"][OWNER_LABEL]) for c in found]
        return [at_s for at_s, owner in owned if agent_ids is None or owner in agent_ids]

    return await _ask(f"running sessions ({asker})", find)


async def info() -> Info:
    return await _ask("info", lambda client: _info(client.info()))


def _info(answer: Mapping[str, Any]) -> Info:
    swarm = answer.get("Swarm") or {}
    return Info(
        root=Path(answer.get("DockerRootDir") or "/var/lib/docker"),
        state=swarm.get("LocalNodeState") or "inactive",
        node=swarm.get("NodeID") or "",
        is_manager=bool(swarm.get("ControlAvailable")),
        managers=tuple(m["Addr"] for m in swarm.get("RemoteManagers") or ()),
        cluster=(swarm.get("Cluster") or {}).get("ID") or "",
        error=swarm.get("Error") or "",
        address=swarm.get("NodeAddr") or "",
    )


async def availability(node: str) -> str:
    """ "active", "pause" or "drain"; only a manager knows. Raises Denied."""
    return await _ask("node", lambda client: _availability(client.api.inspect_node(node)))


def _availability(answer: Mapping[str, Any]) -> str:
    return str(answer["Spec"].get("Availability", "active"))


async def overlay_users() -> tuple[str, ...]:
    """Names of the running containers that are attached to an overlay network, sorted."""
    return await _ask("overlay networks", _overlay_users)


def _overlay_users(client: Any) -> tuple[str, ...]:
    overlays = {network["Id"] for network in client.api.networks(filters={"driver": "overlay"})}
    return tuple(
        sorted(
            next(iter(container["Names"] or ()), container["Id"]).removeprefix("/")
            for container in client.api.containers()
            if overlays & _networks_of(container)
        )
    )


def _networks_of(container: Mapping[str, Any]) -> set[str]:
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return {network["NetworkID"] for network in networks.values()}


async def join(request: JoinRequest, deadline_s: float) -> None:
    """Joins a swarm. Raises Denied, also when Docker goes on with it in the background."""

    def ask(client: Any) -> None:
        client.api.join_swarm(
            remote_addrs=list(request.remote_addrs),
            join_token=request.token,
            advertise_addr=request.advertise_addr or None,
            data_path_addr=request.data_path_addr or None,
            **({"listen_addr": request.listen_addr} if request.listen_addr else {}),
        )

    await _ask("join", ask, deadline_s)


async def leave(deadline_s: float) -> None:
    """Leaves the swarm, as a worker: Docker itself refuses it to a manager. Raises Denied."""
    await _ask("leave", lambda client: client.api.leave_swarm(force=False), deadline_s)


async def changes(filters: Mapping[str, list[str]]) -> AsyncGenerator[None, None]:
    """Yields when Docker's stream of events is open, then at each event that the filters let
    through; bursts come as one. Raises Unavailable when there is no stream, or no longer one."""
    stream = _Stream(filters)
    stream.start()
    try:
        while True:
            await stream.moved.wait()
            stream.moved = anyio.Event()
            if stream.fault:
                raise Unavailable(stream.fault)
            yield
    finally:
        stream.close()


class _Stream:
    """The event stream in a thread of its own; a frozen daemon keeps that one waiting.

    The SDK's stream knows no deadline, but closing it ends the wait.
    """

    def __init__(self, filters: Mapping[str, list[str]]) -> None:
        self.moved = anyio.Event()
        self.fault = ""
        self._filters = dict(filters)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._open: Any = None
        self._is_closed = False

    def start(self) -> None:
        threading.Thread(target=self._follow, name="docker: events", daemon=True).start()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._open is not None:
                self._open.close()

    def _follow(self) -> None:
        fault = "docker: the stream of events ended"
        try:
            with contextlib.closing(docker.from_env(timeout=_SOCKET_DEADLINE_S)) as client:
                events = client.events(filters=self._filters)
                with self._lock:
                    self._open = events
                    if self._is_closed:
                        events.close()
                        return
                self._report("")
                for _ in events:
                    self._report("")
        except (DockerException, RequestException, HTTPError, OSError, ValueError) as error:
            fault = f"docker: {error}"
        self._report(fault)

    def _report(self, fault: str) -> None:
        def report() -> None:
            self.fault = fault
            self.moved.set()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(report)


async def _ask(what: str, ask: Callable[[Any], T], deadline_s: float = DEADLINE_S) -> T:
    try:
        return await in_thread(f"docker: {what}", lambda: _asked(ask), deadline_s)
    except Stuck as error:  # unlike a share's server, Docker is there to be mended on the node
        raise Unavailable(f"{error}: is dockerd hung?") from error


def _asked(ask: Callable[[Any], T]) -> T:
    try:
        with contextlib.closing(docker.from_env(timeout=_SOCKET_DEADLINE_S)) as client:
            return ask(client)
    except APIError as error:
        raise Denied(str(error.explanation or error)) from error
    except (DockerException, RequestException, OSError) as error:
        raise Unavailable(f"docker: {_plain(error)}") from error


def _plain(error: BaseException) -> str:
    """What the kernel said of Docker's socket, which the SDK wraps three times."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            socket = os.environ.get("DOCKER_HOST", "/var/run/docker.sock")
            return f"{socket}: {cause.strerror}: is Docker installed, and running?"
        cause = cause.__cause__ or cause.__context__
    return str(error)
