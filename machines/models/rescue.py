"""The life of a rescue: armed, booting, up, ended.

Each change is one conditional update: it applies only if the row still has the version that was read. If two changes
race, one of them fails. A database constraint allows only one rescue per machine that is not ended. Changes that time
alone causes are computed on reading.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models import Case, Count, F, Q, Value, When
from django.utils import timezone

from machines.addresses import IPAddress, parse_ip
from machines.boot import script
from machines.boot.decide import RescueFacts, address_objection
from machines.boot.reasons import Reason
from machines.integrity import Condition
from machines.models.audit import Actor, AuditEntry
from machines.models.image import MAX_COMMAND_LINE, ImageFile, RescueImage
from machines.models.rescue_terms import (
    MAX_REASON,
    MAX_TRIES,
    SAME_POWER_ON,
    EndCause,
    Lifetime,
    NoActiveRescueError,
    NotTriedError,
    NoUsableImageError,
    ReportResult,
    RescueActiveError,
    RescueRequest,
    State,
    Status,
    UpReport,
    tidy_reason,
)
from machines.models.ssh_key import SSHKey
from machines.models.stored_file import StoredFile
from machines.passwords import crypt_hash, make_password
from machines.ssh_keys import PublicKey

if TYPE_CHECKING:
    from machines.models.machine import Machine
    from machines.models.ssh_key import SSHKeyQuerySet

#: The system of an image that does not report counts as up this long after all its files have arrived.
SILENT_START = timedelta(seconds=120)

#: The fields that describe a running rescue system, as they are while no system runs.
_NOT_UP: dict[str, Any] = {"boot_id": "", "address": None, "hostname": "", "host_keys": []}
#: The fields that count the starts of the system, as they are before the first start.
_NOT_TRIED: dict[str, Any] = {"tries": 0, "tried_at": None, "failed_at": None}


class RescueQuerySet(models.QuerySet["Rescue"]):
    def unended(self) -> RescueQuerySet:
        """Return the rescues that are not ended in the database, including expired ones."""
        return self.exclude(state=Rescue.State.ENDED)

    def active(self, now: datetime | None = None) -> RescueQuerySet:
        """Return the rescues that are not ended at `now`."""
        return self.unended().exclude(expires_at__lte=now or timezone.now())

    def with_files(self) -> RescueQuerySet:
        """Prefetch the files, with one more query."""
        return self.prefetch_related(models.Prefetch("files", RescueFile.objects.select_related("stored")))

    def with_status(self, state: str, now: datetime | None = None) -> RescueQuerySet:
        """Return the rescues whose `Rescue.status_at` at `now` has `state`."""
        return self.alias(effective=effective_state(now or timezone.now())).filter(effective=state)

    def count_by_state(self, now: datetime | None = None) -> dict[str, int]:
        """Count the rescues by their state at `now`. States without rescues are missing."""
        states = self.order_by().values_list(effective_state(now or timezone.now())).annotate(number=Count("pk"))
        return dict(states)

    def of_token(self, token: str, now: datetime) -> Rescue | None:
        """Return the active rescue with this token, with its machine and files."""
        return (
            self.active(now)
            .filter(token=token)
            .select_related("machine")
            .prefetch_related("machine__allowed_networks")
            .with_files()
            .first()
        )

    def end_expired(self) -> int:
        """Store the end of expired rescues. Return their number. The site works without this as well."""
        now = timezone.now()
        return sum(
            rescue.expire(now) for rescue in self.unended().filter(expires_at__lte=now).select_related("machine")
        )

    def enable(self, machine: Machine, order: RescueRequest, actor: Actor) -> Rescue:
        """Enable a rescue of `machine`. An expired rescue is ended first, in the same transaction, as of its expiry.

        Raises ValidationError for an order that is not valid, NoUsableImageError, or RescueActiveError.
        """
        now = timezone.now()
        order = order.checked(now)
        if order.password and machine.is_unverified:
            problem = f"{machine.name} is unverified. Anybody who knows its MAC address could get the password's hash."
            raise ValidationError({"password": problem})
        image = order.image or machine.image or RescueImage.objects.default()
        if image:
            image.read_changed()
        with transaction.atomic():
            machine.lock()
            image = self._usable_image(image)
            earlier = machine.rescues.unended().first()
            if earlier and not (earlier.status_at(now).is_ended and earlier.expire(now)):
                raise RescueActiveError(machine, earlier)
            try:
                with transaction.atomic():
                    rescue = self._create(machine, order, image, actor, now)
            except IntegrityError:
                raise RescueActiveError(machine, machine.rescues.unended().first()) from None
            AuditEntry.objects.record(
                "rescue_enabled",
                actor=actor,
                machine=machine,
                rescue=rescue,
                at=now,
                reason=order.reason,
                subject=image.name,
                details={
                    "lifetime": rescue.lifetime,
                    "expires_at": rescue.expires_at.isoformat() if rescue.expires_at else None,
                    "image": image.name,
                    "password": order.password,
                    "files": {file.name: file.stored.sha256 for file in rescue.files.select_related("stored")},
                },
            )
        return rescue

    @staticmethod
    def _usable_image(image: RescueImage | None) -> RescueImage:
        if image is None:
            raise NoUsableImageError("There is no default rescue image. Add an image, or choose one as the default.")
        # The lock prevents reading an image in the middle of an edit.
        image = RescueImage.objects.select_for_update().get(pk=image.pk)
        if problem := image.problem():
            raise NoUsableImageError(problem)
        return image

    def _create(
        self, machine: Machine, order: RescueRequest, image: RescueImage, actor: Actor, now: datetime
    ) -> Rescue:
        rescue = Rescue(
            machine=machine,
            state=Rescue.State.ARMED,
            lifetime=order.lifetime,
            expires_at=order.expires_at,
            reason=order.reason,
            enabled_by_id=actor.user_pk,
            enabled_by_name=actor.name,
            enabled_at=now,
            token=secrets.token_urlsafe(24),
            image=image,
            image_name=image.name,
            architecture=image.architecture,
            command_line=image.command_line,
            chain_script=image.chain_script,
            reports=image.reports,
        )
        if order.password:
            rescue.password = make_password()
            rescue.password_hash = crypt_hash(rescue.password)
        rescue.save(force_insert=True)
        RescueFile.objects.bulk_create(
            RescueFile(rescue=rescue, kind=file.kind, name=file.name, position=file.position, stored=file.stored)
            for file in image.files.select_related("stored")
        )
        return rescue


def effective_state(now: datetime) -> Case:
    """Return the SQL expression that computes the state of `Rescue.status_at`, for lists and filters."""
    silent = Q(state="booting", reports=False, ready_at__lte=now - SILENT_START, ready_at__gte=F("served_at"))
    return Case(
        When(~Q(state="ended") & Q(expires_at__lte=now), then=Value("ended")),
        When(silent, then=Value("up")),
        default=F("state"),
        output_field=models.CharField(),
    )


class Rescue(models.Model):
    """One activation of rescue mode for one machine, from enabling to the end."""

    State, Lifetime, EndCause = State, Lifetime, EndCause

    machine = models.ForeignKey("machines.Machine", on_delete=models.CASCADE, related_name="rescues")
    state = models.CharField(max_length=7, choices=State, default=State.ARMED)
    #: The number of changes. An update applies only to the version that was read.
    version = models.PositiveIntegerField(default=0, editable=False)
    lifetime = models.CharField(max_length=10, choices=Lifetime, default=Lifetime.ONE_BOOT)
    expires_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=MAX_REASON, blank=True)
    enabled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    enabled_by_name = models.CharField(max_length=150, blank=True)
    enabled_at = models.DateTimeField(default=timezone.now)
    token = models.CharField(max_length=64, null=True, unique=True, editable=False)  # noqa: DJ001 - unique

    #: The hash for /etc/shadow; empty if only SSH keys are accepted.
    password_hash = models.CharField(max_length=200, blank=True, editable=False)
    #: The password in clear text. Only the object that `enable` returns has it.
    password: str | None = None

    # A copy of the image as it was when the rescue was enabled. The files are RescueFile rows.
    image = models.ForeignKey(RescueImage, on_delete=models.SET_NULL, null=True, related_name="rescues")
    image_name = models.CharField("image", max_length=63)
    architecture = models.CharField(max_length=10)
    command_line = models.CharField(max_length=MAX_COMMAND_LINE, blank=True)
    chain_script = models.TextField(blank=True)
    reports = models.BooleanField(default=False)

    served_at = models.DateTimeField(null=True, blank=True)
    served_to = models.GenericIPAddressField(null=True, blank=True)
    served_mac = models.CharField(max_length=17, blank=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    up_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    end_cause = models.CharField(max_length=9, choices=EndCause, blank=True)

    #: The number of power-ons that got the script. It starts again from 0 when the system is up, or when staff choose
    #: “Try again”.
    tries = models.PositiveSmallIntegerField(default=0)
    #: The time of the latest of these power-ons.
    tried_at = models.DateTimeField(null=True, blank=True)
    #: The time when the machine first had to boot its disk because there were too many tries.
    failed_at = models.DateTimeField(null=True, blank=True)

    boot_id = models.CharField(max_length=64, blank=True)
    address = models.GenericIPAddressField(null=True, blank=True)
    hostname = models.CharField(max_length=253, blank=True)
    host_keys: models.JSONField[list[str], list[str]] = models.JSONField(default=list, blank=True)

    objects = RescueQuerySet.as_manager()

    class Meta:
        default_permissions = ("view",)
        permissions = [
            ("enable_rescue", "Can enable and disable rescue"),
            ("login_rescue", "Can log in to every rescue (gets their SSH keys delivered)"),
        ]
        ordering = ("-enabled_at", "-pk")
        constraints = [
            models.UniqueConstraint(
                fields=["machine"],
                condition=~Q(state="ended"),
                name="one_rescue_per_machine",
                violation_error_message="This machine already has an active rescue.",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["armed", "booting", "up", "ended"]), name="rescue_state_is_known"
            ),
            models.CheckConstraint(
                condition=Q(state="ended", ended_at__isnull=False, token__isnull=True)
                & Q(end_cause__in=["next_boot", "disabled", "expired"])
                | ~Q(state="ended") & Q(ended_at__isnull=True, token__isnull=False, end_cause=""),
                name="rescue_end_is_whole",
            ),
            models.CheckConstraint(
                condition=Q(lifetime="one-boot")
                | Q(lifetime="until", expires_at__isnull=False)
                | Q(lifetime="persistent", expires_at__isnull=True),
                name="rescue_lifetime_fits_expiry",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.machine} since {self.enabled_at:%Y-%m-%d %H:%M}"

    # Reading

    def status_at(self, now: datetime | None = None) -> Status:
        """Return the status at `now`. It differs from the stored state if time has changed it."""
        now = now or timezone.now()
        if self.state == self.State.ENDED:
            return Status(self.state, self.up_at, self.ended_at, self.end_cause)
        up_at = self.up_at
        # The system cannot come up after the rescue has expired.
        if silent_since := self._silently_up(min(now, self.expires_at or now)):
            up_at = silent_since
        if self.expires_at and self.expires_at <= now:
            return Status(self.State.ENDED, up_at, self.expires_at, self.EndCause.EXPIRED)
        return Status(self.State.UP if silent_since else self.state, up_at)

    def _silently_up(self, now: datetime) -> datetime | None:
        """Return since when an image that does not report counts as up; None if it does not.

        Only files that arrived after the latest script count: the earlier ones belong to an attempt that failed.
        """
        if self.reports or self.state != self.State.BOOTING or not self.ready_at or not self.served_at:
            return None
        up_at = self.ready_at + SILENT_START
        return up_at if self.ready_at >= self.served_at and up_at <= now else None

    def facts(self, now: datetime) -> RescueFacts:
        """Return the input of `decide`."""
        status = self.status_at(now)
        conditions = {file.stored.condition() for file in self.files.all()}
        return RescueFacts(
            state=status.state,
            expired=status.is_ended,
            one_boot=self.lifetime == self.Lifetime.ONE_BOOT,
            failed=self.has_failed(now),
            image_available=Condition.LOST not in conditions,
            image_damaged=not conditions <= {Condition.WHOLE, Condition.LOST},
            architecture=self.architecture,
        )

    def has_failed(self, now: datetime | None = None) -> bool:
        """Whether the system has used up its tries without coming up.

        A repeated request within the latest power-on still gets the script: the first answer may have been lost.
        """
        now = now or timezone.now()
        booting = self.status_at(now).state == self.State.BOOTING
        return booting and self.tries >= MAX_TRIES and not self._is_same_power_on(now)

    def _is_same_power_on(self, now: datetime) -> bool:
        return self.tried_at is not None and timedelta(0) <= now - self.tried_at < SAME_POWER_ON

    def plan(
        self, mac: str, *, site: str, token: str | None = None, file_urls: Mapping[str, str] | None = None
    ) -> script.BootPlan:
        """Return the values for the script of the network card `mac`.

        `token` replaces the real token in scripts that people read. `file_urls` are the URLs of copies of the files.
        """
        return script.BootPlan(
            machine=self.machine.name,
            mac=mac,
            token=token or self.token or script.SHOWN_TOKEN,
            initrds=[file.name for file in self.files.all() if file.kind == ImageFile.Kind.INITRD],
            command_line=self.command_line,
            chained=bool(self.chain_script),
            site=site,
            file_urls=file_urls or {},
        )

    def longest_silence(self) -> int:
        """Return how many seconds an unresponsive site can delay the machine's boot from its disk during downloads."""
        return self.plan(self.served_mac, site="").longest_silence

    def authorized_keys(self) -> SSHKeyQuerySet:
        return SSHKey.objects.for_rescue(self.enabled_by_id)

    def ending(self) -> str:
        """Describe in a few words when this rescue ends."""
        until = f"{timezone.localtime(self.expires_at):%Y-%m-%d %H:%M}" if self.expires_at else ""
        if self.lifetime == self.Lifetime.ONE_BOOT:
            return f"one boot, or {until}" if until else "one boot"
        return until or "when disabled"

    def warnings(self) -> list[str]:
        """Return warnings for the person who enables this rescue."""
        found = [
            f"The image's {file.name} {_FILE_PROBLEMS[condition]}. Until then, {self.machine.name} boots its disk."
            for file in self.files.select_related("stored")
            if (condition := file.stored.condition()) is not Condition.WHOLE
        ]
        if not self.password_hash and not self.authorized_keys().exists():
            found.append(
                "No SSH key will be delivered: no user with the right to log in has added one. Add your SSH key before "
                "the machine boots."
            )
        if not self.machine.macs.all():
            found.append(
                f"Machine {self.machine.name} has no MAC address. The site cannot recognise it. Add a MAC address."
            )
        if self.machine.is_unverified:
            found.append(
                f"Machine {self.machine.name} is unverified: it has no allowed network and no identity value of its "
                "own. Anybody who knows its MAC address can send requests as this machine."
            )
        return found

    def address_objection(self, source: IPAddress | None) -> Reason | None:
        """Return why `source` may not fetch the files; None if it may.

        The source must be in an allowed network. Without allowed networks, it must be the address that got the script.
        """
        own = parse_ip(self.served_to) if self.served_to else None
        return address_objection(source, self.machine.parsed_networks, own=own)

    # Changing

    def serve(self, now: datetime, source: IPAddress | None, mac: str) -> bool:
        """Record that a script that boots this rescue is about to be sent. Return False if the rescue has changed.

        If the rescue is up, a new boot begins. A repeated request while booting keeps `ready_at`: the system that the
        earlier script started may be about to report. Such a request counts as another try only after a minute. So
        repeated requests of one power-on are one try, and quick resets do not use up the tries.
        """
        changes: dict[str, Any] = {
            "served_at": now,
            "served_to": str(source) if source else None,
            "served_mac": mac,
        }
        if self.status_at(now).state == self.State.UP:
            changes |= {"ready_at": None, "up_at": None, **_NOT_UP, **_NOT_TRIED, "tries": 1, "tried_at": now}
        elif not self._is_same_power_on(now):
            changes |= {"tries": self.tries + 1, "tried_at": now}
        return self._change(state=self.State.BOOTING, **changes)

    def arrives_with(self, name: str) -> bool:
        """Whether `name` is the last file that a machine fetches. Then all files have arrived."""
        return name == (script.CHAIN if self.chain_script else script.READY)

    def record_sent(self, name: str, source: IPAddress | None, now: datetime) -> None:
        """Record that the file `name` is being sent. The last file means that all files have arrived."""
        last = self.arrives_with(name)
        while True:
            with transaction.atomic():
                if not self.machine.lock():
                    return
                if not last or self.state != self.State.BOOTING or self._change(ready_at=now):
                    action = "ready" if name == script.READY else "file_sent"
                    self._record_answer(action, source, now, subject=name[:100], outcome="sent")
                    return
            self.refresh_from_db()

    def record_refused(self, name: str, source: IPAddress | None, now: datetime, reason: Reason) -> None:
        """Record that a request for the file `name` was refused."""
        known = {script.READY, script.UP, script.ARCHIVE, script.CHAIN, *(file.name for file in self.files.all())}
        with transaction.atomic():
            if self.machine.lock():
                # Unknown names share an entry. Otherwise each made-up name would add one.
                subject = name[:100] if name in known else "another name"
                self._record_answer("file_refused", source, now, subject=subject, outcome=reason.outcome, reason=reason)

    def _record_answer(self, action: str, source: IPAddress | None, now: datetime, **fields: Any) -> None:
        AuditEntry.objects.record_answer(
            action, machine=self.machine, rescue=self, at=now, source=str(source) if source else None, **fields
        )

    def record_report(self, report: UpReport, now: datetime, source: IPAddress | None) -> ReportResult:
        """Handle a report that the system is up. The first report after all files arrived sets the state to up."""
        if self.state == self.State.UP and report.boot_id == self.boot_id:
            return ReportResult.AGAIN
        if self.state != self.State.UP and not (self.state == self.State.BOOTING and self.ready_at):
            return ReportResult.TOO_EARLY
        with transaction.atomic():
            if not self.machine.lock():
                return ReportResult.CHANGED_MEANWHILE
            if self.state == self.State.UP:
                self._record_report("up_refused", report, now, source, reason="another boot_id while up")
                return ReportResult.OTHER_BOOT
            address = report.address or source
            reported = {
                "boot_id": report.boot_id,
                "address": str(address) if address else None,
                "hostname": report.hostname,
                "host_keys": list(report.host_keys),
            }
            if not self._change(state=self.State.UP, up_at=now, **reported, **_NOT_TRIED):
                return ReportResult.CHANGED_MEANWHILE
            self._record_report("up", report, now, source)
        return ReportResult.FIRST

    def _record_report(
        self, action: str, report: UpReport, now: datetime, source: IPAddress | None, reason: str = ""
    ) -> None:
        self._record_answer(
            action,
            source,
            now,
            reason=reason,
            details={
                "address": str(report.address) if report.address else None,
                "served_to": self.served_to,
                "hostname": report.hostname,
                "boot_id": report.boot_id,
                "host_keys": [PublicKey.parse(key).fingerprint for key in report.host_keys],
                **({"not_understood": list(report.not_understood)} if report.not_understood else {}),
            },
        )

    def fail(self, now: datetime) -> bool:
        """Record that the rescue has failed: its system never came up, and the machine boots its disk.

        Only the first call adds an audit entry. Return False if the rescue has changed.
        """
        if self.failed_at:
            return True
        if not self._change(failed_at=now):
            return False
        AuditEntry.objects.record(
            "rescue_failed", machine=self.machine, rescue=self, at=now, details={"tries": self.tries}
        )
        return True

    def try_again(self, actor: Actor) -> None:
        """Reset the tries, so that the machine boots the rescue system again from its next power-on.

        Raises NoActiveRescueError, or NotTriedError if there are no tries.
        """
        with transaction.atomic():
            while True:
                status = self.status_at()
                if status.is_ended:
                    raise NoActiveRescueError(self.machine)
                if status.state != self.State.BOOTING or not self.tries:
                    raise NotTriedError(self.machine)
                tries = self.tries
                if self._change(**_NOT_TRIED):
                    break
                self.refresh_from_db()
            AuditEntry.objects.record(
                "rescue_tried_again", actor=actor, machine=self.machine, rescue=self, details={"tries": tries}
            )

    def use_up(self, now: datetime) -> bool:
        """End the rescue because the machine boots again after its one boot. Return False if the rescue has changed."""
        return self._end(now, self.EndCause.NEXT_BOOT)

    def expire(self, now: datetime) -> bool:
        """Store that the rescue has expired. Return False if the rescue has changed."""
        assert self.expires_at is not None
        return self._end(self.expires_at, self.EndCause.EXPIRED, noticed_at=now)

    def disable(self, actor: Actor, reason: str = "") -> None:
        """End this rescue. Raises NoActiveRescueError if it has ended, ValidationError if the reason is too long."""
        reason = tidy_reason(reason)
        with transaction.atomic():
            while True:
                now = timezone.now()
                if self.status_at(now).is_ended:
                    raise NoActiveRescueError(self.machine)
                if self._end(now, self.EndCause.DISABLED, actor=actor, reason=reason):
                    return
                self.refresh_from_db()

    def _end(
        self,
        at: datetime,
        cause: str,
        *,
        actor: Actor | None = None,
        reason: str = "",
        noticed_at: datetime | None = None,
    ) -> bool:
        up_at = self.status_at(at).up_at
        with transaction.atomic():
            cleared = {"token": None, "password_hash": ""}
            if not self._change(state=self.State.ENDED, ended_at=at, end_cause=cause, up_at=up_at, **cleared):
                return False
            # The audit entry “rescue_enabled” lists the files with their SHA-256. The bytes are not needed any more.
            self.files.all().delete()
            AuditEntry.objects.record(
                "rescue_disabled" if cause == self.EndCause.DISABLED else "rescue_ended",
                actor=actor,
                machine=self.machine,
                rescue=self,
                at=noticed_at or at,
                reason=reason,
                details={"end_cause": cause, "ended_at": at.isoformat()},
            )
        return True

    def _change(self, **changes: Any) -> bool:
        """Apply `changes` if the row still has the version that was read. Return False if it has not.

        Call it in a transaction if other rows belong to the change.
        """
        late = not Rescue.objects.filter(pk=self.pk, version=self.version).update(version=F("version") + 1, **changes)
        if late:
            return False
        self.version += 1
        for name, value in changes.items():
            setattr(self, name, value)
        return True


_FILE_PROBLEMS = {
    Condition.LOST: "is missing from the data directory; upload it again",
    Condition.DAMAGED: "is damaged; upload it again",
    Condition.CHANGED: "has changed on disk; the worker will check it soon",
}


class RescueFile(models.Model):
    """A file of a rescue: a copy of the image's file as it was when the rescue was enabled."""

    rescue = models.ForeignKey(Rescue, on_delete=models.CASCADE, related_name="files")
    kind = models.CharField(max_length=6, choices=ImageFile.Kind)
    name = models.CharField(max_length=100)
    position = models.PositiveSmallIntegerField()
    stored = models.ForeignKey(StoredFile, on_delete=models.PROTECT, related_name="rescue_files")

    class Meta:
        default_permissions = ()
        ordering = ("position", "pk")
        constraints = [models.UniqueConstraint(fields=["rescue", "name"], name="rescue_file_name")]

    def __str__(self) -> str:
        return self.name
