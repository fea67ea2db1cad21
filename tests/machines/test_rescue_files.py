"""The files of a rescue: whole and in part, for whom they are meant, and for nobody else."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from machines.boot.sending import _CHUNK
from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, audit
from machines.models.rescue_terms import RescueRequest
from tests.conftest import MAC
from tests.machines.support import (
    HOST_KEY,
    OTHER_KEY,
    ask,
    at,
    body,
    boot_to_ready,
    enable,
    everything,
    fetch,
    head,
    noon,
    stored,
)

KERNEL = b"kernel bytes"


@pytest.fixture
def rescue(client: Client, machine: Machine, image: RescueImage) -> Rescue:
    """One whose script has been served."""
    rescue = enable(machine)
    ask(client)
    return rescue


@pytest.fixture
def served_without_networks(client: Client, actor: Actor, image: RescueImage) -> Rescue:
    """One of a machine that lists no network, whose script went to 192.0.2.9."""
    machine = Machine.objects.add("open", macs=[MAC], allowed_networks=[], actor=actor)
    rescue = enable(machine)
    ask(client, f"mac={MAC}&ip=192.0.2.9", source="192.0.2.9")
    return rescue


# Whole files


@pytest.mark.parametrize(("name", "content"), [("kernel", KERNEL), ("initrd", b"initrd bytes")])
def test_a_file_is_sent_whole(client: Client, rescue: Rescue, name: str, content: bytes) -> None:
    response = fetch(client, rescue, name)
    assert (response.status_code, body(response)) == (200, content)
    assert response.headers["Content-Length"] == str(len(content))
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Cache-Control"] == "no-store"


def test_a_further_initrd_and_a_further_file_have_their_own_names(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    image.attach("initrd", [b"second"])
    image.attach("file", [b"root file system"], "root.squashfs")
    rescue = enable(machine)
    ask(client)
    assert body(fetch(client, rescue, "initrd-2")) == b"second"
    assert body(fetch(client, rescue, "root.squashfs")) == b"root file system"


def test_the_etag_is_that_of_the_contents(client: Client, rescue: Rescue) -> None:
    response = fetch(client, rescue, "kernel")
    body(response)
    assert response.headers["ETag"] == f'"{rescue.files.get(name="kernel").stored.sha256}"'


def test_a_file_is_streamed_in_pieces(client: Client, machine: Machine, image: RescueImage) -> None:
    content = bytes(range(256)) * 4 * 1024 * 3
    image.attach("initrd", [content])
    rescue = enable(machine)
    ask(client)
    response = fetch(client, rescue, "initrd-2")
    assert response.streaming
    pieces = list(response)
    assert len(pieces) > 1
    assert b"".join(pieces) == content


def test_a_file_of_no_bytes_is_sent(client: Client, machine: Machine, image: RescueImage) -> None:
    image.attach("file", [], "empty")
    rescue = enable(machine)
    ask(client)
    response = fetch(client, rescue, "empty")
    assert (response.headers["Content-Length"], body(response)) == ("0", b"")


def test_sending_a_file_leaves_an_entry(client: Client, machine: Machine, rescue: Rescue) -> None:
    with at(noon()):
        body(fetch(client, rescue, "kernel"))
        body(fetch(client, rescue, "kernel"))
    entry = AuditEntry.objects.get(action="file_sent")
    assert (entry.machine, entry.rescue_pk, entry.subject, entry.source) == (
        "web01",
        rescue.pk,
        "kernel",
        "127.0.0.1",
    )
    assert entry.count == 2


def test_ready_is_a_short_text(client: Client, rescue: Rescue) -> None:
    response = fetch(client, rescue, "ready")
    assert response.headers["Content-Length"] == str(len(body(response)))
    assert len(body(response)) > 0


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options"])
def test_other_methods_are_refused(client: Client, rescue: Rescue, method: str) -> None:
    before = everything()
    response = getattr(client, method)(f"/boot/{rescue.token}/ready")
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")
    assert everything() == before


@pytest.mark.parametrize("host", ["192.0.2.1", "evil.example", "a b"])
def test_any_host_header_gets_a_file(client: Client, rescue: Rescue, host: str) -> None:
    assert body(fetch(client, rescue, "kernel", HTTP_HOST=host)) == KERNEL


def test_no_redirect_where_staff_must_use_https(client: Client, rescue: Rescue, settings: LazySettings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert body(fetch(client, rescue, "kernel")) == KERNEL


# Parts of files


@pytest.mark.parametrize(
    ("asked", "part", "range_sent"),
    [
        ("bytes=0-", KERNEL, "bytes 0-11/12"),
        ("bytes=0-3", KERNEL[:4], "bytes 0-3/12"),
        ("bytes=7-", KERNEL[7:], "bytes 7-11/12"),
        ("bytes=7-7", KERNEL[7:8], "bytes 7-7/12"),
        ("bytes=7-999", KERNEL[7:], "bytes 7-11/12"),
        ("bytes=-5", KERNEL[-5:], "bytes 7-11/12"),
        ("bytes=-999", KERNEL, "bytes 0-11/12"),
        (" bytes=0-3 ", KERNEL[:4], "bytes 0-3/12"),
    ],
)
def test_a_part_is_sent(client: Client, rescue: Rescue, asked: str, part: bytes, range_sent: str) -> None:
    response = fetch(client, rescue, "kernel", HTTP_RANGE=asked)
    assert (response.status_code, body(response)) == (206, part)
    assert response.headers["Content-Range"] == range_sent
    assert response.headers["Content-Length"] == str(len(part))


@pytest.mark.parametrize("asked", ["bytes=12-", "bytes=99-100", "bytes=-0", "bytes=9999999999999999999-"])
def test_a_part_outside_the_file_is_refused(client: Client, rescue: Rescue, asked: str) -> None:
    response = fetch(client, rescue, "kernel", HTTP_RANGE=asked)
    assert (response.status_code, response.headers["Content-Range"]) == (416, "bytes */12")
    assert response.headers.get("Content-Length", "0") == "0"


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "bytes=-",
        "bytes=5-3",
        "bytes=0-1,3-4",
        "bytes=a-b",
        "lines=0-1",
        "bytes=٠-٣",
        "bytes=" + "9" * 99 + "-",
        "x",
    ],
)
def test_a_header_that_names_no_single_range_is_ignored(client: Client, rescue: Rescue, asked: str) -> None:
    response = fetch(client, rescue, "kernel", HTTP_RANGE=asked)
    assert (response.status_code, body(response)) == (200, KERNEL)


def test_a_long_part_is_sent_in_pieces(client: Client, machine: Machine, image: RescueImage) -> None:
    content = bytes(range(251)) * 4000
    image.attach("initrd", [content])
    rescue = enable(machine)
    ask(client)
    response = fetch(client, rescue, "initrd-2", HTTP_RANGE="bytes=1000-900000")
    pieces = list(response)
    assert max(len(piece) for piece in pieces) <= _CHUNK
    assert b"".join(pieces) == content[1000:900001]


def test_a_range_of_another_version_gets_the_whole(client: Client, rescue: Rescue) -> None:
    response = fetch(client, rescue, "kernel", HTTP_RANGE="bytes=0-3", HTTP_IF_RANGE='"another"')
    assert (response.status_code, body(response)) == (200, KERNEL)


@pytest.mark.parametrize("name", ["kernel", "ready", "rescue.cpio"])
def test_a_range_changes_nothing(client: Client, rescue: Rescue, name: str) -> None:
    before = everything()
    body(fetch(client, rescue, name, HTTP_RANGE="bytes=0-3"))
    assert everything() == before


# HEAD


@pytest.mark.parametrize("name", ["kernel", "ready", "rescue.cpio"])
def test_head_has_the_headers_of_get(client: Client, rescue: Rescue, name: str) -> None:
    asked, got = head(client, rescue, name), fetch(client, rescue, name)
    assert asked.headers == got.headers
    assert asked.headers["Content-Length"] == str(len(body(got)))
    assert body(asked) == b""


@pytest.mark.parametrize("name", ["kernel", "ready", "rescue.cpio"])
def test_head_changes_nothing(client: Client, rescue: Rescue, name: str) -> None:
    before = everything()
    head(client, rescue, name)
    assert everything() == before


def test_head_tells_of_the_whole_file_though_it_names_a_range(client: Client, rescue: Rescue) -> None:
    response = head(client, rescue, "kernel", HTTP_RANGE="bytes=0-3")
    assert (response.status_code, response.headers["Content-Length"]) == (200, "12")


# For nobody else


@pytest.mark.parametrize("name", ["kernel", "ready", "rescue.cpio"])
def test_a_dead_token_and_one_that_never_was_get_the_same_answer(
    client: Client, rescue: Rescue, actor: Actor, name: str
) -> None:
    token = rescue.token
    stored(rescue).disable(actor)
    dead = client.get(f"/boot/{token}/{name}")
    never = client.get(f"/boot/{'x' * 32}/{name}")
    assert (dead.status_code, dead.content, dead.headers) == (404, never.content, never.headers)


@pytest.mark.parametrize("name", ["nothing", "initrd-2", "script.ipxe", "..", "kernel.", "KERNEL"])
def test_a_file_that_the_rescue_has_not_is_not_found(client: Client, rescue: Rescue, name: str) -> None:
    response = fetch(client, rescue, name)
    never = client.get(f"/boot/{'x' * 32}/kernel")
    assert (response.status_code, body(response), response.headers) == (404, never.content, never.headers)


@pytest.mark.parametrize(
    "path", ["/boot/x", "/boot/a/b/c", "/boot//kernel", "/boot/x/", "/boot/\u00e4/kernel", "/boot/a%2f/k"]
)
def test_other_paths_below_boot_are_not_found(db: None, client: Client, path: str) -> None:
    response = client.get(path, HTTP_HOST="any.example")
    assert (response.status_code, response.content) == (404, b"Not found.\n")


def test_no_file_is_found_outside_its_rescue(client: Client, rescue: Rescue, actor: Actor) -> None:
    other = Machine.objects.add("web02", macs=[], allowed_networks=["127.0.0.1"], actor=actor)
    image = RescueImage.objects.create(name="other")
    image.attach("kernel", [b"other kernel"])
    image.attach("file", [b"x"], "only-here")
    enable(other, image=image)
    assert fetch(client, rescue, "only-here").status_code == 404


def test_outside_the_listed_networks_a_file_is_not_found(client: Client, rescue: Rescue) -> None:
    response = fetch(client, rescue, "kernel", source="192.0.2.9")
    assert (response.status_code, body(response)) == (404, b"Not found.\n")


def test_a_file_asked_for_from_outside_leaves_an_entry(client: Client, machine: Machine, rescue: Rescue) -> None:
    fetch(client, rescue, "kernel", source="192.0.2.9")
    entry = AuditEntry.objects.get(action="file_refused")
    assert (entry.machine, entry.subject, entry.source) == ("web01", "kernel", "192.0.2.9")
    assert (entry.outcome, entry.reason) == ("refused", "address_not_allowed")


def test_entries_of_refused_files_are_capped_whatever_names_are_asked_for(
    client: Client, rescue: Rescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "DAILY_ENTRIES", 5)
    with at(noon()):
        for number in range(20):
            fetch(client, rescue, f"name-{number}", source="192.0.2.9")
    assert AuditEntry.objects.filter(action="file_refused").count() <= 5


def test_ready_from_outside_changes_no_state(client: Client, rescue: Rescue) -> None:
    fetch(client, rescue, "ready", source="192.0.2.9")
    assert stored(rescue).ready_at is None


def test_inside_the_listed_networks_any_address_may_fetch(client: Client, actor: Actor, image: RescueImage) -> None:
    machine = Machine.objects.add("web02", macs=[MAC], allowed_networks=["192.0.2.0/24", "2001:db8::/64"], actor=actor)
    rescue = enable(machine)
    ask(client, source="192.0.2.9")
    for source in ("192.0.2.10", "2001:db8::10"):
        assert body(fetch(client, rescue, "kernel", source=source)) == KERNEL


def test_without_networks_the_address_that_was_served_may_fetch(
    client: Client, served_without_networks: Rescue
) -> None:
    assert body(fetch(client, served_without_networks, "kernel", source="192.0.2.9")) == KERNEL
    assert body(fetch(client, served_without_networks, "kernel", source="::ffff:192.0.2.9")) == KERNEL


@pytest.mark.parametrize("source", ["192.0.2.10", "127.0.0.1", ""])
def test_without_networks_no_other_address_may_fetch(
    client: Client, served_without_networks: Rescue, source: str
) -> None:
    assert fetch(client, served_without_networks, "kernel", source=source).status_code == 404


def test_without_networks_nobody_may_fetch_before_a_script_was_served(
    client: Client, actor: Actor, image: RescueImage
) -> None:
    machine = Machine.objects.add("open", macs=[MAC], allowed_networks=[], actor=actor)
    assert fetch(client, enable(machine), "kernel").status_code == 404


def test_the_source_behind_a_trusted_proxy_counts(client: Client, rescue: Rescue, settings: LazySettings) -> None:
    settings.RESCUESITE_TRUST_UNIX_PEER = True
    inside = fetch(client, rescue, "kernel", source="", HTTP_X_FORWARDED_FOR="127.0.0.1")
    outside = fetch(client, rescue, "kernel", source="", HTTP_X_FORWARDED_FOR="192.0.2.9")
    assert (body(inside), outside.status_code) == (KERNEL, 404)


def test_a_file_that_was_lost_is_not_found(
    client: Client, machine: Machine, db: None, caplog: pytest.LogCaptureFixture
) -> None:
    image = RescueImage.objects.create(name="lost", is_default=True)
    file = image.attach("kernel", [b"a kernel to lose while it is booted"])
    rescue = enable(machine)
    ask(client)
    file.stored.path.unlink()
    assert fetch(client, rescue, "kernel").status_code == 404
    assert "cannot be read" in caplog.text


# Handing over to a web server in front


@pytest.mark.parametrize("prefix", ["/rescue-files/", "/rescue-files"])
def test_a_file_is_handed_over_where_a_web_server_sends_it(
    client: Client, rescue: Rescue, settings: LazySettings, prefix: str
) -> None:
    settings.RESCUESITE_ACCEL_PREFIX = prefix
    response = fetch(client, rescue, "kernel")
    file = rescue.files.get(name="kernel").stored
    assert (response.status_code, body(response)) == (200, b"")
    assert response.headers["X-Accel-Redirect"] == f"/rescue-files/{file.sha256[:2]}/{file.sha256}"
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert "Content-Length" not in response.headers


def test_what_is_no_stored_file_is_sent_by_the_site_itself(
    client: Client, rescue: Rescue, settings: LazySettings
) -> None:
    settings.RESCUESITE_ACCEL_PREFIX = "/rescue-files/"
    assert "X-Accel-Redirect" not in fetch(client, rescue, "rescue.cpio").headers


def test_nothing_is_handed_over_to_somebody_outside(client: Client, rescue: Rescue, settings: LazySettings) -> None:
    settings.RESCUESITE_ACCEL_PREFIX = "/rescue-files/"
    response = fetch(client, rescue, "kernel", source="192.0.2.9")
    assert response.status_code == 404
    assert "X-Accel-Redirect" not in response.headers


def test_handing_over_a_file_leaves_an_entry(client: Client, rescue: Rescue, settings: LazySettings) -> None:
    settings.RESCUESITE_ACCEL_PREFIX = "/rescue-files/"
    fetch(client, rescue, "kernel")
    assert AuditEntry.objects.filter(action="file_sent", subject="kernel").exists()


# Keys and settings


def unpacked(client: Client, rescue: Rescue, into: Path, **meta: Any) -> dict[str, str]:
    """The files in rescue.cpio, as the real cpio unpacks them."""
    response = fetch(client, rescue, "rescue.cpio", **meta)
    archive = body(response)
    assert response.headers["Content-Length"] == str(len(archive))
    assert response.headers["Content-Type"] == "application/octet-stream"
    into.mkdir(exist_ok=True)
    subprocess.run(["cpio", "-i", "-d", "-u", "--quiet"], input=archive, cwd=into, check=True, capture_output=True)
    return {str(path.relative_to(into)): path.read_text() for path in into.rglob("*") if path.is_file()}


def user_with_key(name: str, key: str, *, may_log_in: bool = False, **fields: Any) -> User:
    user = User.objects.create_user(name, **fields)
    user.ssh_keys.create(public_key=f"{key} {name}", fingerprint=f"SHA256:{name}")
    if may_log_in:
        user.user_permissions.add(Permission.objects.get(codename="login_rescue"))
    return user


def test_the_archive_holds_the_settings_of_this_rescue(
    client: Client, machine: Machine, image: RescueImage, tmp_path: Path
) -> None:
    with at(noon()):
        rescue = enable(machine, reason="disk is dead", expires_at=noon(hours=1))
        ask(client)
        files = unpacked(client, rescue, tmp_path)
    assert files == {
        "root/.ssh/authorized_keys": "",
        "etc/rescuesite/machine": "web01\n",
        "etc/rescuesite/image": "tiny\n",
        "etc/rescuesite/reason": "disk is dead\n",
        "etc/rescuesite/enabled_by": "tester\n",
        "etc/rescuesite/enabled_at": "2026-03-01T12:00:00+00:00\n",
        "etc/rescuesite/lifetime": "one-boot\n",
        "etc/rescuesite/expires_at": "2026-03-01T13:00:00+00:00\n",
        "etc/rescuesite/report_url": f"http://127.0.0.1:8000/boot/{rescue.token}/up\n",
    }


def test_a_setting_without_a_value_is_an_empty_line(client: Client, rescue: Rescue, tmp_path: Path) -> None:
    assert unpacked(client, rescue, tmp_path)["etc/rescuesite/expires_at"] == "\n"


def test_a_setting_is_one_line_whatever_it_holds(
    client: Client, machine: Machine, image: RescueImage, tmp_path: Path
) -> None:
    rescue = enable(machine)
    Rescue.objects.update(reason="one\ntwo\r\x1b[31m ’ä")
    ask(client)
    assert unpacked(client, rescue, tmp_path)["etc/rescuesite/reason"] == "one\ufffdtwo\ufffd\ufffd[31m ’ä\n"


def test_only_root_may_read_what_the_archive_holds(client: Client, rescue: Rescue, tmp_path: Path) -> None:
    names = unpacked(client, rescue, tmp_path)
    assert {name: (tmp_path / name).stat().st_mode & 0o7777 for name in names} == dict.fromkeys(names, 0o600)
    directories = {"root": 0o700, "root/.ssh": 0o700, "etc": 0o755, "etc/rescuesite": 0o700}
    assert {name: (tmp_path / name).stat().st_mode & 0o7777 for name in directories} == directories


def test_the_keys_are_those_of_the_enabler_and_of_those_who_may_log_in(
    client: Client, machine: Machine, image: RescueImage, tmp_path: Path
) -> None:
    enabler = user_with_key("enabler", HOST_KEY)
    user_with_key("helper", OTHER_KEY, may_log_in=True)
    user_with_key("other", HOST_KEY)
    user_with_key("gone", OTHER_KEY, may_log_in=True, is_active=False)
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(enabler))
    ask(client)
    assert (
        unpacked(client, rescue, tmp_path)["root/.ssh/authorized_keys"] == f"{HOST_KEY} enabler\n{OTHER_KEY} helper\n"
    )


def test_the_permission_may_come_from_a_group(
    client: Client, machine: Machine, image: RescueImage, tmp_path: Path
) -> None:
    group = Group.objects.create(name="night shift")
    group.permissions.add(Permission.objects.get(codename="login_rescue"))
    user_with_key("helper", OTHER_KEY).groups.add(group)
    rescue = enable(machine)
    ask(client)
    assert unpacked(client, rescue, tmp_path)["root/.ssh/authorized_keys"] == f"{OTHER_KEY} helper\n"


def test_an_enabler_who_has_been_deactivated_gets_no_key_delivered(
    client: Client, machine: Machine, image: RescueImage, tmp_path: Path
) -> None:
    enabler = user_with_key("enabler", HOST_KEY)
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(enabler))
    ask(client)
    User.objects.update(is_active=False)
    assert unpacked(client, rescue, tmp_path)["root/.ssh/authorized_keys"] == ""


def test_a_key_added_after_enabling_is_delivered(
    client: Client, machine: Machine, image: RescueImage, tmp_path: Path
) -> None:
    ada = User.objects.create_user("ada")
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(ada))
    ask(client)
    ada.ssh_keys.create(public_key=HOST_KEY, fingerprint="f")
    assert unpacked(client, rescue, tmp_path)["root/.ssh/authorized_keys"] == f"{HOST_KEY}\n"


def test_each_of_a_users_keys_is_delivered_once(
    client: Client, machine: Machine, image: RescueImage, tmp_path: Path
) -> None:
    ada = user_with_key("ada", HOST_KEY, may_log_in=True)
    ada.ssh_keys.create(public_key=OTHER_KEY, fingerprint="f")
    group = Group.objects.create(name="night shift")
    group.permissions.add(Permission.objects.get(codename="login_rescue"))
    ada.groups.add(group)
    rescue = Rescue.objects.enable(machine, RescueRequest(), Actor.of_user(ada))
    ask(client)
    assert unpacked(client, rescue, tmp_path)["root/.ssh/authorized_keys"] == f"{HOST_KEY} ada\n{OTHER_KEY}\n"


@pytest.mark.parametrize("host", ["rescue.example", "192.0.2.1:8000", "[2001:db8::1]:8000", "[2001:db8::1]"])
def test_reports_go_to_the_address_that_was_reached(client: Client, rescue: Rescue, tmp_path: Path, host: str) -> None:
    files = unpacked(client, rescue, tmp_path, HTTP_HOST=host)
    assert files["etc/rescuesite/report_url"] == f"http://{host}/boot/{rescue.token}/up\n"


@pytest.mark.parametrize(
    "host", ["a b", "evil/../x", "u@h", "h:p", "h\nx", "", "[::1", "x" * 300, "h:123456", "h?x", "hä", "$(id)"]
)
def test_a_hostile_host_is_ignored(client: Client, rescue: Rescue, tmp_path: Path, host: str) -> None:
    files = unpacked(client, rescue, tmp_path, HTTP_HOST=host)
    assert files["etc/rescuesite/report_url"] == f"http://127.0.0.1:8000/boot/{rescue.token}/up\n"


def test_reports_go_to_the_configured_address_where_there_is_one(
    client: Client, rescue: Rescue, tmp_path: Path, settings: LazySettings
) -> None:
    settings.RESCUESITE_BASE_URL, settings.RESCUESITE_BASE_URL_GIVEN = "https://rescue.example", True
    files = unpacked(client, rescue, tmp_path, HTTP_HOST="192.0.2.1")
    assert files["etc/rescuesite/report_url"] == f"https://rescue.example/boot/{rescue.token}/up\n"


def test_the_archive_is_read_after_the_images_own_initrd(client: Client, rescue: Rescue, tmp_path: Path) -> None:
    made = ask(client)
    assert made.index("initrd --name initrd ") < made.index("initrd --name rescue.cpio ")


def test_ready_after_up_changes_nothing_of_the_rescue(client: Client, machine: Machine, image: RescueImage) -> None:
    rescue = enable(machine)
    boot_to_ready(client, rescue)
    Rescue.objects.filter(pk=rescue.pk).update(state="up", up_at=noon())
    before = Rescue.objects.values().get()
    fetch(client, rescue, "ready")
    assert Rescue.objects.values().get() == before


# Secrets


@pytest.mark.parametrize(
    ("method", "name", "source"),
    [
        ("get", "kernel", "192.0.2.9"),
        ("get", "nothing", "127.0.0.1"),
        ("get", "up", "127.0.0.1"),
        ("put", "kernel", "127.0.0.1"),
        ("post", "up", "127.0.0.1"),
    ],
)
def test_a_live_token_is_never_logged(
    client: Client, rescue: Rescue, caplog: pytest.LogCaptureFixture, method: str, name: str, source: str
) -> None:
    caplog.set_level(logging.DEBUG, "django.request")
    response = getattr(client, method)(f"/boot/{rescue.token}/{name}", REMOTE_ADDR=source)
    assert response.status_code >= 400
    [handler] = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    logged = [handler.format(record) for record in caplog.records if handler.filter(record)]
    assert rescue.token
    assert rescue.token not in "\n".join(logged)


def test_a_live_token_is_not_logged_with_an_error_of_the_site(
    client: Client, rescue: Rescue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Rescue.objects, "of_token", failing)
    client.raise_request_exception = False
    assert fetch(client, rescue, "kernel").status_code == 500
    [handler] = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    logged = [handler.format(record) for record in caplog.records if handler.filter(record)]
    assert rescue.token
    assert rescue.token not in "\n".join(logged)


# What a system that does not read rescue.cpio fetches itself


def test_a_file_in_a_folder_is_served(client: Client, machine: Machine, image: RescueImage) -> None:
    image.attach("file", [b"root"], "sysresccd/x86_64/airootfs.sfs")
    rescue = enable(machine)
    ask(client)
    assert body(fetch(client, rescue, "sysresccd/x86_64/airootfs.sfs")) == b"root"
    assert fetch(client, rescue, "sysresccd/x86_64/../x86_64/airootfs.sfs").status_code == 404
    assert fetch(client, rescue, "airootfs.sfs").status_code == 404


def test_the_keys_are_served_as_a_file_too(client: Client, rescue: Rescue) -> None:
    user = User.objects.create_superuser("root")
    user.ssh_keys.create(public_key=HOST_KEY)
    assert body(fetch(client, rescue, "authorized_keys")).startswith(HOST_KEY.encode())


def test_the_served_script_names_the_files_by_the_address_that_was_asked(
    client: Client, machine: Machine, image: RescueImage
) -> None:
    image.command_line = "fetch={url}/rescue.cpio"
    image.save()
    rescue = enable(machine)
    asked = ask(client, HTTP_HOST="rescue.example:8080")
    assert f"fetch=http://rescue.example:8080/boot/{rescue.token}/rescue.cpio" in asked


def test_a_host_that_is_none_does_not_get_into_the_script(
    client: Client, machine: Machine, image: RescueImage, settings: LazySettings
) -> None:
    image.command_line = "fetch={url}/rescue.cpio"
    image.save()
    enable(machine)
    assert f"fetch={settings.RESCUESITE_BASE_URL}/boot/" in ask(client, HTTP_HOST="evil || shell")


def test_a_static_network_travels_to_the_rescue_system(client: Client, rescue: Rescue, tmp_path: Path) -> None:
    assert not any("network" in name for name in unpacked(client, rescue, tmp_path / "dhcp"))
    machine = rescue.machine
    machine.static_addresses, machine.gateways, machine.dns_servers = "192.0.2.7/24", "192.0.2.1", "192.0.2.53"
    machine.full_clean()
    machine.save()
    files = unpacked(client, rescue, tmp_path / "static")
    assert files["etc/rescuesite/network_address"] == "192.0.2.7/24\n"
    assert files["etc/rescuesite/network_gateway"] == "192.0.2.1\n"
    assert files["etc/rescuesite/network_dns"] == "192.0.2.53\n"
