"""The address that a request comes from, whatever its headers say."""

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from machines.addresses import IPAddress, parse_ip
from rescuesite.client_address import source_address

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
PROXY = ipaddress.ip_address("10.0.0.1")
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


@pytest.mark.parametrize(
    "entry",
    [
        "192.0.2.7",
        "192.0.2.7:4711",
        '"192.0.2.7"',
        '"192.0.2.7:4711"',
        "[::ffff:192.0.2.7]",
        "[::ffff:192.0.2.7]:4711",
        "192.0.2.7,",
        "192.0.2.7, ,",
        "10.9.9.9,, 192.0.2.7:1",
        "unknown, 192.0.2.7",
        "192.0.2.7\t",
        "192.0.2.7, 10.0.0.9:4711, [fd00::2]:4711",
    ],
)
def test_an_entry_is_read_as_proxies_write_it(entry: str) -> None:
    assert source_address("10.0.0.1", entry, trusted=TRUSTED) == ASKING


@pytest.mark.parametrize(
    "entry",
    [
        "2001:db8::7",
        "[2001:db8::7]",
        "[2001:db8::7]:4711",
        '"[2001:db8::7]:4711"',
        '"2001:db8::7"',
        "2001:DB8:0:0::7",
        "2001:db8::7%eth0",
        "[2001:db8::7%25eth0]:4711",
    ],
)
def test_an_ipv6_entry_is_read_as_proxies_write_it(entry: str) -> None:
    assert source_address("10.0.0.1", entry, trusted=TRUSTED) == ipaddress.ip_address("2001:db8::7")


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        ", ,",
        "unknown",
        "_hidden",
        "unix:",
        "192.0.2.7, nonsense",
        "192.0.2.7, unknown, 10.0.0.2",
        "192.0.2.7:",
        "192.0.2.7:port",
        "192.0.2.7:123456",
        "192.0.2.777",
        "192.0.2.7 198.51.100.1",
        "[192.0.2.7]:80",
        "[2001:db8::7",
        "2001:db8::7]",
        '"192.0.2.7',
        '"',
        "for=192.0.2.7",
        "192.0.2.٧",
    ],
)
def test_what_cannot_be_read_makes_the_source_unknown_and_never_the_proxy(header: str) -> None:
    assert source_address("10.0.0.1", header, trusted=TRUSTED) is None


def test_a_link_local_peer_is_known_without_its_zone() -> None:
    assert source_address("fe80::1%eth0", "") == ipaddress.ip_address("fe80::1")


def test_a_peer_that_cannot_be_read_is_no_unix_socket() -> None:
    assert source_address("nonsense", "192.0.2.7", trust_unix_peer=True) is None


def test_a_trusted_proxy_that_forwards_for_nobody_asks_for_itself() -> None:
    assert source_address("10.0.0.1", None, trusted=TRUSTED) == ipaddress.ip_address("10.0.0.1")


@given(st.ip_addresses(), st.text())
def test_what_a_proxy_saw_last_is_the_source_whatever_was_sent_before_it(address: IPAddress, sent: str) -> None:
    saw = parse_ip(str(address))
    assume(saw != PROXY)
    assert source_address("10.0.0.1", f"{sent}, {address}", trusted=[ipaddress.ip_network(PROXY)]) == saw


def test_an_ipv4_peer_on_an_ipv6_socket_is_the_ipv4_address() -> None:
    assert source_address("::ffff:192.0.2.7", "") == ASKING


def test_a_mapped_proxy_is_trusted_as_its_ipv4_address() -> None:
    assert source_address("::ffff:10.0.0.1", "::ffff:192.0.2.7", trusted=TRUSTED) == ASKING


def test_a_unix_peer_is_nobody_unless_trusted() -> None:
    assert source_address("", "192.0.2.7", trusted=TRUSTED) is None


def test_a_trusted_unix_peer_names_the_source() -> None:
    assert source_address("", "198.51.100.1, 192.0.2.7", trust_unix_peer=True) == ASKING


def test_a_trusted_unix_peer_that_names_nobody_leaves_the_source_unknown() -> None:
    assert {source_address("", said, trust_unix_peer=True) for said in (None, "", "unix:")} == {None}


def test_trusting_the_unix_peer_does_not_trust_addresses() -> None:
    assert source_address("192.0.2.7", "198.51.100.1", trust_unix_peer=True) == ASKING


@given(st.text(), st.none() | st.text(), st.booleans())
def test_finding_the_source_never_raises(peer: str, header: str | None, unix: bool) -> None:
    source_address(peer, header, trusted=TRUSTED, trust_unix_peer=unix)
