"""The words in which a swarm is spoken of: desired, as it is, and what can be done. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...model import Action, Verdict
from .certificate import Certificate
from .record import Record

# dockerd gives up waiting for a join after 20 s, and goes on in the background.
JOIN_DEADLINE_S = 30.0
LEAVE_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class SwarmSpec:
    """`[swarm]`.

    token        the secret itself; "" when the node is to be left out, or while the
                 token is not known
    token_name   what people call it
    asked        all of this, digested with a key; "" while the token is not known
    doubt        why an address in it isn't known now: nothing is done meanwhile
    """

    state: Literal["joined", "left"]
    remote_addrs: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    token_name: str = ""
    cluster_id: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    listen_addr: str = ""
    asked: str = ""
    doubt: Verdict | None = None

    @property
    def lacks_token(self) -> bool:
        """It is in the store alone, and this daemon has not had it from there yet."""
        return self.state == "joined" and not self.token

    def is_news_after(self, asked: str) -> bool:
        """Whether something else is asked for than then; what isn't known is no news."""
        return "" not in (asked, self.asked) and asked != self.asked


@dataclass(frozen=True, slots=True)
class Local:
    """What dockerd says of itself.

    state         "inactive", "pending", "active", "error" or "locked"
    managers      addresses of those that it knows; while it joins, the one that it was given
    cluster       only a manager knows it
    availability  "active", "pause", "drain"; only a manager knows it
    address       by which the others know this node
    """

    state: str
    node: str = ""
    is_manager: bool = False
    managers: tuple[str, ...] = ()
    cluster: str = ""
    availability: str = ""
    error: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a manager says of this node; `why` is for people.

    node  the id that was asked about: of a node that is out, the one that it had
    """

    known: bool | None = None
    why: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Actual:
    """The state of the node.

    certificate  None: there is none, or it can't be read
    ca           digest of the authority that the node trusts, as in tokens; ""
    since_s      when the node came into its swarm, Unix time
    membership   asked of a manager; None: nobody was asked
    users        containers on overlay networks; asked for only when that matters
    answering    which of the desired managers are there; asked for only when that matters
    """

    local: Local
    now_s: float
    record: Record = field(default_factory=Record)
    certificate: Certificate | None = None
    ca: str = ""
    since_s: float = 0.0
    membership: Membership | None = None
    users: tuple[str, ...] = ()
    answering: tuple[str, ...] = ()

    @property
    def cluster(self) -> str:
        return self.certificate.cluster if self.certificate else self.local.cluster

    @property
    def node(self) -> str:
        return self.certificate.node if self.certificate else self.local.node

    @property
    def is_manager(self) -> bool:
        # dockerd doesn't know before its managers are back; the certificate does.
        return self.local.is_manager or bool(self.certificate and self.certificate.is_manager)


@dataclass(frozen=True)
class Remember(Action):
    verb: ClassVar[str] = "remember"
    is_note: ClassVar[bool] = True
    record: Record

    @property
    def summary(self) -> str:
        return "remember the swarm"


@dataclass(frozen=True)
class Join(Action):
    verb: ClassVar[str] = "join"
    remote_addrs: tuple[str, ...]
    deadline_s: float = JOIN_DEADLINE_S + 5

    @property
    def summary(self) -> str:
        return f"join the swarm at {', '.join(self.remote_addrs)}"


@dataclass(frozen=True)
class Leave(Action):
    verb: ClassVar[str] = "leave"
    is_disruptive: ClassVar[bool] = True
    cluster: str
    deadline_s: float = LEAVE_DEADLINE_S + 15

    @property
    def summary(self) -> str:
        return f"leave the swarm {self.cluster}".rstrip()


SwarmAction = Remember | Join | Leave
