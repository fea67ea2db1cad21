"""Machines, and how the site knows one when it asks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.core.validators import RegexValidator
from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.functions import Length, Lower
from django.utils import timezone
from django.utils.functional import cached_property

from machines import machine_fields, smbios
from machines.addresses import AddressError, IPNetwork, normalise_mac, normalise_network, parse_network, with_usual_macs
from machines.boot.decide import MachineFacts, address_objection, identity_objection
from machines.boot.request import MAX_VALUE, BootRequest
from machines.machine_fields import ALWAYS_EDITABLE, NETWORK_FIELDS, NETWORK_PARTS, TEXTS
from machines.models.audit import Actor, AuditEntry, differences
from machines.models.fields import HostsField, InterfacesField, MACAddressField, NetworkField
from machines.models.identity import IDENTITY_NAMES, IdentityField
from machines.models.rescue import Rescue
from machines.models.sighting import Sighting
from machines.models.validation import Errors, collecting, raise_if_errors

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

MACHINE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"

#: The permission to switch rescue on and off.
ENABLE_RESCUE = "machines.enable_rescue"

#: Networks that exclude nobody.
EVERYWHERE = ("0.0.0.0/0", "::/0")

models.CharField.register_lookup(Length)


class MachineLockedError(PermissionDenied):
    """A rescue is active, and who the machine is says what it starts; the message says who may change it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"A rescue of {name} is active: until it ends, only those who may enable rescues change who this machine "
            "is. Its notes can be changed."
        )


class MachineQuerySet(models.QuerySet["Machine"]):
    def add(self, name: str, *, actor: Actor, **values: Any) -> Machine:
        """Add a machine with its addresses and its audit entry; all or nothing.

        `values` are those of `Machine.revise`. Raises ValidationError for a name or an address that is taken or none.
        """
        with transaction.atomic():
            machine = Machine()
            addresses = machine.take(machine_fields.empty() | {"name": name} | values)
            machine.check_identity_is_free(actor)
            machine.save(force_insert=True)
            machine._store(addresses)
            machine.adopt_sightings()
            AuditEntry.objects.record("machine_added", actor=actor, machine=machine, details=machine.snapshot())
        return machine

    def asking_as(self, macs: Collection[str]) -> dict[str, Machine]:
        """The machines that `macs` belong to, by MAC address, with their networks and current rescues.

        One query for all of them, and two more where there are rescues. Cards of one machine get the same object.
        """
        if not macs:
            return {}
        # A row for each network, so that one query does.
        rows = self.filter(macs__address__in=macs).annotate(
            mac=F("macs__address"), network=F("allowed_networks__network")
        )
        machines: dict[int, Machine] = {}
        found: dict[str, Machine] = {}
        networks: defaultdict[int, dict[str, None]] = defaultdict(dict)
        for row in rows.order_by("allowed_networks__pk"):
            machine = found[vars(row)["mac"]] = machines.setdefault(row.pk, row)
            if network := vars(row)["network"]:
                networks[machine.pk][network] = None
        rescues = {
            rescue.machine_id: rescue for rescue in Rescue.objects.unended().filter(machine__in=machines).with_files()
        }
        for machine in machines.values():
            machine.parsed_networks = tuple(map(parse_network, networks[machine.pk]))
            rescue = rescues.get(machine.pk)
            if rescue:
                rescue.machine = machine
            vars(machine)["unended_rescues"] = [rescue] if rescue else []
        return found

    def lock_all(self, pks: Collection[int]) -> set[int]:
        """Hold the rows of machines for the rest of the transaction, in the order of their keys; returns those there.

        See `Machine.lock`.
        """
        held = self.select_for_update(no_key=True).filter(pk__in=pks)
        return set(held.order_by("pk").values_list("pk", flat=True))

    def for_lists(self) -> MachineQuerySet:
        """With what a line about each machine needs, in a constant number of queries."""
        found = self.select_related("image", "contact").prefetch_related(
            "macs",
            "allowed_networks",
            models.Prefetch("rescues", Rescue.objects.unended(), to_attr="unended_rescues"),
        )
        found._read_shared = cache(Machine.objects.shared_values)
        return found

    #: Set where all machines that are read share one reading of what several are to say.
    _read_shared: Callable[[], frozenset[tuple[str, str]]] | None = None

    def _clone(self) -> MachineQuerySet:
        clone: MachineQuerySet = super()._clone()  # type: ignore[misc]
        clone._read_shared = self._read_shared and cache(Machine.objects.shared_values)
        return clone

    def _fetch_all(self) -> None:
        super()._fetch_all()
        for machine in (self._result_cache or ()) if self._read_shared else ():
            # Not where `values` were asked for.
            if isinstance(machine, Machine):
                vars(machine)["shared"] = self._read_shared

    def named(self, text: str) -> MachineQuerySet:
        """Those of which every word of `text` is part of the name, an address, what they say of themselves, or a note.

        MAC addresses in any form that people write.
        """
        found = self
        for part in with_usual_macs(text).split():
            fields = (
                *("name", "macs__address", "allowed_networks__network", "contact__ip", "contact__source"),
                *("contact__serial", "contact__uuid", "identity__serial", "identity__uuid", *TEXTS),
            )
            any_of_them = Q(*((f"{field}__icontains", part) for field in fields), _connector=Q.OR)
            found = found.filter(pk__in=Machine.objects.filter(any_of_them).order_by().values("pk"))
        return found

    def named_exactly(self, names: Sequence[str]) -> MachineQuerySet:
        """Those of these names, which are in lower case."""
        return self.alias(lower_name=Lower("name")).filter(lower_name__in=names)

    def with_status(self, state: str, now: datetime | None = None) -> MachineQuerySet:
        """Those whose rescue stands so at `now`; `local`: those that have none."""
        active = Rescue.objects.active(now)
        if state == "local":
            return self.exclude(pk__in=active.values("machine"))
        return self.filter(pk__in=active.with_status(state, now).values("machine"))

    def unverified(self) -> MachineQuerySet:
        """Those of which `Machine.is_unverified` holds."""
        anywhere = self.exclude(pk__in=AllowedNetwork.objects.exclude(network__in=EVERYWHERE).values("machine"))
        expected = list(anywhere.exclude(identity={}).values_list("pk", "identity"))
        shared = Machine.objects.shared_values() if expected else frozenset()
        weak = [pk for pk, identity in expected if smbios.telling(identity) <= shared]
        return anywhere.filter(Q(identity={}) | Q(pk__in=weak))

    def shared_values(self) -> frozenset[tuple[str, str]]:
        """What is expected of more than one machine, and so tells none from another; reads every identity once."""
        identities = self.exclude(identity={}).values_list("identity", flat=True).order_by()
        counted = Counter(value for identity in identities for value in smbios.telling(identity))
        return frozenset(value for value, number in counted.items() if number > 1)

    def delete(self) -> tuple[int, dict[str, int]]:
        """Holds the machines first, as their requests do, then what hangs on them."""
        with transaction.atomic():
            list(self.select_for_update(of=("self",)).order_by("pk").values_list("pk"))
            return super().delete()


class Machine(models.Model):
    """A server that can be rescued."""

    name = models.CharField(
        max_length=63,
        validators=[
            RegexValidator(
                rf"\A{MACHINE_NAME}\Z",
                "Use letters, digits, “.”, “_” and “-”, beginning with a letter or digit.",
            )
        ],
    )
    image = models.ForeignKey(
        "machines.RescueImage",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="machines",
        verbose_name="rescue image",
        help_text="Empty: the default image.",
    )
    identity = IdentityField(
        help_text='What the machine must say of itself to be believed, such as {"uuid": "…", "serial": "…"}. '
        f"Known: {', '.join(IDENTITY_NAMES)} (its beginning).",
    )
    # How the rescue system gets on the network; without an address it asks DHCP.
    rescue_network_addresses = InterfacesField(
        "address",
        help_text="Of the rescue system, with its prefix length: 192.0.2.7/24. Several are separated by spaces. "
        "Empty: DHCP.",
    )
    rescue_network_gateways = HostsField("gateway", help_text="One for IPv4, one for IPv6.")
    rescue_network_dns = HostsField("DNS servers", help_text="Separated by spaces.")
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = MachineQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                name="machine_name",
                violation_error_message="There is a machine of this name already.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raise ValidationError where the rescue system's network does not fit together."""
        if not self.rescue_network_addresses:
            if lost := [name for name in NETWORK_FIELDS if getattr(self, name)]:
                raise ValidationError(
                    dict.fromkeys(lost, "Only together with an address; with DHCP, DHCP says this too.")
                )
            return
        interfaces = [ip_interface(word) for word in self.rescue_network_addresses.split()]
        for gateway in map(ip_address, self.rescue_network_gateways.split()):
            wrong = ""
            if not gateway.is_link_local and not any(gateway in interface.network for interface in interfaces):
                wrong = f"{gateway} is in none of the networks of the addresses above."
            elif any(gateway == interface.ip for interface in interfaces):
                wrong = f"{gateway} is the machine's own address."
            if wrong:
                raise ValidationError({"rescue_network_gateways": wrong})

    def lock(self) -> bool:
        """Hold the machine's row for the rest of the transaction; False where it has been deleted.

        SQLite's transactions hold the whole database from their beginning.
        """
        # Not the key: a new rescue of the machine, which refers to it, need not wait.
        held = Machine.objects.select_for_update(no_key=True).filter(pk=self.pk)
        return held.order_by().values_list("pk").first() is not None

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Holds the machine first, as its requests do, then what hangs on it."""
        with transaction.atomic():
            self.lock()
            return super().delete(*args, **kwargs)

    @property
    def is_unverified(self) -> bool:
        """Whether anybody who knows a MAC of this machine can ask in its name.

        A placeholder that vendors leave in many machines verifies nothing, nor does what another machine is to say too.
        """
        if any(allowed.network not in EVERYWHERE for allowed in self.allowed_networks.all()):
            return False
        telling = smbios.telling(self.identity)
        return not telling or telling <= self._shared_values()

    def _shared_values(self) -> frozenset[tuple[str, str]]:
        """See MachineQuerySet.shared_values; without a query on machines read by `for_lists`."""
        read: Callable[[], frozenset[tuple[str, str]]] = vars(self).get("shared", Machine.objects.shared_values)
        return read()

    def identity_remarks(self) -> list[str]:
        """What staff should know of the values that this machine is expected to say."""
        remarks = []
        others = Machine.objects.exclude(pk=self.pk).exclude(identity={}).order_by("name")
        owners = [(machine.name, smbios.telling(machine.identity)) for machine in others.only("name", "identity")]
        unknown = [(sighting.mac, smbios.telling(sighting.said)) for sighting in Sighting.objects.waiting()]
        for name, text in self.identity.items():
            value = (name, smbios.comparable(name, text))
            if smbios.is_placeholder(name, text):
                remarks.append(f"{name} “{text}” is a placeholder that many machines have: it verifies nothing.")
            elif owner := next((owner for owner, said in owners if value in said), None):
                remarks.append(f"{name} “{text}” is expected of {owner} too: it verifies neither of the two.")
            elif mac := next((mac for mac, said in unknown if value in said), None):
                remarks.append(f"{name} “{text}” was also said by {mac}, which belongs to no machine.")
        return remarks

    @property
    def starts_with_uefi(self) -> bool:
        """Whether its iPXE last said that it runs on UEFI."""
        contact: LastContact | None = getattr(self, "contact", None)
        return contact is not None and contact.said.get("platform") == "efi"

    def believes(self, boot_request: BootRequest) -> bool:
        """Whether `boot_request` comes from where this machine's networks say, and says what its identity says."""
        from_elsewhere = self.parsed_networks and address_objection(boot_request.source, self.parsed_networks, own=None)
        return not from_elsewhere and not identity_objection(boot_request, self.identity)

    def add_mac(self, address: str) -> MACAddress:
        """Raises ValidationError for an address that is none, or another machine's."""
        mac = MACAddress(machine=self, address=address)
        mac.full_clean()
        mac.save(force_insert=True)
        return mac

    def revise(self, values: Mapping[str, Any], actor: Actor) -> bool:
        """Change what `values` name, with its audit entry; all or nothing. False where nothing differs.

        The keys are those of `snapshot`; an image is a RescueImage. Raises ValidationError, MachineLockedError.
        """
        with transaction.atomic():
            self.lock()
            # As it is now, not as it was read.
            self.refresh_from_db()
            before, told, is_locked = self.snapshot(), self.identity, self.is_locked_for(actor)
            addresses = self.take(values)
            if self.identity != told:
                self.check_identity_is_free(actor)
            self.save()
            self._store(addresses)
            changes = differences(before, self.snapshot())
            if not changes:
                return False
            if is_locked and changes["after"].keys() - ALWAYS_EDITABLE:
                raise MachineLockedError(before["name"])
            self.adopt_sightings()
            AuditEntry.objects.record(
                "machine_changed",
                actor=actor,
                machine=self,
                subject=self.name,
                details=changes,
            )
        return True

    def take(self, values: Mapping[str, Any], exclude: Collection[str] = ()) -> dict[str, list[str]]:
        """Take over what `values` name, not stored yet; returns `macs` and `allowed_networks` in their stored form.

        Raises ValidationError with the errors of all fields. What is in `exclude` is not looked at.
        """
        errors: Errors = {}
        for name in ("name", "image", "identity", *TEXTS):
            setattr(self, name, values.get(name, getattr(self, name)))
        if (network := values.get("rescue_network")) is not None:
            for part, field in zip(NETWORK_PARTS, NETWORK_FIELDS, strict=True):
                setattr(self, field, " ".join(network.get(part, ())))
        with collecting(errors):
            self.full_clean(exclude={*exclude})
        addresses = {}
        for name, normalise in (("macs", normalise_mac), ("allowed_networks", normalise_network)):
            if name in values:
                with collecting(errors):
                    addresses[name] = self._normalised(name, values[name], normalise)
        raise_if_errors(errors)
        return addresses

    def _normalised(self, name: str, texts: Sequence[str], normalise: Callable[[str], str]) -> list[str]:
        wanted, errors = [], []
        for text in texts:
            try:
                wanted.append(normalise(text))
            except AddressError as error:
                errors.append(str(error))
        errors += [f"{address} is listed twice." for address, number in Counter(wanted).items() if number > 1]
        if name == "macs":
            taken = MACAddress.objects.filter(address__in=wanted).exclude(machine__pk=self.pk or 0)
            errors += [f"{mac.address}: This MAC address belongs to a machine already." for mac in taken]
        if errors:
            raise ValidationError({name: errors})
        return wanted

    def _store(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Let the machine have these addresses and networks and no others, where they are given."""
        if "macs" in addresses:
            self.macs.exclude(address__in=addresses["macs"]).delete()
            there = set(self.macs.values_list("address", flat=True))
            for address in addresses["macs"]:
                if address not in there:
                    self.add_mac(address)
        if "allowed_networks" in addresses:
            wanted = addresses["allowed_networks"]
            self.allowed_networks.exclude(network__in=wanted).delete()
            there = set(self.allowed_networks.values_list("network", flat=True))
            AllowedNetwork.objects.bulk_create(
                AllowedNetwork(machine=self, network=network) for network in wanted if network not in there
            )

    def delete_audited(self, actor: Actor) -> None:
        """Delete the machine, after ending its rescue, with audit entries for both. Raises MachineLockedError."""
        with transaction.atomic():
            self.lock()
            self.check_unlocked(actor)
            if rescue := self.rescues.active().first():
                rescue.disable(actor, "machine deleted")
            AuditEntry.objects.record(
                "machine_deleted", actor=actor, machine=self, subject=self.name, details=self.snapshot()
            )
            self.delete()

    def attach_mac(self, address: str, actor: Actor) -> None:
        """Let the machine have a card that asked, with its audit entry. Raises ValidationError, MachineLockedError."""
        with transaction.atomic():
            self.lock()
            self.check_unlocked(actor)
            self.add_mac(address)
            self.adopt_sightings()
            AuditEntry.objects.record("mac_attached", actor=actor, machine=self, mac=address)

    def check_unlocked(self, actor: Actor) -> None:
        """Raise MachineLockedError where `is_locked_for` holds."""
        if self.is_locked_for(actor):
            raise MachineLockedError(self.name)

    def is_locked_for(self, actor: Actor) -> bool:
        """Whether a rescue is active, which says that `actor` may not change who this machine is.

        Ask in a transaction that holds the machine's row: then no rescue is enabled before the change is made.
        """
        return not actor.may(ENABLE_RESCUE) and self.rescues.active().exists()

    def check_identity_is_free(self, actor: Actor) -> None:
        """Raise ValidationError where this identity would make a machine unverified whose rescue is active.

        Its rescue would lose its password, by somebody who may not enable rescues.
        """
        told = smbios.telling(self.identity)
        if not told or actor.may(ENABLE_RESCUE):
            return
        in_rescue = Machine.objects.filter(pk__in=Rescue.objects.active().values("machine")).exclude(pk=self.pk)
        for identity in in_rescue.exclude(identity={}).values_list("identity", flat=True):
            if told & smbios.telling(identity):
                raise ValidationError({"identity": "A machine whose rescue is active is told from others by this."})

    def may_be_changed_by(self, user: AbstractBaseUser | AnonymousUser) -> bool:
        """Whether the user may change who this machine is: while its rescue is active, that says what it starts."""
        return user.has_perm(ENABLE_RESCUE) or self.active_rescue() is None  # type: ignore[union-attr]

    def adopt_sightings(self) -> None:
        """Drop the sightings of this machine's MAC addresses: they are known now."""
        Sighting.objects.filter(mac__in=self.macs.values("address")).delete()

    def current_rescue(self) -> Rescue | None:
        """The rescue that the database holds as not ended; it may be expired all the same."""
        if (read := self._read_rescues) is None:
            return self.rescues.unended().with_files().first()
        # One of them may have ended since, here.
        return next((rescue for rescue in read if rescue.state != Rescue.State.ENDED), None)

    @property
    def _read_rescues(self) -> list[Rescue] | None:
        """What the database held as not ended, as `for_lists` and `asking_as` have read it; None where none has."""
        return vars(self).get("unended_rescues")

    def active_rescue(self, now: datetime | None = None) -> Rescue | None:
        """The rescue that is not ended at `now`; without a query on machines read by `for_lists`."""
        if (read := self._read_rescues) is None:
            return self.rescues.active(now).first()
        return next((rescue for rescue in read if not rescue.status_at(now).is_ended), None)

    @cached_property
    def parsed_networks(self) -> tuple[IPNetwork, ...]:
        """The allowed networks, as they are compared."""
        return tuple(parse_network(allowed.network) for allowed in self.allowed_networks.all())

    def facts(self, rescue: Rescue | None, now: datetime) -> MachineFacts:
        """What `decide` needs to know."""
        return MachineFacts(
            networks=self.parsed_networks,
            identity=self.identity,
            rescue=rescue.facts(now) if rescue else None,
        )

    def snapshot(self) -> dict[str, Any]:
        """The machine as audit entries and the command line show it."""
        return {
            "name": self.name,
            "macs": [mac.address for mac in self.macs.all()],
            "allowed_networks": [allowed.network for allowed in self.allowed_networks.all()],
            "image": self.image.name if self.image else None,
            "identity": self.identity,
            "rescue_network": {
                part: getattr(self, field).split() for part, field in zip(NETWORK_PARTS, NETWORK_FIELDS, strict=True)
            },
            **{name: getattr(self, name) for name in TEXTS},
        }


class MACAddress(models.Model):
    """The address of one of a machine's network cards."""

    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="macs")
    address = MACAddressField(
        "MAC address",
        unique=True,
        error_messages={"unique": "This MAC address belongs to a machine already."},
    )

    class Meta:
        default_permissions = ()
        ordering = ("pk",)
        verbose_name = "MAC address"
        verbose_name_plural = "MAC addresses"
        constraints = [
            models.CheckConstraint(
                condition=Q(address=Lower("address")) & Q(address__length=17), name="mac_address_in_one_form"
            )
        ]

    def __str__(self) -> str:
        return self.address


class AllowedNetwork(models.Model):
    """A host or CIDR block from which the machine's requests may come."""

    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="allowed_networks")
    network = NetworkField("address or network", help_text="192.0.2.7, 192.0.2.0/24 or 2001:db8::/64")

    class Meta:
        default_permissions = ()
        ordering = ("pk",)
        constraints = [
            models.UniqueConstraint(
                fields=["machine", "network"],
                name="allowed_network_once",
                violation_error_message="This network is listed already.",
            )
        ]

    def __str__(self) -> str:
        return self.network


class LastContact(models.Model):
    """What a machine last said of itself, when it was believed. Apart from the machine, which staff edit."""

    machine = models.OneToOneField(Machine, on_delete=models.CASCADE, primary_key=True, related_name="contact")
    at = models.DateTimeField(default=timezone.now)
    mac = models.CharField("MAC", max_length=17)
    source = models.GenericIPAddressField(null=True)
    ip = models.GenericIPAddressField("claimed address", null=True)
    serial = models.CharField(max_length=MAX_VALUE, blank=True)
    uuid = models.CharField("UUID", max_length=MAX_VALUE, blank=True)
    user_agent = models.CharField("firmware", max_length=MAX_VALUE, blank=True)
    said: models.JSONField[dict[str, str], dict[str, str]] = models.JSONField(default=dict)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.machine_id} at {self.at:%Y-%m-%d %H:%M:%S}"

    @classmethod
    def record(cls, requests: Mapping[int, BootRequest], at: datetime) -> None:
        """Remember what machines, by their keys, said in requests; one statement."""
        LastContact.objects.bulk_create(
            [
                LastContact(
                    machine_id=machine,
                    at=at,
                    mac=boot_request.mac or "",
                    source=str(boot_request.source) if boot_request.source else None,
                    ip=str(boot_request.ip) if boot_request.ip else None,
                    serial=boot_request.value("serial"),
                    uuid=boot_request.value("uuid"),
                    user_agent=boot_request.user_agent,
                    said=dict(boot_request.params),
                )
                for machine, boot_request in requests.items()
            ],
            update_conflicts=True,
            unique_fields=["machine"],
            update_fields=["at", "mac", "source", "ip", "serial", "uuid", "user_agent", "said"],
        )
