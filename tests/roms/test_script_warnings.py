"""What holds a machine, in scripts that somebody wrote: each warning names its line, and good scripts have none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roms.toolchain.ipxe.script.checks import MOST_WARNINGS, check_text
from roms.toolchain.ipxe.script.flow import LIMIT
from roms.toolchain.ipxe.script.parser import COMMANDS

ROUND = "can loop for ever"
NO_TIMEOUT = "has no --timeout"
SUCCESS = "treats this as success"


def warnings(text: str, platforms: tuple[str, ...] = ("pcbios", "efi")) -> list[str]:
    return check_text(text, platforms=platforms)


def script(*lines: str) -> str:
    return "\n".join(["#!ipxe", *lines, ""])


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        # Loops
        ((":retry", "dhcp || goto retry", "exit 1"), 3, ROUND),
        ((":retry", "dhcp && goto got ||", "sleep 3", "goto retry", ":got", "exit 1"), 5, ROUND),
        ((":a dhcp || goto a", "exit 1"), 2, ROUND),
        (("goto b", ":a", "dhcp && exit 1 ||", ":b", "goto a"), 6, ROUND),
        ((":l", "chain --timeout 9 http://x/ || goto l", "exit 1"), 3, ROUND),
        ((":l", "chain --timeout 9 http://x/", "goto l"), 4, ROUND),
        ((":l", "inc n", "dhcp || goto l", "exit 1"), 4, ROUND),
        (("set n 0", ":l", "set n 0", "inc n", "iseq ${n} 3 && exit 1 ||", "goto l"), 7, ROUND),
        ((":l", "inc n", "iseq ${m} 3 && exit 1 ||", "goto l"), 5, ROUND),
        ((":l", "isset ${net0/ip} || goto l", "exit 1"), 3, ROUND),
        ((":l", "goto l"), 3, ROUND),
        ((":l", "prompt --timeout 5000 Key || goto l", "exit 1"), 3, ROUND),
        ((":s", "menu", "item a A", "choose --timeout 9 t && goto ${t} || exit 1", ":a", "goto s"), 7, ROUND),
        ((":l", "isset ${x} && exit 1 || \\", "goto l"), 3, ROUND),
        # What waits
        (("menu", "item a A", "choose t || exit 1", "exit 1"), 4, NO_TIMEOUT),
        (("choose --timeout 0 t ||", "exit 1"), 2, NO_TIMEOUT),
        (("choose t --timeout 5000 ||", "exit 1"), 2, NO_TIMEOUT),
        (("prompt Press a key ||", "exit 1"), 2, NO_TIMEOUT),
        (("prompt --key 0x02 Press Ctrl-B && shell ||", "exit 1"), 2, NO_TIMEOUT),
        (("read name ||", "exit 1"), 2, NO_TIMEOUT),
        (("iflinkwait net0 ||", "exit 1"), 2, NO_TIMEOUT),
        (("ping 192.0.2.1 ||", "exit 1"), 2, "has no --count"),
        (("dhcp || shell", "exit 1"), 2, "waits for a person"),
        (("login ||", "exit 1"), 2, "waits for a person"),
        (("config ||", "exit 1"), 2, "waits for a person"),
        (("form", "present ||", "exit 1"), 3, "waits for a person"),
        (("sleep 100000", "exit 1"), 2, "waits up to 100,000 seconds"),
        (("prompt --timeout 3600000 x ||", "exit 1"), 2, "waits up to 3,600 seconds"),
        (("autoboot ||", "exit 1"), 2, "without a timeout"),
        # Downloads
        *(
            ((f"{command} http://x/y || exit 1", "exit 1"), 2, NO_TIMEOUT)
            for command in ("chain", "kernel", "initrd", "imgfetch", "imgexec", "module", "boot", "chain --replace")
        ),
        (("chain --timeout 0 http://x/ ||", "exit 1"), 2, NO_TIMEOUT),
        (("chain boot.ipxe ||", "exit 1"), 2, NO_TIMEOUT),
        (("chain ${url} ||", "exit 1"), 2, NO_TIMEOUT),
        (("chain http://x/ --timeout 5000 ||", "exit 1"), 2, "it has no effect"),
        # Ways that are none
        (("dhcp || reboot", "exit 1"), 2, "restarts the machine"),
        (("dhcp || goto off", "exit 1", ":off", "poweroff"), 5, "switches the machine off"),
        (("dhcp || goto nowhere", "exit 1"), 2, "there is no label “:nowhere”"),
        ((":Failed", "dhcp || goto failed", "exit 1"), 3, "there is no label “:failed”"),
        (("goto ${where} ||", "exit 1"), 2, "The site cannot check"),
        (("menu", "item a A", "choose -t 9 t && goto ${t} ||", "exit 1"), 4, "there is no label “:a”"),
        # What UEFI takes for success
        (("exit",), 2, SUCCESS),
        (("exit 0",), 2, SUCCESS),
        (("dhcp || exit 1", "exit"), 3, SUCCESS),
        (("echo Good bye",), 2, SUCCESS),
        (("dhcp ||",), 2, SUCCESS),
        (("iseq ${platform} pcbios && exit 1 ||", "exit 0"), 3, SUCCESS),
    ],
)
def test_what_holds_a_machine_is_warned_of_with_its_line(lines: tuple[str, ...], line: int, said: str) -> None:
    found = warnings(script(*lines))
    assert [warning for warning in found if warning.startswith(f"Line {line}: ") and said in warning], found


def counted(*inside: str) -> tuple[str, ...]:
    return ("set n:int32 0", ":l", "inc n", *inside, "goto l")


@pytest.mark.parametrize(
    "lines",
    [
        ("iseq ${platform} efi && exit 1 ||", "exit 0"),
        ("dhcp", "exit 1"),
        ("dhcp || exit 1", "chain --timeout 8000 http://x/ || exit 1"),
        ("chain -t 8000 --autofree http://x/${net0/mac} ||", "exit 1"),
        ("chain --timeout=8000 http://x/ ||", "exit 1"),
        counted("dhcp && exit 1 ||", "iseq ${n} 3 && exit 1 ||", "sleep 3"),
        counted("iseq ${n} 20 && exit 1 || sleep 1"),
        (":l", "inc n 2", "iseq ${n} 8 || goto l", "exit 1"),
        # A flag in place of a count
        (":l", "dhcp && exit 1 ||", "isset ${again} && exit 1 ||", "set again yes", "goto l"),
        ("set s one", ":l", "iseq ${s} three && exit 1 ||", "iseq ${s} two && set s three ||",
         "iseq ${s} one && set s two ||", "goto l"),
        # Each card in turn
        ("set i:int32 0", ":l", "isset ${net${i}/mac} || exit 1", "ifopen net${i} ||", "inc i", "goto l"),
        ("set i:int32 0", ":l", "ifconf net${i} && exit 1 ||", "inc i", "isset ${net${i}/mac} && goto l ||", "exit 1"),
        # Two counts, one within the other
        ("set a 0", ":a", "inc a", "set b 0", ":b", "inc b", "iseq ${b} 3 || goto b", "iseq ${a} 3 || goto a",
         "exit 1"),
        # A person may do more, but need not
        ("prompt --key 0x02 --timeout 3000 Ctrl-B && shell ||", "exit 1"),
        (":s", "menu Boot", "item local Disk", "item sh Shell", "choose -d local --timeout 5000 t && goto ${t} ||",
         "exit 1", ":local", "exit 1", ":sh", "shell ||", "goto s"),
        ("sanboot --no-describe --drive 0x80 ||", "exit 1"),
        ("kernel -t 8000 http://x/vmlinuz quiet || exit 1", "initrd -t 8000 http://x/i || exit 1", "boot || exit 1"),
        ("imgfetch --name k --timeout 8000 http://x/k || exit 1", "imgexec k || exit 1", "exit 1"),
        ("imgfetch --timeout 8000 http://x/ready || exit 1", "imgfree ready", "kernel ready || exit 1", "exit 1"),
        ("# goto nowhere", "# shell \\", "reboot", "exit 1"),
        ("isset ${skip} || dhcp || goto end", ":end", "exit 1"),
        ("iflinkwait --timeout 15000 net0 || exit 1", "read --timeout 5000 x ||", "exit 1"),
    ],
)  # fmt: skip
def test_a_good_script_has_no_warning(lines: tuple[str, ...]) -> None:
    assert warnings(script(*lines)) == []


@pytest.mark.parametrize(
    "head", ["#!ipxe\n", "#!ipxe \n", "#!ipxe\t\n", "#!ipxe\r\n", "#!gpxe\n", "#!ipxe v1 of mine\n"]
)
def test_all_right_first_lines_are_taken(head: str) -> None:
    assert warnings(f"{head}dhcp || exit 1\r\nexit 1\r\n") == []


def test_lines_are_counted_as_an_editor_does() -> None:
    text = "#!ipxe\r\n\r\n# a comment \\\r\n goes on\r\ndhcp || \\\r\n  reboot\r\nexit 1\r\n"
    assert [warning.partition(":")[0] for warning in warnings(text)] == ["Line 5"]


def test_a_bios_does_not_ask_for_the_status() -> None:
    assert warnings(script("exit"), ("pcbios",)) == []
    assert warnings(script("exit"), ("efi",)) != []


def test_all_waits_of_one_way_are_added() -> None:
    (said,) = warnings(script(*counted("sleep 60", "iseq ${n} 180 && exit 1 ||")))
    assert said == "Line 1: All waits of the script together can take 3 hours."


def test_a_script_that_counts_to_thousands_is_said_not_to_be_walked() -> None:
    (said,) = warnings(script(*counted(f"iseq ${{n}} {LIMIT} && exit 1 ||")))
    assert "too many paths" in said


def test_of_very_many_warnings_the_first_are_shown() -> None:
    found = warnings(script(*["chain http://x/ ||"] * 100, "exit 1"))
    assert len(found) == MOST_WARNINGS + 1
    assert found[-1] == "… and 60 more."


_WORDS = [
    *sorted(COMMANDS),
    "||",
    "&&",
    ";",
    "#",
    ":a",
    ":b",
    "a",
    "b",
    "${a}",
    "${net${a}/mac}",
    "0",
    "3",
    "--timeout",
    "\\\n",
]


@given(st.lists(st.lists(st.sampled_from(_WORDS), max_size=6).map(" ".join), max_size=12))
def test_any_script_is_walked_to_its_end(lines: list[str]) -> None:
    warnings(script(*lines))
