"""Notification rules have an owner. Those that there are belong to whom the audit log names; others tell nothing."""

from __future__ import annotations

from typing import Any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

#: The owner of a rule whose maker stands in no audit entry: an account that nobody has.
UNKNOWN = "somebody"


def find_owners(apps: Any, schema_editor: Any) -> None:
    entries = apps.get_model("machines", "AuditEntry").objects.filter(
        action__in=["notificationrule_added", "notificationrule_changed"]
    )
    users = apps.get_model(*settings.AUTH_USER_MODEL.split(".")).objects
    for rule in apps.get_model("machines", "NotificationRule").objects.all():
        made = entries.filter(subject=rule.name).exclude(actor__startswith="console:").order_by("-pk").first()
        rule.owner_name = made.actor if made else UNKNOWN
        rule.owner = users.filter(username=rule.owner_name).first() if made else None
        rule.save(update_fields=["owner", "owner_name"])


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("machines", "0006_tries_and_file_checks"),
    ]

    operations = [
        migrations.AddField(
            model_name="notificationrule",
            name="owner",
            field=models.ForeignKey(
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="notificationrule",
            name="owner_name",
            field=models.CharField(blank=True, default="", editable=False, max_length=150, verbose_name="owner"),
            preserve_default=False,
        ),
        migrations.RunPython(find_owners, migrations.RunPython.noop),
    ]
