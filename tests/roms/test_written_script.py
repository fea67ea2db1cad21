"""Scripts that somebody wrote: what iPXE would not run, and what their writer is warned of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roms.toolchain.ipxe.options import DEFAULT_PROFILE
from roms.toolchain.ipxe.script.checks import MAX_TEXT, check_text, likely_options
from tests.roms.test_embedded_text import EXAMPLE, errors, tried


def test_the_example_is_fine() -> None:
    text = EXAMPLE.replace("SITE/boot", "192.0.2.10/boot")
    assert check_text(text, {"NVO_CMD", "DHCP_CMD", "IMAGE_CMD", "DOWNLOAD_PROTO_HTTP", "IMAGE_SCRIPT"}) == []
    assert check_text(text.encode().replace(b"\n", b"\r\n")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The first line must be"),
        ("#!ipxe", "The first line must be"),
        ("\n#!ipxe\nexit\n", "The first line must be"),
        ("\ufeff#!ipxe\nexit\n", "The first line must be"),
        ("#!ipxexit\n", "The first line must be"),
        ("#! ipxe\nexit\n", "The first line must be"),
        ("#!ipxe\nexit\0\n", "zero byte"),
        (b"#!ipxe\necho \xff\nexit\n", "UTF-8"),
        ("#!ipxe\necho \ud800\nexit\n", "UTF-8"),
        ("#!ipxe\n" + "#" * MAX_TEXT, "16,391 bytes. At most 16,384"),
    ],
)
def test_what_ipxe_would_not_run_is_refused(text: str | bytes, said: str) -> None:
    assert said in errors(lambda: check_text(text))["text"]


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        ("dchp || exit 1", "Line 2: iPXE has no command “dchp”."),
        ("shell", "Line 2: “shell” waits for a person"),
        ("ntp x", "Line 2: “ntp” needs NTP_CMD"),
        (":x ntp pool.example.net", "Line 2: “ntp” needs NTP_CMD"),
        ("iseq a b || ntp pool.example.net ; exit 1", "“ntp” needs NTP_CMD"),
        ("isset a &&\tntp pool.example.net", "“ntp” needs NTP_CMD"),
        ("isset a && \\\n ntp pool.example.net", "Line 2: “ntp” needs NTP_CMD"),
        ("\n# x\nmenu Boot", "Line 4: “menu” needs MENU_CMD or FORM_CMD"),
        ("chain -t 9000 https://192.0.2.10/ || exit 1", "Line 2: “https://” needs DOWNLOAD_PROTO_HTTPS"),
        ("chain -t 9000 tftp://192.0.2.10/x || exit 1", "“tftp://” needs DOWNLOAD_PROTO_TFTP"),
    ],
)
def test_what_will_not_work_is_warned_of(lines: str, warning: str) -> None:
    options = {"DHCP_CMD", "IMAGE_CMD", "SHELL_CMD", "DOWNLOAD_PROTO_HTTP", "NVO_CMD"}
    (said,) = check_text(f"#!ipxe\n{lines}\nexit 1\n", options)
    assert warning in said


def test_what_does_work_is_not_warned_of() -> None:
    text = "#!ipxe\n# see https://ipxe.org/\n:menu\n${command} x # shell\nchain -t 9 http://192.0.2.10/ || exit 1\n"
    assert check_text(text, {"IMAGE_CMD", "DOWNLOAD_PROTO_HTTP"}) == []
    assert check_text("#!ipxe\nmenu Boot\nexit 1\n", {"FORM_CMD"}) == []
    assert check_text("#!ipxe\nvcreate --tag 7 net0\nexit 1\n") == []


@given(st.text(max_size=80).map(lambda text: f"#!ipxe\n{text}") | st.text() | st.binary())
def test_any_text_is_looked_at_or_refused(text: str | bytes) -> None:
    warnings, found = tried(lambda: check_text(text, ()))
    assert list(found) == ([] if warnings is not None else ["text"])


@pytest.mark.parametrize("profile", ["standard", "everything"])
def test_a_build_that_runs_what_is_no_script_is_warned_of(profile: str) -> None:
    script = "#!ipxe\nchain --timeout 8000 http://192.0.2.10/ || exit 1\nexit 1\n"
    (said,) = check_text(script, likely_options(profile, []))
    assert "IMAGE_ELF, IMAGE_MULTIBOOT, IMAGE_PXE, PXE_MENU, PXE_STACK: an answer that is not a script" in said
    assert check_text(script, likely_options(DEFAULT_PROFILE, [])) == []
    (said,) = check_text(script, likely_options(DEFAULT_PROFILE, ["IMAGE_COMBOOT=on"]))
    assert "has IMAGE_COMBOOT:" in said
