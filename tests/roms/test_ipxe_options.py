"""Build options: read from a tree's headers as the preprocessor reads them, checked, written as local headers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roms.toolchain.ipxe.option_headers import PLATFORMS, Kind, Option, Value, read_options
from roms.toolchain.ipxe.options import (
    PROFILES,
    REQUIRED,
    OptionError,
    banner_changes,
    check,
    chosen,
    config_headers,
    effective,
    picked,
    takes_over,
)
from tests.roms.ipxe_builds import switched_on

STAND_IN = Path(__file__).parent / "stand_in"
OPTIONS = read_options(STAND_IN)


def preprocessed(platform: str, headers: dict[str, str], header: str, folder: Path) -> dict[str, str]:
    """What a real preprocessor makes of a header, with our local headers; warnings are errors."""
    local = folder / "config" / "local"
    local.mkdir(parents=True, exist_ok=True)
    for path in (STAND_IN / "src" / "config").glob("*.h"):
        (local / path.name).write_text(headers.get(path.name, ""))
    processor = {"pcbios": "__i386__", "efi": "__x86_64__"}[platform]
    flags = [f"-I{folder}", f"-I{STAND_IN / 'src'}", "-U__i386__", "-U__x86_64__", f"-D{processor}"]
    flags += [f"-DPLATFORM={platform}", f"-DPLATFORM_{platform}", "-Werror", "-Wall"]
    # With -dM it would not warn of what is defined twice.
    for printing in ([], ["-dM"]):
        command = ["gcc", "-E", *printing, "-x", "c", *flags, f"{STAND_IN}/src/config/{header}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
    found = (re.match(r"#define (\w+)(?: (.*))?$", line) for line in done.stdout.splitlines())
    return {match[1]: match[2] or "" for match in found if match}


# Reading


def test_defaults_are_read_for_each_platform() -> None:
    assert OPTIONS["NET_PROTO_IPV6"].defaults == {"pcbios": None, "efi": ""}
    assert OPTIONS["NET_PROTO_IPV4"].defaults == {"pcbios": "", "efi": ""}
    assert OPTIONS["PING_CMD"].defaults == {"pcbios": None, "efi": None}
    assert OPTIONS["IMAGE_BZIMAGE"].defaults == {"pcbios": ""}
    assert OPTIONS["IMAGE_NBI"].defaults == {"pcbios": None}
    assert OPTIONS["IMAGE_EFI"].platforms == ("efi",)
    # What the platform's own defaults switch on.
    assert OPTIONS["TIMER_PCBIOS"].defaults == {"pcbios": "", "efi": None}


def test_what_no_platform_of_ours_offers_is_no_option() -> None:
    assert "FDT_CMD" not in OPTIONS
    assert not [name for name in OPTIONS if name.startswith(("CONFIG_", "NAMED_"))]


@pytest.mark.parametrize("platform", ["pcbios", "efi"])
@pytest.mark.parametrize("header", sorted({option.header for option in OPTIONS.values()}))
def test_a_real_preprocessor_agrees(platform: str, header: str, tmp_path: Path) -> None:
    macros = preprocessed(platform, {}, header, tmp_path)
    ours = {name: option for name, option in OPTIONS.items() if option.header == header}
    assert ours
    for name, option in ours.items():
        assert option.defaults.get(platform) == macros.get(name), name


def test_kinds_and_defaults_as_values() -> None:
    def facts(name: str) -> tuple[Kind, Value | None]:
        return OPTIONS[name].kind, OPTIONS[name].default("pcbios")

    assert facts("NVO_CMD") == (Kind.FLAG, True)
    assert facts("PING_CMD") == (Kind.FLAG, False)
    assert facts("BANNER_TIMEOUT") == (Kind.INTEGER, 20)
    assert facts("ROM_BANNER_TIMEOUT") == (Kind.INTEGER, None)
    assert facts("PRODUCT_NAME") == (Kind.STRING, "Stand-in")
    assert facts("KEYBOARD_MAP") == (Kind.WORD, "us")
    assert facts("LONG_COMMENT") == (Kind.FLAG, True)
    assert OPTIONS["IMAGE_EFI"].default("pcbios") is None


def test_descriptions_come_from_the_comments() -> None:
    def text(name: str) -> tuple[str, str]:
        return OPTIONS[name].section, OPTIONS[name].description

    assert text("PING_CMD") == ("Commands", "ping")
    assert text("LONG_COMMENT") == ("Waiting for a key", "A comment that goes on in a second line")
    assert text("PRODUCT_NAME") == ("", "The name that it shows")
    assert text("FAULT_HANG") == ("", "A source file that takes an hour")


def test_keyboards_are_those_of_the_tree() -> None:
    assert OPTIONS["KEYBOARD_MAP"].choices == ("de", "us")


@given(st.text(max_size=300))
def test_any_header_can_be_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tree = tmp_path_factory.mktemp("tree")
    config = tree / "src" / "config"
    config.mkdir(parents=True)
    (config / "general.h").write_text(f"#if defined ( A ) {text}\n#include <config/local/general.h>\n{text}\n#endif\n")
    assert isinstance(read_options(tree), dict)


# Choosing


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("PING_CMD", ("PING_CMD", True)),
        ("PING_CMD=off", ("PING_CMD", "off")),
        (" BANNER_TIMEOUT=0 ", ("BANNER_TIMEOUT", "0")),
        ("PRODUCT_NAME=a = b", ("PRODUCT_NAME", "a = b")),
    ],
)
def test_an_option_as_a_person_writes_it(text: str, meant: tuple[str, Value]) -> None:
    assert picked(text) == meant


@pytest.mark.parametrize("text", ["", "=on", "A B", "1A=on", "PING_CMD ="])
def test_what_is_no_option(text: str) -> None:
    with pytest.raises(OptionError, match="is not a valid option"):
        picked(text)


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("PING_CMD", "on", True),
        ("PING_CMD", "No", False),
        ("PING_CMD", 1, True),
        ("BANNER_TIMEOUT", "0x10", 16),
        ("BANNER_TIMEOUT", "007", 7),
        ("ROM_BANNER_TIMEOUT", 0, 0),
        ("PRODUCT_NAME", '"Ours"', "Ours"),
        ("PRODUCT_NAME", "", ""),
        ("PRODUCT_ERROR_URI", "http://192.0.2.1/?e=%08x", "http://192.0.2.1/?e=%08x"),
        ("KEYBOARD_MAP", "de", "de"),
    ],
)
def test_values_get_the_options_type(name: str, value: Value, typed: Value) -> None:
    found = check(OPTIONS, {name: value})[name]
    assert found == typed
    assert type(found) is type(typed)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("PING_CMD", "20", "must be on or off"),
        ("BANNER_TIMEOUT", True, "needs a number"),
        ("BANNER_TIMEOUT", "-1", "needs a number"),
        ("BANNER_TIMEOUT", "2*3", "needs a number"),
        ("BANNER_TIMEOUT", "4294967296", "at most"),
        ("PRODUCT_NAME", 'a"b', "quotes"),
        ("PRODUCT_NAME", "a\\", "backslashes"),
        ("PRODUCT_NAME", "a\nb", "printable"),
        ("PRODUCT_NAME", "ä", "ASCII"),
        ("PRODUCT_NAME", "a" * 201, "200"),
        ("PRODUCT_NAME", "100 %s", "must not have “%”"),
        ("PRODUCT_NAME", True, "needs a text"),
        ("PRODUCT_ERROR_URI", "http://192.0.2.1/%s", "must have %08x"),
        ("KEYBOARD_MAP", "d e", "needs a word"),
        ("KEYBOARD_MAP", "fr", "must be one of de, us"),
    ],
)
def test_values_that_are_refused(name: str, value: Value, why: str) -> None:
    with pytest.raises(OptionError, match=re.escape(why)):
        check(OPTIONS, {name: value})


def test_an_unknown_option_is_refused_and_those_like_it_named() -> None:
    with pytest.raises(OptionError, match=r"no option “ping_command”\. Did you mean PING_CMD"):
        check(OPTIONS, {"ping_command": True})
    with pytest.raises(OptionError, match=r"no option “zzz\?”\.$"):
        check(OPTIONS, {"zzz\n": True})


@pytest.mark.parametrize("name", sorted(set(REQUIRED) & set(OPTIONS)))
def test_what_the_site_needs_cannot_be_switched_off(name: str) -> None:
    with pytest.raises(OptionError, match="cannot be switched off: "):
        check(OPTIONS, {name: "off"})


def test_profiles() -> None:
    minimal, standard, everything = (chosen(OPTIONS, name, foreign_images=True) for name in PROFILES)
    assert standard == {}
    assert minimal["SANBOOT_CMD"] is False
    assert everything["PING_CMD"] is True
    # Names of other versions of iPXE are passed over.
    assert "FCMGMT_CMD" in PROFILES["minimal"]
    assert "FCMGMT_CMD" not in minimal


def test_no_profile_switches_off_what_the_site_needs() -> None:
    for changes in PROFILES.values():
        assert not [name for name, value in changes.items() if value is False and name in REQUIRED]
    assert {"NVO_CMD", "IMAGE_CMD", "DHCP_CMD", "IFMGMT_CMD"} <= switched_on(
        OPTIONS, chosen(OPTIONS, "minimal"), "pcbios"
    )


def test_single_options_come_after_the_profile_and_the_banner_last() -> None:
    changes = chosen(OPTIONS, "minimal", {"SANBOOT_CMD": "on", "BANNER_TIMEOUT": 7}, banner=5)
    assert changes["SANBOOT_CMD"] is True
    assert (changes["BANNER_TIMEOUT"], changes["ROM_BANNER_TIMEOUT"]) == (3, 5)
    assert banner_changes(0) == {"BANNER_TIMEOUT": 0, "ROM_BANNER_TIMEOUT": 0}
    with pytest.raises(OptionError, match=r"no profile “huge”\. Choose one of minimal, standard, everything"):
        chosen(OPTIONS, "huge")
    with pytest.raises(OptionError, match="needs a number"):
        chosen(OPTIONS, banner=-1)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_whatever_is_chosen_nothing_stays_that_runs_an_answer_that_is_no_script(profile: str) -> None:
    harmful = {name for name in OPTIONS if takes_over(name)}
    assert harmful
    changes = chosen(OPTIONS, profile, dict.fromkeys(harmful, True))
    for platform in PLATFORMS:
        on = switched_on(OPTIONS, changes, platform)
        assert not on & harmful
        assert {"IMAGE_SCRIPT", {"pcbios": "IMAGE_BZIMAGE", "efi": "IMAGE_EFI"}[platform]} <= on


def test_foreign_images_are_there_where_they_are_wanted() -> None:
    changes = chosen(OPTIONS, "standard", {"IMAGE_NBI": "on"}, foreign_images=True)
    assert "IMAGE_NBI" in switched_on(OPTIONS, changes, "pcbios")


@pytest.mark.parametrize(
    ("name", "harmful"),
    [
        *((name, True) for name in ("IMAGE_PXE", "IMAGE_ELF", "IMAGE_MULTIBOOT", "IMAGE_NBI", "IMAGE_COMBOOT")),
        *((name, True) for name in ("IMAGE_SDI", "IMAGE_UCODE", "IMAGE_OF_TOMORROW")),
        # They bring the format of IMAGE_PXE with them.
        *((name, True) for name in ("PXE_STACK", "PXE_MENU", "PXE_CMD")),
        *((name, False) for name in ("IMAGE_SCRIPT", "IMAGE_BZIMAGE", "IMAGE_EFI", "IMAGE_LKRN", "IMAGE_DER")),
        *((name, False) for name in ("IMAGE_CMD", "IMAGE_TRUST_CMD", "NVO_CMD")),
    ],
)
def test_a_format_that_is_not_known_to_be_harmless_is_harmful(name: str, harmful: bool) -> None:
    assert takes_over(name) is harmful


@pytest.mark.parametrize("name", ["BANNER_TIMEOUT", "ROM_BANNER_TIMEOUT"])
def test_no_option_makes_a_rom_wait_longer_than_a_minute(name: str) -> None:
    assert check(OPTIONS, {name: 600}) == {name: 600}
    with pytest.raises(OptionError, match="at most 600"):
        check(OPTIONS, {name: 601})


def test_what_is_switched_on() -> None:
    on = switched_on(OPTIONS, {"PING_CMD": True, "SANBOOT_CMD": False}, "pcbios")
    assert {"PING_CMD", "IMAGE_BZIMAGE"} <= on
    assert not {"SANBOOT_CMD", "IMAGE_EFI", "NET_PROTO_IPV6", "BANNER_TIMEOUT"} & on
    assert "IMAGE_EFI" in switched_on(OPTIONS, {}, "efi")


# Writing


def test_headers() -> None:
    changes: dict[str, Value] = {"PING_CMD": True, "SANBOOT_CMD": False, "IMAGE_NBI": True, "COMSPEED": 9600}
    assert config_headers(OPTIONS, check(OPTIONS, changes)) == {
        "console.h": "#undef COMSPEED\n#define COMSPEED 9600\n",
        "general.h": (
            "#if defined ( PLATFORM_pcbios )\n#undef IMAGE_NBI\n#define IMAGE_NBI\n#endif\n"
            "#undef PING_CMD\n#define PING_CMD\n"
            "#undef SANBOOT_CMD\n"
        ),
    }


def test_what_changes_nothing_is_left_out() -> None:
    assert effective(OPTIONS, {"NVO_CMD": True, "PING_CMD": False, "BANNER_TIMEOUT": 20}) == {}
    # Off on one platform already, on the other not.
    assert effective(OPTIONS, {"NET_PROTO_IPV6": False}) == {"NET_PROTO_IPV6": False}
    assert config_headers(OPTIONS, {"NVO_CMD": True}) == {}


@pytest.mark.parametrize("platform", ["pcbios", "efi"])
@pytest.mark.parametrize("profile", list(PROFILES))
def test_the_preprocessor_takes_them_without_a_warning(platform: str, profile: str, tmp_path: Path) -> None:
    singles: dict[str, Value] = {"PRODUCT_NAME": "Ours", "KEYBOARD_MAP": "de", "COMSPEED": 9600, "NVO_CMD": True}
    changes = chosen(OPTIONS, profile, singles, banner=0)
    headers = config_headers(OPTIONS, changes)
    for name, value in changes.items():
        option = OPTIONS[name]
        if platform in option.platforms:
            macros = preprocessed(platform, headers, option.header, tmp_path)
            assert macros.get(name) == _body(option, value), name


def _body(option: Option, value: Value) -> str | None:
    if option.kind is Kind.FLAG:
        return "" if value else None
    return f'"{value}"' if option.kind is Kind.STRING else str(value)


@given(st.dictionaries(st.sampled_from(sorted(OPTIONS)), st.one_of(st.booleans(), st.integers(), st.text())))
def test_whatever_is_chosen_a_header_holds_only_directives(changes: dict[str, Value]) -> None:
    try:
        headers = config_headers(OPTIONS, check(OPTIONS, changes))
    except OptionError:
        return
    allowed = r'#undef \w+|#define \w+( (\d+|\w+|"[ !#-\[\]-~]*"))?|#if defined \( PLATFORM_\w+ \)|#endif'
    for line in "".join(headers.values()).splitlines():
        assert re.fullmatch(allowed, line), line
