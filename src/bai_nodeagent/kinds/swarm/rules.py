"""Is this node in the swarm that it shall be in, and what is to be done. Pure.

Invariants:

- A swarm is left only when no container on this node uses an overlay network,
  never by a manager, and never when it is known that the token leads elsewhere
  than it should, unless the node has never been right where it is.
- Which swarm it is, is judged by the node's certificate and by the authority
  that the token names. Addresses count only where these two can't tell.
- Who was removed by a manager stays out until somebody asks for something else.
- While the token is not known, nothing is left, joined or taken for a new wish.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from ...model import Plan, Scalar, Status, Verdict, in_sync
from .addresses import host_and_port, is_address, is_same_address
from .certificate import Certificate, digest_in_token
from .model import Actual, Join, Leave, Remember, SwarmAction, SwarmSpec
from .record import Record
from .refusals import refusal

# SwarmKit renews a certificate at some time between 50 and 80 % of its life:
# one with less than a fifth left is late, however short its life is.
EXPIRY_WARNING_S = 14 * 86400.0
LATE_SHARE = 0.2
OBSERVE_AGAIN_S = 10.0
_NAMES_AT_MOST = 10


@dataclass(frozen=True, slots=True)
class Assessment:
    """Its state, and what would put it right."""

    verdict: Verdict
    wish: Literal["", "join", "leave"] = ""
    observe_again_in_s: float | None = None


def plan(spec: SwarmSpec, actual: Actual) -> Plan[SwarmAction]:
    assessment = judge(spec, actual)
    if spec.doubt:
        return Plan(spec.doubt if assessment.wish else assessment.verdict, facts=_facts(actual))
    hindrance = _hindered(assessment, spec, actual) if assessment.wish else None
    return Plan(
        hindrance or assessment.verdict,
        (*_notes(spec, actual), *(() if hindrance else _steps(assessment, spec, actual))),
        assessment.observe_again_in_s,
        _facts(actual),
    )


def _notes(spec: SwarmSpec, actual: Actual) -> tuple[SwarmAction, ...]:
    record = noted(spec, actual)
    return () if record == actual.record else (Remember(record),)


def _steps(assessment: Assessment, spec: SwarmSpec, actual: Actual) -> tuple[SwarmAction, ...]:
    leave = (Leave(actual.cluster),) if assessment.wish == "leave" else ()
    is_join_next = spec.state == "joined" and assessment.wish != ""
    return (*leave, *((Join(_by_answer(spec, actual)),) if is_join_next else ()))


def _by_answer(spec: SwarmSpec, actual: Actual) -> tuple[str, ...]:
    """Docker tries the first manager alone, and for ever: one that answers has to be it."""
    return tuple(sorted(spec.remote_addrs, key=lambda address: address not in actual.answering))


def _hindered(assessment: Assessment, spec: SwarmSpec, actual: Actual) -> Verdict | None:
    """Why the swarm may not be left, or joined, now."""
    why = assessment.verdict.message
    if spec.lacks_token:
        return Verdict(
            Status.FALSE,
            "WaitingForStore",
            f"{why}; it waits for valid documents from the store, since the token in the secret "
            f"{spec.token_name} is there alone",
        )
    if assessment.wish == "join":
        return None
    if actual.is_manager:
        return Verdict(
            Status.FALSE,
            "Blocked",
            f"{why}; but it is a manager there, and leaving could cost the swarm its quorum: "
            f"on another manager run `docker node demote {actual.node}`, or leave by hand",
        )
    if actual.users:
        shown = ", ".join(actual.users[:_NAMES_AT_MOST])
        more = len(actual.users) - _NAMES_AT_MOST
        rest = f" and {more} more" if more > 0 else ""
        return Verdict(
            Status.FALSE,
            "Blocked",
            f"{why}; that waits until no container is on an overlay network: {shown}{rest}",
        )
    return None


def _facts(actual: Actual) -> dict[str, Scalar]:
    facts: dict[str, Scalar] = {}
    if actual.local.state != "inactive":
        facts |= {"swarm-cluster": actual.cluster, "swarm-node": actual.node}
    if actual.certificate:
        facts["swarm-certificate-expires"] = _moment(actual.certificate.expires_s)
    return {name: value for name, value in facts.items() if value}


def judge(spec: SwarmSpec, actual: Actual) -> Assessment:
    """The state of the node, before it is asked whether the swarm may be left."""
    if actual.local.state == "inactive":
        return _outside(spec, actual)
    if spec.state == "left":
        text = f"this node is in the swarm {actual.cluster}".rstrip()
        return Assessment(Verdict(Status.FALSE, "Joined", text), "leave")
    if _gone(actual):
        return _removed(spec, actual)
    return _misplaced(spec, actual) or _inside(spec, actual)


def _outside(spec: SwarmSpec, actual: Actual) -> Assessment:
    if spec.state == "left":
        return Assessment(in_sync("in no swarm"))
    record = actual.record
    is_noted = record.removed and not spec.is_news_after(record.removed_asked)
    if is_noted or _gone(actual):
        return _removed(spec, actual)
    digest = digest_in_token(spec.token)
    if digest is None and not spec.lacks_token:
        text = f"the secret {spec.token_name} is no join token of a swarm (SWMTKN-1-…)"
        return Assessment(Verdict(Status.FALSE, "InvalidToken", text))
    leads = record.leads.get(digest or "", "")
    if spec.cluster_id and leads not in ("", spec.cluster_id):
        text = f"the token leads to the swarm {leads}, and cluster-id is {spec.cluster_id}"
        return Assessment(Verdict(Status.FALSE, "WrongSwarm", f"{text}; put the wrong one right"))
    return Assessment(Verdict(Status.FALSE, "NotJoined", "this node is in no swarm"), "join")


def _gone(actual: Actual) -> str:
    """The id by which managers knew this node until one of them removed it; "": nobody did."""
    membership, removed = actual.membership, actual.record.removed
    if membership is not None and membership.known is not None:
        return "" if membership.known else membership.node
    return removed if removed == actual.node else ""


def _removed(spec: SwarmSpec, actual: Actual) -> Assessment:
    """A manager has taken the node out: that is how nodes are decommissioned."""
    record = actual.record
    is_new_wish = record.removed == actual.node and spec.is_news_after(record.removed_asked)
    text = f"a manager has removed this node ({_gone(actual) or record.removed}) from the swarm"
    if is_new_wish:
        return Assessment(Verdict(Status.FALSE, "RemovedByManager", text), "leave")
    text += "; it joins again when [swarm] or the token changes"
    return Assessment(Verdict(Status.FALSE, "RemovedByManager", text))


def _misplaced(spec: SwarmSpec, actual: Actual) -> Assessment | None:
    """The swarm that the node is in is another than desired; None: it is not."""
    judged = _misplaced_without_token if spec.lacks_token else _misplaced_by_token
    return judged(spec, actual) if actual.cluster else None


def _misplaced_without_token(spec: SwarmSpec, actual: Actual) -> Assessment | None:
    """As far as that is known without the token."""
    why = f"this node is in the swarm {actual.cluster}"
    if spec.cluster_id:
        is_right = actual.cluster == spec.cluster_id
        why += f", and cluster-id is {spec.cluster_id}"
    else:
        is_right = actual.cluster == actual.record.trusted or _is_with(spec, actual)
        why += ", and only the token shows whether that is the right one"
    return None if is_right else Assessment(Verdict(Status.FALSE, "WrongSwarm", why), "leave")


def _misplaced_by_token(spec: SwarmSpec, actual: Actual) -> Assessment | None:
    cluster, digest = actual.cluster, digest_in_token(spec.token)
    leads = cluster if digest == actual.ca else actual.record.leads.get(digest or "", "")
    if spec.cluster_id:
        is_right = cluster == spec.cluster_id
        why = f"this node is in the swarm {cluster}, and cluster-id is {spec.cluster_id}"
        is_way_known = leads in ("", spec.cluster_id)
    else:
        # A token of another authority may be one from before, or after, a change
        # of the swarm's authority: then the managers are still the same.
        is_right = leads == cluster or (not leads and _is_with(spec, actual))
        why = f"this node is in the swarm {cluster}, and the token leads to another"
        is_way_known = True
    if is_right or (digest is None and not spec.cluster_id):
        return None
    if digest is None or (not is_way_known and actual.record.trusted == cluster):
        there = f"leads to the swarm {leads}" if digest else "is none"
        text = f"{why}; but the token in the secret {spec.token_name} {there}: put that right first"
        return Assessment(Verdict(Status.FALSE, "WrongSwarm", text))
    return Assessment(Verdict(Status.FALSE, "WrongSwarm", why), "leave")


def _inside(spec: SwarmSpec, actual: Actual) -> Assessment:
    """In the swarm that is desired, or on the way to it."""
    certificate, unknown = actual.certificate, _unreached(actual)
    if certificate and certificate.expires_s <= actual.now_s:
        text = f"the node's certificate expired at {_moment(certificate.expires_s)}"
        if actual.membership and actual.membership.known:
            return Assessment(Verdict(Status.FALSE, "CertificateExpired", text), "leave")
        text += f"; it joins anew once a manager answers{unknown and f' ({unknown})'}"
        return Assessment(Verdict(Status.FALSE, "CertificateExpired", text), "", OBSERVE_AGAIN_S)
    match actual.local.state:
        case "error":
            return _error(spec, actual)
        case "locked":
            text = "this manager is locked: run `docker swarm unlock` here"
            return Assessment(Verdict(Status.FALSE, "Locked", text))
        case _ if unknown:
            text = f"no manager answers this node: {unknown}"
            return Assessment(
                Verdict(Status.FALSE, "ManagerUnreachable", text), "", OBSERVE_AGAIN_S
            )
        case "pending":
            return _pending(spec, actual)
    return Assessment(_active(spec, actual))


def _error(spec: SwarmSpec, actual: Actual) -> Assessment:
    """Docker has given up. A join of ours that came to nothing is ended, since Docker takes no
    other before; a node that may have been a member is left as it is, for people to examine."""
    error, record = actual.local.error, actual.record
    is_failed_join = is_given_up(actual) and record.asked and not record.member
    refused = refusal(spec, error) if is_failed_join else None
    if refused is None:
        text = f"Docker: {error}; see its log, then `docker swarm leave` here"
        return Assessment(Verdict(Status.FALSE, "SwarmError", text))
    verdict = Verdict(Status.FALSE, *refused)
    if actual.answering or spec.is_news_after(record.asked):
        return Assessment(verdict, "leave")
    return Assessment(verdict, "", OBSERVE_AGAIN_S)


def is_given_up(actual: Actual) -> bool:
    """Docker has ended what it began, and this node is in no swarm, as far as can be seen."""
    return actual.local.state == "error" and not actual.cluster


def _pending(spec: SwarmSpec, actual: Actual) -> Assessment:
    managers = ", ".join(actual.local.managers)
    is_ours = _is_with(spec, actual) and not spec.is_news_after(actual.record.asked)
    if not actual.cluster and not is_ours:
        text = f"Docker still tries to join at {managers}, which is no longer desired"
        return Assessment(Verdict(Status.FALSE, "OtherJoin", text), "leave")
    text = f"Docker is getting in touch with the swarm at {managers}"
    return Assessment(Verdict(Status.UNKNOWN, "Progressing", text), "", OBSERVE_AGAIN_S)


def _active(spec: SwarmSpec, actual: Actual) -> Verdict:
    word = "a manager" if actual.is_manager else "a worker"
    if actual.local.availability in ("drain", "pause"):
        text = (
            f"the swarm gives this node no work (availability {actual.local.availability}), so "
            "containers can't use overlay networks: on a manager run "
            f"`docker node update --availability active {actual.node}`"
        )
        return Verdict(Status.FALSE, "Drained", text)
    if actual.certificate and is_late(actual.certificate, actual.now_s):
        text = (
            f"the node's certificate expires at {_moment(actual.certificate.expires_s)} and has "
            "not been renewed: look at Docker's log here and at the managers'"
        )
        return Verdict(Status.TRUE, "CertificateExpiring", text)
    text = f"{word} of the swarm {actual.cluster}".rstrip()
    digest = digest_in_token(spec.token)
    if actual.ca and spec.token and digest != actual.ca:
        text += f"; the token in the secret {spec.token_name} is not of its present authority"
    return in_sync(text + _other_address(spec, actual))


def _other_address(spec: SwarmSpec, actual: Actual) -> str:
    """Docker keeps the address that it joined with, or takes another by itself when it starts."""
    known, wanted = actual.local.address, spec.advertise_addr
    if "" in (known, wanted) or not is_address(wanted) or is_same_address(known, wanted):
        return ""
    return (
        f"; the others know it as {known}, which differs from advertise-addr {wanted}: that counts "
        "when this node joins the next time"
    )


def is_late(certificate: Certificate, now_s: float) -> bool:
    """Whether it ought to have been renewed, so that people should examine it."""
    life_s = certificate.expires_s - certificate.starts_s
    return certificate.expires_s - now_s < min(EXPIRY_WARNING_S, LATE_SHARE * life_s)


def _unreached(actual: Actual) -> str:
    """Why no manager could be asked; "" when one answered, or nobody was asked."""
    membership = actual.membership
    return membership.why if membership and membership.known is None else ""


def _is_with(spec: SwarmSpec, actual: Actual) -> bool:
    """Some manager that Docker knows is one that the document names; or Docker knows none."""
    managers = actual.local.managers
    known, named = ({*map(host_and_port, each)} for each in (managers, spec.remote_addrs))
    return not known or bool(known & named)


def noted(spec: SwarmSpec, actual: Actual) -> Record:
    """What there is to remember after an observation."""
    record, cluster = actual.record, actual.cluster
    digest = digest_in_token(spec.token)
    if actual.local.state == "inactive":
        record = replace(record, member="", since_s=0.0)
    elif cluster and record.member != cluster:
        record = replace(record, member=cluster, since_s=actual.since_s)
    if digest and cluster and digest == actual.ca and record.leads.get(digest) != cluster:
        record = replace(record, leads=record.leading(digest, cluster))
    gone = _gone(actual)
    if gone:
        if record.removed != gone:
            record = replace(record, removed=gone, removed_asked="")
    elif record.removed and _is_forgiven(spec, actual):
        record = replace(record, removed="", removed_asked="")
    if record.removed and not record.removed_asked:
        record = replace(record, removed_asked=spec.asked)
    is_judged = spec.state == "joined" and not spec.lacks_token
    is_home = is_judged and cluster and actual.local.state == "active"
    if is_home and not gone and _misplaced(spec, actual) is None:
        record = replace(record, trusted=cluster)
    return record


def _is_forgiven(spec: SwarmSpec, actual: Actual) -> bool:
    """A removal no longer counts: another one is asked for, or the node is in again."""
    if actual.local.state == "inactive":
        return spec.state == "left" or spec.is_news_after(actual.record.removed_asked)
    is_known = actual.membership is not None and actual.membership.known
    return bool(is_known or (actual.node and actual.node != actual.record.removed))


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
