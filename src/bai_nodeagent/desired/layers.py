"""Which keys of the store concern a node, as far as its documents are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model import Kind
from .documents import Unreadable, parse
from .formats import is_name
from .places import secret_names, secret_places

CLUSTER = "desired/cluster"


def layer_keys(
    node_id: str, local_groups: Sequence[str], raw: Mapping[str, bytes]
) -> tuple[str, ...]:
    """The keys of the node's layers, in the order in which they are merged.

    All but the last, the node's own, must exist. `raw` has what is known by
    key; a node document in it whose [node].groups is a list of names replaces
    `local_groups`. Nothing but a name ever becomes part of a key.
    """
    groups = _own_groups(raw.get(f"desired/node/{node_id}"))
    wanted = local_groups if groups is None else groups
    return (
        CLUSTER,
        *(f"desired/group/{group}" for group in dict.fromkeys(wanted)),
        f"desired/node/{node_id}",
    )


def wanted_keys(
    node_id: str,
    local_groups: Sequence[str],
    raw: Mapping[str, bytes],
    kinds: Sequence[Kind],
) -> frozenset[str]:
    """All keys to read and watch: the layers, and wherever a secret they name may be.

    What is read may name further keys: the caller asks again with it until
    nothing is added.
    """
    layers = layer_keys(node_id, local_groups, raw)
    bare = secret_places(kinds)
    tables = [_table(raw.get(key)) or {} for key in layers]
    names = {name for table in tables for name in secret_names(table, bare) if is_name(name)}
    places = [layer_of(key) for key in layers]
    return frozenset(layers) | {key for name in names for key in secret_keys(name, places)}


def kept_keys(
    node_id: str, local_groups: Sequence[str], raw: Mapping[str, bytes]
) -> frozenset[str]:
    """Of what was read, all that may be kept for the time without the store.

    Those are the layers, and the secrets that they name by `{secret = NAME}`, which stand
    in files of this node anyway. One that only a kind names is had from the store alone.
    """
    return wanted_keys(node_id, local_groups, raw, kinds=())


def secret_keys(name: str, layers: Sequence[str]) -> tuple[str, ...]:
    """Where a secret may be, the nearest to the node first; `layers` in merge order."""
    return tuple(f"secret/{layer}/{name}" for layer in reversed(layers))


def layer_of(key: str) -> str:
    """ "group/gpu" from "desired/group/gpu"."""
    return key.removeprefix("desired/")


def _own_groups(raw: bytes | None) -> list[str] | None:
    node = (_table(raw) or {}).get("node")
    groups = node.get("groups") if isinstance(node, Mapping) else None
    if isinstance(groups, list) and all(map(is_name, groups)):
        return groups
    return None


def _table(raw: bytes | None) -> dict[str, Any] | None:
    if raw is None:
        return None
    try:
        return parse(raw)
    except Unreadable:
        return None
