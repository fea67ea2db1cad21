"""The text of the embedded script, its options, and what may stand in a spec."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from machines.boot.request import UNDERSTOOD
from roms.toolchain.ipxe.options import takes_over
from roms.toolchain.ipxe.script.checks import check_text
from roms.toolchain.ipxe.script.render import render, required_options
from roms.toolchain.ipxe.script.spec import VARIABLES, ScriptError, ScriptSpec, StaticNetwork, from_json, to_json
from tests.e2e.site import ROOT
from tests.roms.embedded_scripts import SITE, STATIC, specs

T = TypeVar("T")
EXAMPLE = (ROOT / "roms" / "embedded" / "boot.ipxe").read_text()


def tried(make: Callable[[], T]) -> tuple[T | None, dict[str, str]]:
    """What is made, or the fields that are refused, and why."""
    try:
        return make(), {}
    except ScriptError as error:
        return None, error.errors


def errors(make: Callable[[], object]) -> dict[str, str]:
    """The fields that are refused, and why."""
    made, found = tried(make)
    assert found, f"{made} was not refused"
    return found


# The text

#: Every line that a rendered script can have; what is in brackets is bounded by the spec.
_NIC = r"net(?:\$\{nic\}|\d{1,2})"
_CHAIN = r"chain[ ]--autofree[ ]--timeout[ ]\d{4,5}[ ]"
_SETTINGS = r"[a-z]+=\$\{(?:netX/)?[a-z]+(?::uristring)?\}"
LINES = re.compile(
    rf"""\#!ipxe | \#[ ]rescuesite:[ ][a-z ,-]+ | clear[ ][a-z-]+[ ]\|\| | :[a-z-]+ | inc[ ][a-z-]+ | goto[ ][a-z]+
    | set[ ][a-z-]+:int32[ ]0 | sleep[ ]\d{{1,2}} | ifclose[ ]{_NIC}[ ]\|\| | echo[ ][A-Za-z ,]+
    | isset[ ]\$\{{[a-z]+[a-z0-9/-]*\}}[ ](?:&&[ ]goto[ ]local[ ]\|\||\|\|[ ]goto[ ]local)
    | isset[ ]\$\{{net\$\{{nic\}}/mac\}}[ ]&&[ ]goto[ ]nic[ ]\|\|
    | iseq[ ]\$\{{[a-z-]+\}}[ ]\d{{1,2}}[ ]&&[ ]goto[ ][a-z]+[ ]\|\|
    | iflinkwait[ ]--timeout[ ]\d{{4,5}}[ ]{_NIC}[ ]\|\|[ ]goto[ ]next
    | ifconf[ ]--configurator[ ]dhcp[ ]--timeout[ ](?:60|64|128)000[ ]{_NIC}[ ]\|\|[ ]goto[ ]next
    | set[ ]{_NIC}/(?:ip|netmask|gateway|dns)[ ]\d+\.\d+\.\d+\.\d+
    | {_CHAIN}https?://[a-z0-9.-]+(?::\d+)?/[^\s$?]*\?{_SETTINGS}(?:&{_SETTINGS})*[ ]\|\|
    | {_CHAIN}(?:t?ftp|https?)://[^\s$?]*\$\{{netX/mac:hexraw\}}[^\s$?]*[ ]&&[ ]goto[ ]local[ ]\|\|
    | iseq[ ]\$\{{platform\}}[ ]efi[ ]&&[ ]exit[ ]1[ ]\|\| | exit[ ]0""",
    re.VERBOSE,
)
_SITES = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp", "tftp", ""]),
    st.sampled_from(["192.0.2.10", "rescue.example.net", "a", "A-1.b"]) | st.text(max_size=12),
    st.sampled_from(["", ":80", ":0", ":99999"]) | st.text(max_size=6),
    st.text(alphabet="/aZ9._-%41~+,=:@ \t\n${}\"'`\\;&|#?()", max_size=12).map(lambda path: f"/{path}")
    | st.just("/x/MAC-${mac:hexraw}.ipxe")
    | st.just(""),
)


@given(_SITES | st.text(max_size=40))
@example("http://192.0.2.10/${mac}")
@example("http://192.0.2.10/boot\nexit 0")
@example("http://192.0.2.10/boot ||")
@example("http://192.0.2.10/%0a%00")
def test_no_site_renders_a_line_that_is_none_of_ours(site: str) -> None:
    spec, found = tried(lambda: ScriptSpec(site))
    assert list(found) == ([] if spec else ["site"])
    if spec:
        text = render(spec)
        assert [line for line in text.split("\n")[:-1] if not LINES.fullmatch(line)] == []
        assert len([word for word in text.split() if "://" in word]) == 1


@given(specs())
def test_every_line_is_one_of_ours(spec: ScriptSpec) -> None:
    text = render(spec)
    assert [line for line in text.split("\n")[:-1] if not LINES.fullmatch(line)] == []
    known = {*VARIABLES, "netX/mac", "netX/ip", *(f"netX/{name}" for name in VARIABLES), "nic", "rescuesite"}
    known |= {"network-tries", "site-tries", "net", *(f"net{number}/mac" for number in range(32))}
    used = {name.partition(":")[0] for name in re.findall(r"\$\{([^${}]+)\}", text)}
    assert used <= known
    assert check_text(text, required_options(spec)) == []
    assert len(text) < 1400


def test_what_is_asked_is_what_the_site_understands_in_its_order() -> None:
    spec = ScriptSpec(SITE, variables=tuple(reversed(UNDERSTOOD)))
    (line,) = [line for line in render(spec).splitlines() if line.startswith("chain ")]
    asked = re.findall(r"[?&]([a-z]+)=", line)
    assert asked == ["mac", "ip", *VARIABLES]
    assert set(VARIABLES) == set(UNDERSTOOD)
    assert "http://192.0.2.10/boot?mac=${netX/mac}&ip=${netX/ip}&uuid=${uuid}&serial=${serial:uristring}&" in line


def test_mac_and_ip_are_sent_where_nothing_else_is() -> None:
    assert " http://192.0.2.10/boot?mac=${netX/mac}&ip=${netX/ip} ||\n" in render(ScriptSpec(SITE, variables=()))


def test_the_path_of_a_machines_file_names_the_card_that_asks() -> None:
    text = render(ScriptSpec("http://192.0.2.10/hosts/${mac:hexhyp}/boot.ipxe"))
    assert " http://192.0.2.10/hosts/${netX/mac:hexhyp}/boot.ipxe && goto local ||\n" in text
    assert not ScriptSpec("http://192.0.2.10/hosts/${mac:hexhyp}/boot.ipxe").asks


def test_a_static_network_is_set_without_what_it_leaves_out() -> None:
    text = render(ScriptSpec(SITE, StaticNetwork("192.0.2.7", "24"), nic=0))
    assert "set net0/ip 192.0.2.7\nset net0/netmask 255.255.255.0\nset site-tries" in text
    assert "ifconf" not in text


def test_the_script_asks_what_the_example_asks() -> None:
    (asked,) = re.findall(r"boot\?(\S+)", EXAMPLE)
    rendered = render(ScriptSpec(SITE))
    assert sorted(re.findall(r"boot\?(\S+)", rendered)[0].split("&")) == sorted(asked.split("&"))
    assert all(line in EXAMPLE for line in rendered.splitlines()[-3:])


# Options


def test_a_script_needs_the_options_of_what_it_does() -> None:
    always = {"IMAGE_SCRIPT", "IMAGE_CMD", "NVO_CMD", "IFMGMT_CMD", "NET_PROTO_IPV4"}
    assert required_options(ScriptSpec(SITE, STATIC)) == always | {"DOWNLOAD_PROTO_HTTP"}
    assert required_options(ScriptSpec(SITE)) == always | {"DOWNLOAD_PROTO_HTTP", "DHCP_CMD"}
    named = ScriptSpec("https://rescue.example.net", STATIC, serial_console=True)
    assert required_options(named) == always | {"DOWNLOAD_PROTO_HTTPS", "DNS_RESOLVER", "CONSOLE_SERIAL"}
    file = ScriptSpec("ftp://192.0.2.10/${mac:hexraw}", STATIC)
    # The exported script of a machine in rescue sends it on to the site.
    assert required_options(file) == always | {"DOWNLOAD_PROTO_FTP", "DOWNLOAD_PROTO_HTTP"}
    file = ScriptSpec("tftp://192.0.2.10/${mac:hexraw}", STATIC)
    assert required_options(file) == always | {"DOWNLOAD_PROTO_TFTP", "DOWNLOAD_PROTO_HTTP"}


@given(specs())
def test_no_command_of_a_script_lacks_its_option(spec: ScriptSpec) -> None:
    assert check_text(render(spec), required_options(spec)) == check_text(render(spec))
    assert not [name for name in required_options(spec) if takes_over(name)]


# What may stand in a spec


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("http://192.0.2.10", "http://192.0.2.10/boot"),
        ("http://192.0.2.10/", "http://192.0.2.10/boot"),
        ("HTTP://Rescue.Example.NET:080/Boot", "http://rescue.example.net:80/Boot"),
        ("https://rescue:8443/rescue.php", "https://rescue:8443/rescue.php"),
        ("http://192.0.2.10/a%20b/~c", "http://192.0.2.10/a%20b/~c"),
        ("ftp://192.0.2.10/MAC-${mac:hexraw}.ipxe", "ftp://192.0.2.10/MAC-${mac:hexraw}.ipxe"),
    ],
)
def test_a_site_is_brought_into_its_usual_form(typed: str, meant: str) -> None:
    assert ScriptSpec(typed).site == meant
    assert ScriptSpec(meant).site == meant


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("", "like http://"),
        ("192.0.2.10", "like http://"),
        ("http:///boot", "is not a valid host name"),
        ("nfs://192.0.2.10/x", "must start with http://, https://, ftp://, tftp://"),
        ("tftp://192.0.2.10/x", "file per machine"),
        ("http://192.0.2.300", "is not a valid IPv4 address"),
        ("http://192.0.2", "is not a valid IPv4 address"),
        ("http://127.0.0.1:8000", "cannot reach 127.0.0.1"),
        ("http://0.0.0.0", "cannot reach"),
        ("http://224.0.0.1", "cannot reach"),
        ("http://localhost", "localhost"),
        ("http://[2001:db8::1]/boot", "like http://"),
        ("http://user:secret@192.0.2.10/", "without a user"),
        ("http://user@192.0.2.10/", "without a user"),
        ("http://-a.example", "is not a valid host name"),
        ("http://a..example", "is not a valid host name"),
        ("http://a_b.example", "is not a valid host name"),
        ("http://" + "a." * 125 + "example", "longer than 255"),
        ("http://rescue.exämple", "ASCII"),
        ("http://192.0.2.10:0", "port"),
        ("http://192.0.2.10:65536", "port"),
        ("http://192.0.2.10:", "port"),
        ("http://192.0.2.10:80a", "like http://"),
        ("http://192.0.2.10/boot?x=1", "no query"),
        ("http://192.0.2.10/boot#x", "no query"),
        ("http://192.0.2.10/a b", "without spaces"),
        ("http://192.0.2.10/a\tb", "without spaces"),
        ("http://192.0.2.10/boot\nexit", "without spaces"),
        ("http://192.0.2.10/${uuid}", "path may have"),
        ("http://192.0.2.10/${mac:hexraw", "path may have"),
        ("http://192.0.2.10/${${mac:hexraw}}", "path may have"),
        ('http://192.0.2.10/"', "path may have"),
        ("http://192.0.2.10/\\", "path may have"),
        ("http://192.0.2.10/%0a", "path may have"),
        ("http://192.0.2.10/%4", "path may have"),
        ("http://192.0.2.10/%4${mac:hexraw}1", "path may have"),
        ("http://192.0.2.10/a;b", "path may have"),
        ("ftp://192.0.2.10", "file per machine"),
        ("ftp://192.0.2.10/boot.ipxe", "file per machine"),
    ],
)
def test_a_site_that_could_not_be_asked_is_refused(site: str, said: str) -> None:
    assert said in errors(lambda: ScriptSpec(site))["site"]


@pytest.mark.parametrize(("netmask", "meant"), [("24", "255.255.255.0"), ("/25", "255.255.255.128"), ("31", None)])
def test_a_netmask_may_be_a_prefix_length(netmask: str, meant: str | None) -> None:
    assert StaticNetwork("192.0.2.7", netmask).netmask == (meant or "255.255.255.254")


@pytest.mark.parametrize(
    ("changes", "field_", "said"),
    [
        ({"ip": ""}, "ip", "Write it like"),
        ({"ip": "192.0.2"}, "ip", "Write it like"),
        ({"ip": "192.0.2.07"}, "ip", "Write it like"),
        ({"ip": "2001:db8::1"}, "ip", "Write it like"),
        ({"ip": "127.0.0.1"}, "ip", "not a valid host address"),
        ({"ip": "198.51.100.0"}, "ip", "not a valid host address in the network 198.51.100.0/24"),
        ({"ip": "198.51.100.255"}, "ip", "not a valid host address in the network"),
        ({"netmask": ""}, "netmask", "Write it like"),
        ({"netmask": "255.0.255.0"}, "netmask", "Write it like"),
        ({"netmask": "0.0.0.255"}, "netmask", "Write it like"),
        ({"netmask": "0"}, "netmask", "Write it like"),
        ({"netmask": "32"}, "netmask", "Write it like"),
        ({"netmask": "-1"}, "netmask", "Write it like"),
        ({"gateway": "203.0.113.1"}, "gateway", "not in the machine's network 198.51.100.0/24"),
        ({"gateway": "198.51.100.7"}, "gateway", "own address"),
        ({"gateway": "x"}, "gateway", "Write it like"),
        ({"gateway": "198.51.100.1\nexit"}, "gateway", "Write it like"),
        ({"dns": "224.0.0.251"}, "dns", "not a valid host address"),
    ],
)
def test_a_network_that_cannot_be_is_refused(changes: dict[str, str], field_: str, said: str) -> None:
    values = {"ip": "198.51.100.7", "netmask": "24", "gateway": "198.51.100.1", "dns": "203.0.113.53"} | changes
    found = errors(lambda: StaticNetwork(**values))
    assert list(found) == [field_]
    assert said in found[field_]


def test_all_that_is_wrong_with_a_network_is_said_at_once() -> None:
    assert set(errors(lambda: StaticNetwork("a", "b", "c", "d"))) == {"ip", "netmask", "gateway", "dns"}


@pytest.mark.parametrize(
    ("site", "network", "field_"),
    [
        ("http://rescue.example.net", StaticNetwork("192.0.2.7", "24", "192.0.2.1"), "network.dns"),
        ("http://203.0.113.10", StaticNetwork("192.0.2.7", "24"), "network.gateway"),
        ("http://192.0.2.7", StaticNetwork("192.0.2.7", "24"), "network.ip"),
    ],
)
def test_a_network_from_which_the_site_cannot_be_reached_is_refused(
    site: str, network: StaticNetwork, field_: str
) -> None:
    assert list(errors(lambda: ScriptSpec(site, network))) == [field_]


@pytest.mark.parametrize(
    ("changes", "fields_"),
    [
        ({"network": "bootp"}, ["network"]),
        ({"variables": ("uuid", "memsize")}, ["variables"]),
        ({"tries": 0}, ["tries"]),
        ({"tries": 11, "timeout": 61}, ["tries", "timeout"]),
        ({"timeout": 0}, ["timeout"]),
        ({"link_wait": 0}, ["link_wait"]),
        ({"stp_wait": -1}, ["stp_wait"]),
        ({"dhcp_wait": 14}, ["dhcp_wait"]),
        ({"dhcp_wait": 61}, ["dhcp_wait"]),
        ({"nic": 32}, ["nic"]),
        ({"nic": -1, "site": "x"}, ["site", "nic"]),
    ],
)
def test_a_spec_out_of_bounds_names_each_field(changes: dict[str, Any], fields_: list[str]) -> None:
    assert list(errors(lambda: ScriptSpec(**({"site": SITE} | changes)))) == fields_


# JSON


def test_json_has_defaults_for_all_but_the_site() -> None:
    assert from_json({"site": SITE}) == ScriptSpec(SITE)


def test_the_apis_example_is_understood() -> None:
    data = {"site": SITE, "network": "dhcp", "variables": ["uuid", "serial"], "tries": 3, "timeout": 8}
    assert from_json(data) == ScriptSpec(SITE, variables=("uuid", "serial"))
    static = {"ip": "198.51.100.7", "netmask": "255.255.255.0", "gateway": "198.51.100.1", "dns": "198.51.100.2"}
    assert from_json({"site": SITE, "network": static}) == ScriptSpec(SITE, STATIC)


@given(specs())
def test_json_keeps_a_spec(spec: ScriptSpec) -> None:
    data = to_json(spec)
    assert set(data) == {each.name for each in fields(ScriptSpec)}
    assert from_json(data) == spec


@pytest.mark.parametrize(
    ("data", "fields_"),
    [
        ([], {"script"}),
        ({}, {"site"}),
        ({"site": None}, {"site"}),
        ({"site": SITE, "colour": "red", "text": "#!ipxe"}, {"colour", "text"}),
        ({"site": SITE, "network": None}, {"network"}),
        ({"site": SITE, "network": {}}, {"network.ip", "network.netmask"}),
        ({"site": SITE, "network": {"ip": "192.0.2.7", "netmask": "24", "mtu": 9000}}, {"network.mtu"}),
        ({"site": SITE, "network": {"ip": 1, "netmask": 24}}, {"network.ip", "network.netmask"}),
        ({"site": SITE, "network": {"ip": "192.0.2.7", "netmask": "24", "gateway": None}}, {"network.gateway"}),
        ({"site": SITE, "network": {"ip": "x", "netmask": "24"}}, {"network.ip"}),
        ({"network": {"ip": "203.0.113.7", "netmask": "24"}}, {"site"}),
        ({"site": SITE, "variables": "uuid"}, {"variables"}),
        ({"site": SITE, "variables": [1, "uuid", ["uuid"]]}, {"variables"}),
        ({"site": SITE, "variables": ["mac"]}, {"variables"}),
        ({"site": SITE, "tries": "3"}, {"tries"}),
        ({"site": SITE, "tries": True, "timeout": 8.0, "nic": "0"}, {"tries", "timeout", "nic"}),
        ({"site": SITE, "serial_console": 1}, {"serial_console"}),
        ({"site": "x", "tries": 99, "extra": 1, "network": {"ip": "x"}}, {"site", "tries", "extra", "network.netmask"}),
    ],
)
def test_json_that_is_no_spec_names_each_field(data: object, fields_: set[str]) -> None:
    assert set(errors(lambda: from_json(data))) == fields_


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from([each.name for each in fields(ScriptSpec)]) | st.text(max_size=5)


@given(_JSON | st.dictionaries(_NAMES, _JSON | st.just(SITE), max_size=6))
def test_any_json_is_a_spec_or_refused(data: object) -> None:
    spec, found = tried(lambda: from_json(data))
    assert bool(spec) != bool(found)
