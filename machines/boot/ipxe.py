"""Words of iPXE's scripts that all of the site's scripts share. Pure; https://ipxe.org/scripting."""

from typing import Final

MAGIC: Final = "#!ipxe"
#: The script's end, for the next boot device: UEFI goes on only after a non-zero status, BIOS ignores it.
LEAVE: Final = ("iseq ${platform} efi && exit 1 ||", "exit 0")
#: What stands between two commands of a line, as a word of its own.
SEPARATORS: Final = frozenset({"||", "&&", ";"})
