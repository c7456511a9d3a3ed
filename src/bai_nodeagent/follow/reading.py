"""From a store to a desired state: for the daemon that follows it and for commands that read once.

Nothing here changes the node or what is remembered of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import __version__, address, desired
from ..desired import Desired, Document, Variables, is_secret_place
from ..desired.places import SECRET_KEY, secret_places, walk
from ..errors import InvalidSpec, Mistake, Unavailable
from ..identity import Identity
from ..kinds.agent import rollback, rollback_order
from ..model import Kind, NodeSpec
from ..redact import BYTES_AT_MOST, SECRETS_AT_MOST, is_too_much, strings_in
from ..store.base import Snapshot, Store, Superseded, raw_of
from ..system import network
from . import orders

READ_ROUNDS_AT_MOST = 8
TOO_MANY_SECRETS = (
    f"they hold more secrets than can be masked: at most {SECRETS_AT_MOST} lines and "
    f"{BYTES_AT_MOST >> 10} KiB"
)


@dataclass(frozen=True, slots=True)
class Place:
    """The node that follows: its identity, its configured groups, its state folder.

    seal  keyed digest of a secret, as Host.digest
    """

    identity: Identity
    cluster: str
    hostname: str
    groups: tuple[str, ...]
    state: Path
    seal: Callable[[object], str]


async def read_all(
    store: Store, node_id: str, groups: tuple[str, ...], kinds: Sequence[Kind]
) -> tuple[frozenset[str], Snapshot]:
    """Every key that concerns the node, all at one revision, and which keys those are.

    One document may name further keys (groups, secrets), so this takes some
    rounds. Raises Unavailable.
    """
    for _ in range(READ_ROUNDS_AT_MOST):
        try:
            return await _read_at_one_revision(store, node_id, groups, kinds)
        except Superseded:
            continue  # documents change faster than they can be read: once more from the top
    raise Unavailable(f"{store.where}: the documents change faster than they can be read")


async def _read_at_one_revision(
    store: Store, node_id: str, groups: tuple[str, ...], kinds: Sequence[Kind]
) -> tuple[frozenset[str], Snapshot]:
    keys = desired.wanted_keys(node_id, groups, {}, kinds)
    snapshot = await store.read(keys)
    for _ in range(READ_ROUNDS_AT_MOST):
        wanted = desired.wanted_keys(node_id, groups, raw_of(snapshot.entries), kinds)
        if wanted <= keys:
            return wanted, replace(
                snapshot, entries={k: e for k, e in snapshot.entries.items() if k in wanted}
            )
        more = await store.read(wanted - keys, at=snapshot.revision)
        keys |= wanted
        snapshot = replace(
            snapshot,
            entries={**snapshot.entries, **more.entries},
            faults={**snapshot.faults, **more.faults},
        )
    raise Superseded


def evaluate(place: Place, snapshot: Snapshot, kinds: Sequence[Kind]) -> Desired:
    """The verdict on a snapshot's documents, each under the name that people use for it."""
    keys = desired.layer_keys(place.identity.node_id, place.groups, raw_of(snapshot.entries))
    documents = []
    missing = []
    faults = {}
    for key in keys:
        layer = key.removeprefix("desired/")
        if key in snapshot.faults:
            faults[layer] = snapshot.faults[key]
        elif key in snapshot.entries:
            entry = snapshot.entries[key]
            documents.append(Document(layer, key, entry.revision, entry.raw))
        elif not key.startswith("desired/node/"):
            missing.append(key)
    return desired.evaluate(documents, missing, kinds, __version__, faults, place.seal)


async def find_address(merged: Mapping[str, object], place: Place) -> address.AgentAddress:
    """The node's address as the documents ask for it. Changes nothing. Raises Unavailable."""
    manager_ip, rule = desired.addresses(merged)
    if rule is None:
        return address.AgentAddress()
    kept = orders.kept_address(place.state)
    asked = {a for a in (kept.address if kept else None, rule) if a and _is_address(a)}
    return address.choose(rule, manager_ip, kept, await network.observe(manager_ip, asked))


def resolve(
    place: Place,
    newest: Desired,
    snapshot: Snapshot,
    found: address.AgentAddress,
    kinds: Sequence[Kind],
) -> NodeSpec:
    """The whole desired state with everything filled in, rolled back where that was decided.

    Raises InvalidSpec; also where it has more secrets than can be masked.
    """
    variables = Variables(
        node_id=place.identity.node_id,
        hostname=place.hostname,
        cluster=place.cluster,
        agent_ip=found.value,
        address=found.doubt,
    )
    secrets = {k: e.raw for k, e in snapshot.entries.items() if k.startswith("secret/")}
    spec = desired.resolve(
        newest,
        variables,
        secrets,
        snapshot.revision,
        kinds,
        is_journaled=snapshot.is_journaled,
    )
    if is_too_much(secrets_of(spec, kinds)):
        raise InvalidSpec((Mistake("documents", "", TOO_MANY_SECRETS),))
    return rollback.in_force(spec, rollback_order.current(place.state))


def secrets_of(spec: NodeSpec, kinds: Sequence[Kind]) -> list[str]:
    """Every string of a state that must not leave the process in clear.

    What came by reference, and what is in a document under a telling name;
    but not the names of secrets, which people have to read.
    """
    names = secret_places(kinds)
    values = spec.agent_values or {}
    in_file = [s for path in spec.secret_paths for s in strings_in(values.get(path))]
    literal = [
        value
        for place, value in walk(spec.document)
        if isinstance(value, str)
        and is_secret_place(place)
        and place[-1] != SECRET_KEY
        and place not in names
    ]
    return [*spec.secrets.values(), *in_file, *literal]


def _is_address(text: str) -> bool:
    return text != "auto" and not text.startswith("interface:")
