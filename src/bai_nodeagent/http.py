"""/metrics, /status, /livez and /readyz, from a thread of their own.

A thread, so that /livez can say that the event loop does not move: a server
inside the loop would just not answer, like a node that is gone.

Clients are strangers. A connection costs a descriptor until all of its request is
there, and a thread only then: so many of either and no more. Where there are no more,
the client that has taken the longest makes way for a new one. Each has one deadline
for all of it, and a client that leaves is no news.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import ipaddress
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Self

import structlog

from .core.status import NodeStatus, timestamp, to_dict
from .model import Digest
from .text import to_json as json_text

# From the connection to the last byte of the answer.
REQUEST_DEADLINE_S = 10.0
ANSWERED_AT_MOST = 16
SILENT_AT_MOST = 256
HEAD_BYTES_AT_MOST = 16 << 10
# Of a request: what the answer has to be bound to. Of the answer: see `proof`.
NONCE, PROOF = "X-Nodeagent-Nonce", "X-Nodeagent-Proof"
_NONCE = re.compile(r"[0-9a-f]{32}")
_SHORT_OF_DESCRIPTORS_S = 0.05
_MAKING_WAY_S = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Sources:
    """What is served. Each is called from the server's threads and must not block."""

    metrics: Callable[[], bytes]
    status: Callable[[], NodeStatus]
    is_moving: Callable[[], bool]
    digest: Digest = lambda _value: ""


def proof(digest: Digest, nonce: str, body: bytes) -> str:
    """That an answer is of whoever has this node's key, and to that very question: at a port of
    the daemon's anybody may listen while it is down."""
    return digest({"nonce": nonce, "body": hashlib.sha256(body).hexdigest()})


def answer(path: str, sources: Sources) -> tuple[int, str, bytes]:
    """Status code, content type and body for a path."""
    match path.partition("?")[0]:
        case "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", sources.metrics()
        case "/status":
            now = timestamp(datetime.now(UTC))
            report = replace(sources.status(), reported_at=now)
            body = f"{json_text(to_dict(report))}\n".encode()
            return 200, "application/json", body
        case "/livez":
            if sources.is_moving():
                return _text(200, sources.status().summary)
            return _text(503, "the loop does not move")
        case "/readyz":
            summary = sources.status().summary
            return _text(200 if summary in ("Ready", "Paused") else 503, summary)
        case _:
            return _text(404, "there are /metrics, /status, /livez and /readyz")


def _text(code: int, line: str) -> tuple[int, str, bytes]:
    return code, "text/plain; charset=utf-8", f"{line}\n".encode()


def is_meant_for(host_header: str | None, listens_on: str) -> bool:
    """Whether a request may come from whoever sends this Host.

    A page in a browser on this machine can reach loopback under a name of its
    own that resolves to it (DNS rebinding): there only addresses and
    "localhost" count. Other addresses are for the network, under any name.
    """
    if not _is_loopback(listens_on) or not host_header:
        return True
    name = re.sub(r":\d*\Z", "", host_header).strip("[]").lower()
    return name in ("localhost", listens_on.lower()) or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Server:
    """Listens from construction on; `close` ends it. Raises OSError where it can't listen."""

    def __init__(self, listen: tuple[str, int], sources: Sources) -> None:
        class Handler(BaseHTTPRequestHandler):
            server_version = "bai-nodeagent"
            sys_version = ""

            def setup(self) -> None:
                super().setup()
                self.rfile.close()
                self.rfile = io.BytesIO(server.heads.pop(self.request))

            def do_GET(self) -> None:
                if is_meant_for(self.headers.get("Host"), listen[0]):
                    code, content_type, body = answer(self.path, sources)
                else:
                    code, content_type, body = _text(421, "not served under this name")
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                nonce = self.headers.get(NONCE, "")
                if _NONCE.fullmatch(nonce):
                    self.send_header(PROOF, proof(sources.digest, nonce, body))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                log.debug("http.request", line=format % args)

        server = self._server = (_Server6 if ":" in listen[0] else _Server)(listen, Handler)
        self._host = listen[0]
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Ends the server; requests under way are left behind."""
        self._is_closed = True
        with contextlib.suppress(OSError):  # a knock, so that it is seen now
            socket.create_connection((self._host, self.port), timeout=1).close()
        self._thread.join(timeout=1)
        self._server.server_close()

    def _serve(self) -> None:
        """Nothing is awake at rest: it waits for a connection, for a request, or for a deadline."""
        with selectors.DefaultSelector() as ready, Silent(ready) as silent:
            ready.register(self._server.socket, selectors.EVENT_READ)
            while not self._is_closed:
                for key, _ in ready.select(silent.wait_s()):
                    if key.fileobj is self._server.socket:
                        try:
                            silent.take(self._server.socket.accept())
                        except OSError:  # it has left again; or no descriptor is left
                            time.sleep(_SHORT_OF_DESCRIPTORS_S)
                    elif found := silent.read(key.fileobj):
                        self._server.answer(*found)


@dataclass
class _Waiting:
    """A client whose request is not all there yet."""

    address: Any
    until_s: float
    head: bytes = field(default=b"", repr=False)


class Silent:
    """The connections whose requests are not all there, the oldest first."""

    def __init__(self, ready: selectors.BaseSelector) -> None:
        self._ready = ready
        self._waiting: dict[socket.socket, _Waiting] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in [*self._waiting]:
            self._leave(connection).close()

    def take(self, accepted: tuple[socket.socket, Any]) -> None:
        connection, address = accepted
        if len(self._waiting) >= SILENT_AT_MOST:
            self._leave(next(iter(self._waiting))).close()
        connection.setblocking(False)
        self._waiting[connection] = _Waiting(address, time.monotonic() + REQUEST_DEADLINE_S)
        self._ready.register(connection, selectors.EVENT_READ)

    def read(self, connection: Any) -> tuple[socket.socket, Any, bytes] | None:
        """The connection, its address and its request, once that is there; one that leaves is
        closed, and so is one that says too much."""
        client = self._waiting.get(connection)
        if client is None:
            return None  # it has made way in this very round
        try:
            some = connection.recv(HEAD_BYTES_AT_MOST)
        except OSError:
            some = b""
        client.head += some
        if some and b"\n\n" in client.head.replace(b"\r", b""):
            return self._leave(connection), client.address, client.head
        if not some or len(client.head) > HEAD_BYTES_AT_MOST:
            self._leave(connection).close()
        return None

    def wait_s(self) -> float | None:
        """Time to the next deadline, after closing those whose time is up; None: there is none."""
        now_s = time.monotonic()
        for connection in [c for c, each in self._waiting.items() if each.until_s <= now_s]:
            self._leave(connection).close()
        return next((each.until_s - now_s for each in self._waiting.values()), None)

    def _leave(self, connection: socket.socket) -> socket.socket:
        del self._waiting[connection]
        self._ready.unregister(connection)
        return connection


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listen: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(ANSWERED_AT_MOST)
        self._answered: dict[socket.socket, None] = {}  # the oldest first
        self.heads: dict[socket.socket, bytes] = {}
        super().__init__(listen, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks DNS for our name, which may hang.
        TCPServer.server_bind(self)

    def answer(self, connection: socket.socket, address: Any, head: bytes) -> None:
        """In a thread of its own."""
        if not self._free.acquire(blocking=False) and not self._make_way():
            return self.shutdown_request(connection)
        connection.settimeout(REQUEST_DEADLINE_S)
        self.heads[connection] = head
        self._answered[connection] = None
        try:
            self.process_request(connection, address)
        except RuntimeError:  # no thread could be started
            self._over(connection)
            self.shutdown_request(connection)

    def _make_way(self) -> bool:
        """Hangs up on the client that has been answered for the longest, and takes its place."""
        for oldest in [*self._answered][:1]:
            with contextlib.suppress(OSError):  # it has just been answered
                oldest.shutdown(socket.SHUT_RDWR)
        return self._free.acquire(timeout=_MAKING_WAY_S)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._over(request)

    def _over(self, connection: socket.socket) -> None:
        self.heads.pop(connection, None)
        self._answered.pop(connection, None)
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError | ValueError):  # it left, or its time was up
            log.debug("http.client_left", error=type(error).__name__)
        else:
            log.error("http.bug", exc_info=error)


class _Server6(_Server):
    address_family = socket.AF_INET6
