"""A site that falls silent while a machine fetches: each script ends at the disk, within the time that is shown.

tests/e2e/test_silent_downloads.py asks iPXE itself.
"""

from dataclasses import dataclass, field
from typing import Any

from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from machines.boot import script
from machines.boot.script import BootPlan, chain_to_site, longest_question, longest_silence, rescue
from machines.models import Machine, RescueImage
from roms.toolchain.ipxe.script.spec import ScriptSpec
from roms.toolchain.ipxe.script.waits import worst_case
from tests.machines.support import enable
from tests.roms.test_embedded import IPXE, World

MAC = "00:02:b3:9d:94:8c"
SILENT = 1e9
FOUR = BootPlan("web01", MAC, "tok", initrds=["initrd"])


@dataclass
class Downloads(World):
    #: Seconds of silence in a file's download, and then it is there.
    silences: list[float] = field(default_factory=lambda: [0.0])


class Fetching(IPXE):
    """iPXE as far as the site's own scripts go."""

    def _fetch(self, *words: str) -> bool:
        assert words[2] == "--timeout", f"it may wait for ever: {words}"
        silence, limit = self._meet("silences"), int(words[3]) / 1000
        self.seconds += min(silence, limit)
        return bool(silence > limit)

    _kernel = _initrd = _imgfetch = _fetch

    def _nothing(self, *words: str) -> bool:
        return False

    _imgfree = _imgargs = _nothing

    def _boot(self, *words: str) -> bool:
        return True


def run(text: str, **world: Any) -> Fetching:
    return Fetching(text, Downloads(**world))


def test_a_site_that_is_silent_from_the_first_file_on_keeps_a_machine_for_three_tries() -> None:
    assert run(rescue(FOUR), silences=[SILENT]).seconds == longest_silence(1) == 34


def test_a_site_that_falls_silent_again_and_again_in_each_file_keeps_a_machine_nearly_as_long_as_is_shown() -> None:
    fetched = run(rescue(FOUR), silences=[SILENT, SILENT, 9.0] * 4)
    assert fetched.seconds == FOUR.longest_silence - 4
    assert FOUR.longest_silence == longest_silence(4) == 136


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=20),
    st.integers(0, 4).map(lambda n: BootPlan("web01", MAC, "tok", initrds=[f"initrd-{i}" for i in range(n)]))
    | st.just(BootPlan("web01", MAC, "tok", chained=True))
    | st.just(
        BootPlan("web01", MAC, "", ["initrd"], file_urls=dict.fromkeys(("kernel", "initrd", "rescue.cpio"), "x"))
    ),
)
def test_however_often_a_site_falls_silent_the_script_ends_within_the_time_that_is_shown(
    silences: list[float], plan: BootPlan
) -> None:
    text = rescue(plan).replace("imgexec", "boot")
    assert run(text, silences=silences).seconds <= plan.longest_silence
    assert text.count(f"--timeout {script.FILE_TIMEOUT * 1000} ") == 3 * len(plan.fetched)


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.integers(0, 1)), min_size=1, max_size=4))
def test_a_script_that_sends_a_machine_on_ends_within_its_time(answers: list[tuple[float, bool, int]]) -> None:
    assert run(chain_to_site("http://192.0.2.10/boot", MAC), answers=answers).seconds <= longest_question() == 28


def test_the_files_of_a_rescue_and_a_second_question_are_in_what_a_rom_may_cost() -> None:
    asks, sent_on = ScriptSpec("http://192.0.2.10"), ScriptSpec("ftp://192.0.2.10/MAC-${mac:hexraw}.ipxe")
    case = worst_case(asks, files=6)
    assert case.in_files == case.no_site + longest_silence(6)
    assert case.ever == worst_case(asks, files=0).ever + longest_silence(6)
    assert worst_case(sent_on).no_site == worst_case(asks).no_site + longest_question()


def test_the_image_with_the_most_files_is_what_a_rom_is_reckoned_with(image: RescueImage) -> None:
    assert RescueImage.objects.most_fetched() == 4
    image.attach("initrd", [b"second"])
    image.attach("initrd", [b"third"])
    image.attach("file", [b"not fetched by the script"], "notes.txt")
    assert RescueImage.objects.most_fetched() == 6


def test_a_site_without_images_reckons_with_what_is_usual(db: None) -> None:
    assert RescueImage.objects.most_fetched() == 4


def test_the_machines_page_shows_how_long_a_silent_site_can_keep_it(
    admin_client: Client, machine: Machine, image: RescueImage
) -> None:
    enable(machine)
    shown = admin_client.get(f"/admin/machines/machine/{machine.pk}/change/").content.decode()
    assert "at most 136 s" in shown
