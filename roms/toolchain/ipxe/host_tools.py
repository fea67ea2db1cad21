"""The programs and headers that a build needs on this host."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from roms.toolchain import runner

_PROGRAMS = {
    "git": "git",
    "tar": "tar",
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "perl": "perl",
    "awk": "mawk",
}
_DISK_PROGRAMS = {"mformat": "mtools", "mcopy": "mtools"}
_ISO_PROGRAMS = {**_DISK_PROGRAMS, "xorrisofs": "xorriso"}
_USB_PROGRAMS = {**_DISK_PROGRAMS, "syslinux": "syslinux"}
_TARGET_PROGRAMS = {"iso": _ISO_PROGRAMS, "usb": _USB_PROGRAMS}
#: Files that the tree's own script needs, with their folders on Debian.
_ISO_FILES = {
    "isolinux.bin": ("/usr/lib/ISOLINUX", "isolinux"),
    "ldlinux.c32": ("/usr/lib/syslinux/modules/bios", "syslinux-common"),
}
_HEADERS = {"stdio.h": ("libc6-dev", ()), "lzma.h": ("liblzma-dev", ("-llzma",))}


class MissingTool(NamedTuple):
    """A missing program or header, and its Debian package."""

    tool: str
    package: str


def missing_tools(target: str) -> list[MissingTool]:
    """The programs and headers that a build of `target` needs, but this host does not have."""
    programs = {**_PROGRAMS, **_TARGET_PROGRAMS.get(target, {})}
    missing = [MissingTool(tool, package) for tool, package in programs.items() if not _has_program(tool)]
    if target == "iso":
        missing += [
            MissingTool(name, package)
            for name, (folder, package) in _ISO_FILES.items()
            if not (Path(folder) / name).exists()
        ]
    return missing + (_missing_headers() if _has_program("gcc") and _has_program("ld") else [])


def _missing_headers() -> list[MissingTool]:
    """The missing headers and libraries. The first check tests all together: usually none is missing."""
    libraries = [library for _, needed in _HEADERS.values() for library in needed]
    all_of_them = "".join(f"#include <{header}>\n" for header in _HEADERS) + "int main(void) { return 0; }\n"
    missing = []
    if not _compiles(all_of_them, *libraries):
        missing += [
            MissingTool(header, package)
            for header, (package, needed) in _HEADERS.items()
            if not _compiles(f"#include <{header}>\nint main(void) {{ return 0; }}\n", *needed)
        ]
    if not _compiles("int here;\n", "-m32", "-ffreestanding", "-c"):
        missing.append(MissingTool("a gcc that compiles for x86", "gcc, on an amd64 host"))
    return missing


def tools_message(missing: list[MissingTool]) -> str:
    """The message about missing programs and headers."""
    names = ", ".join(tool for tool, _ in missing)
    packages = " ".join(dict.fromkeys(package for _, package in missing))
    return f"The build needs {names}. Install with: apt-get install {packages}"


def _has_program(name: str) -> bool:
    return shutil.which(name, path=runner.SAFE_PATH) is not None


def _compiles(program: str, *arguments: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="rescuesite-") as folder:
        (Path(folder) / "test.c").write_text(program)
        command = ["gcc", "-o", "test.out", "test.c", *arguments]
        return runner.run(command, cwd=Path(folder), environment={"TMPDIR": folder}).returncode == 0
