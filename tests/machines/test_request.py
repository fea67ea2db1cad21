"""What a card says is read whole, bounded, and never trusted."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.boot.request import MAX_EXTRA, MAX_NAME, MAX_PAIRS, MAX_VALUE, UNDERSTOOD, BootRequest, clean

SOURCE = ipaddress.ip_address("192.0.2.7")


def parse(query: str, user_agent: str = "") -> BootRequest:
    return BootRequest.parse(query, source=SOURCE, user_agent=user_agent)


def texts(asked: BootRequest) -> Iterator[tuple[str, int]]:
    """Every text in a request, with its bound."""
    yield asked.raw_mac, MAX_VALUE
    yield asked.user_agent, MAX_VALUE
    for names in (asked.params, asked.extra):
        for name, value in names.items():
            yield name, MAX_NAME
            yield value, MAX_VALUE


def assert_bounded(asked: BootRequest) -> None:
    for text, limit in texts(asked):
        assert len(text) <= limit
        assert text.isprintable()
    assert len(asked.params) <= len(UNDERSTOOD)
    assert len(asked.extra) <= MAX_EXTRA


@pytest.mark.parametrize(
    "mac",
    ["00:02:b3:9d:94:8c", "00%3A02%3Ab3%3A9d%3A94%3A8c", "00-02-B3-9D-94-8C", "0002b39d948c", "0002.B39D.948C"],
)
def test_a_mac_is_read_in_any_usual_form(mac: str) -> None:
    assert parse(f"mac={mac}").mac == "00:02:b3:9d:94:8c"


@pytest.mark.parametrize("query", ["", "mac", "mac=", "mac=nonsense", "MAC=00:02:b3:9d:94:8c", "mac=ff:ff:ff:ff:ff:ff"])
def test_a_request_without_a_usable_mac_has_none(query: str) -> None:
    assert parse(query).mac is None


def test_a_bad_mac_is_kept_as_it_was_sent() -> None:
    assert parse("mac=nonsense").raw_mac == "nonsense"


@pytest.mark.parametrize("ip", ["192.0.2.9", "2001:db8::9", "2001%3Adb8%3A%3A9"])
def test_the_claimed_address_is_parsed(ip: str) -> None:
    assert parse(f"ip={ip}").ip in {ipaddress.ip_address("192.0.2.9"), ipaddress.ip_address("2001:db8::9")}


def test_a_claimed_address_that_is_none_is_left_out() -> None:
    assert parse("ip=here").ip is None


def test_the_source_is_what_the_caller_says() -> None:
    assert parse("source=198.51.100.1").source == SOURCE


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_each_understood_parameter_has_its_value(name: str) -> None:
    assert parse(f"{name}=x%20y").value(name) == "x y"


def test_the_user_agent_is_a_value_too() -> None:
    assert parse("", user_agent="iPXE/1.21.1").value("user_agent") == "iPXE/1.21.1"


def test_a_user_agent_cannot_be_claimed_in_the_query() -> None:
    assert parse("user_agent=iPXE", user_agent="curl").value("user_agent") == "curl"


def test_what_is_not_understood_is_kept_apart() -> None:
    asked = parse("colour=blue&serial=1")
    assert (dict(asked.params), dict(asked.extra)) == ({"serial": "1"}, {"colour": "blue"})


def test_an_understood_parameter_without_a_value_says_nothing() -> None:
    asked = parse("serial=&asset=&uuid=x")
    assert (dict(asked.params), dict(asked.extra)) == ({"uuid": "x"}, {})


def test_a_literal_plus_stays_one() -> None:
    assert parse("version=1.21.1+git%2B5").value("version") == "1.21.1+git+5"


def test_the_last_of_several_values_counts() -> None:
    assert parse("serial=1&serial=2").value("serial") == "2"


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse("serial=a=b").value("serial") == "a=b"


def test_a_pair_without_a_name_is_left_out() -> None:
    assert dict(parse("=x&%=y&&").extra) == {"%": "y"}


def test_a_semicolon_separates_nothing() -> None:
    assert parse("serial=a;uuid=b").value("serial") == "a;uuid=b"


def test_values_are_cut_to_their_limit() -> None:
    assert len(parse(f"serial={'x' * 4000}").value("serial")) == MAX_VALUE


def test_names_are_cut_to_their_limit() -> None:
    assert list(parse(f"{'n' * 4000}=1").extra) == ["n" * MAX_NAME]


def test_only_so_many_extra_parameters_are_kept() -> None:
    assert len(parse("&".join(f"p{n}=1" for n in range(100))).extra) == MAX_EXTRA


def test_pairs_beyond_the_limit_are_not_read() -> None:
    query = "&".join(["x=1"] * MAX_PAIRS)
    assert parse(f"{query}&serial=1").value("serial") == ""


def test_a_parameter_after_many_extra_ones_is_still_understood() -> None:
    query = "&".join(f"p{n}=1" for n in range(MAX_PAIRS - 1))
    assert parse(f"{query}&serial=1").value("serial") == "1"


@pytest.mark.parametrize("escape", ["%00", "%0A", "%0D", "%1B", "%7F", "%C2%85", "%E2%80%A8", "%E2%80%AE", "%FF"])
def test_what_cannot_be_shown_is_replaced(escape: str) -> None:
    assert parse(f"serial=a{escape}b").value("serial") == "a\N{REPLACEMENT CHARACTER}b"


def test_a_broken_escape_stays_as_it_is() -> None:
    assert parse("serial=%zz%4").value("serial") == "%zz%4"


def test_utf8_is_read() -> None:
    assert parse("serial=%C3%A4").value("serial") == "ä"


@given(st.text(), st.text())
def test_any_text_is_read_into_bounded_printable_texts(query: str, user_agent: str) -> None:
    assert_bounded(parse(query, user_agent))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["mac", "ip", *UNDERSTOOD, "x", "", "\0"]) | st.text(),
            st.text(max_size=400) | st.sampled_from(["00:02:b3:9d:94:8c", "192.0.2.1"]),
        ),
        max_size=150,
    )
)
def test_any_parameters_are_read_into_bounded_printable_texts(pairs: list[tuple[str, str]]) -> None:
    encoded = "&".join(
        f"{quote(name, errors='surrogatepass')}={quote(value, errors='surrogatepass')}" for name, value in pairs
    )
    assert_bounded(parse(encoded))


@given(st.binary(max_size=4094))
def test_any_escaped_bytes_are_read_into_bounded_printable_texts(data: bytes) -> None:
    assert_bounded(parse(f"mac={quote_from_bytes(data)}&serial={quote_from_bytes(data)}"))


@given(st.text(), st.integers(0, 50))
def test_cleaning_keeps_length_within_the_limit_and_is_stable(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert len(cleaned) == min(limit, len(text))
    assert clean(cleaned, limit) == cleaned
