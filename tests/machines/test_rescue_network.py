"""The network of a machine's rescue system, where there is no DHCP."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from machines.addresses import AddressError, normalise_hosts, normalise_interfaces
from machines.models import Machine


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("192.0.2.7/24", "192.0.2.7/24"),
        ("192.0.2.7/255.255.255.0", "192.0.2.7/24"),
        (" 192.0.2.7/24,  2001:DB8::7/64 ", "192.0.2.7/24 2001:db8::7/64"),
        ("192.0.2.7/24 192.0.2.7/24", "192.0.2.7/24"),
        ("192.0.2.6/31", "192.0.2.6/31"),
        ("192.0.2.7/32", "192.0.2.7/32"),
    ],
)
def test_an_interface_is_stored_in_one_form(text: str, stored: str) -> None:
    assert normalise_interfaces(text) == stored


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("192.0.2.7", "has no prefix length"),
        ("192.0.2.7/33", "is not a valid address with a prefix length"),
        ("web01/24", "is not a valid address with a prefix length"),
        ("192.0.2.0/24", "address of a network"),
        ("192.0.2.255/24", "broadcast address"),
        ("224.0.0.1/24", "not the address of a host"),
        ("127.0.0.1/8", "not the address of a host"),
        ("fe80::1%eth0/64", "not an IP address"),
    ],
)
def test_what_no_interface_can_have_is_refused(text: str, said: str) -> None:
    with pytest.raises(AddressError, match=said):
        normalise_interfaces(text)


@pytest.mark.parametrize("text", ["192.0.2.1/24", "gateway", "0.0.0.0", "::1", "fe80::1%eth0"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        normalise_hosts(text)


def problems(**fields: str) -> dict[str, list[str]]:
    try:
        Machine(name="web01", **fields).full_clean()
    except ValidationError as error:
        return error.message_dict
    return {}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rescue_network_addresses": "192.0.2.7/24"},
        {
            "rescue_network_addresses": "192.0.2.7/24",
            "rescue_network_gateways": "192.0.2.1",
            "rescue_network_dns": "198.51.100.1 2001:db8::53",
        },
        {"rescue_network_addresses": "192.0.2.7/24 2001:db8::7/64", "rescue_network_gateways": "192.0.2.1 2001:db8::1"},
        {"rescue_network_addresses": "2001:db8::7/64", "rescue_network_gateways": "fe80::1"},
    ],
)
def test_a_network_that_fits_together_is_taken(db: None, fields: dict[str, str]) -> None:
    assert problems(**fields) == {}


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"rescue_network_gateways": "192.0.2.1"}, "rescue_network_gateways", "Enter an address too"),
        ({"rescue_network_dns": "192.0.2.1"}, "rescue_network_dns", "Enter an address too"),
        (
            {"rescue_network_addresses": "192.0.2.7/24", "rescue_network_gateways": "198.51.100.1"},
            "rescue_network_gateways",
            "not in the network of any address",
        ),
        (
            {"rescue_network_addresses": "192.0.2.7/24", "rescue_network_gateways": "192.0.2.7"},
            "rescue_network_gateways",
            "own address",
        ),
        ({"rescue_network_addresses": "192.0.2.7"}, "rescue_network_addresses", "has no prefix length"),
    ],
)
def test_a_network_that_does_not_is_refused_where_it_is_wrong(
    db: None, fields: dict[str, str], where: str, said: str
) -> None:
    assert said in problems(**fields)[where][0]
