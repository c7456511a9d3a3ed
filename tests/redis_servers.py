"""Real Redis servers and Sentinels for tests, on free ports of the loopback address."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from servers import free_port, wait_until


class RedisServer:
    """One server. A context manager: started on entering, killed on leaving.

    It keeps its port over stop and start. `inside` goes before each command: it leads into the
    network of the server.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str = "",
        options: str = "",
        inside: Sequence[str] = (),
    ) -> None:
        self.folder, self.password, self.options = folder, password, options
        self.inside = tuple(inside)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cli(self, *words: str) -> str:
        """Output of redis-cli. Raises CalledProcessError."""
        command = [*self.inside, "redis-cli", "-p", str(self.port), *words]
        env = {**os.environ, **({"REDISCLI_AUTH": self.password} if self.password else {})}
        done = subprocess.run(
            command, env=env, check=True, timeout=20, capture_output=True, text=True
        )
        return done.stdout.strip()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "redis.conf"
        file.write_text(self._configuration())
        command = [*self.inside, "redis-server", str(file), *self._mode()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: self._answers(), f"redis on port {self.port} does not answer")

    def _configuration(self) -> str:
        password = (
            f"requirepass {self.password}\nmasterauth {self.password}\n" if self.password else ""
        )
        return (
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\nsave ''\n"
            f"{password}{self.options}\n"
        )

    def _mode(self) -> list[str]:
        return []

    def _answers(self) -> bool:
        try:
            return self.cli("PING") == "PONG"
        except subprocess.CalledProcessError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class SentinelServer(RedisServer):
    """A Sentinel that alone decides over the master `service`."""

    def __init__(
        self, folder: Path, master: RedisServer, service: str = "mymaster", password: str = ""
    ) -> None:
        super().__init__(folder, password=password)
        self.master, self.service = master, service

    def _configuration(self) -> str:
        name, master = self.service, self.master
        secret = f"sentinel auth-pass {name} {master.password}\n" if master.password else ""
        own = f"requirepass {self.password}\n" if self.password else ""
        return (
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n{own}"
            f"sentinel monitor {name} 127.0.0.1 {master.port} 1\n{secret}"
            f"sentinel down-after-milliseconds {name} 500\n"
            f"sentinel failover-timeout {name} 2000\n"
        )

    def _mode(self) -> list[str]:
        return ["--sentinel"]
