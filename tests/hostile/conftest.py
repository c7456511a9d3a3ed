from __future__ import annotations

from fixtures import anyio_backend, etcd, one_loop, prefix

__all__ = ["anyio_backend", "etcd", "one_loop", "prefix"]
