"""The merged document with this node's variables and secrets: what the node shall be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidSpec, Mistake
from ..model import Kind, NodeSpec
from .agent_values import agent_values
from .check import Rules, is_variable
from .documents import fault_of_text
from .evaluate import Desired, addresses
from .formats import duration_s
from .layers import secret_keys
from .places import named, secret_uses, spelled
from .secrecy import Place
from .variables import Variables, expand


def resolve(
    desired: Desired,
    variables: Variables,
    secrets: Mapping[str, bytes],
    revision: int,
    kinds: Sequence[Kind],
    *,
    is_journaled: bool = False,
) -> NodeSpec:
    """Fills in variables and secrets, and checks once more what came out of it.

    `secrets` has the raw values by key of the store, in which other keys don't
    harm. `is_journaled`: they are those that this node has kept (`kept_keys`), so
    the secrets that kinds name are not read. Raises InvalidSpec with every
    mistake; each names the layer that said what can't be filled in.
    """
    if desired.merged is None or desired.digest is None:
        raise InvalidSpec(desired.mistakes)
    rules = Rules(kinds)
    manager_ip, _ = addresses(desired.merged)
    document, unresolved = _expanded(desired.merged, variables.values(manager_ip), rules)
    bare = frozenset() if is_journaled else rules.secret_places
    found, mistakes = _found_secrets(desired, variables, secrets, rules, bare)
    mistakes += [
        Mistake(desired.layer_of(fault.place), spelled(fault.place), fault.what)
        for fault in rules.expanded(document, unresolved)
    ]
    if mistakes:
        order = [each.layer for each in desired.documents]
        raise InvalidSpec(tuple(sorted(mistakes, key=lambda m: (order.index(m.layer), m.key))))
    leaves = agent_values(document, unresolved, found, variables.agent_ip, kinds)
    return NodeSpec(
        node_id=variables.node_id,
        cluster=variables.cluster,
        revision=revision,
        digest=desired.digest,
        documents={each.key: each.revision for each in desired.documents},
        document=document,
        agent_config_path=_agent_config_path(document),
        agent_values=leaves.values,
        optional=leaves.optional,
        secret_paths=leaves.secret_paths,
        secrets=found,
        address=variables.address,
        spread_s=duration_s(document.get("rollout", {}).get("spread", "0s")),
        inputs_of=tuple(kind.agent_input for kind in kinds),
    )


def _agent_config_path(document: Mapping[str, Any]) -> Path:
    return Path(document.get("agent-config", {}).get("path", "/etc/backend.ai/agent.toml"))


def _expanded(
    merged: Mapping[str, Any], values: Mapping[str, str | None], rules: Rules
) -> tuple[dict[str, Any], frozenset[Place]]:
    """The document with its variables filled in, and the places where one isn't known now."""
    unresolved: set[Place] = set()

    def fill(value: Any, place: Place) -> Any:
        if isinstance(value, dict):
            return {key: fill(item, (*place, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item, (*place, index)) for index, item in enumerate(value)]
        if not (isinstance(value, str) and is_variable(place, rules)):
            return value
        text = expand(value, values)
        if text is None:
            unresolved.add(place)
            return value
        return text

    document = {
        section: fill(value, (section,)) if section in rules.sections else value
        for section, value in merged.items()
    }
    return document, frozenset(unresolved)


def _found_secrets(
    desired: Desired,
    variables: Variables,
    secrets: Mapping[str, bytes],
    rules: Rules,
    bare: Collection[Place],
) -> tuple[dict[str, str], list[Mistake]]:
    """The secrets by name, and what is wrong with those that can't be had."""
    merged = desired.merged or {}
    shared = [each.layer for each in desired.documents if not each.layer.startswith("node/")]
    layers = [*shared, f"node/{variables.node_id}"]  # which may have secrets without a document
    found: dict[str, str] = {}
    mistakes: list[Mistake] = []
    for position, name in secret_uses(merged, bare):
        try:
            found[name] = _secret(name, secret_keys(name, layers), secrets)
        except _Unusable as exc:
            place = named(position, merged, rules.named)
            mistakes.append(Mistake(desired.layer_of(place), spelled(place), str(exc)))
    return found, mistakes


class _Unusable(Exception):
    """A secret can't be had; the text says why, and where to put it right."""


def _secret(name: str, keys: Sequence[str], secrets: Mapping[str, bytes]) -> str:
    key = next((key for key in keys if key in secrets), None)
    if key is None:
        raise _Unusable(f"there is no secret {name}; looked for at {', '.join(keys)}")
    try:
        text = secrets[key].decode()
    except UnicodeDecodeError:
        raise _Unusable(f"the secret at {key} is not UTF-8") from None
    # `etcdctl put KEY < FILE` and `echo` leave a newline that nobody means.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise _Unusable(f"the secret at {key} is empty")
    if fault_of_text(text):
        raise _Unusable(
            f"the secret at {key} holds a control character; allowed: of these only tab and newline"
        )
    return text
