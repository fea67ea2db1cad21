"""Embedded scripts: what may stand in a spec, what is rendered, and that no way through it is endless."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roms.toolchain.ipxe.script.render import option_values, render
from roms.toolchain.ipxe.script.spec import ScriptSpec
from roms.toolchain.ipxe.script.waits import worst_case, worst_case_seconds
from tests.roms.embedded_scripts import SITE, STATIC, specs

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
