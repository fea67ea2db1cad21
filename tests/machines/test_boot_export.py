"""Boot scripts as files for another server: what they say, and what becomes of a folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from machines.boot import script
from machines.boot_export import folder as export_folder
from machines.boot_export.folder import ExportFolderError, is_ours, marked, publish
from machines.boot_export.scripts import BootExport, boot_export
from machines.models import Actor, AuditEntry, Machine, RescueImage
from tests.conftest import MAC
from tests.machines.support import LOCAL_LINE, enable, kind

pytestmark = pytest.mark.usefixtures("image")

SITE = "http://192.0.2.10:8000"
OF_MACHINE = "MAC-0002b39d948c.ipxe"
STRAY = "MAC-525400000001.ipxe"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tftp"


def exported(folder: Path, *, with_files: bool = False) -> Any:
    return publish(boot_export(SITE, with_files=with_files), folder)


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def words(text: str) -> list[str]:
    return text.split()


# What the scripts say


def test_a_machine_without_rescue_is_told_to_boot_its_disk(machine: Machine) -> None:
    scripts = boot_export(SITE).scripts
    assert set(scripts) == {OF_MACHINE, "default.ipxe"}
    for text in scripts.values():
        assert text.startswith("#!ipxe\n")
        assert kind(text) == "local"
        assert LOCAL_LINE in text


def test_every_address_of_a_machine_has_a_script(machine: Machine) -> None:
    machine.add_mac("52:54:00:00:00:01")
    enable(machine)
    scripts = boot_export(SITE).scripts
    assert f"{SITE}/boot?mac=52:54:00:00:00:01&ip=${{netX/ip}}" in scripts[STRAY]
    assert f"{SITE}/boot?mac={MAC}&ip=${{netX/ip}}" in scripts[OF_MACHINE]


def test_a_machine_in_rescue_is_sent_on_without_a_secret(machine: Machine) -> None:
    rescue = enable(machine)
    export = boot_export(SITE)
    text = export.scripts[OF_MACHINE]
    assert text.count(f"chain --autofree --timeout 8000 {SITE}/boot?mac={MAC}&") == 3
    assert str(rescue.token) not in text
    assert export.in_rescue == [machine.name]
    assert not export.files


def test_a_script_that_sends_on_has_an_answer_for_whoever_chained_it(machine: Machine) -> None:
    enable(machine)
    lines = boot_export(SITE).scripts[OF_MACHINE].splitlines()
    assert lines[1] == "clear rescuesite ||"
    given_up = lines.index("set rescuesite local")
    assert given_up > max(n for n, line in enumerate(lines) if line.startswith("chain"))
    assert lines[-3:] == [":local", "iseq ${platform} efi && exit 1 ||", "exit 0"]


def test_a_rescue_that_is_over_leaves_no_trace(machine: Machine, actor: Actor) -> None:
    enable(machine).disable(actor)
    assert kind(boot_export(SITE).scripts[OF_MACHINE]) == "local"
    enable(machine, lifetime="until", expires_at=timezone.now() + timedelta(hours=1))
    assert kind(boot_export(SITE, now=timezone.now() + timedelta(hours=2)).scripts[OF_MACHINE]) == "local"


def test_the_number_of_queries_does_not_grow_with_the_machines(add_machine: Callable[[int], Machine]) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            boot_export(SITE)
        return len(captured)

    enable(add_machine(1))
    few = queries()
    for number in range(2, 12):
        enable(add_machine(number))
    assert queries() == few


# Files instead of the site


def test_with_files_a_script_boots_copies_in_order(machine: Machine) -> None:
    rescue = enable(machine)
    export = boot_export(SITE, with_files=True)
    lines = export.scripts[OF_MACHINE].splitlines()
    first = [line.split(" && ")[0] for line in lines if line.startswith(("kernel", "initrd"))][::3]
    stored = {file.name: file.stored.sha256 for file in rescue.files.all()}
    archive = next(name for name in export.files if name.endswith(".cpio"))
    assert first == [
        f"kernel --name kernel --timeout 10000 rescuesite-files/{stored['kernel']}",
        f"initrd --name initrd --timeout 10000 rescuesite-files/{stored['initrd']}",
        f"initrd --name rescue.cpio --timeout 10000 {archive}",
    ]
    assert set(export.files) == {f"rescuesite-files/{sha256}" for sha256 in stored.values()} | {archive}
    # There is nobody who could be told.
    assert not any(word.endswith(f"/{script.READY}") for line in lines for word in words(line))
    assert str(rescue.token) not in export.scripts[OF_MACHINE] + "".join(export.files)


def test_with_files_what_is_lost_is_said(machine: Machine) -> None:
    rescue = enable(machine, password=True)
    export = boot_export(SITE, with_files=True)
    assert len(export.warnings) == 2
    assert "The limit of one boot does not work" in export.warnings[0]
    assert "The password is not delivered" in export.warnings[1]
    archive = next(content for content in export.files.values() if isinstance(content, bytes))
    assert b"etc/rescuesite/reason" in archive
    assert b"report_url" not in archive
    assert b"password_hash" not in archive
    assert str(rescue.token).encode() not in archive


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chain_script": "#!ipxe\nshell\n", "command_line": ""}, "chains a script"),
        ({"command_line": "rescuesite={url}"}, "fetches files from the site"),
    ],
)
def test_what_needs_the_site_is_sent_on_though_files_were_asked_for(
    machine: Machine, image: RescueImage, change: dict[str, str], said: str
) -> None:
    RescueImage.objects.filter(pk=image.pk).update(**change)
    enable(machine)
    export = boot_export(SITE, with_files=True)
    assert f"{SITE}/boot?mac={MAC}" in export.scripts[OF_MACHINE]
    assert said in export.warnings[0]


def test_a_rescue_whose_file_is_lost_boots_the_disk(machine: Machine) -> None:
    rescue = enable(machine)
    rescue.files.first().stored.path.unlink()  # type: ignore[union-attr]
    export = boot_export(SITE, with_files=True)
    assert kind(export.scripts[OF_MACHINE]) == "local"
    assert "missing" in export.warnings[0]


# The folder


def test_a_folder_holds_each_script_and_is_left_alone_the_second_time(machine: Machine, folder: Path) -> None:
    assert sorted(exported(folder).written) == [OF_MACHINE, "default.ipxe"]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = exported(folder)
    assert (again.written, again.removed, again.unchanged) == ([], [], 2)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_script_is_readable_for_the_server_and_is_what_was_meant(machine: Machine, folder: Path) -> None:
    before = os.umask(0o077)
    try:
        exported(folder)
    finally:
        os.umask(before)
    path = folder / OF_MACHINE
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o644, 0o755)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!ipxe"
    assert lines[1].startswith("# rescuesite export_boot ")
    assert "\n".join([lines[0], *lines[2:], ""]) == boot_export(SITE).scripts[OF_MACHINE]


def test_a_machine_that_is_gone_loses_its_script(machine: Machine, actor: Actor, folder: Path) -> None:
    exported(folder)
    machine.delete_audited(actor)
    assert exported(folder).removed == [OF_MACHINE]
    assert listed(folder) == {"default.ipxe"}


def test_files_of_a_rescue_that_is_over_are_removed(machine: Machine, actor: Actor, folder: Path) -> None:
    rescue = enable(machine)
    exported(folder, with_files=True)
    assert len(listed(folder)) == 5
    for name, content in boot_export(SITE, with_files=True).files.items():
        wanted = content if isinstance(content, bytes) else content.path.read_bytes()
        assert (folder / name).read_bytes() == wanted
    rescue.disable(actor)
    exported(folder, with_files=True)
    assert listed(folder) == {OF_MACHINE, "default.ipxe"}
    assert not (folder / "rescuesite-files").exists()


def test_a_copy_that_somebody_wrote_to_is_made_anew(machine: Machine, folder: Path) -> None:
    enable(machine)
    exported(folder, with_files=True)
    assert not exported(folder, with_files=True).written
    (kernel,) = [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == b"kernel bytes"]
    kernel.write_bytes(b"KERNEL BYTES")
    assert exported(folder, with_files=True).written == [str(kernel.relative_to(folder))]
    assert kernel.read_bytes() == b"kernel bytes"


@pytest.mark.parametrize("theirs", ["#!ipxe\nshell\n", "", marked("#!ipxe\nexit 0\n") + "echo added by hand\n"])
def test_what_somebody_else_wrote_or_edited_stays(machine: Machine, folder: Path, theirs: str) -> None:
    folder.mkdir()
    (folder / OF_MACHINE).write_text(theirs)
    (folder / STRAY).write_text(theirs)
    changes = exported(folder)
    assert changes.foreign == [OF_MACHINE]
    assert (folder / OF_MACHINE).read_text() == (folder / STRAY).read_text() == theirs


def test_nothing_that_has_no_name_of_ours_is_touched(machine: Machine, folder: Path) -> None:
    (folder / "rescuesite-files").mkdir(parents=True)
    others = ["pxelinux.0", "MAC-0002b39d948c.ipxe.bak", "rescuesite-files/README", "mac-525400000001.ipxe"]
    for name in others:
        (folder / name).write_text(marked("#!ipxe\nexit 0\n"))
    exported(folder)
    assert listed(folder) == {*others, OF_MACHINE, "default.ipxe"}


def test_a_link_is_not_followed(machine: Machine, folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(marked("#!ipxe\nexit 0\n"))
    (folder / OF_MACHINE).symlink_to(elsewhere)
    (folder / "default.ipxe").symlink_to(tmp_path / "nowhere")
    assert sorted(exported(folder).foreign) == [OF_MACHINE, "default.ipxe"]
    assert is_ours(elsewhere)
    assert not (tmp_path / "nowhere").exists()


def test_what_a_run_that_was_killed_left_is_removed(machine: Machine, folder: Path) -> None:
    folder.mkdir()
    (folder / f".rescuesite-draft-{OF_MACHINE}").write_text("#!ip")
    exported(folder)
    assert listed(folder) == {OF_MACHINE, "default.ipxe"}


def test_a_script_is_replaced_as_a_whole(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(folder)
    before = (folder / OF_MACHINE).read_bytes()
    enable(machine)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", str(folder / OF_MACHINE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ExportFolderError, match=r"No space left on device.*Export again"):
            exported(folder)
    assert (folder / OF_MACHINE).read_bytes() == before
    assert listed(folder) == {OF_MACHINE, "default.ipxe"}


def test_two_runs_do_not_write_at_once(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(_: Path) -> None:
        with pytest.raises(ExportFolderError, match="Another export"):
            publish(BootExport(), folder)
        inside.append(folder)

    inside: list[Path] = []
    with monkeypatch.context() as patched:
        patched.setattr(export_folder, "_discard_drafts", second)
        publish(BootExport(), folder)
    assert inside == [folder]


def test_who_can_open_the_folder_cannot_hold_exports_up(machine: Machine, folder: Path) -> None:
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        publish(BootExport(), folder)
    finally:
        os.close(descriptor)


# The command


def run(*arguments: Any, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    capsys.readouterr()
    call_command("export_boot", *map(str, arguments))
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_the_command_says_what_it_did_and_the_log_tells(
    machine: Machine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enable(machine)
    out, err = run(folder, capsys=capsys)
    assert out == f"2 written, 0 removed, 0 unchanged; in rescue: {machine.name}.\n"
    assert "Set RESCUESITE_BASE_URL" in err
    entry = AuditEntry.objects.get(action="boot_exported")
    assert entry.details["in_rescue"] == [machine.name]
    run(folder, capsys=capsys)
    assert AuditEntry.objects.filter(action="boot_exported").count() == 1


def test_the_command_speaks_json(machine: Machine, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(folder, "--json", capsys=capsys)
    assert json.loads(out) == {
        "written": [OF_MACHINE, "default.ipxe"],
        "removed": [],
        "unchanged": 0,
        "foreign": [],
        "in_rescue": [],
        "warnings": [],
    }


def test_the_command_fails_where_a_file_is_in_the_way(
    machine: Machine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    (folder / OF_MACHINE).write_text("mine")
    with pytest.raises(CommandError, match="1 existing files"):
        run(folder, capsys=capsys)
    assert f"{folder / OF_MACHINE} was not written by export_boot" in capsys.readouterr().err
    assert (folder / "default.ipxe").exists()


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match=r"file/tftp: Not a directory"):
        call_command("export_boot", str(tmp_path / "file" / "tftp"))
