"""The address that a request comes from, whatever its headers say."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.boot.source import source_address

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
ASKING = ipaddress.ip_address("192.0.2.7")


def test_without_proxies_the_peer_is_the_source() -> None:
    assert source_address("192.0.2.7", "") == ASKING


def test_a_header_from_an_untrusted_peer_counts_for_nothing() -> None:
    assert source_address("192.0.2.7", "198.51.100.1", trusted=TRUSTED) == ASKING


def test_a_trusted_proxy_names_the_source() -> None:
    assert source_address("10.0.0.1", "192.0.2.7", trusted=TRUSTED) == ASKING


def test_what_stands_left_of_the_source_is_hearsay() -> None:
    assert source_address("10.0.0.1", "198.51.100.1, 192.0.2.7", trusted=TRUSTED) == ASKING


def test_a_chain_of_trusted_proxies_is_walked_from_the_right() -> None:
    assert source_address("10.0.0.1", "198.51.100.1, 192.0.2.7, fd00::2, 10.0.0.9", trusted=TRUSTED) == ASKING


def test_where_all_hops_are_trusted_the_leftmost_is_the_source() -> None:
    assert source_address("10.0.0.1", "10.0.0.3, 10.0.0.2", trusted=TRUSTED) == ipaddress.ip_address("10.0.0.3")


@pytest.mark.parametrize("header", ["", "unknown", "192.0.2.7, nonsense", "192.0.2.7:4711", ", ,"])
def test_an_entry_that_is_no_address_ends_the_walk_at_the_proxy(header: str) -> None:
    assert source_address("10.0.0.1", header, trusted=TRUSTED) == ipaddress.ip_address("10.0.0.1")


def test_an_ipv4_peer_on_an_ipv6_socket_is_the_ipv4_address() -> None:
    assert source_address("::ffff:192.0.2.7", "") == ASKING


def test_a_mapped_proxy_is_trusted_as_its_ipv4_address() -> None:
    assert source_address("::ffff:10.0.0.1", "::ffff:192.0.2.7", trusted=TRUSTED) == ASKING


def test_a_unix_peer_is_nobody_unless_trusted() -> None:
    assert source_address("", "192.0.2.7", trusted=TRUSTED) is None


def test_a_trusted_unix_peer_names_the_source() -> None:
    assert source_address("", "198.51.100.1, 192.0.2.7", trust_unix_peer=True) == ASKING


def test_a_trusted_unix_peer_that_names_nobody_leaves_the_source_unknown() -> None:
    assert source_address("", "", trust_unix_peer=True) is None


def test_trusting_the_unix_peer_does_not_trust_addresses() -> None:
    assert source_address("192.0.2.7", "198.51.100.1", trust_unix_peer=True) == ASKING


@given(st.text(), st.text(), st.booleans())
def test_finding_the_source_never_raises(peer: str, header: str, unix: bool) -> None:
    source_address(peer, header, trusted=TRUSTED, trust_unix_peer=unix)
