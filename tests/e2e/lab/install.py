"""Debian packages that the laboratory needs on the machine that runs the tests.

Run as a script (`python tests/e2e/lab/install.py`) it installs what is missing and does nothing
otherwise. Root only: without root it names the packages and exits 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# package: a program of it, by which we tell that it is there
HOST_PACKAGES = {
    "busybox-static": "busybox",
    "cpio": "cpio",
    "e2fsprogs": "mke2fs",
    "etcd-client": "etcdctl",
    "etcd-server": "etcd",
    "mmdebstrap": "mmdebstrap",
    "nfs-ganesha": "ganesha.nfsd",
    "python3": "/usr/bin/python3",
    "qemu-system-x86": "qemu-system-x86_64",
    "qemu-utils": "qemu-img",
    "util-linux": "setpriv",
}
# Packages without a program: ganesha loads its VFS backend as a plugin.
HOST_PLUGINS = ("nfs-ganesha-vfs",)

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # a plain user's PATH lacks it, and mke2fs is there


def missing_packages() -> list[str]:
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    absent = [p for p, program in HOST_PACKAGES.items() if not shutil.which(program, path=path)]
    return absent + [p for p in HOST_PLUGINS if not _is_installed(p)]


def why_not() -> str | None:
    """One sentence saying why the laboratory can't run here, or None if it can."""
    if absent := missing_packages():
        return f"the laboratory needs Debian packages: apt-get install {' '.join(absent)}"
    if os.geteuid() != 0:
        return "the laboratory builds its image with chroot and serves NFS: run the tests as root"
    return None


def install(packages: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt_get = ["apt-get", "-q", "-y", "--no-install-recommends"]
    subprocess.run(["apt-get", "-q", "update"], env=environment, check=True)
    subprocess.run([*apt_get, "install", *packages], env=environment, check=True)


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}", package]
    if not shutil.which("dpkg-query"):
        return False
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.startswith("ii")


def main() -> int:
    if (absent := missing_packages()) and os.geteuid() == 0:
        install(absent)
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
