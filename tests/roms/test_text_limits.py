"""Texts that somebody may write, and what must not become of them: a path, a command, a make variable, a header."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client

from machines.models import Actor
from roms.models import Build, Card, JobState, Station
from roms.toolchain.flash import flashrom
from roms.toolchain.flash.flashrom import SupportedCard
from roms.toolchain.ipxe.cards import CatalogueCard
from roms.toolchain.ipxe.script.spec import from_json
from roms.toolchain.runner import ProgramMissingError
from roms.worker.building import BuildRun, load_cards
from tests.roms.conftest import SCRIPT, succeeded

ALICE = Actor("alice")
STAND_IN = Path(__file__).parent / "stand_in"
#: What would be a path, an option, a command, a variable or another header line, somewhere.
TEXTS = ("../x", "/etc/cron.d/x", "-x", "--help", "a b", "a;id", "$(id)", "a\nb", 'a"b', "a\r\nX-A: b", "a=b", "")


@pytest.fixture
def stand_in(settings: LazySettings, data_dir: Path) -> None:
    settings.RESCUESITE_IPXE_SOURCE = str(STAND_IN)
    data_dir.chmod(0o700)


def built(card: Card, **order: object) -> Build:
    order = {"profile": "minimal", "spec": from_json(SCRIPT), **order}
    job = Build(card=card, **order).submit(ALICE)
    BuildRun.claim_and_run(job.pk)
    job.refresh_from_db()
    return job


# Who may change cards


@pytest.mark.parametrize("driver", ["beta EXTRA_CFLAGS=-include/etc/shadow", "beta\nEMBED=/etc/shadow", "$(shell id)"])
def test_a_cards_driver_becomes_no_variable_of_make(driver: str, card: Card, stand_in: None) -> None:
    two = Card.objects.create(slug="10b7:9004", pci_id="10b7:9004", name="x", driver=driver, conflict="beta, gamma")
    job = built(two)
    assert job.state == JobState.FAILED
    assert "with beta or gamma, not with" in job.error
    assert job.commands == []


@pytest.mark.parametrize("text", TEXTS)
def test_a_cards_pci_id_becomes_no_target_and_no_files_name(text: str, staff: Callable[..., Client]) -> None:
    staff("add_card", "view_card").post("/admin/roms/card/add/", {"name": "x", "pci_id": text})
    assert not Card.objects.exists()
    with pytest.raises(ValidationError):
        Card(name="x", pci_id=text, slug="x").full_clean()


@pytest.mark.parametrize("text", [text for text in TEXTS if text and not text.startswith("-")])
def test_a_cards_key_is_a_word(text: str, staff: Callable[..., Client]) -> None:
    """It stands in addresses, and on no command line."""
    form = {"name": "x", "pci_id": "8086:10d3", "slug": text}
    staff("add_card", "view_card").post("/admin/roms/card/add/", form)
    assert not Card.objects.exists()


def test_a_download_is_named_after_numbers_alone(card: Card, data_dir: Path) -> None:
    Card.objects.filter(pk=card.pk).update(name='x"; filename="evil.exe', driver="\r\nX-A: b", rom_name="../x")
    build = succeeded(Card.objects.get(), b"\x55\xaa" + bytes(1022))
    assert build.file_name == f"ipxe-80861229-{build.pk}.rom"


# Who may build


@pytest.mark.parametrize(
    "option",
    [
        'PRODUCT_NAME=x"\n#include "/etc/passwd',
        'PRODUCT_NAME=x"\\',
        "BANNER_TIMEOUT=20\n#include </etc/passwd>",
        'KEYBOARD_MAP=us"\n#include "/etc/passwd',
        "DOWNLOAD_PROTO_TFTP=on\n#error x",
    ],
)
def test_an_options_value_becomes_no_other_line_of_a_header(option: str, card: Card, stand_in: None) -> None:
    job = built(card, options=[option])
    assert job.state == JobState.FAILED
    assert job.commands == []
    assert "root:" not in job.log_from()[0]


@pytest.mark.parametrize("option", ["A B=1", "../x", "-x", "A;id", "#include", "A\nB"])
def test_an_options_name_is_a_name(option: str, card: Card, data_dir: Path) -> None:
    with pytest.raises(ValidationError):
        Build.of(from_json(SCRIPT), card=card, profile="minimal", options=[option]).submit(ALICE)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["target", "profile"])
def test_a_target_and_a_profile_come_from_a_list(name: str, text: str, card: Card, data_dir: Path) -> None:
    with pytest.raises(ValidationError):
        Build.of(from_json(SCRIPT), card=card, **{name: text}).submit(ALICE)


# Who may change stations, and who starts a worker


@pytest.mark.parametrize("text", TEXTS)
def test_a_stations_name_becomes_no_path(text: str, staff: Callable[..., Client]) -> None:
    staff("add_station", "view_station").post("/admin/roms/station/add/", {"name": text})
    with pytest.raises(ValidationError):
        Station.objects.seen(text)
    assert not Station.objects.exists()


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_a_worker_has_a_stations_name_or_does_not_start(text: str, db: None, data_dir: Path) -> None:
    with pytest.raises(CommandError, match="is not a valid name for a station"):
        call_command("worker", station=text)


# A flashrom that comes later


def test_a_flashrom_that_is_installed_later_gives_the_trees_cards_their_programmers(
    db: None, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Maker:
        folder = data_dir

        def catalogue(self, commit: str) -> list[CatalogueCard]:
            return [CatalogueCard("8086:105e", "82571EB", "", ("intel",))]

    def missing() -> list[SupportedCard]:
        raise ProgramMissingError("flashrom is not installed")

    monkeypatch.setattr(flashrom, "supported_cards", missing)
    assert load_cards(Maker(), "a" * 40) == 1  # type: ignore[arg-type]
    assert load_cards(Maker(), "a" * 40) is None  # type: ignore[arg-type]
    assert Card.objects.get().programmer == ""

    known = [SupportedCard("nicintel_spi", "82571EB", "8086:105e", is_tested=True)]
    monkeypatch.setattr(flashrom, "supported_cards", lambda: known)
    assert load_cards(Maker(), "a" * 40) == 1  # type: ignore[arg-type]
    assert Card.objects.get().programmer == "nicintel_spi"
