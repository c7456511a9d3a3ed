"""`make run`: the daemon on an example node that lies wholly below .run/."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN = HERE.parent / ".run"
NODE_ID = "i-example"

CONFIG = f"""\
node-id = "{NODE_ID}"

[store]
url = "file:{RUN}/store"

[paths]
state = "{RUN}/state"
runtime = "{RUN}/runtime"
"""

CLUSTER = """\
# What is desired of every node. Save a change and watch the daemon take it.
api-version = 1

[node]
manager-ip = "127.0.0.1"
agent-ip = "auto"
"""

NODE = f"""\
# What is desired of this node alone.
api-version = 1

[agent-config]
path = "{RUN}/node/agent.toml"

[agent-config.values.agent]
id = "${{node-id}}"
backend = "docker"
mount-path = "{RUN}/node/vfroot"

[agent-config.values.container]
scratch-type = "hostdir"
port-range = [30000, 31000]

[agent]
supervisor = "child"
command = ["{sys.executable}", "{HERE}/agent.py", "{RUN}/node/agent.toml"]
"""


def main() -> None:
    files = {
        RUN / "config.toml": CONFIG,
        RUN / "store/desired/cluster.toml": CLUSTER,
        RUN / f"store/desired/node/{NODE_ID}.toml": NODE,
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():  # what the reader has changed stays
            path.write_text(text)
    print(f"the example node lies in {RUN}; in another terminal try:")
    for line in (
        f"  $EDITOR .run/store/desired/node/{NODE_ID}.toml   # desire something else",
        "  echo nonsense > .run/node/agent.toml           # spoil the file",
        "  .venv/bin/bai-nodeagent --config .run/config.toml status   # shows agent-pid",
        "  kill -9 PID                                    # kill the agent",
        "Ctrl-C ends the daemon; the agent lives on, until `rm -r .run`.\n",
    ):
        print(line, flush=True)
    program = Path(sys.executable).with_name("bai-nodeagent")
    os.execv(program, [str(program), "run", "--config", str(RUN / "config.toml")])  # noqa: S606


if __name__ == "__main__":
    main()
