"""The Debian system of the node, as Debian made it: packages and kernel.

mmdebstrap and not debootstrap: it drives apt itself, so whatever way this machine's apt reaches its
mirror (proxy, certificates, mirror list) is the image's way too, and it needs 40 s instead of 70.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

# To have more on the node, add it here. Docker would be "docker.io".
GUEST_PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "dbus",
    "etcd-client",
    "iproute2",
    "kmod",
    "nfs-common",
    "procps",
    "psmisc",
    "python3-venv",
    "qemu-guest-agent",
    "runc",
    "systemd-sysv",
    "udev",
)
KERNEL_METAPACKAGE = "linux-image-cloud-amd64"

# Saves a quarter of the image; nobody reads manuals there.
UNPACKED_WITHOUT = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)


def build(folder: Path) -> None:
    """`root/` and `vmlinuz` in that folder."""
    root = folder / "root"
    unpack_debian(root, GUEST_PACKAGES, folder / "apt.conf")
    _unpack_kernel(folder, root)


def unpack_debian(root: Path, packages: Iterable[str], apt_options: Path) -> None:
    """`apt_options` is a file for the time being. Raises RuntimeError."""
    sources = _apt_sources()
    apt_options.write_text(_apt_acquire_options())
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
    command += [f"--include={','.join(packages)}", f"--aptopt={apt_options}"]
    command += ['--aptopt=Apt::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNPACKED_WITHOUT]
    command += [_suite(), str(root), "-"]
    done = subprocess.run(command, input=sources, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-5:]
        raise RuntimeError(f"mmdebstrap failed: {' | '.join(last)}")
    (root / "etc/apt/apt.conf.d/99mmdebstrap").unlink()  # it may hold a proxy's password
    apt_options.unlink()


def _apt_sources() -> str:
    """Debian's own repositories among those that this machine's apt uses, as sources.list lines."""
    query = ["apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"]
    query += ["Created-By: Packages", "Origin: Debian"]
    sources = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    if not sources:
        raise RuntimeError("apt knows no Debian repository: run `apt-get update` first")
    return sources


def _apt_acquire_options() -> str:
    """Proxy, certificates and the like: all that this machine's apt is told about fetching."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    return "".join(f"{o}\n" for o in dump.stdout.splitlines() if o.startswith("Acquire::"))


def _suite() -> str:
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _unpack_kernel(folder: Path, root: Path) -> None:
    """Unpacked and not installed: no initramfs-tools, no bootloader."""
    depends = ["apt-cache", "show", "--no-all-versions", KERNEL_METAPACKAGE]
    shown = subprocess.run(depends, capture_output=True, text=True, check=True).stdout
    line = next(line for line in shown.splitlines() if line.startswith("Depends: "))
    package = line.split()[1]
    # The download is no place for apt's unprivileged user: it can't write below our folder.
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
    subprocess.run(download, cwd=folder, check=True)
    [archive] = folder.glob("linux-image-*.deb")
    # Not over root itself: the archive's /lib would replace the link to /usr/lib there.
    unpacked = folder / "kernel"
    subprocess.run(["dpkg-deb", "--extract", archive, unpacked], check=True)
    archive.unlink()
    version = package.removeprefix("linux-image-")
    shutil.move(unpacked / "boot" / f"vmlinuz-{version}", folder / "vmlinuz")
    shutil.move(unpacked / "lib/modules", root / "usr/lib/modules")
    shutil.rmtree(unpacked)
    subprocess.run(["chroot", root, "depmod", version], check=True)
