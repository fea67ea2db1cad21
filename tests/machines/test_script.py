"""The scripts, whole; and that nothing in them does more than it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.boot.reasons import Outcome, Reason
from machines.boot.script import BootPlan, UnsafeLineError, ensure_safe, pass_through, rescue

MAC = "00:02:b3:9d:94:8c"
LEAVE = "iseq ${platform} efi && exit 1 ||\nexit 0\n"

WHOLE_RESCUE = """\
#!ipxe
set rescuesite rescue
echo Rescue mode for web01
imgfree
kernel --name kernel --timeout 10000 /boot/tok/kernel && goto got-kernel ||
sleep 1
kernel --name kernel --timeout 10000 /boot/tok/kernel && goto got-kernel ||
sleep 3
kernel --name kernel --timeout 10000 /boot/tok/kernel || goto failed
:got-kernel
initrd --name initrd --timeout 10000 /boot/tok/initrd && goto got-initrd ||
sleep 1
initrd --name initrd --timeout 10000 /boot/tok/initrd && goto got-initrd ||
sleep 3
initrd --name initrd --timeout 10000 /boot/tok/initrd || goto failed
:got-initrd
initrd --name initrd-2 --timeout 10000 /boot/tok/initrd-2 && goto got-initrd-2 ||
sleep 1
initrd --name initrd-2 --timeout 10000 /boot/tok/initrd-2 && goto got-initrd-2 ||
sleep 3
initrd --name initrd-2 --timeout 10000 /boot/tok/initrd-2 || goto failed
:got-initrd-2
initrd --name rescue.cpio --timeout 10000 /boot/tok/rescue.cpio && goto got-rescue.cpio ||
sleep 1
initrd --name rescue.cpio --timeout 10000 /boot/tok/rescue.cpio && goto got-rescue.cpio ||
sleep 3
initrd --name rescue.cpio --timeout 10000 /boot/tok/rescue.cpio || goto failed
:got-rescue.cpio
imgargs kernel console=ttyS0 quiet panic=60 BOOTIF=01-00-02-b3-9d-94-8c initrd=initrd initrd=initrd-2 initrd=rescue.cpio
imgfetch --name ready --timeout 10000 /boot/tok/ready && goto got-ready ||
sleep 1
imgfetch --name ready --timeout 10000 /boot/tok/ready && goto got-ready ||
sleep 3
imgfetch --name ready --timeout 10000 /boot/tok/ready || goto failed
:got-ready
imgfree ready
boot kernel || goto failed
:failed
echo Rescue could not be booted, going on to the local disk
iseq ${platform} efi && exit 1 ||
exit 0
"""

WHOLE_CHAINED = """\
#!ipxe
set rescuesite rescue
echo Rescue mode for web01
imgfree
imgfetch --name script.ipxe --timeout 10000 /boot/tok/script.ipxe && goto got-script.ipxe ||
sleep 1
imgfetch --name script.ipxe --timeout 10000 /boot/tok/script.ipxe && goto got-script.ipxe ||
sleep 3
imgfetch --name script.ipxe --timeout 10000 /boot/tok/script.ipxe || goto failed
:got-script.ipxe
imgexec script.ipxe || goto failed
echo The chained script has ended
iseq ${platform} efi && exit 1 ||
exit 0
:failed
echo Rescue could not be booted, going on to the local disk
iseq ${platform} efi && exit 1 ||
exit 0
"""


def plan(command_line: str = "console=ttyS0 quiet", machine: str = "web01", token: str = "tok") -> BootPlan:
    return BootPlan(machine, MAC, token, initrds=["initrd", "initrd-2"], command_line=command_line)


def test_the_whole_script_of_a_rescue() -> None:
    assert rescue(plan()) == WHOLE_RESCUE


def test_the_whole_script_of_a_chained_rescue() -> None:
    assert rescue(BootPlan("web01", MAC, "tok", chained=True)) == WHOLE_CHAINED


def test_without_a_command_line_the_sites_own_arguments_remain() -> None:
    lines = rescue(BootPlan("web01", MAC, "tok", initrds=["initrd"])).splitlines()
    assert "imgargs kernel panic=60 BOOTIF=01-00-02-b3-9d-94-8c initrd=initrd initrd=rescue.cpio" in lines


def test_an_image_that_says_what_a_panic_does_is_not_overruled() -> None:
    (line,) = [line for line in rescue(plan("quiet panic=-1")).splitlines() if line.startswith("imgargs")]
    assert [word for word in line.split() if word.startswith("panic")] == ["panic=-1"]


def test_a_word_that_only_begins_like_panic_leaves_the_sites_own() -> None:
    assert " panic_print=1 panic=60 BOOTIF=" in rescue(plan("panic_print=1"))


def test_the_placeholder_becomes_the_address_of_the_rescues_files() -> None:
    booted = BootPlan("web01", MAC, "tok", command_line="a={url}/x b={url}/", site="http://192.0.2.10:8000")
    assert (
        "imgargs kernel a=http://192.0.2.10:8000/boot/tok/x b=http://192.0.2.10:8000/boot/tok/ panic=60 BOOTIF="
        in rescue(booted)
    )


def test_an_image_without_an_initrd_still_gets_its_archive() -> None:
    lines = rescue(BootPlan("web01", MAC, "tok")).splitlines()
    assert "imgargs kernel panic=60 BOOTIF=01-00-02-b3-9d-94-8c initrd=rescue.cpio" in lines


@pytest.mark.parametrize("reason", [Reason.BAD_MAC, Reason.UNKNOWN_MAC, Reason.NO_RESCUE, Reason.RESCUE_EXPIRED])
def test_the_whole_pass_through_tells_strangers_nothing(reason: Reason) -> None:
    assert pass_through(reason) == (f"#!ipxe\nset rescuesite local\necho No rescue mode requested, exiting\n{LEAVE}")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (Reason.RESCUE_USED, "The rescue of this machine was for one boot and has been used"),
        (Reason.RESCUE_FAILED, "The rescue system of this machine was started several times and never came up"),
        (Reason.IMAGE_UNAVAILABLE, "A rescue is enabled but its image cannot be served to this machine"),
        (Reason.IMAGE_DAMAGED, "A rescue is enabled but a file of its image is damaged"),
        (Reason.DATABASE_ERROR, "The rescue site cannot read its database"),
        (Reason.INTERNAL_ERROR, "The rescue site made an error"),
    ],
)
def test_the_whole_pass_through_with_an_explanation(reason: Reason, said: str) -> None:
    assert pass_through(reason) == (
        f"#!ipxe\nset rescuesite local\necho No rescue mode requested, exiting\necho {said}\n{LEAVE}"
    )


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (Reason.ADDRESS_NOT_ALLOWED, "IP Failed Match"),
        (Reason.ADDRESS_MISMATCH, "IP Failed Match"),
        (Reason.IDENTITY_MISSING, "Identity Failed Match"),
        (Reason.IDENTITY_MISMATCH, "Identity Failed Match"),
    ],
)
def test_the_whole_refusal_echoes_its_reason(reason: Reason, said: str) -> None:
    assert pass_through(reason) == (
        f"#!ipxe\nset rescuesite refused\necho {said}\necho Rescue refused: {reason.value}\n{LEAVE}"
    )


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.outcome is not Outcome.RESCUE])
def test_every_line_of_a_pass_through_is_safe_but_for_the_question_which_platform_it_is(reason: Reason) -> None:
    *lines, last_but_one, last = pass_through(reason).removeprefix("#!ipxe\n").splitlines()
    assert [ensure_safe(line) for line in lines] == lines
    assert f"{last_but_one}\n{last}\n" == LEAVE


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("imgargs kernel a\nb", "line break"),
        ("imgargs kernel a\rb", "line break"),
        ("imgargs kernel a\tb", "control character"),
        ("imgargs kernel \0", "control character"),
        ("imgargs kernel \x1b[31m", "control character"),
        ("imgargs kernel \x85", "control character"),
        ("imgargs kernel \u2028", "control character"),
        ("imgargs kernel \u00a0", "control character"),
        ("imgargs kernel ${net0/mac}", "replace"),
        ("imgargs kernel ${", "replace"),
        ("imgargs kernel a || shell", "separator"),
        ("imgargs kernel a && shell", "separator"),
        ("imgargs kernel a ; shell", "separator"),
        ("imgargs kernel a ;", "separator"),
        ("imgargs kernel a\\", "backslash"),
        ("imgargs kernel #a", "#"),
        ("imgargs kernel a # b", "#"),
        ("#!ipxe", "#"),
    ],
)
def test_a_line_that_would_do_more_than_it_says_is_refused(line: str, why: str) -> None:
    with pytest.raises(UnsafeLineError, match=why):
        ensure_safe(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "imgargs kernel root=UUID=1 quiet",
        "imgargs kernel a||b c&&d e;f",
        "imgargs kernel url=http://h/#x",
        "imgargs kernel $a {b} $",
        "imgargs kernel a\\b",
        "imgargs kernel a=ä",
    ],
)
def test_a_line_that_does_what_it_says_is_passed(line: str) -> None:
    assert ensure_safe(line) == line


@pytest.mark.parametrize("command_line", ["a\nshell", "${x}", "a || shell", "a && b", "a ; b", "#", "\ud800"])
def test_no_script_is_made_of_a_plan_with_an_unsafe_command_line(command_line: str) -> None:
    with pytest.raises(UnsafeLineError):
        rescue(plan(command_line))


@pytest.mark.parametrize("machine", ["web01\nshell", "${x}", "a || shell", "a\\"])
def test_no_script_is_made_of_a_plan_with_an_unsafe_machine(machine: str) -> None:
    with pytest.raises(UnsafeLineError):
        rescue(plan(machine=machine))


@pytest.mark.parametrize("chained", [False, True])
def test_no_script_is_made_of_a_plan_with_an_unsafe_token(chained: bool) -> None:
    with pytest.raises(UnsafeLineError):
        rescue(BootPlan("web01", MAC, "a\nshell", chained=chained))


NASTY = st.text(
    st.sampled_from(list("ab =${}|&;#\\\n\r\t\0\x1b\x85\u2028 ")) | st.characters(), max_size=40
) | st.lists(st.sampled_from(["||", "&&", ";", "#", "${", "}", "\\", "a", "\n", "shell", ":failed"])).map(" ".join)


@given(NASTY, NASTY)
def test_any_texts_give_a_script_in_which_each_line_is_what_it_should_be_or_none(command_line: str, name: str) -> None:
    try:
        made = rescue(plan(command_line, machine=name))
    except UnsafeLineError:
        return
    expected = WHOLE_RESCUE.replace("for web01", f"for {name}")
    expected = expected.replace("kernel console=ttyS0 quiet", f"kernel {command_line}" if command_line else "kernel")
    if any(word.startswith("panic=") for word in command_line.split()):
        expected = expected.replace(" panic=60", "")
    assert made == expected
    assert made.count("\n") == WHOLE_RESCUE.count("\n")
    assert made.count("${") == 1


@given(NASTY)
def test_a_line_that_is_passed_is_one_command_of_plain_words(line: str) -> None:
    try:
        passed = ensure_safe(line)
    except UnsafeLineError:
        return
    assert passed == line
    assert passed.splitlines() in ([], [passed])
    assert "${" not in passed
    assert not {"||", "&&", ";"} & set(passed.split(" "))
    assert not any(word.startswith("#") for word in passed.split(" "))
    assert not passed.endswith("\\")
