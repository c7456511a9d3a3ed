"""/metrics, /status, /livez and /readyz, from a thread of their own.

A thread, so that /livez can say that the event loop stands still: a server
inside the loop would just not answer, like a node that is gone.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

from .status import NodeStatus, to_dict

READ_DEADLINE_S = 10.0
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
            body = json.dumps(to_dict(views.status()), ensure_ascii=False).encode() + b"\n"
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


class Server:
    """Listens from construction on; `close` ends it. Raises OSError where the port is taken."""

    def __init__(self, listen: tuple[str, int], views: Views) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = READ_DEADLINE_S
            server_version = "bai-nodeagent"
            sys_version = ""

            def do_GET(self) -> None:
                code, content_type, body = answer(self.path, views)
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                log.debug("http.request", line=format % args)

        kind = _Server6 if ":" in listen[0] else ThreadingHTTPServer
        self._server = kind(listen, Handler)
        self._host = listen[0]
        self._server.daemon_threads = True
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


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6
