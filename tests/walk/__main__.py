"""python -m walk --minutes 60 --store single --seed 7: the walk for as long as one likes."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from .stores import KINDS, served
from .walk import Walk


def main() -> None:
    parser = argparse.ArgumentParser(prog="walk")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--store", choices=KINDS, default="single")
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    rounds = walked(arguments.store, seed, arguments.minutes * 60)
    print(f"store {arguments.store}, seed {seed}: {rounds} rounds without a violation")


def walked(store: str, seed: int, seconds: float) -> int:
    """Walks for that long; the number of rounds. Raises Violation."""
    print(f"store {store}, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, served(store, Path(folder)) as (servers, node):
        walk, rounds = Walk(node, servers, seed), 0
        try:
            walk.start()
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                walk.round()
                rounds += 1
                print(f"{rounds:4} {', '.join(walk.steps)}", flush=True)
        finally:
            node.close()
        return rounds


if __name__ == "__main__":
    main()
