"""Wheels of packages that a test makes up, and a node whose agent comes out of one."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from node_under_test import Node
from servers import wait_until

DEBIAN_PYTHON = Path("/usr/bin/python3")
"""An interpreter that every account may run."""
USER = "nobody"

# Tells each start, and the folder that its module was imported from.
AGENT = """\
import os, signal, sys, time
folder = sys.argv[1]
with open(f"{folder}/starts", "a") as starts:
    starts.write(f"{os.getpid()} VERSION\\n")
with open(f"{folder}/imported-from", "w") as told:
    told.write(__file__)
SAYS
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
while os.path.isdir(folder):
    time.sleep(0.2)
"""


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    modules: Mapping[str, str],
    *,
    points: str = "",
    requires: str = "",
) -> Path:
    """A wheel of the packaging specification. `modules`: text by path."""
    escaped = re.sub(r"[-.]+", "_", name)
    info = f"{escaped}-{version}.dist-info"
    more = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        **modules,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    if points:
        files[f"{info}/entry_points.txt"] = points
    record = "".join(f"{path},{_hash(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{escaped}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def repacked(
    wheel: Path,
    version: str,
    into: Path,
    edit: Callable[[str, str], str] = lambda _path, text: text,
) -> None:
    """A real wheel under another version; `edit` gives a module's new text from path and text."""
    name, old, *_ = wheel.name.split("-")
    with zipfile.ZipFile(wheel) as archive:
        files = {path: archive.read(path).decode() for path in archive.namelist()}
    info = f"{name}-{old}.dist-info/"
    modules = {path: edit(path, text) for path, text in files.items() if not path.startswith(info)}
    about = files[f"{info}METADATA"].replace(f"\nVersion: {old}\n", f"\nVersion: {version}\n")
    with zipfile.ZipFile(into / wheel.name.replace(f"-{old}-", f"-{version}-"), "w") as archive:
        fresh = f"{name}-{version}.dist-info"
        for path, text in modules.items():
            archive.writestr(path, text)
        archive.writestr(f"{fresh}/METADATA", about)
        for kept in ("WHEEL", "entry_points.txt"):
            archive.writestr(f"{fresh}/{kept}", files[f"{info}{kept}"])
        record = "".join(f"{path},{_hash(text)},{len(text)}\n" for path, text in modules.items())
        archive.writestr(f"{fresh}/RECORD", record)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


class InstalledNode(Node):
    """A node whose agent is a package in an environment that the daemon builds."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.wheels = folder / "wheels"
        self.path = folder / "opt/venv"
        self.home = folder / "home"
        self.home.mkdir()
        account = pwd.getpwnam(USER)
        os.chown(self.home, account.pw_uid, account.pw_gid)
        self.python = self.path / "bin/python"

    def package(self, version: str, opinions: str = "") -> None:
        text = AGENT.replace("VERSION", version).replace("SAYS", opinions)
        points = "[console_scripts]\ntest-agent = test_agent.__main__:main\n"
        make_wheel(
            self.wheels, "test-agent", version, {"test_agent/__main__.py": text}, points=points
        )

    def installed(self, *packages: str, agent: str = "", source: str | None = None) -> str:
        """A whole desired state."""
        listed = ", ".join(f'"{package}"' for package in packages)
        source = f'wheels = "{self.wheels}"' if source is None else source
        return f"""\
api-version = 1
[agent]
supervisor = "child"
command = ["{self.python}", "-m", "test_agent", "{self.home}"]
user = "{USER}"
stop-timeout = "3s"
{agent}
[agent.install]
path = "{self.path}"
python = "{DEBIAN_PYTHON}"
packages = [{listed}]
{source}
"""

    @property
    def starts(self) -> list[tuple[int, str]]:
        path = self.home / "starts"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), line.partition(" ")[2]) for line in lines]

    def close(self) -> None:
        """With builds that a killed daemon has left at work."""
        super().close()
        wait_until(lambda: not self._kill_builders(), "builders live on")

    def _kill_builders(self) -> list[int]:
        found = []
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.path).encode() in cmdline.read_bytes():
                    found.append(int(cmdline.parent.name))
                    os.kill(found[-1], signal.SIGKILL)
        return found

    def status(self) -> dict[str, Any]:
        return self.status_now()

    @property
    def environments(self) -> list[str]:
        folder = self.path.with_name("venv.d")
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that other accounts may enter; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="bai-env-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def installed_node() -> Iterator[InstalledNode]:
    if os.geteuid() != 0:
        pytest.skip("needs root: environments belong to another account")
    if not DEBIAN_PYTHON.exists():
        pytest.skip(f"needs {DEBIAN_PYTHON}, an interpreter that every account may run")
    with public_folder() as folder:
        node = InstalledNode(folder)
        node.package("1.0")
        node.package("2.0")
        try:
            yield node
        finally:
            node.close()
