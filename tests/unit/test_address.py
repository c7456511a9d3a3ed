from __future__ import annotations

import pytest

from bai_nodeagent import address
from bai_nodeagent.address import InterfaceAddress, Kept, NetworkState

ETH0 = InterfaceAddress("10.0.0.5", "eth0", 0, 0x80)
SECOND = InterfaceAddress("10.0.0.6", "eth0", 0, 0x81)  # 0x01 is "secondary" for IPv4
STABLE6 = InterfaceAddress("2001:db8::5", "eth0", 0, 0x80)
TEMPORARY6 = InterfaceAddress("2001:db8::abcd", "eth0", 0, address.IFA_F_TEMPORARY)
DEPRECATED6 = InterfaceAddress("2001:db8::7", "eth0", 0, address.IFA_F_DEPRECATED)
LINK6 = InterfaceAddress("fe80::1", "eth0", 253, 0x80)
ALL = (ETH0, SECOND, LINK6, DEPRECATED6, TEMPORARY6, STABLE6)


def state(
    source: str | None = "10.0.0.5", *local: str, addresses: tuple[InterfaceAddress, ...] = ALL
) -> NetworkState:
    return NetworkState(addresses, source, "eth0" if source else None, frozenset(local))


def test_auto_is_the_source_of_the_route_to_the_manager() -> None:
    found = address.choose("auto", "10.0.0.1", None, state())
    assert (found.value, found.doubt, found.kept) == ("10.0.0.5", None, Kept("auto", "10.0.0.5"))


def test_auto_is_never_temporary_deprecated_or_link_local() -> None:
    for source in ("2001:db8::abcd", "2001:db8::7", "fe80::1"):
        assert address.choose("auto", "2001:db8::1", None, state(source)).value == "2001:db8::5"
    only = state("2001:db8::abcd", addresses=(TEMPORARY6, LINK6))
    found = address.choose("auto", "2001:db8::1", None, only)
    assert found.value is None
    assert found.doubt is not None
    assert found.doubt.reason == "NoAddress"


def test_a_secondary_ipv4_address_is_a_lasting_one() -> None:
    assert address.choose("auto", "10.0.0.1", None, state("10.0.0.6")).value == "10.0.0.6"


def test_a_manager_on_this_node_is_reached_from_loopback() -> None:
    here = NetworkState(ALL, "127.0.0.1", "lo", frozenset())
    assert address.choose("auto", "127.0.0.1", None, here).value == "127.0.0.1"


def test_no_route_is_a_doubt_and_no_guess() -> None:
    found = address.choose("auto", "10.9.9.9", None, state(None))
    assert found.value is None
    assert found.doubt is not None
    assert "10.9.9.9" in found.doubt.message
    assert address.choose("auto", None, None, state()).value is None


def test_a_kept_address_survives_a_new_route() -> None:
    kept = Kept("auto", "10.0.0.6")
    found = address.choose("auto", "10.0.0.1", kept, state("10.0.0.5", "10.0.0.6"))
    assert (found.value, found.doubt, found.kept) == ("10.0.0.6", None, kept)


def test_a_kept_address_that_is_gone_stays_and_is_reported() -> None:
    kept = Kept("auto", "10.0.0.9")
    found = address.choose("auto", "10.0.0.1", kept, state("10.0.0.5"))
    assert (found.value, found.kept) == ("10.0.0.9", kept)
    assert found.doubt is not None
    assert found.doubt.reason == "AddressChanged"
    assert "10.0.0.5" in found.doubt.message
    assert "rebind" in found.doubt.message


def test_a_new_rule_in_a_document_chooses_anew() -> None:
    kept = Kept("auto", "10.0.0.9")
    found = address.choose("10.0.0.6", "10.0.0.1", kept, state("10.0.0.5", "10.0.0.6"))
    assert (found.value, found.kept) == ("10.0.0.6", Kept("10.0.0.6", "10.0.0.6"))


def test_an_address_that_is_not_on_this_node_is_a_doubt() -> None:
    found = address.choose("10.7.7.7", "10.0.0.1", None, state())
    assert found.value is None
    assert found.doubt is not None
    assert found.doubt.reason == "NoAddress"


def test_an_interface_gives_its_lasting_address_of_the_managers_family() -> None:
    assert address.choose("interface:eth0", "10.0.0.1", None, state()).value == "10.0.0.5"
    assert address.choose("interface:eth0", "2001:db8::1", None, state()).value == "2001:db8::5"
    assert address.choose("interface:eth0", None, None, state()).value == "10.0.0.5"
    missing = address.choose("interface:eth9", "10.0.0.1", None, state())
    assert missing.doubt is not None
    assert "eth9" in missing.doubt.message
    wrong = address.choose("interface:eth0", "2001:db8::1", None, state(addresses=(ETH0,)))
    assert wrong.value is None


def test_without_a_rule_nothing_is_chosen() -> None:
    assert address.choose(None, "10.0.0.1", None, state()).value is None


def test_the_source_of_the_route_may_be_on_any_interface() -> None:
    on_lo = InterfaceAddress("10.1.1.1", "lo", 0, 0x80)
    found = address.choose("auto", "10.0.0.1", None, state("10.1.1.1", addresses=(*ALL, on_lo)))
    assert found.value == "10.1.1.1"


REMOTE = NetworkState(ALL, "10.0.0.5", "eth0", frozenset({"127.0.0.1", "10.0.0.5"}))
HERE = NetworkState(ALL, "10.0.0.5", "lo", frozenset({"127.0.0.1", "10.0.0.5"}))
LOCAL = NetworkState(ALL, "127.0.0.1", "lo", frozenset({"127.0.0.1", "10.0.0.5"}))


@pytest.mark.parametrize(
    ("rule", "manager_ip", "kept", "observed", "value", "reason"),
    [
        ("auto", "10.0.0.1", "127.0.0.1", REMOTE, "10.0.0.5", None),
        ("auto", "10.0.0.5", "127.0.0.1", HERE, "127.0.0.1", None),
        ("auto", "127.0.0.1", "10.0.0.5", LOCAL, "10.0.0.5", None),
        ("127.0.0.1", "10.0.0.1", "127.0.0.1", REMOTE, None, "NoAddress"),
        ("127.0.0.1", "10.0.0.1", None, REMOTE, None, "NoAddress"),
        ("127.0.0.1", "10.0.0.5", None, HERE, "127.0.0.1", None),
        ("auto", "2001:db8::1", "10.0.0.5", REMOTE, "10.0.0.5", "OtherFamily"),
        ("10.0.0.5", "2001:db8::1", "10.0.0.5", REMOTE, "10.0.0.5", None),
        ("auto", "2001:db8::5", "10.0.0.5", HERE, "10.0.0.5", None),
    ],
)
def test_a_manager_that_moves(
    rule: str,
    manager_ip: str,
    kept: str | None,
    observed: NetworkState,
    value: str | None,
    reason: str | None,
) -> None:
    found = address.choose(rule, manager_ip, Kept(rule, kept) if kept else None, observed)
    assert (found.value, found.doubt and found.doubt.reason) == (value, reason)


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "::ffff:0.0.0.0"]
)
def test_loopback_has_many_spellings(text: str) -> None:
    assert address.is_loopback(text)
