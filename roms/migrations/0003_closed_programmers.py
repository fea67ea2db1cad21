"""A card's programmer comes from a closed list; flash jobs remember what their card was."""

import django.core.validators
from django.db import migrations, models

#: As they are at this migration.
PROGRAMMERS = ("nic3com", "nicintel", "nicintel_spi", "nicnatsemi", "nicrealtek")
PRACTICE = {
    "pci_id": "8086:1229",
    "name": "Practice card (no hardware)",
    "driver": "eepro100",
    "programmer": "dummy",
    "chip_size": 65536,
    "origin": "curated",
}


def close(apps, schema_editor):
    """Blank what is not in the list, with a note. What was saved through it was a file, and is never restored."""
    Card, FlashJob = apps.get_model("roms", "Card"), apps.get_model("roms", "FlashJob")
    AuditEntry = apps.get_model("machines", "AuditEntry")
    was_true = set(Card.objects.filter(slug="practice", programmer="dummy").values_list("pk", flat=True))
    Card.objects.filter(slug="practice").update(**PRACTICE)
    for card in Card.objects.exclude(slug="practice").exclude(programmer__in=("", *PROGRAMMERS)):
        note = f"Its programmer was “{card.programmer}”, which is none that a card may be flashed with any more."
        changes = {"before": {"programmer": card.programmer}, "after": {"programmer": ""}}
        AuditEntry.objects.create(action="card_changed", subject=f"{card.name} ({card.slug})"[:150], details=changes)
        card.notes, card.programmer = f"{card.notes}\n{note}".strip(), ""
        card.save(update_fields=["notes", "programmer"])
    for card in Card.objects.filter(flash_jobs__isnull=False).distinct():
        kept = card.programmer if card.slug != "practice" or card.pk in was_true else ""
        FlashJob.objects.filter(card=card).update(pci_id=card.pci_id, programmer=kept)


class Migration(migrations.Migration):
    dependencies = [
        ("machines", "0005_notifications"),
        ("roms", "0002_safe_profile_by_default"),
    ]

    operations = [
        migrations.AddField(
            model_name="flashjob",
            name="pci_id",
            field=models.CharField(blank=True, editable=False, max_length=9, verbose_name="PCI id"),
        ),
        migrations.AddField(
            model_name="flashjob",
            name="programmer",
            field=models.CharField(blank=True, editable=False, max_length=20),
        ),
        migrations.RunPython(close, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="card",
            name="programmer",
            field=models.CharField(
                blank=True,
                choices=[(name, name) for name in PROGRAMMERS],
                help_text="Empty: flashrom cannot write to it.",
                max_length=20,
                verbose_name="flashrom programmer",
            ),
        ),
        migrations.AlterField(
            model_name="flashjob",
            name="chip_name",
            field=models.CharField(
                blank=True,
                help_text="Only where flashrom found several definitions to choose from.",
                max_length=100,
                validators=[
                    django.core.validators.RegexValidator(
                        "\\A[A-Za-z0-9][ -~]*\\Z", "Write the chip's name as flashrom shows it."
                    )
                ],
                verbose_name="chip",
            ),
        ),
    ]
