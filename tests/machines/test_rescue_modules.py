"""Which kernel modules the rescue system leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from machines.rescue_system.modules import left_out, main, parse

#: As depmod writes it: everything that a module needs, also through others.
DEPENDENCIES = """\
kernel/drivers/mtd/mtd.ko:
kernel/drivers/mtd/nand.ko: kernel/drivers/mtd/mtd.ko
kernel/drivers/net/ethernet/sfc/sfc.ko: kernel/drivers/mtd/mtd.ko kernel/lib/crc.ko
kernel/lib/crc.ko:
kernel/sound/snd.ko:
kernel/sound/midi.ko: kernel/sound/snd.ko
kernel/drivers/hid/piano.ko: kernel/sound/midi.ko kernel/sound/snd.ko
kernel/drivers/net/wireless/wifi.ko: kernel/sound/snd.ko
kernel/drivers/hid/mouse.ko:
"""


def test_an_unwanted_part_goes_with_what_needs_it() -> None:
    gone = left_out(parse(DEPENDENCIES), ["sound/"])
    assert gone >= {"kernel/drivers/hid/piano.ko"}
    assert "kernel/drivers/hid/mouse.ko" not in gone


def test_what_a_driver_of_the_network_needs_stays() -> None:
    assert left_out(parse(DEPENDENCIES), ["drivers/mtd/"]) == {"kernel/drivers/mtd/nand.ko"}


def test_an_unwanted_driver_keeps_nothing() -> None:
    gone = left_out(parse(DEPENDENCIES), ["sound/", "drivers/net/wireless/"])
    assert gone >= {"kernel/sound/snd.ko", "kernel/drivers/net/wireless/wifi.ko"}


@pytest.mark.parametrize("parts", [[], ["sound/"], ["drivers/mtd/", "sound/"], ["drivers/", "lib/"], ["lib/"]])
def test_nothing_that_stays_misses_anything(parts: list[str]) -> None:
    needs = parse(DEPENDENCIES)
    left = needs.keys() - left_out(needs, parts)
    assert all(needs[module] <= left for module in left)


def test_files_are_removed_and_comments_are_not_parts(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(DEPENDENCIES)
    for module in parse(DEPENDENCIES):
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module).touch()
    listed = tmp_path / "modules.txt"
    listed.write_text("# of no use\n\nlib/  # neither\ndrivers/hid/\n")
    main(tmp_path, listed)
    assert sorted(path.name for path in tmp_path.rglob("*.ko")) == [
        *("crc.ko", "midi.ko", "mtd.ko", "nand.ko", "sfc.ko", "snd.ko", "wifi.ko")
    ]
