"""Stored files that have lost their bytes and kept their size: known, told, and never given to a machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone

from machines import integrity
from machines.file_checker import FileChecker
from machines.models import (
    Actor,
    AuditEntry,
    Delivery,
    Machine,
    NotificationRule,
    RescueImage,
    StoredFile,
)
from machines.models import stored_file as stored_file_module
from machines.models.rescue_terms import NoUsableImageError
from machines.models.stored_file import DamagedFileError
from machines.timeline import machine_timeline
from tests.machines.support import ask, at, body, boots, enable, fetch, head, kind, noon, stored

CONTENTS = b"a kernel that loses its bytes"
WRONG = b"A KERNEL THAT LOST ITS BYTES!"
assert len(CONTENTS) == len(WRONG)


@pytest.fixture
def kernel(db: None) -> Iterator[StoredFile]:
    """The kernel of the default image; no other test has its bytes."""
    image = RescueImage.objects.create(name="frail", is_default=True)
    kept = image.attach("kernel", [CONTENTS]).stored
    yield kept
    kept.path.unlink(missing_ok=True)
    integrity._known.clear()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are too large to be read by whoever meets them."""
    monkeypatch.setattr(stored_file_module, "READ_AT_ONCE", 0)


def damage(kept: StoredFile, contents: bytes = WRONG) -> None:
    """Change the bytes in place, and put the times back as far as a program can."""
    before = kept.path.stat()
    with kept.path.open("r+b") as file:
        file.write(contents)
    os.utime(kept.path, ns=(before.st_atime_ns, before.st_mtime_ns))


def now_known(kept: StoredFile) -> StoredFile:
    return StoredFile.objects.get(pk=kept.pk)


def rot(kept: StoredFile) -> None:
    """Change the bytes behind the file system's back: it looks as before."""
    damage(kept)
    StoredFile.objects.filter(pk=kept.pk).update(looks=integrity.metadata(kept.path)[1])


# The answer


def test_a_kernel_with_other_bytes_of_the_same_size_is_not_booted(
    client: Client, machine: Machine, kernel: StoredFile
) -> None:
    rescue = enable(machine)
    damage(kernel)
    script = ask(client)
    assert kind(script) == "local"
    assert "echo A rescue is enabled but a file of its image is damaged" in script
    assert [entry.reason for entry in boots()] == ["image_damaged"]
    assert stored(rescue).state == "armed"


@pytest.mark.usefixtures("large")
def test_a_large_file_that_was_touched_is_not_booted_until_somebody_has_read_it(
    client: Client, machine: Machine, kernel: StoredFile
) -> None:
    enable(machine)
    kernel.path.touch()
    assert kind(ask(client)) == "local"
    assert boots()[-1].reason == "image_damaged"
    StoredFile.objects.read_changed()
    assert kind(ask(client)) == "rescue"
    assert not AuditEntry.objects.filter(action="file_damaged").exists()


def test_a_small_file_that_was_touched_is_read_at_once(client: Client, machine: Machine, kernel: StoredFile) -> None:
    enable(machine)
    kernel.path.touch()
    assert kind(ask(client)) == "rescue"


def test_a_changed_file_is_read_once_however_often_machines_ask(
    client: Client, machine: Machine, kernel: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable(machine)
    damage(kernel)
    read: list[Path] = []
    real = integrity.read

    def noting(path: Path) -> tuple[str, str]:
        read.append(path)
        return real(path)

    monkeypatch.setattr(integrity, "read", noting)
    for _ in range(3):
        assert kind(ask(client)) == "local"
    assert read == [kernel.path]


def test_a_file_that_nobody_touched_is_not_read_for_an_answer(
    client: Client, machine: Machine, kernel: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable(machine)
    monkeypatch.setattr(integrity, "read", lambda *_: pytest.fail("it was read"))
    assert kind(ask(client)) == "rescue"


@pytest.mark.usefixtures("large")
def test_a_file_stored_before_anybody_looked_is_served_as_before(
    client: Client, machine: Machine, kernel: StoredFile
) -> None:
    enable(machine)
    StoredFile.objects.filter(pk=kernel.pk).update(looks="", read_at=None)
    assert kind(ask(client)) == "rescue"


def test_a_file_that_is_cut_short_is_lost_not_damaged(client: Client, machine: Machine, kernel: StoredFile) -> None:
    enable(machine)
    kernel.path.write_bytes(b"short")
    assert kind(ask(client)) == "local"
    assert boots()[-1].reason == "image_unavailable"


# The download


@pytest.mark.parametrize("prefix", ["", "/files"])
def test_a_file_that_is_damaged_after_the_decision_is_not_sent(
    client: Client, machine: Machine, kernel: StoredFile, settings: object, prefix: str
) -> None:
    settings.RESCUESITE_ACCEL_PREFIX = prefix  # type: ignore[attr-defined]
    rescue = enable(machine)
    assert kind(ask(client)) == "rescue"
    damage(kernel)
    for status in (fetch(client, rescue, "kernel").status_code, head(client, rescue, "kernel").status_code):
        assert status == 404
    assert not AuditEntry.objects.filter(action="file_sent").exists()


def test_a_file_that_is_cut_short_after_the_decision_is_not_sent(
    client: Client, machine: Machine, kernel: StoredFile
) -> None:
    rescue = enable(machine)
    ask(client)
    kernel.path.write_bytes(b"short")
    assert fetch(client, rescue, "kernel").status_code == 404


# Reading again


def test_a_file_is_due_a_day_after_it_was_read(kernel: StoredFile) -> None:
    StoredFile.objects.exclude(pk=kernel.pk).update(read_at=timezone.now() + timedelta(days=10))
    assert StoredFile.objects.due(timezone.now() + timedelta(hours=23)) is None
    assert StoredFile.objects.due(timezone.now() + timedelta(hours=25)) == kernel


def test_bytes_lost_in_silence_are_found_by_reading_again(client: Client, machine: Machine, kernel: StoredFile) -> None:
    enable(machine)
    rot(kernel)
    assert kind(ask(client)) == "rescue"
    now_known(kernel).read_again()
    assert kind(ask(client)) == "local"
    assert boots()[-1].reason == "image_damaged"


def test_reading_keeps_to_its_rate(kernel: StoredFile) -> None:
    waited: list[float] = []
    kernel.read_again(rate=10, wait=waited.append)
    assert sum(waited) == pytest.approx(len(CONTENTS) / 10)


def test_what_was_stored_while_it_was_read_is_not_called_damaged(
    kernel: StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(kernel)
    real = integrity.read

    def read_while_it_is_stored(path: Path) -> tuple[str, str]:
        found = real(path)
        StoredFile.objects.store([CONTENTS])
        return found

    monkeypatch.setattr(integrity, "read", read_while_it_is_stored)
    now_known(kernel).read_again()
    assert now_known(kernel).damaged_at is None
    assert not AuditEntry.objects.filter(action="file_damaged").exists()


def test_damage_is_written_down_once_for_the_image_and_for_each_machine_in_rescue(
    machine: Machine, kernel: StoredFile
) -> None:
    rescue = enable(machine)
    damage(kernel)
    for _ in range(2):
        now_known(kernel).read_again()
    entry = AuditEntry.objects.get(action="file_damaged")
    assert (entry.subject, entry.details["sha256"]) == ("frail: kernel", kernel.sha256)
    assert AuditEntry.objects.get(action="rescue_file_damaged").rescue_pk == rescue.pk
    assert machine_timeline(machine)[0].title == "A file of the rescue is damaged"


def test_others_are_told_once_whoever_finds_it(
    client: Client, machine: Machine, kernel: StoredFile, actor: Actor
) -> None:
    events = ["rescue.failed", "image.damaged"]
    NotificationRule(name="ops", kind="webhook", url="https://hooks.example.net/x", events=events).issue([], actor)
    enable(machine)
    damage(kernel)
    ask(client)
    now_known(kernel).read_again()
    with at(noon()):
        ask(client)
    told = Delivery.objects.order_by("pk").values_list("event", "payload__text")
    assert list(told) == [
        ("rescue.failed", "web01: the rescue has failed, a file of its image is damaged or lost"),
        ("image.damaged", "A stored file is damaged: frail: kernel"),
    ]


# Mended


def test_the_same_bytes_uploaded_again_are_booted_again(client: Client, machine: Machine, kernel: StoredFile) -> None:
    rescue = enable(machine)
    damage(kernel)
    now_known(kernel).read_again()
    assert kind(ask(client)) == "local"
    StoredFile.objects.store([CONTENTS])
    assert kind(ask(client)) == "rescue"
    assert body(fetch(client, rescue, "kernel")) == CONTENTS
    actions = set(AuditEntry.objects.values_list("action", flat=True))
    assert {"file_repaired", "rescue_file_repaired"} <= actions


def test_a_file_put_right_by_hand_is_booted_again(client: Client, machine: Machine, kernel: StoredFile) -> None:
    enable(machine)
    damage(kernel)
    now_known(kernel).read_again()
    damage(kernel, CONTENTS)
    assert kind(ask(client)) == "rescue"
    StoredFile.objects.read_changed()
    assert AuditEntry.objects.filter(action="file_repaired").count() == 1


# What staff see


def test_a_damaged_image_cannot_be_enabled(machine: Machine, kernel: StoredFile) -> None:
    damage(kernel)
    with pytest.raises(NoUsableImageError, match="kernel is damaged"):
        enable(machine)


@pytest.mark.usefixtures("large")
def test_enabling_reads_what_has_changed_first(client: Client, machine: Machine, kernel: StoredFile) -> None:
    kernel.path.touch()
    enable(machine)
    assert kind(ask(client)) == "rescue"


def test_the_pages_of_machine_and_image_and_the_front_page_tell(
    admin_client: Client, machine: Machine, kernel: StoredFile
) -> None:
    enable(machine)
    damage(kernel)
    now_known(kernel).read_again()
    image = RescueImage.objects.get()
    pages = {
        f"/admin/machines/machine/{machine.pk}/change/": "kernel is damaged; upload it again",
        f"/admin/machines/rescueimage/{image.pk}/change/": "kernel is damaged in the data directory. Upload it again",
        "/admin/machines/rescueimage/": "icon-no",
        "/admin/": "<b>1</b> damaged file",
    }
    for page, told in pages.items():
        assert told in admin_client.get(page).content.decode(), page


def test_damaged_bytes_are_not_read_out_for_a_chip(kernel: StoredFile) -> None:
    assert kernel.contents() == CONTENTS
    damage(kernel)
    with pytest.raises(DamagedFileError, match="damaged"):
        kernel.contents()


def test_the_workers_checker_reads_what_has_changed_when_it_starts(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    monkeypatch.setattr(StoredFile.objects, "read_changed", looked.set)
    checker = FileChecker()
    checker.start()
    try:
        assert looked.wait(30)
    finally:
        checker.stop()
        checker.join(30)
    assert not checker.is_alive()
