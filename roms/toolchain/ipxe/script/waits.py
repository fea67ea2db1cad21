"""The longest time that the script in a ROM can delay the boot from disk. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from machines.boot.script import USUAL_FILES, longest_question, longest_silence
from roms.toolchain.ipxe.script.render import NETWORK_PAUSE, SITE_PAUSE
from roms.toolchain.ipxe.script.spec import DHCP, ScriptSpec

#: How long `ifconf` waits for a link that was lost after `iflinkwait`.
_LINK_AGAIN = 15
#: How long iPXE waits at its end for an open connection (TCP_FINISH_TIMEOUT).
_LEAVING = 1


@dataclass(frozen=True)
class WorstCase:
    """The time from the start of the script to the next boot device, in seconds. The start of the drivers comes first.

    There is no limit for a site that keeps sending a byte now and then.
    """

    #: No card has a cable.
    no_link: float
    #: There is a link, but DHCP does not answer.
    no_address: float
    #: There is a network, but the site does not answer, or its name cannot be resolved.
    no_site: float
    #: The site answers at the last try, and then stops answering in each file of a rescue.
    in_files: float
    #: Any other fault, for example a switch that never forwards, and an address at the last try.
    ever: float


def worst_case(spec: ScriptSpec, nics: int = 1, files: int = USUAL_FILES) -> WorstCase:
    """The longest delays for a machine with `nics` cards, if the network or the site is down.

    `files` is the number of files of a rescue. The waits of an image's own chained script are not included.
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
    """The longest delay if the network or the site does not answer."""
    case = worst_case(spec, nics)
    return max(case.no_link, case.no_address, case.in_files)
