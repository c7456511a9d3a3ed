"""What the agents' own validators say of an agent.toml, beside what we say of it."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from bai_nodeagent.agent.dialect import MINIMAL, faults
from bai_nodeagent.system.release import agent_version
from debian_root import NotPossible
from real_agent import NEW, OLD, Line, agent_python

ADDRESS = "[etcd]\naddr = { host = '127.0.0.1', port = 2379 }"
GOOD = MINIMAL.replace("[etcd]", ADDRESS)
AGENT = [
    'scaling-group = "gpu"',
    'initial-resource-group-name = "gpu"',
    'allow-compute-plugins = ["a"]',
    'rpc-listen-addr = "127.0.0.1:6001"',
    'rpc-listen-addr = ["127.0.0.1", 6001]',
    'rpc-listen-addr = { host = "127.0.0.1" }',
    'event-loop = "trio"',
    "id = 5",
    'unknown = "kept"',
]
LEFT_OUT = [
    'backend = "docker"',
    'scratch-type = "hostdir"',
    'namespace = "local"',
    "[resource]",
    "[debug]",
    "[container]",
]
TEXTS = [
    GOOD,
    *(GOOD.replace("[agent]", f"[agent]\n{line}") for line in AGENT),
    *(GOOD.replace(line, "") for line in LEFT_OUT),
    GOOD.replace('["console"]', '"console"'),
    GOOD.replace("hostdir", "hostdri"),
    GOOD.replace("[container]", "[container]\nport-range = '30000-31000'"),
    GOOD.replace("[resource]", "[resource]\nallocation-order = 'cuda'"),
]

# Runs in the agent's own environment: which of these documents does it accept?
ASK = """\
import json, sys, warnings
warnings.simplefilter("ignore")
try:
    from ai.backend.agent.config.unified import AgentUnifiedConfig
    check = AgentUnifiedConfig.model_validate
except ImportError:
    from ai.backend.agent.config import agent_local_config_iv
    from ai.backend.common import config
    from ai.backend.common.logging import logging_config_iv
    def check(raw):
        logging_config_iv.check(config.check(raw, agent_local_config_iv)["logging"])
def accepts(raw):
    try:
        check(raw)
    except BaseException:
        return False
    return True
print(json.dumps([accepts(each) for each in json.load(sys.stdin)]))
"""


# Nor would the agent start with an item in both lists, which no validator of its file sees.
ASK_PLUGINS = """\
import asyncio, warnings
warnings.simplefilter("ignore")
from ai.backend.agent.resources import ComputePluginContext
from ai.backend.common.exception import ConfigurationError
def accepts(allowed, blocked):
    context = ComputePluginContext(None, {})
    try:
        asyncio.run(context.init(allowlist=allowed, blocklist=blocked))
    except ConfigurationError:
        return False
    return True
print(accepts({"a.b"}, {"a"}), accepts({"a.b", "c"}, {"c"}))
"""


@pytest.mark.parametrize("line", [OLD, NEW], ids=lambda line: line.name)
def test_an_item_in_both_lists_is_fatal_to_the_agent(line: Line, tmp_path: Path) -> None:
    try:
        python = agent_python(line)
    except NotPossible as why:
        pytest.skip(str(why))
    done = subprocess.run(
        [python, "-c", ASK_PLUGINS], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "True False"
    for blocked, is_accepted in (('["a"]', True), ('["c"]', False)):
        lists = f'[agent]\nallow-compute-plugins = ["a.b", "c"]\nblock-compute-plugins = {blocked}'
        text = GOOD.replace("[agent]", lists)
        assert (not faults(agent_version([str(python)]), text)) is is_accepted


@pytest.mark.parametrize("line", [OLD, NEW], ids=lambda line: line.name)
def test_we_say_what_the_agent_itself_says(line: Line, tmp_path: Path) -> None:
    try:
        python = agent_python(line)
    except NotPossible as why:
        pytest.skip(str(why))
    base = f'[agent]\nvar-base-path = "{tmp_path}/v"\nipc-base-path = "{tmp_path}/i"'
    documents = [tomllib.loads(text.replace("[agent]", base)) for text in TEXTS]
    done = subprocess.run(
        [python, "-c", ASK],
        input=json.dumps(documents),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    accepted = json.loads(done.stdout.splitlines()[-1])
    version = agent_version([str(python)])
    assert version.startswith(line.name[:2])
    ours = [not faults(version, text) for text in TEXTS]
    assert dict(zip(TEXTS, ours, strict=True)) == dict(zip(TEXTS, accepted, strict=True))
