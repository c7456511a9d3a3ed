"""Stands for Backend.AI's agent in `make run`: reads its agent.toml, says so, lives on.

It ends when the folder of its agent.toml is gone (`rm -r .run`), so that
nothing is left behind of the example.
"""

from __future__ import annotations

import sys
import time
import tomllib
from pathlib import Path


def main() -> None:
    path = Path(sys.argv[1])
    config = tomllib.loads(path.read_text())
    print(f"agent {config['agent']['id']} runs with {path}", flush=True)
    while path.parent.is_dir():
        time.sleep(1)


if __name__ == "__main__":
    main()
