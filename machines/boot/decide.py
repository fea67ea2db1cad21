"""The decision: given what a card says and what the site knows, what is it told, and why? Pure; no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from machines import smbios
from machines.addresses import IPAddress, IPNetwork
from machines.boot.reasons import Reason
from machines.boot.request import BootRequest


@dataclass(frozen=True)
class RescueFacts:
    """A rescue as it stands at the moment of asking (its effective state, not merely the stored one)."""

    state: str
    expired: bool = False
    one_boot: bool = True
    #: Its system was started as often as it may be, and never came up.
    failed: bool = False
    image_available: bool = True
    image_damaged: bool = False
    architecture: str = "x86_64"


@dataclass(frozen=True)
class MachineFacts:
    """What the site knows of the machine whose MAC address asked."""

    networks: tuple[IPNetwork, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)
    rescue: RescueFacts | None = None


def decide(boot_request: BootRequest, machine: MachineFacts | None) -> Reason:
    """Return the first reason that holds, in the contract's order; its `outcome` is the answer's kind."""
    if boot_request.mac is None:
        return Reason.BAD_MAC
    if machine is None:
        return Reason.UNKNOWN_MAC
    rescue = machine.rescue
    if rescue is None:
        return Reason.NO_RESCUE
    if rescue.expired:
        return Reason.RESCUE_EXPIRED
    if objection := address_objection(boot_request.source, machine.networks, own=boot_request.ip):
        return objection
    if objection := identity_objection(boot_request, machine.identity):
        return objection
    return _what_the_rescue_gives(rescue, boot_request.value("buildarch"))


def _what_the_rescue_gives(rescue: RescueFacts, buildarch: str) -> Reason:
    if rescue.state == "up" and rescue.one_boot:
        return Reason.RESCUE_USED
    if rescue.failed:
        return Reason.RESCUE_FAILED
    if not rescue.image_available or not architecture_fits(buildarch, rescue.architecture):
        return Reason.IMAGE_UNAVAILABLE
    if rescue.image_damaged:
        return Reason.IMAGE_DAMAGED
    return Reason.RESCUE_ARMED if rescue.state == "armed" else Reason.RESCUE_BOOTING


def address_objection(
    source: IPAddress | None, networks: tuple[IPNetwork, ...], *, own: IPAddress | None
) -> Reason | None:
    """Listed networks must contain the source; where none is listed, the machine's `own` address must be the source."""
    if networks:
        allowed = source is not None and any(source in network for network in networks)
        return None if allowed else Reason.ADDRESS_NOT_ALLOWED
    return None if source is not None and source == own else Reason.ADDRESS_MISMATCH


def identity_objection(boot_request: BootRequest, identity: Mapping[str, str]) -> Reason | None:
    """Each recorded expectation must be sent, and match."""
    if any(not boot_request.value(name).strip() for name in identity):
        return Reason.IDENTITY_MISSING
    if any(not smbios.matches(name, boot_request.value(name), expected) for name, expected in identity.items()):
        return Reason.IDENTITY_MISMATCH
    return None


def architecture_fits(buildarch: str, image: str) -> bool:
    """Only ARM against x86 is refused: a BIOS ROM says i386 on every 64-bit machine."""
    if not buildarch:
        return True
    return buildarch.startswith("arm") == image.startswith("arm")
