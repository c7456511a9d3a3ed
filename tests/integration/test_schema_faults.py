"""What versions of the agent really make of an agent.toml, beside what we say of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from agent_probes import GOOD, probes
from agent_versions import VERSIONS, python_of
from bai_nodeagent.kinds.agent.backendai import release, validator, validator_program
from bai_nodeagent.kinds.agent.backendai.release import Release
from bai_nodeagent.kinds.agent.backendai.schema_faults import faults, pitfalls
from debian_root import NotPossible
from real_agent import NEW, OLD, Line

START = Path(__file__).parent.parent / "agent_start.py"
# The program that asks, for many questions at once: importing the agent is what takes long.
ASK_MANY = f"""
import runpy
program = runpy.run_path({validator_program.__file__!r})
program["create_no_folders"]()
import json, os, sys
import {validator_program.SERVER}
def answered(path):
    mine, its = os.pipe()
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(its, json.dumps(program["answer"](path)).encode())
        os._exit(0)
    os.close(its)
    os.wait()
    with os.fdopen(mine) as answer:
        return json.load(answer)
print(json.dumps({{name: answered(path) for name, path in json.load(sys.stdin).items()}}))
"""
LISTS = (
    "import asyncio, warnings; warnings.simplefilter('ignore')\n"
    "from ai.backend.agent.resources import ComputePluginContext\n"
    "from ai.backend.common.exception import ConfigurationError\n"
    "def accepts(allowed, blocked):\n"
    "    context = ComputePluginContext(None, {})\n"
    "    try:\n"
    "        asyncio.run(context.init(allowlist=allowed, blocklist=blocked))\n"
    "    except ConfigurationError:\n"
    "        return False\n"
    "    return True\n"
    "print(accepts({'a.b'}, {'a'}), accepts({'a.b', 'c'}, {'c'}))"
)


def installed(line: Line) -> Release:
    try:
        found = release.find([str(python_of(line))])
    except NotPossible as why:
        pytest.skip(str(why))
    assert found is not None
    assert found.version == line.version
    return found


def reported(python: Path, words: list[str], paths: dict[str, str], cwd: Path) -> dict[str, object]:
    done = subprocess.run(
        [python, "-I", *words],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("line", VERSIONS, ids=lambda line: line.name)
def test_what_starts_the_agent_is_what_we_expect(line: Line, tmp_path: Path) -> None:
    """Each probe is a real start, up to where it forks its worker."""
    python = installed(line).python
    made, files = tmp_path / "made", tmp_path / "files"
    made.mkdir()
    files.mkdir()
    texts = probes(str(made))
    paths = {}
    for number, (name, text) in enumerate(texts.items()):
        paths[name] = str(files / f"{number}.toml")
        Path(paths[name]).write_text(text)
    answers = reported(python, ["-c", ASK_MANY], paths, files)
    assert list(made.iterdir()) == []
    assert {each for each in files.iterdir() if each.suffix != ".toml"} == set()
    truth = reported(python, [str(START)], paths, made)
    assert len(truth) > 100
    assert {name: answers[name]["accepts"] for name in texts} == truth  # type: ignore[index]
    guesses = {name: not faults(line.version, text) for name, text in texts.items()}
    assert {name for name in texts if truth[name] and not guesses[name]} == set()
    assert sum(guesses[name] is truth[name] for name in texts) > len(texts) / 2


@pytest.fixture(params=[OLD, NEW], ids=lambda line: line.name)
def agent(request: pytest.FixtureRequest) -> Release:
    return installed(request.param)


def good(folder: Path) -> str:
    return GOOD.replace("FOLDER", str(folder))


def test_the_question_goes_to_the_agent_s_own_python(agent: Release, tmp_path: Path) -> None:
    assert validator.ask(agent, None, {}, good(tmp_path)).accepts is True
    wrong = good(tmp_path).replace('"docker"', '"strange"')
    refused = validator.ask(agent, None, {}, wrong)
    assert refused.accepts is False
    assert [each.partition(":")[0] for each in refused.why] == ["agent.backend"]
    assert list(tmp_path.iterdir()) == []


def test_its_environment_counts_and_ours_does_not(
    agent: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKEND_ETCD_ADDR", "nonsense")
    assert validator.ask(agent, None, {}, good(tmp_path)).accepts is True
    given = {"BACKEND_ETCD_ADDR": "nonsense"}
    assert validator.ask(agent, None, given, good(tmp_path)).accepts is False


def test_it_is_asked_once(agent: Release, tmp_path: Path) -> None:
    text = good(tmp_path)
    first = validator.ask(agent, None, {}, text)
    began_s = os.times().children_user
    assert [validator.ask(agent, None, {}, text) for _ in range(100)] == [first] * 100
    assert os.times().children_user == began_s


def test_no_value_of_a_secret_is_reported(agent: Release, tmp_path: Path) -> None:
    text = good(tmp_path).replace("[etcd]", "[etcd]\nuser = 5\npassword = ['hunter22']")
    refused = validator.ask(agent, None, {}, text)
    assert refused.accepts is False
    assert "hunter22" not in " ".join(refused.why)


def test_an_item_in_both_lists_is_fatal_to_the_agent(agent: Release, tmp_path: Path) -> None:
    """Which no validator of its file sees."""
    done = subprocess.run(
        [agent.python, "-I", "-c", LISTS], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "True False"
    for blocked, is_accepted in (('["a"]', True), ('["c"]', False)):
        lists = f'[agent]\nallow-compute-plugins = ["a.b", "c"]\nblock-compute-plugins = {blocked}'
        assert (not list(pitfalls(GOOD.replace("[agent]", lists)))) is is_accepted
