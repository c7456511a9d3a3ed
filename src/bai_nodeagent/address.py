"""Which address of this node is `agent-ip`. Pure: what the kernel says comes in as a value.

An address is chosen once and kept: an agent that came back under another one
would be a new agent for the manager. So a different route is ignored as long as
the kept address is on the node, and when it is gone nobody guesses: a person
changes `agent-ip` in a document, or says `bai-nodeagent rebind`. Loopback alone
is not kept when the manager has gone elsewhere: under it no agent can be reached.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from .model import Status, Verdict

# linux/if_addr.h, linux/rtnetlink.h
IFA_F_TEMPORARY = 0x01  # of IPv6 only; the same bit says "secondary" for IPv4
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
RT_SCOPE_UNIVERSE = 0


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    address: str
    interface: str
    scope: int
    flags: int

    @property
    def is_lasting(self) -> bool:
        """Fit to be known by others for long: global, and neither temporary nor on its way out."""
        unfit = IFA_F_DEPRECATED | IFA_F_TENTATIVE | IFA_F_DADFAILED
        if _version(self.address) == 6:
            unfit |= IFA_F_TEMPORARY
        return self.scope == RT_SCOPE_UNIVERSE and not self.flags & unfit


@dataclass(frozen=True, slots=True)
class NetworkState:
    """What the kernel says at one moment.

    source     preferred source of the route to manager-ip; None without a route
    interface  where that route leaves; "lo" when manager-ip is this node
    local      those of the addresses asked about that are this node's own
    """

    addresses: tuple[InterfaceAddress, ...] = ()
    source: str | None = None
    interface: str | None = None
    local: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Kept:
    """The address once chosen, and the rule by which it was."""

    rule: str
    address: str


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """`value` fills `${agent-ip}`; None leaves alone what needs it. `doubt` is for conditions."""

    value: str | None = None
    doubt: Verdict | None = None
    kept: Kept | None = None


def choose(
    rule: str | None, manager_ip: str | None, kept: Kept | None, state: NetworkState
) -> AgentAddress:
    """The node's address under `[node] agent-ip = rule`: an address, "auto", "interface:NAME"."""
    if rule is None:
        return AgentAddress(kept=kept)
    is_far = _is_elsewhere(manager_ip, state)
    if kept is not None and kept.rule == rule and not (is_far and is_loopback(kept.address)):
        return _still(kept, manager_ip, state)
    found, why_not = _found(rule, manager_ip, state)
    if found is None:
        return AgentAddress(doubt=Verdict(Status.FALSE, "NoAddress", why_not), kept=kept)
    return AgentAddress(found, kept=Kept(rule, found))


def is_loopback(text: str) -> bool:
    """Of an address, in any spelling that leads to the machine itself."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if address.version == 6 else None
    address = mapped or address
    return address.is_loopback or address.is_unspecified


def _is_elsewhere(manager_ip: str | None, state: NetworkState) -> bool:
    return manager_ip is not None and not is_loopback(manager_ip) and state.interface != "lo"


def _still(kept: Kept, manager_ip: str | None, state: NetworkState) -> AgentAddress:
    """The address stays, whatever is said of it."""
    if kept.address not in state.local:
        reason, what = "AddressChanged", f"was {kept.address}, which is no longer on it"
    elif kept.rule != kept.address and not _is_of_family(kept.address, manager_ip, state):
        reason = "OtherFamily"
        what = f"is {kept.address}, and manager-ip {manager_ip} is of another family"
    else:
        return AgentAddress(kept.address, kept=kept)
    now, _ = _found(kept.rule, manager_ip, state)
    instead = f"it would be {now} now; " if now else ""
    message = (
        f"this node's address {what}; {instead}"
        "to accept another one set agent-ip in a document or run `bai-nodeagent rebind` here"
    )
    return AgentAddress(kept.address, Verdict(Status.FALSE, reason, message), kept)


def _is_of_family(address: str, manager_ip: str | None, state: NetworkState) -> bool:
    """Where the manager is this very node, or nobody knows it, any will do."""
    if manager_ip is None or not _is_elsewhere(manager_ip, state):
        return True
    return _version(address) == _version(manager_ip)


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _found(rule: str, manager_ip: str | None, state: NetworkState) -> tuple[str | None, str]:
    if rule == "auto":
        return _by_route(manager_ip, state)
    if rule.startswith("interface:"):
        return _by_interface(rule.removeprefix("interface:"), manager_ip, state)
    if rule not in state.local:
        return None, f"agent-ip is {rule}, which is not an address of this node"
    if is_loopback(rule) and _is_elsewhere(manager_ip, state):
        return None, (
            f"agent-ip is {rule}, which is this node for itself alone, and the manager is "
            f'{manager_ip}; allowed there: "auto", "interface:NAME", or an address that it reaches'
        )
    return rule, ""


def _by_route(manager_ip: str | None, state: NetworkState) -> tuple[str | None, str]:
    if manager_ip is None:
        return None, 'agent-ip = "auto" needs manager-ip, the address to find the route to'
    if state.source is None:
        return None, f"this node has no route to a host at manager-ip {manager_ip}"
    if state.interface == "lo":  # the manager is this very node
        return state.source, ""
    # Not on the route's interface alone: an address of a host that speaks BGP stands on lo,
    # and an unnumbered interface borrows that of another one.
    if any(a.address == state.source and a.is_lasting for a in state.addresses):
        return state.source, ""
    version = _version(state.source)
    for candidate in state.addresses:
        is_here = candidate.interface == state.interface and candidate.is_lasting
        if is_here and _version(candidate.address) == version:
            return candidate.address, ""
    return None, (
        f"the route to manager-ip {manager_ip} leaves from {state.source}, which is a temporary, "
        "deprecated or link-local address; give the node a lasting one or set agent-ip"
    )


def _by_interface(name: str, manager_ip: str | None, state: NetworkState) -> tuple[str | None, str]:
    wanted = _version(manager_ip) if manager_ip else None
    lasting = [a.address for a in state.addresses if a.interface == name and a.is_lasting]
    fit = [a for a in lasting if wanted in (None, _version(a))]
    if fit:
        return fit[0], ""
    if any(a.interface == name for a in state.addresses):
        return None, f"interface {name} has no lasting address of manager-ip's family"
    return None, f"interface {name} has no address, or is not there"
