"""manage.py image: adding, listing and showing rescue images at a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError

from machines.models import AuditEntry, RescueImage
from tests.machines.commands import ada, manage, manage_json

__all__ = ["ada"]


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    for name in ("vmlinuz", "one.img", "two.img", "root.squashfs"):
        (tmp_path / name).write_bytes(f"{name} bytes".encode())
    (tmp_path / "chain.ipxe").write_text("#!ipxe\nboot\n")
    return tmp_path


def test_image_add_adds_an_image_of_files(db: None, uploads: Path) -> None:
    shown = manage_json(
        *("image", "add", "debian", "--kernel", uploads / "vmlinuz", "--initrd", uploads / "one.img"),
        *("--initrd", uploads / "two.img", "--file", uploads / "root.squashfs"),
        *("--command-line", "quiet", "--architecture", "arm64", "--reports", "--default", "--description", "Mine"),
    )
    assert {name: value for name, value in shown.items() if name != "files"} == {
        "name": "debian",
        "description": "Mine",
        "architecture": "arm64",
        "command_line": "quiet",
        "chain_script": "",
        "reports": True,
        "default": True,
    }
    assert [(file["kind"], file["name"], file["size"]) for file in shown["files"]] == [
        ("kernel", "kernel", 13),
        ("initrd", "initrd", 13),
        ("initrd", "initrd-2", 13),
        ("file", "root.squashfs", 19),
    ]
    assert RescueImage.objects.default() == RescueImage.objects.get(name="debian")


def test_image_add_serves_a_file_by_the_name_that_is_said(db: None, uploads: Path) -> None:
    named = f"live/filesystem.squashfs={uploads / 'root.squashfs'}"
    shown = manage_json("image", "add", "debian", "--kernel", uploads / "vmlinuz", "--file", named)
    assert [file["name"] for file in shown["files"]] == ["kernel", "live/filesystem.squashfs"]


def test_image_add_leaves_an_entry(ada: User, uploads: Path) -> None:
    manage("image", "add", "debian", "--kernel", uploads / "vmlinuz", "--by", "ada")
    entry = AuditEntry.objects.get(action="rescueimage_added")
    assert (entry.actor, entry.subject) == ("ada", "debian")


def test_image_add_adds_an_image_that_chains(db: None, uploads: Path) -> None:
    shown = manage_json("image", "add", "chain", "--chain-script", uploads / "chain.ipxe")
    assert (shown["chain_script"], shown["files"]) == ("#!ipxe\nboot\n", [])


def test_image_add_as_default_takes_the_place_of_the_earlier(image: RescueImage, uploads: Path) -> None:
    manage("image", "add", "debian", "--kernel", uploads / "vmlinuz", "--default")
    assert [one.name for one in RescueImage.objects.filter(is_default=True)] == ["debian"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["debian"], "has no kernel"),
        (["debian", "--kernel", "none"], "Cannot read"),
        (["debian", "--kernel", "."], "Cannot read"),
        (["debian", "--kernel", "vmlinuz", "--file", "one img"], "is not a valid file name"),
        (["debian", "--kernel", "vmlinuz", "--file", "../a=one.img"], "is not a valid file name"),
        (["debian", "--kernel", "vmlinuz", "--command-line", "a={url}/b"], "has no file “b”"),
        (["debian", "--kernel", "vmlinuz", "--command-line", "a || b"], "command_line: The command line holds"),
        (["a b", "--kernel", "vmlinuz"], "name: Use letters"),
        (["tiny", "--kernel", "vmlinuz"], "already exists"),
        (["debian", "--chain-script", "vmlinuz"], "chain_script: The first line of an iPXE script"),
        (["debian", "--chain-script", "chain.ipxe", "--command-line", "a"], "cannot have a kernel command line"),
        (["debian", "--kernel", "vmlinuz", "--architecture", "sparc"], "invalid choice"),
        (["debian", "--kernel", "vmlinuz", "--by", "nobody"], "There is no user “nobody”"),
    ],
)
def test_image_add_says_what_is_wrong_and_adds_nothing(
    image: RescueImage, uploads: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(uploads)
    with pytest.raises(CommandError) as refused:
        manage("image", "add", *arguments)
    assert said in str(refused.value)
    assert [one.name for one in RescueImage.objects.all()] == ["tiny"]
    assert not AuditEntry.objects.exists()


def test_image_list_shows_each_image(image: RescueImage, uploads: Path) -> None:
    manage("image", "add", "debian", "--kernel", uploads / "vmlinuz")
    lines = [line.split() for line in manage("image", "list").splitlines()]
    assert lines[1:] == [["debian", "x86_64", "kernel"], ["tiny", "x86_64", "default", "kernel,", "initrd"]]


def test_image_list_as_json_is_a_list_of_what_show_shows(image: RescueImage) -> None:
    assert manage_json("image", "list") == [manage_json("image", "show", "tiny")]


def test_image_show_has_sizes_and_sums(image: RescueImage) -> None:
    shown = manage("image", "show", "tiny")
    stored_file = image.files.get(name="kernel").stored
    assert ["kernel", "12", stored_file.sha256] in [line.split() for line in shown.splitlines()]


def test_image_show_of_none_says_where_to_look(db: None) -> None:
    with pytest.raises(CommandError, match=r"no image “debian”.*image list"):
        manage("image", "show", "debian")
