"""One name for the rescue system's own network."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("machines", "0009_notification_kind")]

    operations = [
        migrations.RenameField("machine", "static_addresses", "rescue_network_addresses"),
        migrations.RenameField("machine", "gateways", "rescue_network_gateways"),
        migrations.RenameField("machine", "dns_servers", "rescue_network_dns"),
    ]
