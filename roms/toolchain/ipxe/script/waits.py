"""How long the script that a ROM embeds may keep a machine from its disk. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from machines.boot.script import USUAL_FILES, longest_question, longest_silence
from roms.toolchain.ipxe.script.render import NETWORK_PAUSE, SITE_PAUSE
from roms.toolchain.ipxe.script.spec import DHCP, ScriptSpec

#: `ifconf` waits this long for a link that was lost since `iflinkwait` saw it.
_LINK_AGAIN = 15
#: What leaving iPXE takes at most where a connection is still open (TCP_FINISH_TIMEOUT).
_LEAVING = 1


@dataclass(frozen=True)
class WorstCase:
    """Seconds until the next boot device, from when iPXE runs the script; the drivers' own start comes on top.

    A site that goes on answering with a byte now and then is not dead, and has no bound.
    """

    #: No card has a cable.
    no_link: float
    #: There is a link, and nobody gives out addresses.
    no_address: float
    #: There is a network, and the site does not answer, or its name cannot be looked up.
    no_site: float
    #: The site answers at the last try, and then falls silent again and again in the files of a rescue.
    in_files: float
    #: Whatever else happens, say a switch that never forwards, and an address at the very last try.
    ever: float


def worst_case(spec: ScriptSpec, nics: int = 1, files: int = USUAL_FILES) -> WorstCase:
    """How long a dead network or site keeps a machine with so many cards from its disk.

    `files` is how many a rescue fetches. What the chained script of an image does is that script's own.
    """
    cards = nics if spec.nic is None else 1
    rounds = spec.tries * cards
    pauses = (spec.tries - 1) * NETWORK_PAUSE
    link = spec.link_wait + spec.stp_wait
    dhcp = spec.network == DHCP
    silence, address = (spec.dhcp_silence, spec.address_timeout + _LINK_AGAIN) if dhcp else (0, 0)
    asking = spec.tries * spec.timeout + (spec.tries - 1) * SITE_PAUSE
    asking += 0 if spec.asks else longest_question()
    no_site = cards * (link + silence + asking) + _LEAVING
    fetching = longest_silence(files)
    return WorstCase(
        no_link=rounds * spec.link_wait + pauses,
        no_address=rounds * (link + silence) + pauses if dhcp else 0,
        no_site=no_site,
        in_files=no_site + fetching,
        ever=rounds * (link + address) + pauses + cards * asking + fetching + _LEAVING,
    )


def worst_case_seconds(spec: ScriptSpec, nics: int = 1) -> float:
    """The longest of what `worst_case` tells of plain silence: the number to show beside a spec."""
    case = worst_case(spec, nics)
    return max(case.no_link, case.no_address, case.in_files)
