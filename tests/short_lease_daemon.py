"""The real daemon with a lease of two seconds, for tests of what waits for its end."""

from __future__ import annotations

from bai_nodeagent import cli
from bai_nodeagent.store.etcd import EtcdStore

if __name__ == "__main__":
    EtcdStore.__init__.__defaults__ = (2,)
    cli.main()
