"""Where messages may be posted to: not to this host, and not into networks that nobody named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.addresses import IPAddress
from machines.notifications import reachable

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        ("8.8.8.8", "", True),
        ("2606:4700::1111", "", True),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "0.0.0.0/0", False),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("::1", "", False),
        ("0.0.0.0", "", False),
        ("169.254.169.254", "", False),
        ("169.254.169.254", "169.254.0.0/16", False),
        ("fe80::1", "fe80::/10", False),
        ("10.1.2.3", "", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("192.168.1.1", "10.0.0.0/8", False),
        ("fd00::1234", "", False),
        ("fd00::1234", "fd00::/8", True),
        ("100.64.0.1", "", False),
        ("224.0.0.1", "224.0.0.0/4", False),
        ("255.255.255.255", "", False),
        ("::ffff:127.0.0.1", "", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("64:ff9b::7f00:1", "", False),
        ("64:ff9b::a01:203", "", False),
        ("2002:7f00:1::", "", False),
        ("2002:808:808::", "", True),
        ("64:ff9b::808:808", "", True),
        ("fec0::1", "", False),
        ("64:ff9b:1::808:808", "", False),
        ("64:ff9b:1::a9fe:a9fe", "64:ff9b:1::/48", False),
        ("::8.8.8.8", "", False),
        ("::127.0.0.1", "::/96", False),
        ("::1", "::1/128", True),
        ("2001:0:808:808::1", "", False),
        ("2001:db8::1", "", False),
        ("3fff::1", "", False),
        ("5f00::1", "", False),
        ("100::1", "", False),
        ("4000::1", "", False),
        ("192.0.0.8", "", False),
        ("192.0.0.9", "", False),
        ("192.88.99.1", "", False),
        ("198.18.0.1", "", False),
        ("203.0.113.1", "", False),
        ("240.0.0.1", "", False),
        ("168.63.129.16", "", False),
        ("168.63.129.16", "168.63.129.16/32", False),
        ("100.100.100.200", "100.64.0.0/10", False),
        ("fd00:ec2::254", "fd00::/8", False),
        ("192.0.0.192", "192.0.0.0/24", False),
    ],
)
def test_where_may_be_posted_to(address: str, networks: str, allowed: bool) -> None:
    named = [ip_network(word) for word in networks.split()]
    assert (reachable.objection(ip_address(address), named) == "") is allowed


@pytest.mark.parametrize(("networks", "allowed"), [("", False), ("8.0.0.0/8", False), ("8.8.8.8/32", True)])
def test_this_host_by_its_public_address_is_named_alone_or_refused(
    networks: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reachable, "is_own", lambda address: address == ip_address("8.8.8.8"))
    named = [ip_network(word) for word in networks.split()]
    assert (reachable.objection(ip_address("8.8.8.8"), named) == "") is allowed
    assert (reachable.objection(ip_address("::ffff:8.8.8.8"), named) == "") is allowed
    assert reachable.objection(ip_address("8.8.4.4"), named) == ""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root, and the program ip")
def test_every_address_of_this_host_is_its_own() -> None:
    set_up = (
        "ip link set lo up && ip addr add 8.8.8.1/32 dev lo && "
        "ip addr add 8.8.8.2/32 dev lo && ip addr add 2606:4700::7/128 dev lo nodad && "
        "ip route add local 9.9.9.0/24 dev lo && echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind"
    )
    asked = ("8.8.8.1", "8.8.8.2", "2606:4700::7", "9.9.9.9", "127.1.2.3", "8.8.8.3", "2606:4700::8", "1.1.1.1")
    code = (
        "from ipaddress import ip_address; from machines.notifications.reachable import is_own\n"
        f"print(*(a for a in {asked} if is_own(ip_address(a))))"
    )
    command = ["unshare", "--net", "sh", "-c", f'{set_up} && exec "$0" -c "$1"', sys.executable, code]
    own = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if "Operation not permitted" in own.stderr:
        pytest.skip(own.stderr)
    assert (own.stderr, own.stdout.split()) == ("", list(asked[:5]))


@given(st.ip_addresses())
def test_any_address_gets_an_answer(address: IPAddress) -> None:
    assert isinstance(reachable.objection(address, ()), str)
