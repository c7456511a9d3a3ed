"""Which environment is right, what is built and removed, and when the agent moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bai_nodeagent import desired
from bai_nodeagent.kinds import KINDS
from bai_nodeagent.kinds.agent.environment.environments import Built, Environments
from bai_nodeagent.kinds.agent.environment.rules import (
    PART,
    EnvironmentActual,
    Remove,
    desired_part,
    due_switch,
    found_part,
    plan_environment,
    target,
)
from bai_nodeagent.kinds.agent.environment.spec import InstallSpec, install_spec
from bai_nodeagent.model import Status

SPEC = InstallSpec(
    path=Path("/opt/venv"),
    python=Path("/usr/bin/python3"),
    packages=("backend.ai-agent==26.8.3", "plug==1.0"),
    user="bai",
)
OTHER = replace(SPEC, packages=("backend.ai-agent==26.8.3", "plug==2.0"))
VERSIONS = (("backend-ai-agent", "26.8.3"), ("plug", "1.0"))
A, B = SPEC.recipe, OTHER.recipe
C = replace(SPEC, packages=("plug==3.0",)).recipe


def built(name: str, *, is_usable: bool = True, by_hand: str = "") -> Built:
    now = (VERSIONS[0], ("plug", by_hand)) if by_hand else VERSIONS
    return Built(name, now, VERSIONS, "" if is_usable else "is gone")


def found_state(*there: Built, link: str = "", unfinished: tuple[str, ...] = ()) -> Environments:
    return Environments(link, 0.0, "", there, unfinished)


TARGETS: dict[str, tuple[Environments, tuple[str, bool]]] = {
    "nothing is there": (found_state(), (f"{A}-1", False)),
    "a try was not finished": (found_state(unfinished=(f"{A}-1",)), (f"{A}-1", False)),
    "it is there": (found_state(built(f"{A}-1")), (f"{A}-1", True)),
    "the one in use stays, though there is a newer": (
        found_state(built(f"{A}-1"), built(f"{A}-2"), link=f"{A}-1"),
        (f"{A}-1", True),
    ),
    "the newest by number, not by letters": (
        found_state(built(f"{A}-10"), built(f"{A}-9"), link=f"{B}-1"),
        (f"{A}-10", True),
    ),
    "one that was changed by hand counts no more": (
        found_state(built(f"{A}-1", by_hand="1.1"), link=f"{A}-1"),
        (f"{A}-2", False),
    ),
    "nor one without its interpreter": (
        found_state(built(f"{A}-1", is_usable=False), link=f"{A}-1"),
        (f"{A}-2", False),
    ),
    "what the link leads to is not built anew, whatever it is": (
        found_state(link=f"{A}-1", unfinished=(f"{A}-1",)),
        (f"{A}-2", False),
    ),
    "another recipe's is none of ours": (
        found_state(built(f"{B}-1"), link=f"{B}-1"),
        (f"{A}-1", False),
    ),
}


@pytest.mark.parametrize("case", TARGETS)
def test_the_right_environment(case: str) -> None:
    observed, (name, is_ready) = TARGETS[case]
    found = target(SPEC, observed)
    assert (found.name, found.is_ready) == (name, is_ready)


def test_order_of_packages_and_where_they_come_from_make_no_other_environment() -> None:
    section = {"path": "/opt/venv", "python": "/usr/bin/python3", "index": "https://here/simple"}
    packages = ["plug==1.0", "backend.ai-agent==26.8.3"]
    spec = install_spec({"user": "bai", "install": {**section, "packages": packages}})
    assert spec is not None
    assert spec.recipe == SPEC.recipe
    assert replace(SPEC, python=Path("/usr/bin/python3.13")).recipe != SPEC.recipe


def planned(observed: Environments, healthy: str = "") -> tuple[Status, str, list[str]]:
    plan = plan_environment(SPEC, EnvironmentActual(observed, healthy))
    return plan.verdict.status, plan.verdict.reason, [a.summary for a in plan.actions]


def test_an_upgrade_is_built_and_waits_for_the_agent() -> None:
    before = found_state(built(f"{B}-1"), link=f"{B}-1")
    assert planned(before) == (
        Status.FALSE,
        "Missing",
        [f"build the environment /opt/venv.d/{A}-1"],
    )
    after = found_state(built(f"{A}-1"), built(f"{B}-1"), link=f"{B}-1")
    assert planned(after) == (Status.UNKNOWN, "Built", [])
    assert plan_environment(SPEC, EnvironmentActual(after)).satisfies_dependents
    assert due_switch(SPEC, after) == f"{A}-1"
    assert due_switch(SPEC, before) == ""


def test_what_is_built_shows_what_changes() -> None:
    observed = found_state(Built(f"{B}-1", (*VERSIONS[:1], ("old", "3")), ()), link=f"{B}-1")
    (build,) = plan_environment(SPEC, EnvironmentActual(observed)).actions
    assert build.diff.splitlines() == ["-old==3", "+plug==1.0"]


def test_drift_reports_what_was_changed() -> None:
    observed = found_state(built(f"{A}-1", by_hand="1.1"), link=f"{A}-1")
    verdict = plan_environment(SPEC, EnvironmentActual(observed)).verdict
    assert verdict.reason == "Drift"
    assert "plug 1.1 instead of 1.0" in verdict.message


REMOVALS: dict[str, tuple[Environments, str, tuple[str, ...]]] = {
    "what is not in use, of an agent that was never healthy": (
        found_state(built(f"{A}-1"), built(f"{B}-1"), built(f"{C}-1"), link=f"{B}-1"),
        "",
        (f"{C}-1",),
    ),
    "what nobody wants any more, before another one is built": (
        found_state(built(f"{B}-1"), built(f"{C}-1"), link=f"{B}-1", unfinished=(f"{C}-2",)),
        "",
        (f"{C}-1", f"{C}-2"),
    ),
    "never the way back while it is moved to another one": (
        found_state(built(f"{A}-1"), built(f"{B}-1"), built(f"{C}-1"), link=f"{C}-1"),
        B,
        (),
    ),
    "not the way back": (found_state(built(f"{A}-1"), built(f"{B}-1"), link=f"{A}-1"), B, ()),
    "what is neither": (
        found_state(built(f"{A}-1"), built(f"{B}-1"), link=f"{A}-1"),
        A,
        (f"{B}-1",),
    ),
    "what nobody finished": (
        found_state(built(f"{A}-1"), link=f"{A}-1", unfinished=(f"{B}-1",)),
        A,
        (f"{B}-1",),
    ),
    "what was changed by hand, once it is out of use": (
        found_state(built(f"{A}-1", by_hand="2"), built(f"{A}-2"), link=f"{A}-2"),
        A,
        (f"{A}-1",),
    ),
    "never what has another name than ours": (
        found_state(built(f"{A}-1"), link=f"{A}-1", unfinished=("precious", "venv-1")),
        A,
        (),
    ),
}


@pytest.mark.parametrize("case", REMOVALS)
def test_what_is_removed(case: str) -> None:
    observed, healthy, names = REMOVALS[case]
    actions = plan_environment(SPEC, EnvironmentActual(observed, healthy)).actions
    removals = [action for action in actions if isinstance(action, Remove)]
    assert [name for action in removals for name in action.names] == list(names)
    assert removals == list(actions[: len(removals)])


def test_an_environment_is_an_input_under_one_name_before_and_after_it_is_built() -> None:
    def digest(value: object) -> str:
        return f"d({value})"

    before = found_state(built(f"{B}-1"), link=f"{B}-1")
    after = replace(before, built=(built(f"{A}-1"), *before.built))
    assert desired_part(SPEC, before, digest) == desired_part(SPEC, after, digest)
    assert found_part(before, digest) != desired_part(SPEC, before, digest)
    assert found_part(replace(after, link=f"{A}-1"), digest) == desired_part(SPEC, after, digest)
    assert desired_part(SPEC, replace(before, strange="a folder"), digest) == {}
    assert list(found_part(before, digest)) == [PART]


DOCUMENT = """\
api-version = 1
[agent]
supervisor = "child"
command = ["{command}"]
{user}
[agent.install]
path = "{path}"
python = "/usr/bin/python3"
packages = [{packages}]
{more}
"""
RIGHT = {
    "command": "/opt/venv/bin/python",
    "user": 'user = "bai"',
    "path": "/opt/venv",
    "packages": '"plug==1.0"',
    "more": "",
}


def reported(**changes: str) -> list[str]:
    text = DOCUMENT.format(**{**RIGHT, **changes})
    documents = [desired.Document("cluster", "desired/cluster", 1, text.encode())]
    return [str(m) for m in desired.evaluate(documents, (), KINDS, "0.1.0").mistakes]


def test_a_right_document() -> None:
    assert reported() == []
    assert reported(more='wheels = "/srv/wheels"', packages='"Plug.In[a,b]==1.0.post1+cu12"') == []
    assert reported(command="${hostname}/bin/python") == []


SYSTEMS = ("/usr", "/proc/x", "/usr/local/bin", "/etc/venv")


@pytest.mark.parametrize(
    ("changes", "opinions"),
    [
        ({"user": ""}, "agent.user: is missing, and install needs it"),
        ({"user": 'user = "root"'}, "another [agent] user than root"),
        ({"command": "/usr/bin/python3"}, "agent.command[0]: lies outside of [agent.install] path"),
        ({"command": "/opt/venv2/bin/python"}, "lies outside"),
        ({"path": "/"}, "agent.install.path: is the root folder"),
        ({"packages": '"plug==1.0", "PLUG==2.0"'}, "agent.install.packages[1]: plug occurs more"),
        ({"packages": '"plug"'}, "a package with its version"),
        ({"packages": '"plug==1.*"'}, "a package with its version"),
        ({"packages": '"--pre==1.0"'}, "a package with its version"),
        ({"packages": '"plug @ file:///x==1"'}, "a package with its version"),
        ({"packages": ""}, "agent.install.packages"),
        ({"more": 'index = "https://me:pass@here/simple"'}, "without user, password or token"),
        ({"more": 'index = "https://here/simple?t=pass"'}, "without user, password or token"),
        *(({"path": path, "command": f"{path}/bin/python"}, "the system's") for path in SYSTEMS),
        *(({"path": path}, "can't be an environment's") for path in ("/opt/a:b", f"/{'x' * 252}")),
        ({"more": 'index = "file:///x"'}, "an http:// or https:// address"),
        ({"more": 'index = "http://here"\nwheels = "/w"'}, "agent.install.index: is set beside"),
        ({"more": "wheel = 1"}, "wheels"),
    ],
)
def test_each_mistake_is_reported(changes: dict[str, str], opinions: str) -> None:
    assert any(opinions in mistake for mistake in reported(**changes)), reported(**changes)
    assert not any("pass" in mistake.replace("password", "") for mistake in reported(**changes))
    assert not any("pass@" in mistake for mistake in reported(**changes))


def test_required_keys() -> None:
    text = 'api-version = 1\n[agent]\nsupervisor = "systemd"\nuser = "bai"\n[agent.install]\n'
    documents = [desired.Document("cluster", "desired/cluster", 1, text.encode())]
    found: Any = desired.evaluate(documents, (), KINDS, "0.1.0").mistakes
    assert {mistake.key for mistake in found} == {
        f"agent.install.{key}" for key in ("path", "python", "packages")
    }
