"""What an answer of etcd leads to, as a table. The texts are etcd's own, of 3.4 and 3.5."""

from __future__ import annotations

import grpc
import pytest

from bai_nodeagent.errors import Unavailable
from bai_nodeagent.system.etcd_faults import Denied, Gone, Next, judge, translate

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", Next.AUTHENTICATE),
        (Code.UNKNOWN, "etcdserver: invalid auth token", Next.AUTHENTICATE),
        (Code.UNKNOWN, "auth: revision in header is old", Next.AUTHENTICATE),
        (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Next.AUTHENTICATE),
        (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", Next.AUTHENTICATE),
        (Code.UNAVAILABLE, "etcdserver: no leader", Next.OTHER_MEMBER),
        (Code.UNAVAILABLE, "failed to connect to all addresses", Next.OTHER_MEMBER),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", Next.OTHER_MEMBER),
        (Code.CANCELLED, "", Next.OTHER_MEMBER),
        (Code.INTERNAL, "", Next.OTHER_MEMBER),
        (Code.UNKNOWN, "", Next.OTHER_MEMBER),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", Next.REPORT),
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is compacted", Next.REPORT),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Next.REPORT),
        (
            Code.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            Next.REPORT,
        ),
    ],
)
def test_what_an_error_leads_to(code: grpc.StatusCode, details: str, verdict: Next) -> None:
    assert judge(code, details) is verdict


def test_denied_names_user_and_key() -> None:
    error = translate(Code.PERMISSION_DENIED, "permission denied", "a:1", "n1", "read /x/y")
    assert isinstance(error, Denied)
    assert str(error) == "etcd a:1: user n1 may not read /x/y"


def test_gone_revision_is_no_outage() -> None:
    assert isinstance(translate(Code.OUT_OF_RANGE, "compacted", "a:1", None, "read /x"), Gone)


def test_everything_else_is_unavailable_with_endpoint_and_reason() -> None:
    error = translate(Code.UNAVAILABLE, "connection refused", "a:1", None, "read /x")
    assert isinstance(error, Unavailable)
    assert str(error) == "etcd a:1: connection refused (read /x)"


def test_of_a_failed_connection_the_systems_words_are_quoted() -> None:
    details = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:2379: "
        "Failed to connect to remote host: Connection refused"
    )
    error = translate(Code.UNAVAILABLE, details, "a:1", None, "read /x")
    assert str(error) == "etcd a:1: Connection refused (read /x)"
