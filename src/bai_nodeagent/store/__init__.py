"""Where desired states come from and statuses go to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..etcd_access import EtcdAccess
from .base import Store


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """The store in etcd: keys below `<prefix>/<cluster>/`."""

    access: EtcdAccess
    cluster: str
    prefix: str = "/bai-nodeagent"


@dataclass(frozen=True, slots=True)
class FileSettings:
    """The store in a folder.

    state       where the count of revisions is kept
    is_counted  False for commands that leave the node untouched: revisions are
                told as the daemon would count them, and not kept
    """

    folder: Path
    state: Path
    is_counted: bool = True


def open_store(settings: EtcdSettings | FileSettings) -> Store:
    """Connects to nothing yet. grpc is loaded only where etcd is asked for: it costs 20 MB."""
    if isinstance(settings, EtcdSettings):
        from .etcd import EtcdStore

        return EtcdStore(settings)
    from .files import FileStore

    return FileStore(settings)
