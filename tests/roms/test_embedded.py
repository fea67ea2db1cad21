"""Embedded scripts: what may stand in a spec, what is rendered, and that no way through it is endless."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from machines.boot.request import UNDERSTOOD
from roms.toolchain.ipxe.options import takes_over
from roms.toolchain.ipxe.script.checks import check_text, commands_used
from roms.toolchain.ipxe.script.render import option_values, render, required_options
from roms.toolchain.ipxe.script.spec import VARIABLES, ScriptError, ScriptSpec, StaticNetwork, from_json, to_json
from roms.toolchain.ipxe.script.waits import worst_case, worst_case_seconds
from tests.e2e.site import ROOT

T = TypeVar("T")

SITE = "http://192.0.2.10"
STATIC = StaticNetwork("198.51.100.7", "255.255.255.0", "198.51.100.1", "198.51.100.2")
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


# What iPXE does with the text, as far as such scripts need it; tests/e2e/test_embedded_specs.py asks iPXE itself.


@dataclass
class World:
    """What a machine meets. Each list holds what happens one time after the other, and then its last entry again."""

    nics: int = 1
    #: Seconds until a card has a link; None where it gets none.
    links: list[float | None] = field(default_factory=lambda: [0.0])
    #: Seconds until DHCP has ended, and whether with an address.
    addresses: list[tuple[float, bool]] = field(default_factory=lambda: [(2.0, True)])
    #: Seconds until a question has ended, whether `rescuesite` was set meanwhile, and with what status.
    answers: list[tuple[float, bool, int]] = field(default_factory=lambda: [(1.0, True, 1)])


class IPXE:
    """One run of a script, after core/exec.c and image/script.c."""

    def __init__(self, text: str, world: World, platform: str = "pcbios", **settings: str) -> None:
        assert text.startswith("#!ipxe\n")
        self.lines = text.splitlines()
        self.world = world
        self.settings = {"platform": platform} | {f"net{number}/mac": "02:00" for number in range(world.nics)}
        self.settings |= settings
        self.seconds = 0.0
        self.asked: list[str] = []
        self.opened: list[str] = []
        self.said: list[str] = []
        self._met: dict[str, itertools.count[int]] = {}
        self.status = self._run()

    def _run(self) -> int:
        at, steps = 0, 0
        while at < len(self.lines):
            assert (steps := steps + 1) < 20_000, "it does not end"
            line = self.lines[at]
            at += 1
            if line.startswith((":", "#")):
                continue
            status, jump = self._line(line.split())
            if jump == "exit":
                return status
            if jump:
                # A label is looked for in the whole script.
                at = self.lines.index(f":{jump}") + 1
            elif status:
                raise AssertionError(f"the script ends at a failing command: {line}")
        raise AssertionError("the script ends without “exit”")

    def _line(self, words: list[str]) -> tuple[int, str]:
        status, process = 0, True
        while True:
            length = next((n for n, word in enumerate(words) if word in {"||", "&&"}), len(words))
            command, words = [self._expand(word) for word in words[:length]], words[length:]
            if process and command:
                if command[0] == "goto":
                    return 0, command[1]
                if command[0] == "exit":
                    return int(command[1]), "exit"
                status = int(getattr(self, f"_{command[0]}")(*command[1:]) or 0)
            elif process:
                status = 0
            if not words:
                return status, ""
            process = (status == 0) == (words[0] == "&&")
            words = words[1:]

    def _expand(self, word: str) -> str:
        while match := re.search(r"\$\{([^${}]*)\}", word):
            name = match[1].partition(":")[0].replace("netX", self.opened[-1] if self.opened else "none")
            word = word[: match.start()] + self.settings.get(name, "") + word[match.end() :]
        return word

    def _meet(self, kind: str) -> Any:
        happens = getattr(self.world, kind)
        return happens[min(next(self._met.setdefault(kind, itertools.count())), len(happens) - 1)]

    def _clear(self, name: str) -> None:
        self.settings.pop(name, None)

    def _set(self, name: str, value: str) -> None:
        self.settings[name.removesuffix(":int32")] = value

    def _inc(self, name: str) -> None:
        self.settings[name] = str(int(self.settings[name]) + 1)

    def _isset(self, value: str = "") -> bool:
        return not value

    def _iseq(self, one: str, other: str) -> bool:
        return one != other

    def _echo(self, *words: str) -> None:
        self.said.append(" ".join(words))

    def _sleep(self, seconds: str) -> None:
        self.seconds += float(seconds)

    def _iflinkwait(self, option: str, timeout: str, nic: str) -> bool:
        assert option == "--timeout"
        assert f"{nic}/mac" in self.settings
        link = self._meet("links")
        limit = int(timeout) / 1000
        self.seconds += limit if link is None else min(link, limit)
        self.opened.append(nic)
        return link is None or link > limit

    def _ifconf(self, *words: str) -> bool:
        assert words[:3] == ("--configurator", "dhcp", "--timeout")
        seconds, given_out = self._meet("addresses")
        limit = int(words[3]) / 1000
        self.seconds += min(seconds, limit)
        if not given_out or seconds > limit:
            return True
        self.settings[f"{words[4]}/ip"] = "198.51.100.99"
        return False

    def _ifclose(self, nic: str) -> None:
        self.opened.remove(nic)

    def _chain(self, *words: str) -> int:
        assert words[:2] == ("--autofree", "--timeout")
        self.asked.append(words[3])
        seconds, set_it, status = self._meet("answers")
        limit = int(words[2]) / 1000
        self.seconds += min(seconds, limit)
        if seconds > limit:
            return 1
        if set_it:
            self.settings["rescuesite"] = "local"
        return int(status)


NO_LINK = World(links=[None])
NO_ADDRESS = World(addresses=[(16.0, False)])
NO_SITE = World(answers=[(100.0, False, 0)])


def specs(sites: Sequence[str] = (SITE, "https://rescue.example.net:8443/x/boot")) -> st.SearchStrategy[ScriptSpec]:
    return st.builds(
        ScriptSpec,
        site=st.sampled_from(sites),
        network=st.just("dhcp") | st.just(STATIC),
        variables=st.lists(st.sampled_from(list(VARIABLES)), unique=True).map(tuple),
        tries=st.integers(1, 10),
        timeout=st.integers(1, 60),
        link_wait=st.integers(1, 60),
        stp_wait=st.integers(0, 60),
        dhcp_wait=st.integers(15, 60),
        nic=st.none() | st.integers(0, 3),
        serial_console=st.booleans(),
    )


def worlds() -> st.SearchStrategy[World]:
    seconds = st.floats(0, 200)
    return st.builds(
        World,
        nics=st.integers(0, 3),
        links=st.lists(st.none() | seconds, min_size=1, max_size=8),
        addresses=st.lists(st.tuples(seconds, st.booleans()), min_size=1, max_size=8),
        answers=st.lists(st.tuples(seconds, st.booleans(), st.integers(0, 1)), min_size=1, max_size=8),
    )


@given(specs((SITE, "ftp://192.0.2.10/MAC-${mac:hexraw}.ipxe")), worlds(), st.sampled_from(["pcbios", "efi"]))
def test_whatever_happens_the_script_ends_in_time_and_with_the_status_that_the_firmware_wants(
    spec: ScriptSpec, world: World, platform: str
) -> None:
    run = IPXE(render(spec), world, platform)
    assert run.status == (1 if platform == "efi" else 0)
    assert run.seconds <= worst_case(spec, world.nics).ever
    cards = 1 if spec.nic is not None else world.nics
    assert len(run.asked) <= spec.tries * cards


@given(specs(), st.integers(1, 3))
def test_the_worst_cases_are_what_silence_takes(spec: ScriptSpec, nics: int) -> None:
    spec = replace(spec, nic=None if spec.nic is None else 0)
    case = worst_case(spec, nics)
    assert IPXE(render(spec), replace(NO_LINK, nics=nics)).seconds == case.no_link
    # A second for the connection that is still open comes after the script.
    slow = World(nics=nics, links=[spec.link_wait], answers=[(100.0, False, 0)])
    if spec.network == "dhcp":
        lost = replace(slow, addresses=[(spec.dhcp_silence, False)])
        assert IPXE(render(spec), lost).seconds == case.no_address
        slow = replace(slow, addresses=[(spec.dhcp_silence, True)])
    assert IPXE(render(spec), slow).seconds + 1 == case.no_site
    assert worst_case_seconds(spec, nics) == max(case.no_link, case.no_address, case.in_files)


def test_a_dead_network_or_site_costs_what_the_readme_says() -> None:
    case = worst_case(ScriptSpec(SITE))
    assert (case.no_link, case.no_address, case.no_site, case.in_files, case.ever) == (55, 103, 62, 198, 447)
    assert worst_case_seconds(ScriptSpec(SITE)) == 198


def test_a_static_network_never_waits_for_an_address() -> None:
    spec = ScriptSpec(SITE, STATIC)
    assert worst_case(spec).no_address == 0
    assert IPXE(render(spec), NO_ADDRESS).seconds == 1


def test_a_site_that_answered_is_not_asked_again_whatever_its_status() -> None:
    for status in (0, 1):
        run = IPXE(render(ScriptSpec(SITE)), World(nics=3, answers=[(1, True, status)]))
        assert len(run.asked) == 1
        assert run.said == []


def test_something_else_that_answers_is_asked_again() -> None:
    # A script of another server, or a page that iPXE does not run.
    for status in (0, 1):
        run = IPXE(render(ScriptSpec(SITE)), World(answers=[(1, False, status), (1, True, 0)]))
        assert len(run.asked) == 2
        assert run.said == ["The rescue site does not answer, trying again"]


def test_what_an_earlier_script_has_left_is_no_answer() -> None:
    run = IPXE(render(ScriptSpec(SITE)), replace(NO_SITE, links=[None, 0.0]), rescuesite="local", **{"site-tries": "3"})
    assert len(run.asked) == 3


def test_a_machines_own_file_is_fetched_until_it_has_run() -> None:
    spec = ScriptSpec("ftp://192.0.2.10/MAC-${mac:hexraw}.ipxe")
    assert len(IPXE(render(spec), World(answers=[(1, False, 1), (1, False, 0)])).asked) == 2
    assert len(IPXE(render(spec), World(answers=[(1, False, 1)])).asked) == 3


def test_a_network_that_appears_at_the_second_try_is_used() -> None:
    run = IPXE(render(ScriptSpec(SITE)), World(links=[None, 1.0]))
    assert len(run.asked) == 1
    assert run.said == ["No network yet, trying again"]


def test_the_card_that_has_a_network_is_the_one_that_asks() -> None:
    run = IPXE(render(ScriptSpec(SITE)), World(nics=3, links=[None, 0.0], addresses=[(16, False), (2, True)]))
    assert run.opened == ["net0", "net1", "net2"]
    assert "ip=198.51.100.99" in run.asked[0]


def test_a_site_that_is_not_behind_the_first_card_is_asked_through_the_next() -> None:
    silence = [(100.0, False, 0)] * 3
    run = IPXE(render(ScriptSpec(SITE)), World(nics=2, answers=[*silence, (1, True, 0)]))
    assert len(run.asked) == 4
    assert run.opened == ["net1"]


def test_without_a_card_the_disk_is_booted_at_once() -> None:
    assert IPXE(render(ScriptSpec(SITE)), World(nics=0)).seconds == 0
    assert IPXE(render(ScriptSpec(SITE, nic=2)), World(nics=2)).seconds == 0


def test_only_the_card_that_was_named_is_used() -> None:
    run = IPXE(render(ScriptSpec(SITE, nic=1)), replace(NO_SITE, nics=3))
    assert "net1" in render(ScriptSpec(SITE, nic=1))
    assert run.opened == []
    assert len(run.asked) == 3


def test_the_wait_for_spanning_tree_is_spent_once_the_link_is_up() -> None:
    assert IPXE(render(ScriptSpec(SITE, stp_wait=30)), World(links=[2.0])).seconds == 2 + 30 + 2 + 1
    assert "sleep 0" not in render(ScriptSpec(SITE))


@pytest.mark.parametrize(
    ("asked", "silence", "timeout", "longest"),
    [(15, 16, 60, None), (16, 32, 64, 16), (31, 32, 64, 16), (60, 64, 128, 32)],
)
def test_a_late_dhcp_server_is_waited_for_as_long_as_ipxes_doubling_pauses_allow(
    asked: int, silence: int, timeout: int, longest: int | None
) -> None:
    spec = ScriptSpec(SITE, dhcp_wait=asked)
    assert (spec.dhcp_silence, spec.address_timeout) == (silence, timeout)
    assert f"ifconf --configurator dhcp --timeout {timeout}000 " in render(spec)
    names = ("DHCP_DISC_END_TIMEOUT_SEC", "DHCP_REQ_END_TIMEOUT_SEC")
    assert option_values(spec) == (dict.fromkeys(names, longest) if longest else {})
    # 1, 2, 4, … seconds, up to the longest, are at least what was asked for.
    assert 2 * (longest or 8) - 1 >= asked
    assert not option_values(ScriptSpec(SITE, STATIC, dhcp_wait=asked))


def test_the_bound_that_is_shown_counts_the_longer_wait_for_dhcp() -> None:
    usual, late = (worst_case(ScriptSpec(SITE, dhcp_wait=seconds)) for seconds in (15, 30))
    assert late.no_address - usual.no_address == 3 * 16
    assert late.no_site - usual.no_site == 16
    assert late.ever - usual.ever == 3 * 4


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
    for brought_by in commands_used(render(spec)).values():
        assert brought_by is not None
        assert not brought_by or required_options(spec).intersection(brought_by)
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
        ("nfs://192.0.2.10/x", "begins with http://, https://, ftp://, tftp://"),
        ("tftp://192.0.2.10/x", "file per machine"),
        ("http://192.0.2.300", "is not a valid IPv4 address"),
        ("http://192.0.2", "is not a valid IPv4 address"),
        ("http://127.0.0.1:8000", "cannot reach 127.0.0.1"),
        ("http://0.0.0.0", "cannot reach"),
        ("http://224.0.0.1", "cannot reach"),
        ("http://localhost", "localhost"),
        ("http://[2001:db8::1]/boot", "like http://"),
        ("http://user:secret@192.0.2.10/", "without user"),
        ("http://user@192.0.2.10/", "without user"),
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
        ("http://192.0.2.10/a b", "no spaces"),
        ("http://192.0.2.10/a\tb", "no spaces"),
        ("http://192.0.2.10/boot\nexit", "no spaces"),
        ("http://192.0.2.10/${uuid}", "path may hold"),
        ("http://192.0.2.10/${mac:hexraw", "path may hold"),
        ("http://192.0.2.10/${${mac:hexraw}}", "path may hold"),
        ('http://192.0.2.10/"', "path may hold"),
        ("http://192.0.2.10/\\", "path may hold"),
        ("http://192.0.2.10/%0a", "path may hold"),
        ("http://192.0.2.10/%4", "path may hold"),
        ("http://192.0.2.10/%4${mac:hexraw}1", "path may hold"),
        ("http://192.0.2.10/a;b", "path may hold"),
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
        ({"ip": "127.0.0.1"}, "ip", "not a machine's"),
        ({"ip": "198.51.100.0"}, "ip", "not a machine's address in the network 198.51.100.0/24"),
        ({"ip": "198.51.100.255"}, "ip", "not a machine's address in the network"),
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
        ({"dns": "224.0.0.251"}, "dns", "not a machine's"),
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
