"""/metrics, /status, /livez and /readyz, from a thread of their own.

A thread, so that /livez can say that the event loop stands still: a server
inside the loop would just not answer, like a node that is gone.

Clients are strangers: so many connections at a time and no more, each with one
deadline for all of it, and a client that leaves is no news.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

import structlog

from .core.status import NodeStatus, timestamp, to_dict
from .text import to_json as json_text

# From the connection to the last byte of the answer.
REQUEST_DEADLINE_S = 10.0
CONNECTIONS_AT_MOST = 16
# Whoever has said nothing for so long makes way where there are no more. Who asks does so at once.
SILENT_S = 0.5
_ROOM_S = 0.2
IDLE_S = 600.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Views:
    """What is served. Each is called from the server's threads and must not block."""

    metrics: Callable[[], bytes]
    status: Callable[[], NodeStatus]
    is_moving: Callable[[], bool]


def answer(path: str, views: Views) -> tuple[int, str, bytes]:
    """Status code, content type and body for a path."""
    match path.partition("?")[0]:
        case "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", views.metrics()
        case "/status":
            now = timestamp(datetime.now(UTC))
            told = replace(views.status(), reported_at=now)
            body = f"{json_text(to_dict(told))}\n".encode()
            return 200, "application/json", body
        case "/livez":
            if views.is_moving():
                return _text(200, views.status().summary)
            return _text(503, "the loop does not move")
        case "/readyz":
            summary = views.status().summary
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

    def __init__(self, listen: tuple[str, int], views: Views) -> None:
        class Handler(BaseHTTPRequestHandler):
            server_version = "bai-nodeagent"
            sys_version = ""

            def setup(self) -> None:
                self._deadline = threading.Timer(REQUEST_DEADLINE_S, _hang_up, (self.request,))
                self._deadline.daemon = True
                self._deadline.start()
                super().setup()

            def finish(self) -> None:
                try:
                    super().finish()
                finally:
                    self._deadline.cancel()

            def do_GET(self) -> None:
                server.has_asked(self.request)
                if is_meant_for(self.headers.get("Host"), listen[0]):
                    code, content_type, body = answer(self.path, views)
                else:
                    code, content_type, body = _text(421, "not served under this name")
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                log.debug("http.request", line=format % args)

        server = self._server = (_Server6 if ":" in listen[0] else _Server)(listen, Handler)
        self._host = listen[0]
        threading.Thread(target=self._serve, name="http", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Ends the server; requests under way are left behind."""
        ending = threading.Thread(target=self._server.shutdown, daemon=True)
        ending.start()
        with contextlib.suppress(OSError):  # a knock, so that it looks at the shutdown now
            socket.create_connection((self._host, self.port), timeout=1).close()
        ending.join(timeout=1)
        self._server.server_close()

    def _serve(self) -> None:
        # The default looks for a shutdown twice a second: the only thing awake at rest.
        self._server.serve_forever(poll_interval=IDLE_S)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listen: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(CONNECTIONS_AT_MOST)
        self._silent: dict[socket.socket, float] = {}  # since when, the oldest first
        super().__init__(listen, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks DNS for our name, which may hang.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False) and not self._has_made_room():
            return self.shutdown_request(request)
        self._silent[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self.has_asked(request)
            self._free.release()
            raise

    def has_asked(self, request: socket.socket) -> None:
        self._silent.pop(request, None)

    def _has_made_room(self) -> bool:
        """Hangs up on whoever has been silent for the longest: an account here may hold as many
        connections as it likes, and shuts nobody out."""
        oldest, since_s = next(iter([*self._silent.items()]), (None, 0.0))
        if oldest is None or time.monotonic() - since_s < SILENT_S:
            return False
        self.has_asked(oldest)
        _hang_up(oldest)
        return self._free.acquire(timeout=_ROOM_S)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.has_asked(request)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError | ValueError):  # it left, or its time was up
            log.debug("http.client_left", error=type(error).__name__)
        else:
            log.error("http.bug", exc_info=error)


class _Server6(_Server):
    address_family = socket.AF_INET6


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
