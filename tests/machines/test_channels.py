"""A channel is what its registry says: the model, the admin and the API know none by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from django import forms
from django.core.exceptions import ValidationError
from django.test import Client

from machines.models import Actor, Delivery, Machine, NotificationRule, RescueImage
from machines.notifications import channels
from machines.notifications.channels import CHANNELS, Kind
from machines.notifications.channels.base import Channel
from machines.notifications.delivery import deliver_due
from tests.machines.support import enable

ROOT = Path(__file__).resolve().parents[2]


class Pager(Channel):
    form_fields = {"recipients": forms.TextInput()}

    def __init__(self) -> None:
        self.paged: list[str] = []

    def validate(self, rule: NotificationRule) -> None:
        if not rule.recipients.isdigit():
            raise ValidationError({"recipients": "Write a number."})

    def destination(self, rule: NotificationRule) -> str:
        return f"pager {rule.recipients}"

    def send(self, rule: NotificationRule, payload: Mapping[str, Any], message_id: str) -> None:
        self.paged.append(payload["text"])


@pytest.fixture
def pager(db: None, monkeypatch: pytest.MonkeyPatch) -> Pager:
    made = Pager()
    monkeypatch.setitem(CHANNELS, Kind.EMAIL, made)
    return made


def test_each_kind_has_a_channel() -> None:
    assert list(CHANNELS) == list(Kind)


def test_a_new_kind_needs_no_migration() -> None:
    assert NotificationRule._meta.get_field("kind").deconstruct()[3]["choices"] is channels.kinds


def test_an_unknown_kind_is_refused(db: None) -> None:
    with pytest.raises(ValidationError) as raised:
        NotificationRule(name="x", kind="pigeon", events=["rescue.up"]).issue([], Actor("alice"))
    assert list(raised.value.message_dict) == ["kind"]


def test_a_channel_says_what_is_wrong_and_where_it_sends(pager: Pager, machine: Machine, image: RescueImage) -> None:
    rule = NotificationRule(name="night", kind="email", recipients="nobody", events=["rescue.enabled"])
    with pytest.raises(ValidationError) as raised:
        rule.issue([], Actor("alice"))
    assert raised.value.message_dict == {"recipients": ["Write a number."]}
    rule.recipients = "112"
    rule.issue([], Actor("alice"))
    assert rule.destination == "pager 112"
    enable(machine)
    assert deliver_due() == 1
    assert pager.paged == [Delivery.objects.get().payload["text"]]


def test_the_admin_shows_a_secret_where_the_channel_signs(
    admin_client: Client, pager: Pager, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"is_active": "on", "kind": "email", "recipients": "112", "events": ["rescue.up"], "overdue_minutes": 30}
    add = "/admin/machines/notificationrule/add/"
    assert admin_client.post(add, form | {"name": "plain", "all_machines": "on"}).status_code == 302
    monkeypatch.setattr(Pager, "is_signed", True)
    page = admin_client.post(add, form | {"name": "signed", "all_machines": "on"}).content.decode()
    assert NotificationRule.objects.get(name="signed").secret in page


def test_only_who_sends_loads_libcurl() -> None:
    code = "import django; django.setup(); import sys; print([m for m in sys.modules if m.startswith('pycurl')])"
    command = [sys.executable, "-c", f"import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'; {code}"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"
