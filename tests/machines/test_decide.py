"""The decision is a table: each reason, and which one wins where several hold."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import pytest

from machines.boot.decide import MachineFacts, RescueFacts, architecture_fits, decide
from machines.boot.reasons import Outcome, Reason
from machines.boot.request import BootRequest

MAC = "00:02:b3:9d:94:8c"
HERE = ipaddress.ip_address("192.0.2.7")
ELSEWHERE = ipaddress.ip_address("198.51.100.7")
NETWORKS = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/64"))


@dataclass(frozen=True)
class Case:
    """A request and what is known of its machine, before either is made into what `decide` takes."""

    mac: str | None = MAC
    source: Any = HERE
    ip: Any = HERE
    params: dict[str, str] = field(default_factory=lambda: {"uuid": "u-1"})
    user_agent: str = "iPXE/1.21.1"
    known: bool = True
    networks: Any = NETWORKS
    identity: dict[str, str] = field(default_factory=lambda: {"uuid": "u-1"})
    rescue: RescueFacts | None = field(default_factory=lambda: RescueFacts("armed"))

    def reason(self) -> Reason:
        asked = BootRequest(
            mac=self.mac,
            raw_mac=self.mac or "",
            ip=self.ip,
            source=self.source,
            user_agent=self.user_agent,
            params=self.params,
        )
        facts = MachineFacts(self.networks, self.identity, self.rescue) if self.known else None
        return decide(asked, facts)

    def with_rescue(self, **changes: Any) -> "Case":
        return self if self.rescue is None else replace(self, rescue=replace(self.rescue, **changes))


#: What makes each reason hold, in the contract's order. Where nothing holds, the rescue is served.
TABLE: list[tuple[Reason, Callable[[Case], Case]]] = [
    (Reason.BAD_MAC, lambda case: replace(case, mac=None)),
    (Reason.UNKNOWN_MAC, lambda case: replace(case, known=False)),
    (Reason.NO_RESCUE, lambda case: replace(case, rescue=None)),
    (Reason.RESCUE_EXPIRED, lambda case: case.with_rescue(expired=True)),
    (Reason.ADDRESS_NOT_ALLOWED, lambda case: replace(case, source=ELSEWHERE)),
    (Reason.ADDRESS_MISMATCH, lambda case: replace(case, networks=(), ip=ipaddress.ip_address("203.0.113.9"))),
    (Reason.IDENTITY_MISSING, lambda case: replace(case, identity={**case.identity, "serial": "s-1"})),
    (Reason.IDENTITY_MISMATCH, lambda case: replace(case, identity={**case.identity, "uuid": "u-2"})),
    (Reason.RESCUE_USED, lambda case: case.with_rescue(state="up", one_boot=True)),
    (Reason.RESCUE_FAILED, lambda case: case.with_rescue(failed=True)),
    (Reason.IMAGE_UNAVAILABLE, lambda case: case.with_rescue(image_available=False)),
    (Reason.IMAGE_DAMAGED, lambda case: case.with_rescue(image_damaged=True)),
]


@pytest.mark.parametrize(("reason", "make"), TABLE, ids=[reason for reason, _ in TABLE])
def test_each_reason_holds_by_itself(reason: Reason, make: Callable[[Case], Case]) -> None:
    assert make(Case()).reason() is reason


# Whether networks are listed settles which of the two address reasons can hold, so they do not meet.
PAIRS = [
    (first, second)
    for first, second in combinations(TABLE, 2)
    if {first[0], second[0]} != {Reason.ADDRESS_NOT_ALLOWED, Reason.ADDRESS_MISMATCH}
]


@pytest.mark.parametrize(("earlier", "later"), PAIRS, ids=[f"{first[0]} before {second[0]}" for first, second in PAIRS])
def test_an_earlier_reason_wins_over_a_later_one(
    earlier: tuple[Reason, Callable[[Case], Case]], later: tuple[Reason, Callable[[Case], Case]]
) -> None:
    assert earlier[1](later[1](Case())).reason() is earlier[0]


def test_the_reasons_are_listed_in_the_contracts_order() -> None:
    assert [reason.value for reason in Reason] == [
        "bad_mac",
        "unknown_mac",
        "no_rescue",
        "rescue_expired",
        "address_not_allowed",
        "address_mismatch",
        "identity_missing",
        "identity_mismatch",
        "rescue_used",
        "rescue_failed",
        "image_unavailable",
        "image_damaged",
        "rescue_armed",
        "rescue_booting",
        "database_error",
        "internal_error",
    ]


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_has_its_outcome(reason: Reason) -> None:
    refused = {"address_not_allowed", "address_mismatch", "identity_missing", "identity_mismatch"}
    expected = "refused" if reason in refused else "rescue" if reason in {"rescue_armed", "rescue_booting"} else "local"
    assert reason.outcome is Outcome(expected)


@pytest.mark.parametrize(
    ("state", "one_boot", "reason"),
    [
        ("armed", True, Reason.RESCUE_ARMED),
        ("armed", False, Reason.RESCUE_ARMED),
        ("booting", True, Reason.RESCUE_BOOTING),
        ("booting", False, Reason.RESCUE_BOOTING),
        ("up", True, Reason.RESCUE_USED),
        ("up", False, Reason.RESCUE_BOOTING),
    ],
)
def test_the_state_and_lifetime_settle_what_is_served(state: str, one_boot: bool, reason: Reason) -> None:
    assert Case().with_rescue(state=state, one_boot=one_boot).reason() is reason


@pytest.mark.parametrize(
    ("networks", "source", "ip", "reason"),
    [
        (NETWORKS, "192.0.2.7", None, Reason.RESCUE_ARMED),
        (NETWORKS, "192.0.2.255", "10.0.0.1", Reason.RESCUE_ARMED),
        (NETWORKS, "2001:db8::1", None, Reason.RESCUE_ARMED),
        (NETWORKS, "192.0.3.1", "192.0.3.1", Reason.ADDRESS_NOT_ALLOWED),
        (NETWORKS, "2001:db8:1::1", None, Reason.ADDRESS_NOT_ALLOWED),
        (NETWORKS, None, None, Reason.ADDRESS_NOT_ALLOWED),
        ((), "192.0.2.7", "192.0.2.7", Reason.RESCUE_ARMED),
        ((), "2001:db8::1", "2001:db8::1", Reason.RESCUE_ARMED),
        ((), "192.0.2.7", "192.0.2.8", Reason.ADDRESS_MISMATCH),
        ((), "192.0.2.7", None, Reason.ADDRESS_MISMATCH),
        ((), None, None, Reason.ADDRESS_MISMATCH),
        ((), None, "192.0.2.7", Reason.ADDRESS_MISMATCH),
    ],
)
def test_the_address_rule(networks: Any, source: str | None, ip: str | None, reason: Reason) -> None:
    case = Case(
        networks=networks,
        source=ipaddress.ip_address(source) if source else None,
        ip=ipaddress.ip_address(ip) if ip else None,
    )
    assert case.reason() is reason


@pytest.mark.parametrize(
    ("expected", "sent", "reason"),
    [
        ({}, {}, Reason.RESCUE_ARMED),
        ({"serial": "A"}, {"serial": "A"}, Reason.RESCUE_ARMED),
        ({"serial": "A"}, {}, Reason.IDENTITY_MISSING),
        ({"serial": "A"}, {"serial": "B"}, Reason.IDENTITY_MISMATCH),
        ({"serial": "A"}, {"serial": "a"}, Reason.RESCUE_ARMED),
        ({"serial": "A"}, {"serial": "AB"}, Reason.IDENTITY_MISMATCH),
        ({"product": "Power Edge"}, {"product": "Power+Edge"}, Reason.RESCUE_ARMED),
        ({"product": "A+B"}, {"product": "A+B"}, Reason.RESCUE_ARMED),
        ({"uuid": "ABCD-1"}, {"uuid": "abcd-1"}, Reason.RESCUE_ARMED),
        ({"uuid": "ABCD-1"}, {"uuid": "abcd-2"}, Reason.IDENTITY_MISMATCH),
        ({"gateway": "192.0.2.1"}, {"gateway": "192.0.2.1"}, Reason.RESCUE_ARMED),
        ({"gateway": "2001:db8:0::1"}, {"gateway": "2001:db8::1"}, Reason.RESCUE_ARMED),
        ({"gateway": "192.0.2.1"}, {"gateway": "192.0.2.2"}, Reason.IDENTITY_MISMATCH),
        ({"gateway": "none"}, {"gateway": "nothing"}, Reason.IDENTITY_MISMATCH),
        ({"serial": "A", "uuid": "1"}, {"serial": "B"}, Reason.IDENTITY_MISSING),
        ({"user_agent": "iPXE/1.21"}, {}, Reason.RESCUE_ARMED),
        ({"user_agent": "iPXE/2"}, {}, Reason.IDENTITY_MISMATCH),
    ],
)
def test_the_identity_rule(expected: dict[str, str], sent: dict[str, str], reason: Reason) -> None:
    assert Case(identity=expected, params=sent).reason() is reason


def test_a_user_agent_that_was_not_sent_is_missing() -> None:
    assert Case(identity={"user_agent": "iPXE"}, user_agent="").reason() is Reason.IDENTITY_MISSING


@pytest.mark.parametrize(
    ("buildarch", "image", "fits"),
    [
        ("", "x86_64", True),
        ("", "arm64", True),
        ("i386", "x86_64", True),
        ("x86_64", "x86_64", True),
        ("x86_64", "i386", True),
        ("i386", "i386", True),
        ("arm64", "arm64", True),
        ("arm32", "arm64", True),
        ("arm64", "x86_64", False),
        ("arm32", "i386", False),
        ("i386", "arm64", False),
        ("x86_64", "arm64", False),
    ],
)
def test_only_arm_against_x86_does_not_fit(buildarch: str, image: str, fits: bool) -> None:
    assert architecture_fits(buildarch, image) is fits


def test_an_image_of_another_architecture_is_unavailable() -> None:
    assert Case(params={"uuid": "u-1", "buildarch": "arm64"}).reason() is Reason.IMAGE_UNAVAILABLE
