"""Builds from a real iPXE source tree: every target and profile, sizes, the same bytes again, and ROMs that run.

Trees are kept in the cache, so only the first run compiles everything: some minutes.
"""

from __future__ import annotations

import http.server
import os
import re
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from roms.toolchain.ipxe.build import Builder, BuildError, BuildRequest, BuildResult, Target
from roms.toolchain.ipxe.cards import load_curated
from roms.toolchain.ipxe.host_tools import missing_tools
from roms.toolchain.ipxe.option_headers import Option, Value, read_options
from roms.toolchain.ipxe.options import PROFILES, REQUIRED, chosen
from roms.toolchain.ipxe.script.render import render
from roms.toolchain.ipxe.script.spec import ScriptSpec
from roms.toolchain.ipxe.source import DEFAULT_REF, SourceTree
from roms.toolchain.option_rom import CodeType, check_fits
from tests.e2e import guest
from tests.e2e.vm import GATEWAY, OVMF_CODE, OVMF_VARS, VirtualServer
from tests.roms.ipxe_builds import switched_on

SOURCE = os.environ.get("RESCUESITE_IPXE_SOURCE", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SOURCE, reason="RESCUESITE_IPXE_SOURCE points to no source tree of iPXE"),
    # A first build compiles 900 files, and for UEFI 900 others.
    pytest.mark.timeout(2400),
]

KIB = 1024
PRO100, REALTEK = "8086:1229", "10ec:8139"
#: What the site builds in, and comments that make it 4 KiB.
SCRIPT = render(ScriptSpec(site="http://192.0.2.10")).encode()
SCRIPT += b"".join(b"# %032x\n" % (n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128) for n in range(200))
SCRIPT = SCRIPT[: 4 * KIB - 1] + b"\n"

Build = Callable[..., BuildResult]


def source(ref: str) -> SourceTree:
    return SourceTree(SOURCE, ref, guest.CACHE / "ipxe")


@pytest.fixture(scope="module")
def builder() -> Builder:
    return Builder(source(DEFAULT_REF), guest.CACHE / "ipxe")


@pytest.fixture
def build(builder: Builder, tmp_path: Path) -> Build:
    def built(
        target: str = "rom",
        card: str = PRO100,
        profile: str = "minimal",
        script: bytes = SCRIPT,
        options: Mapping[str, Value] | None = None,
        by: Builder | None = None,
    ) -> BuildResult:
        if missing := missing_tools(target):
            pytest.skip(f"{', '.join(tool for tool, _ in missing)} are not installed")
        wanted = Target(target)
        card = card if wanted.needs_card else ""
        request = BuildRequest(wanted, script, card, profile=profile, options=options or {})
        return (by or builder).build(request, tmp_path)

    return built


# Sizes


@pytest.mark.parametrize("card", [PRO100, REALTEK])
def test_the_minimal_rom_fits_64_kib_with_a_script_of_4_kib_and_room_for_more(card: str, build: Build) -> None:
    built = build(card=card)
    rom = check_fits(built.artifact.read_bytes(), *card_numbers(card), 64 * KIB)
    assert rom.build_id is not None
    assert built.size <= 60 * KIB
    # A serial console besides.
    assert build(card=card, options={"CONSOLE_SERIAL": True}).size <= 60 * KIB


@pytest.mark.parametrize("card", [PRO100, REALTEK])
def test_the_default_rom_does_not_fit_and_the_largest_is_one_that_a_bios_can_load(card: str, build: Build) -> None:
    sizes = {profile: build(card=card, profile=profile).size for profile in PROFILES}
    assert sizes["minimal"] < 64 * KIB < sizes["standard"] < sizes["everything"] < 255 * 512


def card_numbers(card: str) -> tuple[int, int]:
    vendor, device = (int(part, 16) for part in card.split(":"))
    return vendor, device


# Targets


def test_a_rom_whose_bios_sees_only_a_part(build: Build) -> None:
    rom = check_fits(build("mrom", profile="everything").artifact.read_bytes(), 0x8086, 0x1229)
    assert rom.images[-1].code_type is CodeType.HIDDEN
    assert rom.images[0].length < 8 * KIB


@pytest.mark.parametrize("profile", ["minimal", "standard"])
def test_roms_for_uefi_and_for_both(profile: str, build: Build) -> None:
    uefi, both = build("efirom", profile=profile), build("combined", profile=profile)
    assert check_fits(uefi.artifact.read_bytes(), 0x8086, 0x1229).kinds == "UEFI (x64)"
    rom = check_fits(both.artifact.read_bytes(), 0x8086, 0x1229)
    assert [image.code_type for image in rom.images] == [CodeType.X86, CodeType.EFI]
    assert both.size == build("rom", profile=profile).size + uefi.size


def test_files_for_machines_whose_card_cannot_be_flashed(build: Build) -> None:
    lkrn, efi = (build(target, profile="standard").artifact.read_bytes() for target in ("lkrn", "efi"))
    assert lkrn[0x202:0x206] == b"HdrS"
    assert efi[:2] == b"MZ"
    iso = build("iso", profile="standard").artifact.read_bytes()
    assert iso[0x8001:0x8006] == b"CD001"
    assert lkrn in iso
    assert efi in iso
    usb = build("usb", profile="standard").artifact.read_bytes()
    assert usb[510:512] == b"\x55\xaa"
    assert lkrn in usb
    assert efi in usb


def test_a_card_that_ipxe_does_not_know(builder: Builder, tmp_path: Path) -> None:
    before = time.monotonic()
    with pytest.raises(BuildError, match="no driver for the card 8086:1531"):
        builder.build(BuildRequest(Target.ROM, SCRIPT, "8086:1531"), tmp_path)
    assert time.monotonic() - before < 30


def test_a_card_that_two_drivers_claim(builder: Builder, tmp_path: Path) -> None:
    found: dict[str, str] = {}
    for driver in ("3c90x", "3c595", "", "3c595"):
        request = BuildRequest(Target.ROM, SCRIPT, "10b7:9004", driver=driver, profile="minimal")
        built = builder.build(request, tmp_path)
        check_fits(built.artifact.read_bytes(), 0x10B7, 0x9004, 64 * KIB)
        assert found.setdefault(driver or "3c90x", built.sha256) == built.sha256
    assert found["3c90x"] != found["3c595"]


# The same bytes


@pytest.fixture
def elsewhere(tmp_path: Path) -> Builder:
    """A builder in a folder of its own, with nothing in it yet."""
    folder = tmp_path / "elsewhere"
    return Builder(SourceTree(SOURCE, DEFAULT_REF, folder), folder)


def test_the_same_bytes_from_a_fresh_tree_as_from_copied_objects(
    build: Build, elsewhere: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(profile="standard")
    build(profile="everything")
    mixed = {options: build(options=dict(options)).sha256 for options in ((), (("VLAN_CMD", True),))}
    other_script = build(script=b"#!ipxe\nshell\n").sha256
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    umask = os.umask(0o077)
    try:
        # Fresh, copied from that, and once more in the first.
        fresh = {options: build(options=dict(options), by=elsewhere) for options in reversed(mixed)}
        again = build(script=b"#!ipxe\nshell\n", by=elsewhere)
    finally:
        os.umask(umask)
    assert {options: built.sha256 for options, built in fresh.items()} == mixed
    assert again.sha256 == other_script
    compiled = [built.objects_compiled for built in (*fresh.values(), again)]
    assert compiled[0] > 900
    assert compiled[1] < 200
    assert compiled[2] == 1


def test_the_same_disk_image_again(build: Build, builder: Builder, tmp_path: Path) -> None:
    for target in ("iso", "usb"):
        first = build(target, profile="standard").sha256
        umask = os.umask(0o077)
        try:
            time.sleep(1.1)
            assert build(target, profile="standard").sha256 == first
        finally:
            os.umask(umask)


# Options and cards


@pytest.fixture(params=[DEFAULT_REF, "HEAD"])
def tree(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The release and the newest commit, unpacked."""
    tree = source(request.param)
    with tree.exported(tree.obtain()) as exported:
        yield exported


def test_options_are_read_as_the_compiler_reads_them(tree: Path) -> None:
    options = read_options(tree)
    assert len(options) > 200
    for header in sorted({option.header for option in options.values()}):
        for platform, architecture in {"pcbios": "i386", "efi": "x86_64"}.items():
            macros = _macros(tree, header, platform, architecture)
            for option in options.values():
                if option.header == header:
                    _check_default(option, platform, macros)


def _check_default(option: Option, platform: str, macros: Mapping[str, str]) -> None:
    ours, theirs = option.defaults.get(platform), macros.get(option.name)
    assert (ours and ours.split()) == (theirs and theirs.split()), f"{option.name} on {platform}"


def _macros(tree: Path, header: str, platform: str, architecture: str) -> dict[str, str]:
    local = tree / "src" / "config" / "local"
    for path in (tree / "src" / "config").glob("*.h"):
        (local / path.name).touch()
    includes = (f"arch/{architecture}/include", "arch/x86/include", "include", ".")
    defined = (f"ARCH={architecture}", f"PLATFORM={platform}", f"PLATFORM_{platform}", "OBJECT=x")
    flags = ["-m32"] if architecture == "i386" else []
    flags += [*(f"-I{path}" for path in includes), *(f"-D{macro}" for macro in defined)]
    command = ["gcc", "-E", "-dM", "-x", "c", *flags, "-include", "include/compiler.h", f"config/{header}"]
    printed = subprocess.run(command, cwd=tree / "src", check=True, capture_output=True, text=True).stdout
    found = (re.match(r"#define (\w+)(?: (.*))?$", line) for line in printed.splitlines())
    return {match[1]: match[2] or "" for match in found if match}


def test_profiles_name_options_that_there_are(tree: Path) -> None:
    options = read_options(tree)
    assert not set(REQUIRED) - set(options)
    for platform, kernel in {"pcbios": "IMAGE_BZIMAGE", "efi": "IMAGE_EFI"}.items():
        assert {"NVO_CMD", "IMAGE_CMD", "DHCP_CMD", "IFMGMT_CMD", "DOWNLOAD_PROTO_HTTP", kernel} <= switched_on(
            options, chosen(options, "minimal"), platform
        )
    # Two of HEAD's are not in the release; none is misspelt.
    unknown = {name for changes in PROFILES.values() for name in changes} - set(options)
    assert unknown <= {"CONSOLE_DMESG", "DOWNLOAD_PROTO_DATA", "FDT_CMD", "IMAGE_SET_CMD"}


def test_the_catalogue_has_the_cards_of_the_list(builder: Builder) -> None:
    known = {card.id: card for card in builder.catalogue(builder.source.obtain())}
    assert len(known) > 700
    assert known[PRO100].drivers == ("eepro100",)
    assert known["10b7:9004"].is_ambiguous
    for card in load_curated():
        assert card.driver == known[card.id].driver, card


def test_the_newest_commit_builds_too(build: Build) -> None:
    newest = Builder(source("HEAD"), guest.CACHE / "ipxe")
    built = build(by=newest)
    check_fits(built.artifact.read_bytes(), 0x8086, 0x1229, 64 * KIB)


# ROMs that run

#: Every command that the site's answers and embedded scripts use, but for `boot`.
TRIAL = """#!ipxe
set tries:int32 1
inc tries
iseq ${{tries}} 2 || goto failed
isset ${{tries}} || goto failed
clear tries
isset ${{tries}} && goto failed ||
ifopen net0 || goto failed
iflinkwait --timeout 15000 net0 || goto failed
ifconf --configurator dhcp --timeout 30000 net0 || goto failed
route || goto failed
isset ${{net0/ip}} || goto failed
imgfree
chain --autofree --timeout 8000 {site}/answer.ipxe || goto failed
iseq ${{rescuesite}} local || goto failed
imgfetch --name ready {site}/ready || goto failed
imgfree ready
initrd --name initrd {site}/ready || goto failed
kernel --name kernel {site}/vmlinuz || goto failed
imgargs kernel quiet initrd=initrd || goto failed
imgstat
sleep 1
echo ALL-OF-THEM-WORK on ${{platform}} of ${{buildarch}}
exit 0
:failed
echo ONE-DOES-NOT
exit 1
"""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server as the guest sees it, with what the trial fetches."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "answer.ipxe").write_text(
        "#!ipxe\nset rescuesite local\necho No rescue mode requested, exiting\nexit 0\n"
    )
    (folder / "ready").write_text("ready\n")
    (folder / "vmlinuz").write_bytes(guest.kernel().read_bytes())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{GATEWAY}:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("card", "nic"), [(PRO100, "i82559c"), (REALTEK, "rtl8139")])
def test_the_minimal_rom_runs_all_commands_that_the_site_uses(
    card: str, nic: str, build: Build, web: str, disk: Path, tmp_path: Path
) -> None:
    rom = tmp_path / "card.rom"
    # As on the card: the chip's size, the rest erased.
    rom.write_bytes(
        build(card=card, script=TRIAL.format(site=web).encode()).artifact.read_bytes().ljust(64 * KIB, b"\xff")
    )
    with VirtualServer(disk, nic=nic, rom=rom) as server:
        server.wait_for("ALL-OF-THEM-WORK on pcbios of i386", unless="ONE-DOES-NOT|not found")
        server.wait_for(guest.DISK_MARKER)


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("target", ["iso", "usb"])
def test_disk_images_start_a_machine(target: str, firmware: str, build: Build, tmp_path: Path) -> None:
    image = build(target, script=b"#!ipxe\necho STARTED by ${platform}\nsleep 1000\n").artifact
    command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nodefaults", "-display", "none"]
    command += ["-serial", "stdio", "-netdev", "user,id=n0", "-device", "e1000,netdev=n0,romfile="]
    if firmware == "uefi":
        variables = tmp_path / "variables"
        variables.write_bytes(Path(OVMF_VARS).read_bytes())
        command += ["-machine", "q35", "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"]
        command += ["-drive", f"if=pflash,format=raw,unit=1,file={variables}"]
    else:
        command += ["-machine", "pc,graphics=off"]
    # The stick is one on USB: firmware takes it for a removable medium, and that is how it finds it.
    drive = f"if=none,id=d0,format=raw,readonly=on,file={image}"
    command += ["-cdrom", str(image)] if target == "iso" else ["-usb", "-device", "usb-ehci", "-drive", drive]
    command += [] if target == "iso" else ["-device", "usb-storage,drive=d0"]
    expected = {"bios": "STARTED by pcbios", "uefi": "STARTED by efi"}[firmware]
    assert expected in _printed(command, expected)


def _printed(command: list[str], until: str, timeout: float = 240) -> str:
    """What a machine prints, up to a marker or the end of patience."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as qemu:
        alarm = threading.Timer(timeout, qemu.kill)
        alarm.start()
        text = ""
        assert qemu.stdout
        while until not in text and (chunk := os.read(qemu.stdout.fileno(), 4096)):
            text = re.sub(r"\x1b\[[0-9;?=]*[A-Za-z]", "", text + chunk.decode(errors="replace"))
        alarm.cancel()
        qemu.kill()
    return text


@pytest.mark.parametrize(("banner", "tenths"), [(0, 0), (35, 35), (None, 40)])
def test_the_banner_lasts_as_long_as_was_asked_for(
    banner: int | None, tenths: int, builder: Builder, tmp_path: Path
) -> None:
    request = BuildRequest(Target.ROM, SCRIPT, PRO100, profile="minimal", banner=banner)
    rom = builder.build(request, tmp_path).artifact.read_bytes()
    # What runs at power-on is not compressed: mov cx, so many ticks of the timer, 18 a second; dec cx; js.
    waiting = [
        ticks for (ticks,) in struct.iter_unpack("<H", b"".join(re.findall(rb"\xb9(..)\x49\x78", rom, re.DOTALL)))
    ]
    assert waiting == [18 * tenths // 10]
