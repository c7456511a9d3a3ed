"""Where desired states come from and statuses go to."""

from __future__ import annotations

from .base import EtcdSettings, FileSettings, Store

__all__ = ["EtcdSettings", "FileSettings", "Store", "open_store"]


def open_store(settings: EtcdSettings | FileSettings) -> Store:
    """Connects to nothing yet. grpc is loaded only where etcd is asked for: it costs 20 MB."""
    if isinstance(settings, EtcdSettings):
        from .etcd import EtcdStore

        return EtcdStore(settings)
    from .files import FileStore

    return FileStore(settings)
