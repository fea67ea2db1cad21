"""The files of a rescue: whole and in part, for whom they are meant, and for nobody else."""

from __future__ import annotations

import pytest
from django.conf import LazySettings
from django.test import Client

from machines.boot.sending import _CHUNK
from machines.models import Actor, AuditEntry, Machine, Rescue, RescueImage, audit
from tests.conftest import MAC
from tests.machines.rescue_files import rescue
from tests.machines.support import (
    ask,
    at,
    body,
    enable,
    everything,
    fetch,
    head,
    noon,
    stored,
)

__all__ = ["rescue"]


KERNEL = b"kernel bytes"


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
