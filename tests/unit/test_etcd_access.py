from __future__ import annotations

from pathlib import Path

import pytest

from bai_nodeagent.etcd_access import EtcdAccess, parse_endpoints

FILE = Path("/etc/x")


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("etcd://10.0.0.1:2379", ("10.0.0.1:2379",)),
        ("etcd://a:1,b:2", ("a:1", "b:2")),
        ("etcd://a, b:2 ,c.example/", ("a:2379", "b:2", "c.example:2379")),
        ("etcd://[::1]:2379,[fd00::2]", ("[::1]:2379", "[fd00::2]:2379")),
    ],
)
def test_url_lists_endpoints(url: str, endpoints: tuple[str, ...]) -> None:
    assert parse_endpoints(url) == endpoints


@pytest.mark.parametrize(
    "url",
    [
        "etcd://",
        "http://a:1",
        "a:1",
        "etcd://a:1,,b:2",
        "etcd://::1:2379",  # grpc would take it for a host named ::1:2379
        "etcd://[::::]:2379",
        "etcd://a:0",
        "etcd://a:65536",
        "etcd://a:port",
        "etcd://user:password@a:1",
    ],
)
def test_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"form etcd://|is not host:port|the port is not"):
        parse_endpoints(url)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cert": FILE, "key": FILE},  # python-etcd3 would go plaintext
        {"ca": FILE, "cert": FILE},
        {"user": "n1"},
        {"password_file": FILE},
        {"endpoints": ()},
    ],
)
def test_half_a_way_in_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"need ca|go together|no endpoint"):
        EtcdAccess(**{"endpoints": ("a:1",), **wrong})  # type: ignore[arg-type]


def test_where_names_neither_user_nor_password() -> None:
    access = EtcdAccess(("a:1", "b:2"), user="n1", password_file=FILE)
    assert access.where == "etcd://a:1,b:2"
