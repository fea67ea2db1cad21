"""What lspci prints in its other forms, and what mails and copies make of it."""

from __future__ import annotations

import time

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from roms.models import Card
from roms.toolchain.flash import flashrom
from roms.toolchain.flash.flashrom import SupportedCard
from roms.toolchain.ipxe.cards import LspciCard, read_lspci
from roms.toolchain.runner import ProgramMissingError

PAGE = "/admin/roms/card/lspci/"

NAMED = (
    "00:00.0 Host bridge [0600]: Intel Corporation 440FX [8086:1237] (rev 02)\n"
    "00:03.0 Ethernet controller [0200]: Intel Corporation 82557/8/9/0/1 Ethernet Pro 100 [8086:1229] (rev 08)\n"
    "\tSubsystem: Intel Corporation EtherExpress PRO/100 [8086:000c]\n"
    "\tKernel driver in use: e100\n"
    "\tKernel modules: e100\n"
)

#: Each has a bridge, and the network card 8086:1229 in slot 00:03.0.
FORMS = {
    "-nnk": NAMED,
    "-nnk, Windows line ends": NAMED.replace("\n", "\r\n"),
    "-nnk, old Mac line ends": NAMED.replace("\n", "\r"),
    "-nnk, with domains": NAMED.replace("00:0", "0000:00:0"),
    "-nnk, quoted in a mail": "".join(f"> {line}\n" for line in NAMED.splitlines()),
    "-nnk, quoted twice": "".join(f">> {line}\n" for line in NAMED.splitlines()),
    "-nnk, quoted twice with spaces": "".join(f"> > {line}\n" for line in NAMED.splitlines()),
    "-nnk, copied with non-breaking spaces": NAMED.replace(" ", "\u00a0"),
    "-nnk, copied from a page": "\ufeff" + NAMED.replace(" ", "\u202f").replace("[", "\u200b["),
    "-nnk, indented": "".join(f"    {line}\n" for line in NAMED.splitlines()),
    "-nnk, as a list": NAMED.replace("00:0", "- 00:0"),
    "-nnk, without the tabs": NAMED.replace("\t", ""),
    "-nn, wrapped": (
        "00:00.0 Host bridge [0600]: Intel Corporation 440FX\n[8086:1237] (rev 02)\n"
        "00:03.0 Ethernet controller [0200]: Intel Corporation 82557/8/9/0/1\n"
        "Ethernet Pro 100 [8086:1229] (rev 08)\n"
    ),
    "-nn, wrapped in a quoted mail": (
        "> 00:03.0 Ethernet controller\n> [0200]: Intel Corporation 82557/8/9/0/1\n> Ethernet Pro 100 [8086:1229]\n"
        "> (rev 08)\n"
    ),
    "-nn, wrapped in a number": "00:03.0 Ethernet controller [0200]: Intel Corporation [8086:\n1229] (rev 08)\n",
    "-n": "00:00.0 0600: 8086:1237 (rev 02)\n00:03.0 0200: 8086:1229 (rev 08)\n",
    "-n of old versions": "00:00.0 Class 0600: 8086:1237 (rev 02)\n00:03.0 Class 0200: 8086:1229 (rev 08)\n",
    "-nv": "00:03.0 0200: 8086:1229 (rev 08)\n\tSubsystem: 8086:000c\n\tFlags: bus master, medium devsel, latency 64\n",
    "-n, with an interface": "00:03.0 0200: 8086:1229 (rev 08) (prog-if 00)\n",
    "-nnv of old versions": "00:03.0 Ethernet controller [Class 0200]: Intel [8086:1229] (rev 08)\n",
    "BusyBox": "00:00.0 Class 0600: 8086:1237\n00:03.0 Class 0200: 8086:1229\n",
    "BusyBox -k": "00:00.0 Class 0600: 8086:1237\n00:03.0 Class 0200: 8086:1229 e100\n",
    "BusyBox -m": '00:03.0 "Class 0200" "8086" "1229" "8086" "000c"\n',
    "BusyBox -mk": '00:03.0 "Class 0200" "8086" "1229" "8086" "000c" "e100"\n',
    "-nnmm": (
        '00:00.0 "Host bridge [0600]" "Intel Corporation [8086]" "440FX [1237]" -r02 "Red Hat [1af4]" "QEMU [1100]"\n'
        '00:03.0 "Ethernet controller [0200]" "Intel Corporation [8086]" "82557/8/9 \\"Pro\\" 100 [1229]" -r08 '
        '"Intel Corporation [8086]" "EtherExpress PRO/100 [000c]"\n'
    ),
    "-nmm": '00:00.0 "0600" "8086" "1237"\n00:03.0 "0200" "8086" "1229" -r08 "8086" "000c"\n',
    "-nnmm, with curly quotation marks": "00:03.0 “Ethernet [0200]” “Intel [8086]” “82557 [1229]” -r08 “” “”\n",
    "-vmmnn": (
        "Slot:\t00:00.0\nClass:\tHost bridge [0600]\nVendor:\tIntel Corporation [8086]\nDevice:\t440FX [1237]\n\n"
        "Slot:\t00:03.0\nClass:\tEthernet controller [0200]\nVendor:\tIntel Corporation [8086]\n"
        "Device:\t82557/8/9/0/1 Ethernet Pro 100 [1229]\nSVendor:\tIntel Corporation [8086]\nSDevice:\tPRO/100 [000c]\n"
        "Rev:\t08\nDriver:\te100\nModule:\te100\n\n"
        "Slot:\t00:05.0\nClass:\tVGA compatible controller [0300]\nVendor:\tX [10de]\nDevice:\tY [0020]\n"
    ),
    "-vmmn": "Slot: 00:03.0\nClass: 0200\nVendor: 8086\nDevice: 1229\nRev: 08",
    "-vm of old versions": "Device:\t00:03.0\nClass:\tClass 0200\nVendor:\t8086\nDevice:\t1229\nSVendor:\t8086\n",
    "-vmmnn, quoted": "> Slot:\t00:03.0\n> Class:\tEthernet [0200]\n> Vendor:\t8086\n> Device:\t1229\n>\n> Bye\n",
}  # fmt: skip


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_card_is_read_in_every_form(text: str) -> None:
    pasted = read_lspci(text)

    (card,) = pasted.cards
    assert (card.slot.removeprefix("0000:"), card.id, card.class_code) == ("00:03.0", "8086:1229", "0200")
    assert pasted.unread == []


@pytest.mark.parametrize(
    "form", ["-nnk", "-nnk, quoted in a mail", "-nnk, Windows line ends", "-nnk, without the tabs"]
)
def test_all_that_is_said_of_a_card_is_read(form: str) -> None:
    assert read_lspci(FORMS[form]).cards == [
        LspciCard(
            slot="00:03.0",
            id="8086:1229",
            name="Intel Corporation 82557/8/9/0/1 Ethernet Pro 100",
            class_code="0200",
            revision="08",
            subsystem="8086:000c",
            kernel_driver="e100",
        )
    ]


@pytest.mark.parametrize(
    ("form", "name", "revision", "subsystem", "driver"),
    [
        ("-n", "", "08", "", ""),
        ("-nv", "", "08", "8086:000c", ""),
        ("BusyBox -k", "", "", "", "e100"),
        ("BusyBox -mk", "", "", "8086:000c", "e100"),
        ("-nnmm", 'Intel Corporation 82557/8/9 "Pro" 100', "08", "8086:000c", ""),
        ("-nmm", "", "08", "8086:000c", ""),
        ("-vmmnn", "Intel Corporation 82557/8/9/0/1 Ethernet Pro 100", "08", "8086:000c", "e100"),
        ("-nn, wrapped", "Intel Corporation 82557/8/9/0/1 Ethernet Pro 100", "08", "", ""),
    ],
)
def test_what_a_form_says_besides(form: str, name: str, revision: str, subsystem: str, driver: str) -> None:
    (card,) = read_lspci(FORMS[form]).cards

    assert (card.name, card.revision, card.subsystem, card.kernel_driver) == (name, revision, subsystem, driver)


def test_what_belongs_to_another_device_is_not_taken_for_a_cards() -> None:
    (card,) = read_lspci("00:03.0 0200: 8086:1229\n00:04.0 0300: 10de:0020\n\tKernel driver in use: nouveau\n").cards

    assert card.kernel_driver == ""


# What was not understood


@pytest.mark.parametrize(
    "line",
    [
        "03:00.0 Ethernet controller: Intel Corporation 82574L Gigabit Network Connection",
        "03:00.0 Network controller: Qualcomm Atheros AR9285",
        "03:00.0 Ethernet controller [0200]: Intel Corporation 82574L",
        '03:00.0 "Ethernet controller" "Intel Corporation" "82574L" -r00 "" ""',
        "Ethernet controller [0200]: Intel Corporation 82574L [8086:10d3]",
        "Ethernet controller: Intel Corporation 82574L [8086:10d3]",
        "zz:00.0 Ethernet controller [0200]: Intel [8086:10d3]",
        "03:00.0 Class 0200: 8086:10dg",
    ],
)
def test_what_looks_like_a_card_and_was_not_understood_is_said(line: str) -> None:
    pasted = read_lspci(f"{NAMED}{line}\n> {line}\n")

    assert [card.id for card in pasted.cards] == ["8086:1229"]
    assert pasted.unread == [line]


def test_a_device_of_lspci_vmm_without_numbers_is_said() -> None:
    assert read_lspci("Slot: 03:00.0\nClass: Ethernet controller\nVendor: Intel\nDevice: 82574L\n").unread == [
        "Slot: 03:00.0 Class: Ethernet controller"
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("", "eth0: flags=4163<UP,BROADCAST>", "00:1f.0 ISA bridge: Intel Corporation 82801", NAMED),
        *(
            "root@host:~# lspci -nnk",
            "Hello,\nhere is what our network people sent:\n",
            "\tSubsystem: Ethernet [8086:1]",
        ),
    ],
)
def test_what_is_no_card_is_passed_over(text: str) -> None:
    assert read_lspci(text).unread == []


def test_a_line_that_is_too_long_is_said_and_cut() -> None:
    (line,) = read_lspci("03:00.0 Ethernet controller [0200]: " + "x" * 5000 + " [8086:10d3]").unread

    assert len(line) <= 120


@given(st.text(alphabet=st.sampled_from('0123af:.[]() "\\\t\n\r>|-rSlotClassDevice')))
def test_any_text_can_be_pasted(text: str) -> None:
    read_lspci(text)
    read_lspci(f"03:00.0 {text}")
    read_lspci(f"Slot:\t03:00.0\nClass:\t{text}")


@pytest.mark.parametrize(
    "line",
    [
        *("03:00.0 x [0200]: " + " " * 900, '03:00.0 "' * 100, "[" * 990, "Key:" + " " * 900 + "x", "> " * 490),
        *("03:00.0 " + "[0200]: [" * 100, "03:00.0 a\nb\nc\nd", "Slot: 03:00.0", "A" + " " * 990),
    ],
)
def test_a_long_paste_takes_no_time(line: str) -> None:
    before = time.monotonic()
    read_lspci("\n".join([line] * ((1 << 20) // len(line))))
    assert time.monotonic() - before < 20


# On the page


def test_the_page_says_what_it_did_not_understand(admin_client: Client, card: Card) -> None:
    page = admin_client.post(
        PAGE, {"text": f"{NAMED}03:00.0 Ethernet controller: Intel <b>82574L</b>\n"}
    ).content.decode()

    assert "could not read these lines" in page
    assert "03:00.0 Ethernet controller: Intel &lt;b&gt;82574L&lt;/b&gt;" in page
    assert "can be flashed" in page


def test_a_page_of_names_alone_does_not_say_that_there_is_no_card(admin_client: Client, db: None) -> None:
    page = admin_client.post(PAGE, {"text": "03:00.0 Ethernet controller: Intel 82574L\n"}).content.decode()

    assert "This text has no network card" not in page
    assert "lspci -nn" in page


@pytest.fixture
def flashrom_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [
        SupportedCard("nicintel_spi", "82571EB", "8086:105e", is_tested=False),
        SupportedCard("nicintel_eeprom", "82580", "8086:150e", is_tested=True),
    ]
    monkeypatch.setattr(flashrom, "supported_cards", lambda: known)


def test_a_card_that_this_hosts_flashrom_knows_can_be_flashed(
    admin_client: Client, db: None, flashrom_knows: None
) -> None:
    """No list has it, and the tree was never read."""
    page = admin_client.post(PAGE, {"text": "03:00.0 0200: 8086:105e\n"}).content.decode()

    assert "can be flashed" in page
    assert "flashrom -p nicintel_spi:pci=0000:03:00.0" in page
    assert "have not tested it" in page
    assert "After the first build the site knows whether iPXE supports it" in page
    assert "programmer=nicintel_spi" in page


def test_a_programmer_of_settings_makes_no_card_flashable(admin_client: Client, db: None, flashrom_knows: None) -> None:
    page = admin_client.post(PAGE, {"text": "03:00.0 0200: 8086:150e\n"}).content.decode()

    assert "cannot be flashed" in page


def test_what_staff_say_of_a_card_counts_more_than_flashrom(
    admin_client: Client, db: None, flashrom_knows: None
) -> None:
    Card.objects.create(slug="8086:105e", pci_id="8086:105e", name="No chip on ours", driver="intel")

    assert "cannot be flashed" in admin_client.post(PAGE, {"text": "03:00.0 0200: 8086:105e\n"}).content.decode()


def test_a_host_without_flashrom_shows_the_page_all_the_same(
    admin_client: Client, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> list[SupportedCard]:
        raise ProgramMissingError("flashrom is not installed")

    monkeypatch.setattr(flashrom, "supported_cards", missing)
    response = admin_client.post(PAGE, {"text": "03:00.0 0200: 8086:105e\n"})

    assert response.status_code == 200
    assert "cannot be flashed" in response.content.decode()
