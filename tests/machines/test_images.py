"""Images and the files they are made of."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction

from machines.models import Actor, ImageFile, Machine, Rescue, RescueImage, StoredFile
from machines.models.image import MAX_COMMAND_LINE
from tests.machines.support import at, enable, noon


@pytest.fixture
def data(settings: LazySettings, tmp_path: Path, db: None) -> Path:
    """An empty data directory."""
    for name in ("files", "tmp"):
        (tmp_path / name).mkdir()
    settings.RESCUESITE_DATA_DIR = tmp_path
    return tmp_path


def kept(data: Path) -> set[str]:
    """The names of the files that are kept."""
    return {path.name for path in (data / "files").rglob("*") if path.is_file()}


def names(image: RescueImage) -> list[str]:
    return [file.name for file in image.files.all()]


# The store


def test_bytes_are_kept_under_their_sha256_and_measured(data: Path) -> None:
    stored = StoredFile.objects.store([b"kernel ", b"", b"bytes"])
    assert (stored.sha256, stored.size) == (hashlib.sha256(b"kernel bytes").hexdigest(), 12)
    assert stored.path.read_bytes() == b"kernel bytes"
    assert stored.path == data / "files" / stored.relative_path


def test_the_same_bytes_are_kept_once(data: Path) -> None:
    first = StoredFile.objects.store([b"kernel bytes"])
    second = StoredFile.objects.store([b"kernel", b" bytes"])
    assert first == second
    assert kept(data) == {first.sha256}


def test_no_bytes_at_all_are_a_file_too(data: Path) -> None:
    assert StoredFile.objects.store([]).size == 0


def test_no_draft_remains(data: Path) -> None:
    StoredFile.objects.store([b"kernel bytes"])
    assert list((data / "tmp").iterdir()) == []


def test_what_fails_half_way_leaves_nothing(data: Path) -> None:
    def chunks() -> Any:
        yield b"half"
        raise OSError("the upload broke off")

    with pytest.raises(OSError, match="broke off"):
        StoredFile.objects.store(chunks())
    assert list((data / "tmp").iterdir()) == []
    assert kept(data) == set()
    assert not StoredFile.objects.exists()


def test_bytes_stored_again_repair_a_file_that_was_lost(data: Path) -> None:
    stored = StoredFile.objects.store([b"kernel bytes"])
    stored.path.unlink()
    assert not stored.is_intact()
    StoredFile.objects.store([b"kernel bytes"])
    assert stored.is_intact()


def test_the_group_may_read_what_is_kept_and_others_may_not(data: Path) -> None:
    stored = StoredFile.objects.store([b"kernel bytes"])
    assert stored.path.stat().st_mode & 0o777 == 0o640
    assert stored.path.parent.stat().st_mode & 0o777 == 0o750


def test_a_file_that_was_cut_short_is_not_intact(data: Path) -> None:
    stored = StoredFile.objects.store([b"kernel bytes"])
    stored.path.write_bytes(b"short")
    assert not stored.is_intact()


def test_unused_files_are_discarded(data: Path) -> None:
    with at(noon()):
        stored = StoredFile.objects.store([b"unused"])
    assert StoredFile.objects.discard_unused() == 1
    assert not stored.path.exists()
    assert not StoredFile.objects.exists()


def test_young_unused_files_are_spared(data: Path) -> None:
    stored = StoredFile.objects.store([b"unused"])
    assert StoredFile.objects.discard_unused() == 0
    assert stored.path.exists()
    assert StoredFile.objects.discard_unused(older_than=timedelta(seconds=-1)) == 1


def test_an_unused_file_that_is_stored_again_is_young_again(data: Path) -> None:
    with at(noon()):
        StoredFile.objects.store([b"unused"])
    StoredFile.objects.store([b"unused"])
    assert StoredFile.objects.discard_unused() == 0


def test_files_of_an_image_are_spared(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    with at(noon()):
        image.attach("kernel", [b"kernel bytes"])
    assert StoredFile.objects.discard_unused() == 0


def test_files_of_a_rescue_are_spared_though_its_image_is_gone(data: Path, machine: Machine) -> None:
    image = RescueImage.objects.create(name="tiny", is_default=True)
    with at(noon()):
        stored = image.attach("kernel", [b"kernel bytes"]).stored
    enable(machine)
    image.delete()
    assert StoredFile.objects.discard_unused() == 0
    assert stored.is_intact()


def test_files_of_a_rescue_that_ended_are_discarded(data: Path, machine: Machine) -> None:
    image = RescueImage.objects.create(name="tiny", is_default=True)
    with at(noon()):
        image.attach("kernel", [b"kernel bytes"])
    enable(machine)
    image.delete()
    Rescue.objects.get().disable(Actor("tester"))
    assert StoredFile.objects.discard_unused() == 1
    assert kept(data) == set()


def test_a_used_file_cannot_be_deleted(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    stored = image.attach("kernel", [b"kernel bytes"]).stored
    with pytest.raises(models.ProtectedError), transaction.atomic():
        stored.delete()


# The files of an image


def test_files_are_named_by_what_they_are(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    image.attach("initrd", [b"1"])
    image.attach("kernel", [b"k"], "vmlinuz-6.1")
    image.attach("initrd", [b"2"], "initrd.img")
    image.attach("initrd", [b"3"])
    image.attach("file", [b"f"], "root.squashfs")
    assert names(image) == ["initrd", "kernel", "initrd-2", "initrd-3", "root.squashfs"]


def test_a_kernel_replaces_the_earlier_one(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    image.attach("kernel", [b"old"])
    image.attach("kernel", [b"new"])
    assert [file.stored.path.read_bytes() for file in image.files.all()] == [b"new"]


def test_a_further_file_replaces_the_earlier_one_of_its_name(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    image.attach("file", [b"old"], "a")
    image.attach("file", [b"other"], "b")
    image.attach("file", [b"new"], "a")
    assert {file.name: file.stored.path.read_bytes() for file in image.files.all()} == {"a": b"new", "b": b"other"}


def test_an_initrd_takes_a_name_that_has_become_free(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    for content in (b"1", b"2", b"3"):
        image.attach("initrd", [content])
    image.files.filter(name="initrd-2").delete()
    assert image.attach("initrd", [b"4"]).name == "initrd-2"


def test_an_initrd_comes_after_those_that_there_are(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    for content in (b"1", b"2", b"3", b"4"):
        image.attach("initrd", [content])
    image.files.filter(name__in=["initrd", "initrd-2"]).delete()
    image.attach("initrd", [b"5"])
    assert names(image) == ["initrd-3", "initrd-4", "initrd"]


PLAIN = ["a", "root.squashfs", "A-1_b.c", "9", "x" * 100, "initrd.img", "kernel-6.1", "initrd-x", "a/b", "live/up"]
NOT_PLAIN = [
    "",
    ".",
    "..",
    ".x",
    "-x",
    "_x",
    "a/",
    "/a",
    "a//b",
    "a/../b",
    "../a",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "a;b",
    "${x}",
    "#a",
    "x" * 101,
]
OWN = ["kernel", "ready", "up", "rescue.cpio", "script.ipxe", "authorized_keys", "initrd", "initrd-2", "initrd-77"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_further_file_may_have_a_plain_name(data: Path, name: str) -> None:
    image = RescueImage.objects.create(name="tiny")
    assert image.attach("file", [b"x"], name).name == name


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_a_further_file_may_not_have_any_other_name(data: Path, name: str) -> None:
    image = RescueImage.objects.create(name="tiny")
    with pytest.raises(ValidationError, match="is not a valid file name"):
        image.attach("file", [b"x"], name)
    assert kept(data) == set()


@pytest.mark.parametrize("name", OWN)
def test_a_further_file_may_not_have_a_name_that_the_site_uses(data: Path, name: str) -> None:
    image = RescueImage.objects.create(name="tiny")
    with pytest.raises(ValidationError, match="The site uses the name"):
        image.attach("file", [b"x"], name)


def test_each_file_of_an_image_has_its_own_name_in_the_database(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    file = image.attach("kernel", [b"x"])
    with pytest.raises(IntegrityError), transaction.atomic():
        ImageFile.objects.bulk_create([ImageFile(image=image, name="kernel", kind="kernel", stored=file.stored)])


# The image itself


def problems(**fields: Any) -> dict[str, list[str]]:
    try:
        RescueImage(**{"name": "tiny", **fields}).full_clean()
    except ValidationError as error:
        return error.message_dict
    return {}


@pytest.mark.parametrize("name", ["tiny", "Debian-12.5_x", "0"])
def test_an_image_may_have_a_plain_name(db: None, name: str) -> None:
    assert problems(name=name) == {}


@pytest.mark.parametrize("name", ["", ".x", "-x", "a b", "a/b", "a\n", "ä", "x" * 64])
def test_an_image_may_not_have_any_other_name(db: None, name: str) -> None:
    assert list(problems(name=name)) == ["name"]


@pytest.mark.parametrize("command_line", ["", "console=ttyS0,115200n8 quiet", "x" * MAX_COMMAND_LINE])
def test_a_plain_command_line_is_taken(db: None, command_line: str) -> None:
    assert problems(command_line=command_line) == {}


@pytest.mark.parametrize(
    "command_line",
    [
        "a\nb",
        "a\tb",
        "${ip}",
        "a || shell",
        "a && b",
        "a ; b",
        "a\\",
        "initrd=main",
        "# a",
        "a #b",
        "\0",
        "x" * (MAX_COMMAND_LINE + 1),
    ],
)
def test_a_command_line_that_no_script_may_hold_is_refused_at_its_field(db: None, command_line: str) -> None:
    assert list(problems(command_line=command_line)) == ["command_line"]


@pytest.mark.parametrize("script", ["", "#!ipxe\nboot\n", "#!ipxe\r\nboot\r\n", "#!ipxe"])
def test_a_script_that_begins_as_one_is_taken(db: None, script: str) -> None:
    assert problems(chain_script=script) == {}


@pytest.mark.parametrize(
    "script",
    ["boot", " #!ipxe\nboot", "\n#!ipxe\nboot", "#!/bin/sh\n", "#!ipxefoo\nboot", "\ufeff#!ipxe\nboot", "   ", "\n"],
)
def test_a_script_that_does_not_begin_as_one_is_refused_at_its_field(db: None, script: str) -> None:
    assert list(problems(chain_script=script)) == ["chain_script"]


def test_the_line_ends_of_a_script_become_those_that_ipxe_reads(db: None) -> None:
    image = RescueImage(name="tiny", chain_script="#!ipxe\r\nboot\r\n")
    image.full_clean()
    assert image.chain_script == "#!ipxe\nboot\n"


@pytest.mark.parametrize(
    ("command_line", "way_out"),
    [("a && b", "write it without a space on either side"), ("quiet initrd=main", "Remove “initrd=main”")],
)
def test_a_refused_command_line_says_the_way_out(db: None, command_line: str, way_out: str) -> None:
    assert way_out in problems(command_line=command_line)["command_line"][0]


def test_an_image_that_chains_has_no_command_line(db: None) -> None:
    assert "cannot have a kernel command line" in str(problems(chain_script="#!ipxe\n", command_line="quiet"))


def test_an_unknown_architecture_is_refused(db: None) -> None:
    assert list(problems(architecture="sparc")) == ["architecture"]


def test_making_one_the_default_makes_no_other_the_default(db: None) -> None:
    first, second = (RescueImage.objects.create(name=name) for name in ("a", "b"))
    for image in (first, second, second):
        image.make_default(Actor("tester"))
    assert RescueImage.objects.default() == second
    assert RescueImage.objects.filter(is_default=True).count() == 1


def test_without_a_default_there_is_none(db: None) -> None:
    RescueImage.objects.create(name="a")
    assert RescueImage.objects.default() is None


def test_an_image_with_its_kernel_has_no_problem(image: RescueImage) -> None:
    assert image.problem() is None


def test_an_image_that_chains_needs_no_kernel(db: None) -> None:
    assert RescueImage.objects.create(name="c", chain_script="#!ipxe\n").problem() is None


def test_an_image_that_lost_files_names_them(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny")
    for kind in ("kernel", "initrd"):
        image.attach(kind, [kind.encode()]).stored.path.unlink()
    assert "kernel, initrd is missing" in str(image.problem())


def test_the_folder_of_an_images_build_is_left_alone_however_old_it_looks(data: Path) -> None:
    folder, draft = data / "tmp" / "rescue-image-x", data / "tmp" / "draft"
    folder.mkdir(parents=True)
    draft.write_bytes(b"of an upload that died")
    for path in (folder, draft):
        os.utime(path, (0, 0))
    StoredFile.objects.discard_unused()
    assert folder.exists()
    assert not draft.exists()


# Files that the booted system fetches itself


@pytest.mark.parametrize(
    "command_line",
    [
        "fetch={url}/live/root.squashfs",
        "archiso_http_srv={url}/",
        "ar_source={url}",
        "keys={url}/authorized_keys",
        "base={url}/live/",
        "half={url}/live/root",
    ],
)
def test_a_command_line_may_name_what_the_image_has(data: Path, command_line: str) -> None:
    image = RescueImage.objects.create(name="tiny", command_line=command_line)
    image.attach("kernel", [b"1"])
    image.attach("file", [b"2"], "live/root.squashfs")
    assert image.problem() is None


def test_an_image_whose_command_line_names_a_file_that_it_lacks_cannot_be_booted(data: Path) -> None:
    image = RescueImage.objects.create(name="tiny", command_line="fetch={url}/root.squashfs")
    image.attach("kernel", [b"1"])
    assert "has no file “root.squashfs”" in (image.problem() or "")


def test_a_command_line_leaves_room_for_what_the_placeholders_become(db: None) -> None:
    placeholder = "a={url}/x "
    assert problems(command_line=placeholder + "y" * (MAX_COMMAND_LINE - 200)) == {}
    too_long = problems(command_line=placeholder * 3 + "y" * (MAX_COMMAND_LINE - 200))
    assert "may become too long" in too_long["command_line"][0]
