"""rescue.cpio: the keys, the settings and the password of one rescue."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from machines.models import Actor, Machine, Rescue, RescueImage
from machines.models.rescue_terms import RescueRequest
from tests.machines.rescue_files import rescue
from tests.machines.support import (
    HOST_KEY,
    OTHER_KEY,
    ask,
    at,
    body,
    boot_to_ready,
    enable,
    fetch,
    noon,
)

__all__ = ["rescue"]


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
    machine.rescue_network_addresses, machine.rescue_network_gateways, machine.rescue_network_dns = (
        "192.0.2.7/24",
        "192.0.2.1",
        "192.0.2.53",
    )
    machine.full_clean()
    machine.save()
    files = unpacked(client, rescue, tmp_path / "static")
    assert files["etc/rescuesite/network_address"] == "192.0.2.7/24\n"
    assert files["etc/rescuesite/network_gateway"] == "192.0.2.1\n"
    assert files["etc/rescuesite/network_dns"] == "192.0.2.53\n"
