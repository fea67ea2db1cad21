"""API tokens. A program with a token has the permissions of the token's user. The site stores only a hash."""

from __future__ import annotations

import hashlib
import logging
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, models, transaction
from django.db.models import Q
from django.utils import timezone

from machines.models.audit import Actor, AuditEntry

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger(__name__)

#: The prefix helps people and secret scanners to recognise a token.
PREFIX = "rs_"
_BYTES = 32
#: A longer text cannot be a token of this site.
_MAX_LENGTH = 200
#: `last_used_at` is updated at most this often.
USE_NOTED_EVERY = timedelta(minutes=1)


class APITokenQuerySet(models.QuerySet["APIToken"]):
    def make(
        self, user: User, name: str, expires_at: datetime | None = None, *, actor: Actor | None = None
    ) -> tuple[APIToken, str]:
        """Return a new token of `user` and its clear text, which is not stored. Raises ValidationError."""
        token = self.model(user=user, name=name, expires_at=expires_at)
        return token, token.issue(actor or Actor.of_user(user))

    def usable(self, now: datetime | None = None) -> APITokenQuerySet:
        """Return the tokens of active users that have not expired."""
        lives = Q(expires_at__isnull=True) | Q(expires_at__gt=now or timezone.now())
        return self.filter(lives, user__is_active=True)

    def revoke_all(self, user: User, actor: Actor) -> int:
        """Delete all tokens of a user, with an audit entry for each. Return their number."""
        with transaction.atomic():
            tokens = list(self.filter(user=user))
            for token in tokens:
                token.delete_audited(actor)
        return len(tokens)

    def find(self, clear: str) -> APIToken | None:
        """Return the usable token with this clear text, with its user."""
        if not clear.startswith(PREFIX) or len(clear) > _MAX_LENGTH:
            return None
        # The time of the look-up reveals nothing: an attacker cannot choose the hash.
        return self.usable().select_related("user").filter(digest=_digest(clear)).first()


class APIToken(models.Model):
    """One token of a user."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100, help_text="For example, the name of the program that uses the token.")
    digest = models.CharField("SHA-256", max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField("last used", null=True, blank=True, editable=False)
    expires_at = models.DateTimeField("expires", null=True, blank=True, help_text="If empty, it never expires.")

    objects = APITokenQuerySet.as_manager()

    class Meta:
        # Every staff user manages their own tokens. In the admin, only a superuser may view or delete those of others.
        default_permissions = ()
        ordering = ("user", "name")
        verbose_name = "API token"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "name"],
                name="api_token_name",
                violation_error_message="A token with this name already exists.",
            )
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self._state.adding and self.expires_at and self.expires_at <= timezone.now():
            raise ValidationError({"expires_at": "This time is in the past."})

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    def issue(self, actor: Actor) -> str:
        """Store this new token with an audit entry, and return its clear text. Raises ValidationError."""
        clear = PREFIX + secrets.token_urlsafe(_BYTES)
        self.digest = _digest(clear)
        self.full_clean()
        with transaction.atomic():
            self.save(force_insert=True)
            self._record("added", actor)
        return clear

    def delete_audited(self, actor: Actor) -> None:
        """Delete this token with an audit entry."""
        with transaction.atomic():
            self._record("deleted", actor)
            self.delete()

    def record_use(self) -> None:
        """Update `last_used_at`, unless it was updated within the last minute."""
        now = timezone.now()
        if self.last_used_at and self.last_used_at > now - USE_NOTED_EVERY:
            return
        try:
            # A savepoint: the request succeeds even if this update fails.
            with transaction.atomic():
                APIToken.objects.filter(pk=self.pk).update(last_used_at=now)
        except DatabaseError:
            logger.warning("Cannot record the use of API token %s.", self.pk, exc_info=True)

    def snapshot(self) -> dict[str, Any]:
        return {
            "user": self.user.get_username(),
            "name": self.name,
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
        }

    def _record(self, what: str, actor: Actor) -> None:
        AuditEntry.objects.record(f"token_{what}", actor=actor, subject=self.name, details=self.snapshot())


def _digest(clear: str) -> str:
    return hashlib.sha256(clear.encode()).hexdigest()
