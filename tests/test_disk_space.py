"""A disk that is nearly full takes no uploads and no builds, so that machines can still be rescued."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from machines.models import Actor, RescueImage, StoredFile
from rescuesite import body_limits, disk_space
from roms.models import Build, Card, JobState
from roms.toolchain.ipxe.script.spec import from_json
from roms.worker.building import BuildRun
from tests.machines.support import ask, enable, kind

GIB = 1 << 30
NEARLY_FULL = "MB free, but 1,024 MB must stay free for rescues"


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how many GiB of the disk of 16 GiB are free."""

    def set_free(gib: float) -> None:
        usage = shutil._ntuple_diskusage(16 * GIB, int((16 - gib) * GIB), int(gib * GIB))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    set_free(10)
    return set_free


@pytest.fixture
def tmp(settings: LazySettings, tmp_path: Path) -> Path:
    """The folder for drafts and uploads of an empty data directory."""
    for name in ("files", "tmp", "job-logs", "stations"):
        (tmp_path / name).mkdir()
    settings.RESCUESITE_DATA_DIR, settings.FILE_UPLOAD_TEMP_DIR = tmp_path, tmp_path / "tmp"
    return tmp_path / "tmp"


@pytest.mark.parametrize(
    ("total", "reserved"),
    [(100 * GIB, 5 * GIB), (16 * GIB, GIB), (GIB, GIB // 5), (10 << 20, 2 << 20)],
)
def test_one_gib_or_a_share_stays_free(total: int, reserved: int) -> None:
    assert disk_space.reserved(total) == reserved


def test_nothing_is_stored_while_the_disk_is_nearly_full(db: None, tmp: Path, free: Callable[[float], None]) -> None:
    free(0.9)
    with pytest.raises(disk_space.NearlyFullError, match=NEARLY_FULL):
        StoredFile.objects.store([b"kernel"])
    assert (StoredFile.objects.exists(), list(tmp.iterdir())) == (False, [])


def test_storing_ends_when_it_takes_what_stays_free(db: None, tmp: Path, free: Callable[[float], None]) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"first"
        free(1)
        yield b"second"

    with pytest.raises(disk_space.NearlyFullError, match=NEARLY_FULL):
        StoredFile.objects.store(chunks())
    assert (StoredFile.objects.exists(), list(tmp.iterdir())) == (False, [])


def filling(monkeypatch: pytest.MonkeyPatch, tmp: Path, room: int) -> None:
    """The disk becomes nearly full when the upload has so many bytes."""

    def usage(_: object) -> Any:
        used = sum(path.stat().st_size for path in tmp.iterdir())
        return shutil._ntuple_diskusage(16 * GIB, 15 * GIB - room + used, GIB + room - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    # There was room for all of it when it began; others upload too.
    monkeypatch.setattr(body_limits, "disk_space", SimpleNamespace(problem=lambda _: ""))


def test_an_upload_that_fills_the_disk_is_given_up_and_said_beside_its_file(
    admin_client: Client, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling(monkeypatch, tmp, 1 << 20)
    form = {
        "name": "grml", "architecture": "x86_64", "files-TOTAL_FORMS": "1", "files-INITIAL_FORMS": "0",
        "files-0-kind": "kernel", "files-0-position": "0",
        "files-0-upload": SimpleUploadedFile("vmlinuz", bytes(6 << 20)),
    }  # fmt: skip
    page = admin_client.post("/admin/machines/rescueimage/add/", form).content.decode()
    assert "The site cannot store the file: the disk of the data directory has" in page
    assert (RescueImage.objects.exists(), list(tmp.iterdir())) == (False, [])


def test_the_api_says_that_an_upload_fills_the_disk(
    admin_client: Client, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling(monkeypatch, tmp, 1 << 20)
    order = {"name": "grml", "kernel": SimpleUploadedFile("vmlinuz", bytes(6 << 20))}
    response = admin_client.post("/api/images/", order)
    assert (response.status_code, list(tmp.iterdir())) == (400, [])
    assert NEARLY_FULL.removeprefix("MB free, ") in response.json()["detail"]


def test_the_command_line_says_that_the_disk_is_nearly_full(
    db: None, tmp: Path, tmp_path: Path, free: Callable[[float], None]
) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    free(0.5)
    with pytest.raises(CommandError, match=NEARLY_FULL):
        call_command("image", "add", "grml", "--kernel", str(kernel))


def test_a_rescue_image_is_not_built_without_room(db: None, tmp: Path, free: Callable[[float], None]) -> None:
    free(4)
    with pytest.raises(CommandError, match=r"Nothing was built: .* 4,096 MB are needed"):
        call_command("build_rescue_image")


def order() -> Build:
    card = Card.objects.create(slug="8086:1229", pci_id="8086:1229", name="Intel PRO/100", driver="eepro100")
    return Build.of(from_json({"site": "http://192.0.2.10", "network": "dhcp"}), card=card, profile="minimal")


def test_no_rom_is_built_while_the_disk_is_nearly_full(db: None, tmp: Path, free: Callable[[float], None]) -> None:
    build = order()
    free(0.5)
    with pytest.raises(ValidationError, match=NEARLY_FULL):
        build.submit(Actor("alice"))
    assert not Build.objects.exists()


def test_a_rom_whose_turn_comes_when_the_disk_is_nearly_full_is_not_built(
    db: None, tmp: Path, free: Callable[[float], None]
) -> None:
    build = order().submit(Actor("alice"))
    free(0.5)
    BuildRun.claim_and_run(build.pk)
    build.refresh_from_db()
    assert build.state == JobState.SITE_ERROR
    assert "The site cannot build now: the disk" in build.error


def test_a_build_is_stopped_when_the_disk_becomes_nearly_full(
    db: None, tmp: Path, free: Callable[[float], None]
) -> None:
    build = order().submit(Actor("alice"))
    build.claim("worker")
    run = BuildRun(build)
    assert not run.should_stop()
    free(0.5)
    assert run.should_stop()


def test_the_front_page_warns(admin_client: Client, free: Callable[[float], None]) -> None:
    assert "Uploads and builds are refused" not in admin_client.get("/admin/").content.decode()
    free(0.5)
    assert "Uploads and builds are refused: the disk" in admin_client.get("/admin/").content.decode()


def test_a_machine_is_rescued_from_a_disk_that_is_nearly_full(
    client: Client, machine: Any, image: RescueImage, admin_user: User, free: Callable[[float], None]
) -> None:
    free(0.1)
    enable(machine)
    assert kind(ask(client)) == "rescue"
