"""The real program with little patience, for tests of an `apply` that waits for what stays."""

from __future__ import annotations

from bai_nodeagent import cli, daemon

if __name__ == "__main__":
    daemon.PATIENCE_S = 3.0
    cli.main()
