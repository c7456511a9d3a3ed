"""The vocabulary of all other modules: frozen values, no I/O.

A node is a handful of *resources*. For each, the daemon observes what is,
plans the difference to what is desired as a list of actions, applies the
first one and observes again, until the plan is empty. Everything that this
takes is a frozen value here, so that a decision can be tested by calling a
function.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from .text import clean_lines

Scalar = str | int | float | bool | date | datetime | time
KeyPath = tuple[str, ...]
"""The place of a value in agent.toml or in a document: ("etcd", "addr", "host")."""


Digest = Callable[[object], str]
Inputs = Mapping[str, str]
"""What an agent was started with. Part -> keyed digest: "command", "env", "user", "workdir",
"agent.toml etcd.addr.host", "plugin ai.backend.accelerator.mock.plugin", "swarm", "environment"."""
ABSENT = "absent"
"""In place of a digest: the part must not be there."""


class Status(enum.StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of one resource: `reason` is a CamelCase word, `message` a sentence.

    A message quotes file names, argv and other programs: it is made printable here.
    """

    status: Status
    reason: str
    message: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", clean_lines(self.message))


def in_sync(message: str = "") -> Verdict:
    """Everything is as desired."""
    return Verdict(Status.TRUE, "InSync", message)


class Action:
    """One step of a plan, as data. Kinds derive frozen dataclasses from it.

    verb           names the step in metrics: a fixed snake_case word
    is_disruptive  running work may notice it: `[rollout] spread` delays it
    is_note        it changes this daemon's own notes alone: no drift, nothing
                   that a pause forbids or a plan has to announce
    is_rescue      it brings back what has died, as it was: also while changes are held, but not
                   while somebody has paused the node
    needs          condition types that must be True before it may be applied
    deadline_s     how long `apply` may take
    diff           what changes, as text for people; agent.toml's is masked by agent_toml.diff,
                   anything else by `Host.redact`
    restart_cause  for actions that start the agent: why, as a fixed word for metrics

    To set one of these for a single action, the dataclass declares it as a field of its own.
    """

    verb: ClassVar[str]
    is_disruptive: ClassVar[bool] = False
    is_note: ClassVar[bool] = False
    is_rescue: bool = False
    deadline_s: float = 30.0
    needs: tuple[str, ...] = ()
    diff: str = ""
    restart_cause: str = ""

    @property
    def summary(self) -> str:
        raise NotImplementedError


ActualT = TypeVar("ActualT")
ActionT = TypeVar("ActionT", bound=Action)


@dataclass(frozen=True, slots=True)
class Plan(Generic[ActionT]):
    """What is to be done, and the verdict as long as it is not done.

    Only the first action is applied; then the resource is observed again.
    `observe_again_in_s` asks for that although no event may come (a backoff, a settling
    time). `facts` go into the status document; they alone cause no write.
    `satisfies_dependents`: whether what needs this may go on; None: when the verdict is True.
    """

    verdict: Verdict
    actions: tuple[ActionT, ...] = ()
    observe_again_in_s: float | None = None
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    satisfies_dependents: bool | None = None


Wake = Callable[[], None]
"""Asks the loop to observe again. Cheap, never blocks, may be called from the event loop only."""


class Resource(Protocol[ActualT, ActionT]):
    """One thing on the node that is kept in line, bound to its desired state.

    name        its condition type: "AgentConfig", "Mount/vfroot"
    spec        its typed desired state; two resources with equal name and spec are one
    deadline_s  how long `observe` may take

    `observe` changes nothing. `plan` is pure, and made in a thread. `apply` does one action. All
    may raise Unavailable, Stuck or Refused, and `apply` Overtaken too; whatever else they raise is
    a bug. `watch` calls `wake` when an observation might find something new. It runs until
    cancelled, and returns or raises Unavailable when its source is gone (the loop starts it again).
    """

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> object: ...

    @property
    def deadline_s(self) -> float: ...

    async def observe(self) -> ActualT: ...

    def plan(self, actual: ActualT) -> Plan[ActionT]: ...

    async def apply(self, action: ActionT) -> None: ...

    async def watch(self, wake: Wake) -> None: ...


AnyResource = Resource[Any, Any]


class AgentInput(Protocol):
    """What an agent finds at its start that is of another kind's making.

    Its value is frozen, and equal to another one that comes of an equal section.

    name        of what is observed, for people: "the installed plugins"
    deadline_s  how long `observe` may take
    """

    @property
    def name(self) -> str: ...

    @property
    def deadline_s(self) -> float: ...

    def observe(self, host: Host) -> Any:
        """What is there now. Blocks. Raises OSError, Unavailable, Refused."""

    def found(self, observed: Any, digest: Digest) -> Inputs:
        """The parts of an agent that starts now. `observed` is what `observe` has given."""
        ...

    def desired(
        self, observed: Any, running: Inputs, started_s: float, now_s: float, digest: Digest
    ) -> Inputs:
        """The parts that an agent which runs with the inputs `running` since `started_s` ought to
        have found. Times are Unix time."""
        ...

    def owns(self, part: str) -> bool:
        """Whether that part is of this input."""
        ...

    def changes(self, host: Host, asker: str) -> AsyncIterator[None]:
        """Yields once it is watched, and whenever `observe` may give something else for good.
        `asker` keeps concurrent callers apart. Raises Unavailable."""
        ...


@dataclass(frozen=True)
class NodeSpec:
    """The merged, checked and expanded desired state of this node.

    document      sections by name, variables filled in, secrets still as
                  {"secret": NAME}; kinds turn their section into a typed spec. What isn't
                  known now stands as it was written: "${agent-ip}" while `address` is a doubt
    agent_values  every managed leaf of agent.toml by its place, derived ones
                  and secrets filled in; UNSET takes the key out. None: agent.toml is unmanaged
    optional      the places whose table is not created when the file lacks it
    secret_paths  places in agent_values whose value is a secret
    secrets       by name, for use at the last moment; never logged. Of a state that
                  comes from the journal, those are missing that kinds name
    address       a doubt about `agent-ip` that conditions have to tell
    rolled_back   why the inputs of the agent are those of an earlier state; "": they are not
    inputs_of     of each kind: its part in the agent's inputs, from the document
    """

    node_id: str
    cluster: str
    revision: int
    digest: str
    documents: Mapping[str, int]
    document: Mapping[str, Any] = field(repr=False)
    agent_config_path: Path = Path("/etc/backend.ai/agent.toml")
    agent_values: Mapping[KeyPath, Any] | None = field(default=None, repr=False)
    optional: frozenset[KeyPath] = frozenset()
    secret_paths: frozenset[KeyPath] = frozenset()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    address: Verdict | None = None
    spread_s: float = 0.0
    rolled_back: str = ""
    inputs_of: tuple[Callable[[Mapping[str, Any]], AgentInput | None], ...] = field(
        default=(), repr=False
    )

    @property
    def agent_inputs(self) -> tuple[AgentInput, ...]:
        found = (make(self.document) for make in self.inputs_of)
        return tuple(each for each in found if each is not None)


class _Unset(enum.Enum):
    UNSET = "unset"


UNSET = _Unset.UNSET


@dataclass(frozen=True, slots=True)
class Conditions:
    """The last reported conditions; empty without a desired state, or while changes are held.

    digest    of the desired state in force
    verdicts  by condition type
    """

    digest: str = ""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
    """What a resource may use of this daemon: its folders, and its keyed digest.

    state    survives a reboot; 0700
    runtime  of this boot; 0700
    digest   canonical value -> "hmac-sha256:…", keyed by this node, so that a
             digest of a secret can't be guessed from outside
    redact   masks every known secret in a text; for output of other programs
    learn_passing  adds secrets that others write to `redact`: only the newest are kept
    etcd     etcd_access.EtcdAccess to the daemon's own store; None: that is a folder
    conditions  of the node as a whole
    agent_running_s  how long the agent has been running, as noted; None: it does not
    is_id_given  somebody has said the node's id; it does not merely follow from the node
    """

    state: Path
    runtime: Path
    digest: Callable[[object], str]
    redact: Callable[[str], str]
    learn_passing: Callable[[Iterable[str]], None] = lambda _secrets: None
    etcd: Any = None
    conditions: Callable[[], Conditions] = Conditions
    agent_running_s: Callable[[], float | None] = lambda: None
    is_id_given: bool = True


@dataclass(frozen=True)
class Kind:
    """A kind of resource: everything that the rest of the daemon knows about it.

    section       the top-level key of the document that it manages
    schema        JSON Schema (draft 2020-12) of that section, in the words that
                  desired/schema.py lists; may use its "$defs"
    named         the section is an array of tables merged by `name`
    resources     the resources that a node's desired state asks for
    agent_values  what the section (a list where it is `named`) says about agent.toml, by place
    check         mistakes that no schema can express: the place in the section, and a sentence.
                  Asked of the section as each layer has it, where required keys may be missing,
                  and of the merged one; when the schema fits, before variables are filled in
    secret_names  places in the section whose text is the name of a secret, and
                  never the secret itself; NodeSpec.secrets has it by that name once
                  the store has been read: it is not kept in the journal
    actions       every kind of action that its resources plan: each has its series in the metrics
    agent_input   from a checked document: what an agent finds at its start that is of this
                  kind's making; None: nothing
    """

    section: str
    schema: Mapping[str, Any]
    resources: Callable[[NodeSpec, Host], list[AnyResource]]
    named: bool = False
    agent_values: Callable[[Mapping[str, Any]], Mapping[KeyPath, Any]] = lambda _section: {}
    check: Callable[[Any], Iterable[tuple[tuple[str | int, ...], str]]] = lambda _section: ()
    secret_names: frozenset[KeyPath] = frozenset()
    actions: tuple[type[Action], ...] = ()
    agent_input: Callable[[Mapping[str, Any]], AgentInput | None] = lambda _document: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass over a resource came to."""

    name: str
    result: str  # "in_sync", "changed", "failed", "blocked"
    verdict: Verdict
    actions: tuple[Action, ...] = ()  # applied in this pass
    pending: tuple[Action, ...] = ()  # planned and not applied
    observe_again_in_s: float | None = None
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    is_progressing: bool = False  # merely under way: not a fault
    satisfies_dependents: bool | None = None  # see Plan
    is_observed: bool = True  # False: no observation has finished, so a missing fact means nothing


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: Status
    reason: str
    message: str
    since: str  # RFC 3339, UTC
    revision: int
