"""MAC and IP addresses come into one form, or are refused with a reason."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.addresses import AddressError, hyphenated, normalise_mac, normalise_network, parse_ip, parse_network


@pytest.mark.parametrize(
    "text",
    [
        "00:02:b3:9d:94:8c",
        "00:02:B3:9D:94:8C",
        "00-02-b3-9d-94-8c",
        "0002b39d948c",
        "0002B39D948C",
        "0002.b39d.948c",
        "0002-b39d-948c",
        "0002b3-9d948c",
        "0:2:b3:9d:94:8c",
        "00.02.b3.9d.94.8c",
        "  00:02:b3:9d:94:8c\t",
    ],
)
def test_every_usual_spelling_of_a_mac_is_read(text: str) -> None:
    assert normalise_mac(text) == "00:02:b3:9d:94:8c"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00:02:b3:9d:94",
        "00:02:b3:9d:94:8c:00",
        "00:02-b3:9d:94:8c",
        "0-2-b3-9d-94-8c",
        "00:02:b3:9d:94:8g",
        "00:02:b3:9d:94:8c\n00:02:b3:9d:94:8d",
        "٠٠:02:b3:9d:94:8c",
        "00 02 b3 9d 94 8c",
    ],
)
def test_what_is_not_written_like_a_mac_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="is not a valid MAC address"):
        normalise_mac(text)


@pytest.mark.parametrize("text", ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "333300000001"])
def test_an_address_that_no_single_card_has_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="single network card"):
        normalise_mac(text)


def test_a_refusal_repeats_no_more_than_the_start_of_a_long_text() -> None:
    with pytest.raises(AddressError) as refused:
        normalise_mac("x" * 5000)
    assert len(str(refused.value)) < 150


def test_pxelinux_spelling_has_hyphens() -> None:
    assert hyphenated("00:02:b3:9d:94:8c") == "00-02-b3-9d-94-8c"


@given(st.binary(min_size=6, max_size=6).filter(lambda b: not b[0] & 1 and any(b)))
def test_all_forms_of_any_card_address_become_the_same(octets: bytes) -> None:
    forms = {octets.hex(), octets.hex(":"), octets.hex("-"), octets.hex(".", 2), octets.hex(":").upper()}
    assert {normalise_mac(form) for form in forms} == {octets.hex(":")}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_ip_address_is_read_into_one_form(text: str, address: str) -> None:
    assert parse_ip(text) == ipaddress.ip_address(address)


@pytest.mark.parametrize("text", ["", "192.0.2", "192.0.2.256", "192.0.2.7:80", "[::1]", "host", "192.0.2.0/24", "1"])
def test_what_is_no_ip_address_is_none(text: str) -> None:
    assert parse_ip(text) is None


@given(st.text())
def test_reading_an_ip_address_never_raises(text: str) -> None:
    parse_ip(text)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("2001:DB8:0::/64", "2001:db8::/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_a_network_is_stored_in_one_form(text: str, stored: str) -> None:
    assert normalise_network(text) == stored


def test_host_bits_in_a_block_are_refused_with_the_block_that_was_meant() -> None:
    with pytest.raises(AddressError, match=r"Did you mean 192\.0\.2\.0/24\?"):
        parse_network("192.0.2.7/24")


@pytest.mark.parametrize("text", ["", "web01", "192.0.2.0/33", "192.0.2.0/", "/24", "192.0.2"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="is not a valid address or network"):
        parse_network(text)
