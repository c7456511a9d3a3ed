"""What makes Debian's files a node that boots fast in this laboratory: initrd, settings, units."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path

from .machine import GUEST_ADDRESS, HOST_ADDRESS, PREFIX_LENGTH

# In the order in which insmod needs them. The cloud kernel has ext4 built in, virtio not; a disk
# whose driver is built in (NVMe) can't be part of a saved state.
INITRD_MODULES = (
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
)
INITRD_INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
while read module; do $b insmod /modules/$module; done < /modules/order
while [ ! -b /dev/vda ]; do $b sleep 0.05; done
$b mount -t ext4 -o rw /dev/vda /root
$b mount -o move /dev /root/dev
exec $b switch_root /root /sbin/init
"""

# Nothing here is used on the node, and each costs TCG a tenth of a second or more at boot, or
# would wake up when the clock jumps after a restore. NFS here is version 4 alone: no portmapper.
MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "nfs-blkmap.service",
    "rpc-statd-notify.service",
    "rpc-statd.service",
    "rpcbind.service",
    "rpcbind.socket",
    "serial-getty@ttyS0.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-logind.service",
    "systemd-network-generator.service",
    "systemd-pstore.service",
    "systemd-sysusers.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
)
ENABLED_UNITS = ("systemd-networkd.service",)

HOSTNAME = "lab-node"
SETTINGS = {
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/hosts": f"127.0.0.1 localhost\n{GUEST_ADDRESS} {HOSTNAME}\n{HOST_ADDRESS} lab-host\n",
    "etc/resolv.conf": "",
    "etc/systemd/network/lab.network": (
        "[Match]\nType=ether\n"
        f"[Network]\nAddress={GUEST_ADDRESS}/{PREFIX_LENGTH}\nGateway={HOST_ADDRESS}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    ),
    # A power cut should cost a test as little as possible of the journal that explains it.
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\nSyncIntervalSec=2s\n",
    # A developer's shell on the virtio console; started on demand.
    "etc/systemd/system/lab-shell.service": (
        "[Service]\nExecStart=-/bin/bash --login\nWorkingDirectory=/root\n"
        "StandardInput=tty\nStandardOutput=tty\nTTYPath=/dev/hvc0\nTTYReset=yes\n"
        "Environment=HOME=/root TERM=xterm-256color ETCDCTL_API=3\nPassEnvironment=PATH\n"
    ),
}


def write_initrd(initrd: Path, root: Path) -> None:
    """With busybox and the disk's driver for the kernel in `root`."""
    [modules] = root.glob("usr/lib/modules/*/kernel")
    tree = initrd.with_suffix(".tree")
    for name in ("bin", "dev", "modules", "root"):
        (tree / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, tree / "bin/busybox")
    for module in INITRD_MODULES:
        shutil.copy(modules / module, tree / "modules")
    order = "".join(f"{Path(module).name}\n" for module in INITRD_MODULES)
    (tree / "modules/order").write_text(order)
    (tree / "init").write_text(INITRD_INIT)
    (tree / "init").chmod(0o755)
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    with initrd.open("wb") as archive:
        pack = ["cpio", "--quiet", "--create", "--format=newc"]
        subprocess.run(pack, input=names.encode(), stdout=archive, cwd=tree, check=True)
    shutil.rmtree(tree)


def apply_settings(root: Path) -> None:
    for name, text in SETTINGS.items():
        path = root / name
        path.unlink(missing_ok=True)  # resolv.conf may be a link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # With an empty one each boot would count as the first, and enable every unit's preset.
    machine_id = root / "etc/machine-id"
    machine_id.unlink(missing_ok=True)
    machine_id.write_text(f"{secrets.token_hex(16)}\n")
    subprocess.run(["chroot", root, "systemctl", "--quiet", "mask", *MASKED_UNITS], check=True)
    subprocess.run(["chroot", root, "systemctl", "--quiet", "enable", *ENABLED_UNITS], check=True)
