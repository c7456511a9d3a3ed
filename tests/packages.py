"""Installs the Debian packages that the tests need and that are missing. Idempotent.

As root it installs; otherwise it says in one line what to install. Tests whose
programs are missing all the same skip with a message.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from e2e.lab import install as lab

# package: a program of it, by which we tell that it is there
PACKAGES = {
    "dbus": "dbus-daemon",
    "docker.io": "dockerd",
    "etcd-client": "etcdctl",
    "etcd-server": "etcd",
    "gcc": "cc",
    "iproute2": "ip",
    "patchelf": "patchelf",
    "prometheus": "promtool",
    "redis-server": "redis-server",
    "systemd": "systemd-analyze",
}


def missing() -> list[str]:
    path = f"{os.environ.get('PATH', os.defpath)}:{lab.SBIN}"
    absent = {
        package for package, program in PACKAGES.items() if not shutil.which(program, path=path)
    }
    return sorted(absent | set(lab.missing_packages()))


def main() -> None:
    absent = missing()
    if not absent:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing Debian packages for the tests (once): {' '.join(absent)}", flush=True)
        lab.install(absent)
    else:
        print(f"some tests will be skipped; they need: apt-get install {' '.join(absent)}")


if __name__ == "__main__":
    main()
