"""Normalise and compare the SMBIOS values of machines. Pure.

Vendors pad serial numbers with spaces and leave placeholders in empty fields. System UUIDs are written in several
forms. Their first three parts are little-endian since SMBIOS 2.6 (DSP0134, section 7.2.1); older firmware may use the
other byte order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from machines.addresses import parse_ip

ADDRESSES = frozenset({"netmask", "gateway", "dns"})

_UUID_FRAME = re.compile(r"urn:uuid:|[{}\s-]")
_UUID = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: In lower case, letters and digits only.
_PLACEHOLDERS = frozenset(
    re.findall(
        r"\w+",
        """
    tobefilledbyoem tobefilledbyom filledbyoem oem defaultstring default notsettable notspecified unspecified
    notapplicable na notavailable notprovided notdefined undefined notpresent unknown none null nil empty invalid
    reserved sample test noenclosure noassettag noassetinformation noassettagspecified allseries sku
    systemserialnumber systemproductname systemmanufacturer systemversion systemname serialnumber serial
    chassisserialnumber baseboardserialnumber productname manufacturer assettag assettagnumber asset
    0 x 0123456789 123456789 1234567890 12345678 1234567 123456 12345 1234 123
    03000200040005000006000700080009 00020003000400050006000700080009 12345678123456781234567812345678
    123456781234567890abcddeefaabbcc 00112233445566778899aabbccddeeff ffeeddccbbaa99887766554433221100
    """,
    )
)


def normalise(name: str, text: str) -> str:
    """Return the identity value `text` of `name` in its stored form. Raises ValueError with a message for people.

    Removes white space at the ends and replaces inner white space by one space. Writes a UUID as in RFC 9562.
    """
    folded = " ".join(text.split())
    if name != "uuid":
        return folded
    uuid = _usual_uuid(folded)
    if uuid is None:
        raise ValueError(
            f"“{folded[:60]}” is not a valid UUID. Enter 32 hexadecimal digits, such as "
            "4c4c4544-0044-4810-8031-b4c04f4a4b31, or leave out the UUID."
        )
    return uuid


def comparable(name: str, text: str) -> str:
    """Return `text` in a form for comparison: two values of `name` are the same if their forms are equal."""
    folded = " ".join(text.split()).casefold()
    if name == "uuid":
        return _usual_uuid(folded) or folded
    if name in ADDRESSES:
        return str(parse_ip(folded) or folded)
    return folded


def matches(name: str, sent: str, expected: str) -> bool:
    """Whether the sent value is the expected one. A User-Agent must only begin with it."""
    wanted = comparable(name, expected)
    # Programs other than iPXE write a space as `+`.
    forms = {comparable(name, sent), comparable(name, sent.replace("+", " "))}
    if name == "user_agent":
        return any(form.startswith(wanted) for form in forms)
    return wanted in forms


def is_placeholder(name: str, text: str) -> bool:
    """Whether `text` is a placeholder that vendors leave in many machines."""
    if name in ADDRESSES or name == "user_agent":
        return False
    letters = re.sub(r"[\W_]", "", comparable(name, text))
    repeated = len(letters) != 1 and len(set(letters)) <= 1
    return repeated or letters in _PLACEHOLDERS


def distinctive(identity: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Return the identity values that are not placeholders, in their form for comparison."""
    return frozenset(
        (name, comparable(name, text)) for name, text in identity.items() if not is_placeholder(name, text)
    )


def is_byte_swapped(sent: str, expected: str) -> bool:
    """Whether `sent` is the UUID `expected` with the bytes of its first three parts in reverse order."""
    found, wanted = _usual_uuid(sent), _usual_uuid(expected)
    return found is not None and wanted is not None and found != wanted and _swapped(found) == wanted


def _usual_uuid(text: str) -> str | None:
    digits = _UUID_FRAME.sub("", text.lower())
    if not _UUID.fullmatch(digits):
        return None
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _swapped(uuid: str) -> str:
    first, second, third, *rest = uuid.split("-")
    return "-".join([*(bytes.fromhex(part)[::-1].hex() for part in (first, second, third)), *rest])
