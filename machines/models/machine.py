"""Machines, and how the site recognises their requests."""

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
from django.db.models.functions import Lower
from django.utils.functional import cached_property

from machines import machine_fields, smbios
from machines.addresses import AddressError, IPNetwork, normalise_mac, normalise_network, parse_network, with_usual_macs
from machines.boot.decide import MachineFacts, address_objection, identity_objection
from machines.boot.request import BootRequest
from machines.machine_fields import ALWAYS_EDITABLE, NETWORK, NETWORK_FIELDS, TEXTS
from machines.models.audit import Actor, AuditEntry, differences
from machines.models.fields import HostsField, InterfacesField
from machines.models.identity import IDENTITY_NAMES, IdentityField
from machines.models.machine_addresses import AllowedNetwork, MACAddress
from machines.models.rescue import Rescue
from machines.models.sighting import Sighting
from machines.models.validation import Errors, collecting, raise_if_errors

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

    from machines.models.last_contact import LastContact

MACHINE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"

#: The permission to enable and disable rescue.
ENABLE_RESCUE = "machines.enable_rescue"

IDENTITY_IN_RESCUE = "Another machine has this identity value, and its rescue is active."

#: Networks that contain every address.
EVERYWHERE = ("0.0.0.0/0", "::/0")


class MachineLockedError(PermissionDenied):
    """The machine has an active rescue, and the user lacks the permission to enable rescue.

    The machine's addresses, identity and image decide what boots and where. So this user may not change them now.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"A rescue of {name} is active. Until it ends, you need the permission to enable rescue to change anything "
            "but the notes."
        )


class MachineQuerySet(models.QuerySet["Machine"]):
    def add(self, name: str, *, actor: Actor, **values: Any) -> Machine:
        """Add a machine with its addresses and an audit entry, in one transaction.

        `values` are those of `Machine.revise`. Raises ValidationError, for example for a name or address in use.
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
        """Return the machines with the addresses `macs`, by address, with their networks and current rescues.

        It makes one query, and two more if there are rescues. Two addresses of one machine give the same object.
        """
        if not macs:
            return {}
        # The join gives one row for each network.
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
        """Lock the rows of machines in the order of their keys, as `Machine.lock` does. Return the keys that exist."""
        held = self.select_for_update(no_key=True).filter(pk__in=pks)
        return set(held.order_by("pk").values_list("pk", flat=True))

    def for_lists(self) -> MachineQuerySet:
        """Prefetch what a line about each machine needs, in a constant number of queries."""
        found = self.select_related("image", "contact").prefetch_related(
            "macs",
            "allowed_networks",
            models.Prefetch("rescues", Rescue.objects.unended(), to_attr="unended_rescues"),
        )
        found._read_shared = cache(Machine.objects.shared_values)
        return found

    #: Set by `for_lists`. All machines of the result then share one query for `shared_values`.
    _read_shared: Callable[[], frozenset[tuple[str, str]]] | None = None

    def _clone(self) -> MachineQuerySet:
        clone: MachineQuerySet = super()._clone()  # type: ignore[misc]
        clone._read_shared = self._read_shared and cache(Machine.objects.shared_values)
        return clone

    def _fetch_all(self) -> None:
        super()._fetch_all()
        for machine in (self._result_cache or ()) if self._read_shared else ():
            # The results of `values()` are not machines.
            if isinstance(machine, Machine):
                vars(machine)["shared"] = self._read_shared

    def named(self, text: str) -> MachineQuerySet:
        """Search machines: each word of `text` must be part of the name, an address, a sent value or a note.

        A MAC address may be written in any usual form.
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
        """Return the machines with these names. Write the names in lower case."""
        return self.alias(lower_name=Lower("name")).filter(lower_name__in=names)

    def with_status(self, state: str, now: datetime | None = None) -> MachineQuerySet:
        """Return the machines whose rescue is in `state` at `now`; `local` means without an active rescue."""
        active = Rescue.objects.active(now)
        if state == "local":
            return self.exclude(pk__in=active.values("machine"))
        return self.filter(pk__in=active.with_status(state, now).values("machine"))

    def unverified(self) -> MachineQuerySet:
        """Return the machines for which `Machine.is_unverified` is true."""
        anywhere = self.exclude(pk__in=AllowedNetwork.objects.exclude(network__in=EVERYWHERE).values("machine"))
        expected = list(anywhere.exclude(identity={}).values_list("pk", "identity"))
        shared = Machine.objects.shared_values() if expected else frozenset()
        weak = [pk for pk, identity in expected if smbios.distinctive(identity) <= shared]
        return anywhere.filter(Q(identity={}) | Q(pk__in=weak))

    def shared_values(self) -> frozenset[tuple[str, str]]:
        """Return the identity values that several machines have in common. Reads every identity once."""
        identities = self.exclude(identity={}).values_list("identity", flat=True).order_by()
        counted = Counter(value for identity in identities for value in smbios.distinctive(identity))
        return frozenset(value for value, number in counted.items() if number > 1)

    def delete(self) -> tuple[int, dict[str, int]]:
        """Lock the machines before their related rows, in the same order as boot requests do."""
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
                "Use letters, digits, “.”, “_” and “-”. Begin with a letter or digit.",
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
        help_text="If empty, the machine uses the default image.",
    )
    identity = IdentityField(
        help_text='Values that each request of the machine must contain, such as {"uuid": "…", "serial": "…"}. '
        f"Possible names: {', '.join(IDENTITY_NAMES)}. For user_agent, enter the beginning.",
    )
    # The network of the rescue system. Without an address it uses DHCP.
    rescue_network_addresses = InterfacesField(
        "address",
        help_text="The address of the rescue system with its prefix length, such as 192.0.2.7/24. Separate several "
        "addresses by spaces. If empty, the rescue system uses DHCP.",
    )
    rescue_network_gateways = HostsField("gateway", help_text="At most one for IPv4 and one for IPv6.")
    rescue_network_dns = HostsField("DNS servers", help_text="Separate several addresses by spaces.")
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = MachineQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                name="machine_name",
                violation_error_message="A machine with this name already exists.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raise ValidationError if the parts of the rescue system's network do not match."""
        if not self.rescue_network_addresses:
            if lost := [name for name in NETWORK_FIELDS if getattr(self, name)]:
                raise ValidationError(
                    dict.fromkeys(lost, "Enter an address too, or leave this empty. DHCP supplies this value as well.")
                )
            return
        interfaces = [ip_interface(word) for word in self.rescue_network_addresses.split()]
        for gateway in map(ip_address, self.rescue_network_gateways.split()):
            wrong = ""
            if not gateway.is_link_local and not any(gateway in interface.network for interface in interfaces):
                wrong = f"{gateway} is not in the network of any address above."
            elif any(gateway == interface.ip for interface in interfaces):
                wrong = f"{gateway} is the machine's own address."
            if wrong:
                raise ValidationError({"rescue_network_gateways": wrong})

    def lock(self) -> bool:
        """Lock the machine's row for the rest of the transaction. Return False if the row was deleted.

        On SQLite, the transaction already locks the whole database.
        """
        # no_key: inserting a new rescue, which refers to this row, need not wait.
        held = Machine.objects.select_for_update(no_key=True).filter(pk=self.pk)
        return held.order_by().values_list("pk").first() is not None

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Lock the machine before its related rows, in the same order as boot requests do."""
        with transaction.atomic():
            self.lock()
            return super().delete(*args, **kwargs)

    @property
    def is_unverified(self) -> bool:
        """Whether anybody who knows a MAC address of this machine can send requests as this machine.

        A vendor's placeholder verifies nothing, and neither does a value that another machine has too.
        """
        if any(allowed.network not in EVERYWHERE for allowed in self.allowed_networks.all()):
            return False
        distinctive = smbios.distinctive(self.identity)
        return not distinctive or distinctive <= self._shared_values()

    def _shared_values(self) -> frozenset[tuple[str, str]]:
        """Return MachineQuerySet.shared_values. Machines read by `for_lists` share one query for it."""
        read: Callable[[], frozenset[tuple[str, str]]] = vars(self).get("shared", Machine.objects.shared_values)
        return read()

    def identity_remarks(self) -> list[str]:
        """Return warnings about expected identity values that do not identify this machine alone."""
        remarks = []
        others = Machine.objects.exclude(pk=self.pk).exclude(identity={}).order_by("name")
        owners = [(machine.name, smbios.distinctive(machine.identity)) for machine in others.only("name", "identity")]
        unknown = [(sighting.mac, smbios.distinctive(sighting.said)) for sighting in Sighting.objects.waiting()]
        for name, text in self.identity.items():
            value = (name, smbios.comparable(name, text))
            if smbios.is_placeholder(name, text):
                remarks.append(f"{name} “{text}” is a placeholder that many machines have. It verifies nothing.")
            elif owner := next((owner for owner, said in owners if value in said), None):
                remarks.append(f"{name} “{text}” is also expected of {owner}. It verifies neither machine.")
            elif mac := next((mac for mac, said in unknown if value in said), None):
                remarks.append(f"{mac} also sent {name} “{text}”. This MAC address does not belong to a machine.")
        return remarks

    @property
    def starts_with_uefi(self) -> bool:
        """Whether the last request of its iPXE named UEFI as platform."""
        contact: LastContact | None = getattr(self, "contact", None)
        return contact is not None and contact.said.get("platform") == "efi"

    def believes(self, boot_request: BootRequest) -> bool:
        """Whether `boot_request` comes from an allowed network and matches the expected identity."""
        is_refused = self.parsed_networks and address_objection(boot_request.source, self.parsed_networks, own=None)
        return not is_refused and not identity_objection(boot_request, self.identity)

    def add_mac(self, address: str) -> MACAddress:
        """Add a MAC address. Raises ValidationError if it is not valid or belongs to another machine."""
        mac = MACAddress(machine=self, address=address)
        mac.full_clean()
        mac.save(force_insert=True)
        return mac

    def revise(self, values: Mapping[str, Any], actor: Actor) -> bool:
        """Set `values` with an audit entry, in one transaction. Return False if nothing changed.

        The keys are those of `snapshot`; the value of `image` is a RescueImage. Raises ValidationError,
        MachineLockedError.
        """
        with transaction.atomic():
            self.lock()
            # The row may have changed since it was read.
            self.refresh_from_db()
            before, identity, is_locked = self.snapshot(), self.identity, self.is_locked_for(actor)
            addresses = self.take(values)
            if self.identity != identity:
                self.check_identity_is_free(actor)
            self.save()
            self._store(addresses)
            changes = differences(before, self.snapshot())
            if not changes:
                return False
            if is_locked and changes["after"].keys() - ALWAYS_EDITABLE:
                raise MachineLockedError(before["name"])
            self.adopt_sightings()
            AuditEntry.objects.record("machine_changed", actor=actor, machine=self, subject=self.name, details=changes)
        return True

    def take(self, values: Mapping[str, Any], exclude: Collection[str] = ()) -> dict[str, list[str]]:
        """Set `values` on this object without saving it. Return `macs` and `allowed_networks` in their stored form.

        Raises ValidationError with the errors of all fields. Fields in `exclude` are not validated.
        """
        errors: Errors = {}
        for name in ("name", "image", "identity", *TEXTS):
            setattr(self, name, values.get(name, getattr(self, name)))
        if (network := values.get("rescue_network")) is not None:
            for part, field in NETWORK.items():
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
            errors += [f"{mac.address}: This MAC address already belongs to a machine." for mac in taken]
        if errors:
            raise ValidationError({name: errors})
        return wanted

    def _store(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Replace the MAC addresses and the networks, each only if given."""
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
        """End the machine's rescue and delete the machine, with audit entries for both. Raises MachineLockedError."""
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
        """Add a MAC address with an audit entry. Raises ValidationError, MachineLockedError."""
        with transaction.atomic():
            self.lock()
            self.check_unlocked(actor)
            self.add_mac(address)
            self.adopt_sightings()
            AuditEntry.objects.record("mac_attached", actor=actor, machine=self, mac=address)

    def check_unlocked(self, actor: Actor) -> None:
        """Raise MachineLockedError if `is_locked_for` is true."""
        if self.is_locked_for(actor):
            raise MachineLockedError(self.name)

    def is_locked_for(self, actor: Actor) -> bool:
        """Whether an active rescue forbids `actor` to change this machine's addresses, identity or image.

        Call it in a transaction that locks the machine's row, so that nobody can enable a rescue before the change.
        """
        return not actor.may(ENABLE_RESCUE) and self.rescues.active().exists()

    def check_identity_is_free(self, actor: Actor) -> None:
        """Raise ValidationError if a machine with an active rescue has an identity value in common with this machine.

        That machine would become unverified, and its rescue would lose its password. Only users who may enable rescue
        may do that.
        """
        distinctive = smbios.distinctive(self.identity)
        if not distinctive or actor.may(ENABLE_RESCUE):
            return
        in_rescue = Machine.objects.filter(pk__in=Rescue.objects.active().values("machine")).exclude(pk=self.pk)
        for identity in in_rescue.exclude(identity={}).values_list("identity", flat=True):
            if distinctive & smbios.distinctive(identity):
                raise ValidationError({"identity": IDENTITY_IN_RESCUE})

    def may_be_changed_by(self, user: AbstractBaseUser | AnonymousUser) -> bool:
        """Whether the user may change this machine's addresses, identity and image now."""
        return user.has_perm(ENABLE_RESCUE) or self.active_rescue() is None  # type: ignore[union-attr]

    def adopt_sightings(self) -> None:
        """Delete the sightings of this machine's MAC addresses."""
        Sighting.objects.filter(mac__in=self.macs.values("address")).delete()

    def current_rescue(self) -> Rescue | None:
        """Return the rescue that is not ended in the database. It may have expired."""
        if (read := self._read_rescues) is None:
            return self.rescues.unended().with_files().first()
        # This process may have ended it since it was read.
        return next((rescue for rescue in read if rescue.state != Rescue.State.ENDED), None)

    @property
    def _read_rescues(self) -> list[Rescue] | None:
        """The rescues that `for_lists` or `asking_as` read as not ended. None if neither read the machine."""
        return vars(self).get("unended_rescues")

    def active_rescue(self, now: datetime | None = None) -> Rescue | None:
        """Return the rescue that is not ended at `now`. On machines read by `for_lists`, this makes no query."""
        if (read := self._read_rescues) is None:
            return self.rescues.active(now).first()
        return next((rescue for rescue in read if not rescue.status_at(now).is_ended), None)

    @cached_property
    def parsed_networks(self) -> tuple[IPNetwork, ...]:
        """The allowed networks as `ipaddress` objects."""
        return tuple(parse_network(allowed.network) for allowed in self.allowed_networks.all())

    def facts(self, rescue: Rescue | None, now: datetime) -> MachineFacts:
        """Return the input of `decide`."""
        return MachineFacts(
            networks=self.parsed_networks,
            identity=self.identity,
            rescue=rescue.facts(now) if rescue else None,
        )

    def snapshot(self) -> dict[str, Any]:
        """Return the machine as audit entries and the command line show it."""
        return {
            "name": self.name,
            "macs": [mac.address for mac in self.macs.all()],
            "allowed_networks": [allowed.network for allowed in self.allowed_networks.all()],
            "image": self.image.name if self.image else None,
            "identity": self.identity,
            "rescue_network": {part: getattr(self, field).split() for part, field in NETWORK.items()},
            **{name: getattr(self, name) for name in TEXTS},
        }
