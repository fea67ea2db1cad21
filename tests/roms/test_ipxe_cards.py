"""Cards: the tree's catalogue, the list that comes with the site, what people paste, and what they are told."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roms.toolchain import runner
from roms.toolchain.flash.flashrom import SupportedCard
from roms.toolchain.ipxe.cards import (
    Advice,
    CardError,
    CatalogueCard,
    CuratedCard,
    LspciCard,
    advise,
    catalogue,
    load_curated,
    pci_id,
    read_lspci,
    read_rules,
)

STAND_IN = Path(__file__).parent / "stand_in"

LSPCI = """\
$ lspci -nnk
00:00.0 Host bridge [0600]: Intel Corporation 440FX - 82441FX PMC [Natoma] [8086:1237] (rev 02)
\tSubsystem: Red Hat, Inc. Qemu virtual machine [1af4:1100]
00:03.0 Ethernet controller [0200]: Intel Corporation 82557/8/9/0/1 Ethernet Pro 100 [8086:1229] (rev 08)
\tSubsystem: Intel Corporation EtherExpress PRO/100+ Management Adapter [8086:000C]
\tKernel driver in use: e100
\tKernel modules: e100
00:1f.2 SATA controller [0106]: Intel Corporation ICH9 6 port SATA Controller [AHCI mode] [8086:2922] (rev 02)
\tKernel driver in use: ahci
0001:04:00.0 Network controller [0280]: Realtek [odd] Wireless [10EC:8179]
"""


# The tree's


def test_the_catalogue_of_a_tree() -> None:
    cards = {card.id: card for card in catalogue(STAND_IN)}
    assert list(cards) == ["10b7:9004", "10ec:8139", "8086:1209", "8086:1229"]
    assert cards["8086:1209"] == CatalogueCard("8086:1209", "Alpha 9ER", "alpha9er", ("alpha",))
    assert cards["8086:1229"].rom_name == "80861229"


def test_an_id_that_two_drivers_claim_has_both_and_the_last_is_used() -> None:
    card = next(card for card in catalogue(STAND_IN) if card.id == "10b7:9004")
    assert card.is_ambiguous
    assert card.drivers == ("beta", "gamma")
    assert card.driver == "gamma"


def test_rules_of_other_buses_and_of_no_card_are_passed_over() -> None:
    text = (
        "# NIC\t\n# NIC\tfamily\tdrivers/net/x\nDRIVERS += x\n"
        "# NIC\t0b957720\t0b95,7720\tOn USB\nDRIVER_0b957720 = x\nROM_TYPE_0b957720 = usb\n"
        "# NIC\t3c509\t-\tOn ISA\nDRIVER_3c509 = x\nROM_TYPE_3c509 = isa\n"
        "# NIC\t80860001\t8086,0001\tA \x1b[1mcard\nDRIVER_80860001 = x\nROM_TYPE_80860001 = pci\n"
        "# NIC\tcard-1\t8086,0001\tA card\nDRIVER_card-1 = x\nROM_TYPE_card-1 = pci\n"
    )
    assert read_rules(text) == [CatalogueCard("8086:0001", "A [1mcard", "card-1", ("x",))]


def test_a_tree_without_the_script_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "src" / "drivers").mkdir(parents=True)
    (tmp_path / "src" / "drivers" / "x.c").write_text("")
    with pytest.raises(CardError, match=r"Cannot read the cards of .*util/parserom\.pl"):
        catalogue(tmp_path)


def test_without_perl_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "SAFE_PATH", str(tmp_path))
    with pytest.raises(CardError, match=r"perl is not installed .* apt-get install perl"):
        catalogue(STAND_IN)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
def test_the_trees_script_does_not_run_as_root(tmp_path: Path) -> None:
    """It lies in a folder that only root may enter, as the data directory is."""
    (tmp_path / "src" / "util").mkdir(parents=True)
    (tmp_path / "src" / "drivers").mkdir()
    (tmp_path / "src" / "drivers" / "x.c").write_text("")
    rules = "\\nDRIVER_80860001 = x\\nROM_TYPE_80860001 = pci\\n"
    (tmp_path / "src" / "util" / "parserom.pl").write_text(f'print "# NIC\\t80860001\\t8086,0001\\taccount $>{rules}";')
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)
    # The site's umask takes from others what an unpacked tree grants them.
    for path in (tmp_path / "src", *(tmp_path / "src").rglob("*")):
        path.chmod(0o755)
    tmp_path.chmod(0o700)
    assert catalogue(tmp_path, user="nobody")[0].name == "account 65534"


@pytest.mark.parametrize("text", ["8086:1229", "80861229", " 8086:1229\n"])
def test_ids(text: str) -> None:
    assert pci_id(text) == "8086:1229"


@pytest.mark.parametrize("text", ["", "8086", "8086:122", "8086:1229:1", "808g:1229", "8086-1229"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(CardError, match="is not a valid PCI ID"):
        pci_id(text)


# The site's


def test_the_list_that_comes_with_the_site() -> None:
    cards = {card.key: card for card in load_curated()}
    assert cards["8086:1229"].programmer == cards["8086:1209"].programmer == "nicintel"
    assert cards["8086:1229"].chip_size == cards["8086:1209"].chip_size == 64 << 10
    assert {cards[key].programmer for key in ("10ec:8139", "10ec:8169", "1113:1211")} == {"nicrealtek"}
    assert cards["10b7:9200"].programmer == "nic3com"
    assert cards["8086:10d3"].programmer == "nicintel_spi"
    assert all(card.id == key for key, card in cards.items() if not card.is_practice)


def test_the_practice_card_is_a_file_and_its_rom_one_for_a_real_card() -> None:
    (practice,) = (card for card in load_curated() if card.is_practice)
    assert (practice.key, practice.id, practice.programmer) == ("practice", "8086:1229", "dummy")
    assert practice.chip_size == 64 << 10


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[card]]\nid = "x"\nname = ""\ndriver = ""\nprogrammer = ""', "card 1: “x” is not a valid PCI"),
        ('[[card]]\nid = "8086:1229"\nname = ""\ndriver = ""', "card 1: 'programmer'"),
        (
            '[[card]]\nid = "8086:1229"\nname = ""\ndriver = ""\nprogrammer = ""\nchip_size = 65000',
            "65000 is not a multiple",
        ),
        ('[[card]]\nid = "8086:1229"\nname = ""\ndriver = ""\nprogrammer = ""\n' * 2, "card 2: 8086:1229 is listed"),
    ],
)
def test_a_list_with_a_mistake(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "cards.toml"
    path.write_text(text)
    with pytest.raises(CardError, match=why):
        load_curated(path)


# What is pasted


def test_network_cards_are_found_among_all_others() -> None:
    pro100, wireless = read_lspci(LSPCI).cards
    assert pro100 == LspciCard(
        slot="00:03.0",
        id="8086:1229",
        name="Intel Corporation 82557/8/9/0/1 Ethernet Pro 100",
        class_code="0200",
        revision="08",
        subsystem="8086:000c",
        kernel_driver="e100",
    )
    assert (wireless.slot, wireless.id, wireless.name) == ("0001:04:00.0", "10ec:8179", "Realtek [odd] Wireless")
    # What belongs to the card that follows is not taken for this one's.
    assert wireless.kernel_driver == ""


@pytest.mark.parametrize(
    "text",
    [
        "03:00.0 Ethernet controller [0200]: Intel Corporation 82574L [8086:10d3]\r\n",
        "   0000:03:00.0 Ethernet controller [0200]: Intel [8086:10d3] (rev 00) (prog-if 00 [x])",
        "03:00.0 0200: 8086:10d3 (rev ff)",
        "root@host:~# lspci\n\x1b[0m03:00.0 Ethernet controller [0200]: \x1b[1mIntel [8086:10D3]\x1b[0m\nroot@host:~#",
    ],
)
def test_ways_of_pasting(text: str) -> None:
    (card,) = read_lspci(text).cards
    assert card.id == "8086:10d3"
    assert "\x1b" not in card.name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "03:00.0 Ethernet controller: Intel Corporation 82574L",  # lspci without -nn
        "zz:00.0 Ethernet controller [0200]: Intel [8086:10d3]",
        "03:00.0 VGA compatible controller [0300]: X [10de:0020]",
        "03:00.0 Ethernet controller [0200]: Intel",
    ],
)
def test_what_holds_no_card(text: str) -> None:
    assert read_lspci(text).cards == []


@given(st.text())
def test_any_text_can_be_pasted(text: str) -> None:
    read_lspci(text)
    read_lspci(f"03:00.0 Ethernet controller [0200]: {text} [8086:10d3]")


def test_a_long_paste_takes_no_time() -> None:
    before = time.monotonic()
    for text in (
        "03:00.0" + " " * 2_000_000,
        "03:00.0 x [0200]: " + "[" * 2_000_000,
        "03:00.0 x [0200]: y\n" * 100_000,
    ):
        assert read_lspci(text).cards == []
    assert time.monotonic() - before < 5


# What people are told

KNOWN = [CatalogueCard("8086:1229", "PRO/100", "", ("eepro100",)), CatalogueCard("10b7:9004", "", "", ("a", "b"))]
LISTED = [
    CuratedCard("practice", "8086:1229", "", "eepro100", "dummy"),
    CuratedCard("8086:1229", "8086:1229", "", "eepro100", "nicintel", 65536, "A note."),
]


def advice(card: LspciCard, flashable: tuple[SupportedCard, ...] = ()) -> Advice:
    (found,) = advise([card], KNOWN, LISTED, flashable)
    return found


def test_a_card_of_the_list() -> None:
    found = advice(LspciCard("03:00.0", "8086:1229", "", kernel_driver="e100"))
    assert (found.can_build, found.can_flash, found.programmer, found.chip_size) == (True, True, "nicintel", 65536)
    text = " ".join(found.text)
    for part in ("eepro100", "-p nicintel:pci=0000:03:00.0", "64 KiB", "modprobe -r e100", "A note."):
        assert part in text


def test_a_card_that_only_flashrom_knows_of() -> None:
    found = advice(
        LspciCard("03:00.0", "10b7:9004", ""), (SupportedCard("nic3com", "3C90xB", "10b7:9004", is_tested=False),)
    )
    assert (found.can_flash, found.programmer, found.chip_size) == (True, "nic3com", None)
    text = " ".join(found.text)
    for part in ("a and b both claim it. The default is b", "have not tested it", "different chips"):
        assert part in text


def test_a_card_that_cannot_be_flashed_is_started_otherwise() -> None:
    found = advice(LspciCard("03:00.0", "10b7:9004", ""))
    assert (found.can_build, found.can_flash) == (True, False)
    assert "ISO" in found.text[-1]


def test_a_card_without_driver_is_not_flashed_though_it_could_be() -> None:
    found = advice(
        LspciCard("03:00.0", "8086:1531", ""), (SupportedCard("nicintel_spi", "I210", "8086:1531", is_tested=True),)
    )
    assert (found.can_build, found.can_flash, found.programmer) == (False, False, "nicintel_spi")
    assert "no driver" in found.text[0]


def test_the_programmer_of_settings_is_none_for_boot_roms() -> None:
    found = advice(
        LspciCard("03:00.0", "10b7:9004", ""), (SupportedCard("nicintel_eeprom", "", "10b7:9004", is_tested=True),)
    )
    assert not found.can_flash
