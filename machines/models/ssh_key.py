"""The SSH keys that staff use to log in to rescue systems."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from machines.ssh_keys import KeyFormatError, PublicKey


class SSHKeyQuerySet(models.QuerySet["SSHKey"]):
    def for_rescue(self, enabled_by_pk: int | None) -> SSHKeyQuerySet:
        """Return the keys for a rescue system: those of the user who enabled it and of users who may log in to all."""
        may_log_in = get_user_model()._default_manager.with_perm(
            "machines.login_rescue", backend="django.contrib.auth.backends.ModelBackend"
        )
        owners = Q(user__in=may_log_in.values("pk")) | Q(user=enabled_by_pk)
        return self.filter(owners, user__is_active=True).order_by("pk")


class SSHKey(models.Model):
    """A public key of a staff user."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="ssh_keys")
    public_key = models.TextField(
        max_length=4096,
        help_text="The line in your .pub file, such as ~/.ssh/id_ed25519.pub.",
    )
    fingerprint = models.CharField(max_length=60, editable=False)
    added_at = models.DateTimeField(auto_now_add=True)

    #: The options before the key in the input. They are not stored.
    dropped_options = ""

    objects = SSHKeyQuerySet.as_manager()

    class Meta:
        # Every staff user manages their own keys. In the admin, only a superuser may view or delete those of others.
        default_permissions = ()
        ordering = ("user", "pk")
        verbose_name = "SSH key"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "fingerprint"],
                name="ssh_key_once_per_user",
                violation_error_message="This key has already been added.",
            )
        ]

    def __str__(self) -> str:
        return self.parsed.comment or self.fingerprint

    def clean_fields(self, exclude: Any = None) -> None:
        # Before the check of the fields, because this sets the fingerprint.
        self.read()
        super().clean_fields(exclude)

    def read(self) -> None:
        """Normalise the key and set its fingerprint. Raises ValidationError if the text is not a public key."""
        try:
            parsed = PublicKey.parse(self.public_key)
        except KeyFormatError as error:
            raise ValidationError({"public_key": str(error)}) from error
        self.public_key, self.fingerprint = parsed.line(), parsed.fingerprint
        self.dropped_options = parsed.dropped or self.dropped_options

    @property
    def parsed(self) -> PublicKey:
        return PublicKey.parse(self.public_key)
