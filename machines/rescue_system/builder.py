"""Builds the rescue system from Debian's packages: a kernel, and an initrd."""

from __future__ import annotations

import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machines.boot import newc

HERE = Path(__file__).resolve().parent
PROFILES = ("small", "full")
#: Programs needed, and the Debian package that has each.
TOOLS = {"mmdebstrap": "mmdebstrap", "mksquashfs": "squashfs-tools"}
#: The kernel modules that the first program needs to open the root: a loop device, its file system, the layers.
EARLY_MODULES = ("loop", "squashfs", "overlay")
#: Times in the image, unless SOURCE_DATE_EPOCH says otherwise: 2025-01-01. The same input gives the same bytes.
EPOCH = 1735689600
#: What a build needs at most of the disk, in bytes: the unpacked root, its archive, the compressed file.
SPACE = 4 << 30


class BuildError(Exception):
    """The image cannot be built; the message says why, and what to do."""


@dataclass(frozen=True)
class Recipe:
    """What goes into an image."""

    suite: str
    profile: str = "full"
    include: Sequence[str] = ()
    mirror: str = ""

    def check(self) -> None:
        """Raise BuildError for text that mmdebstrap or apt would take for an option, a file or a command."""
        if not re.fullmatch(r"[a-z][a-z0-9.-]*", self.suite):
            raise BuildError(f"“{self.suite[:60]}” is not a valid Debian suite: write it like bookworm.")
        for name in self.include:
            if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]+(?::[a-z0-9]+)?(?:=[A-Za-z0-9.+~:-]+)?", name):
                raise BuildError(f"“{name[:60]}” is not a valid package name: write it like htop.")
        if self.mirror and not re.fullmatch(r"(?:https?|ftp|file|copy|mirror\+[a-z]+):/[!-~]+", self.mirror):
            raise BuildError(f"“{self.mirror[:60]}” is not a valid mirror: write it like http://deb.debian.org/debian.")

    def packages(self) -> list[str]:
        """Debian's packages by name, sorted."""
        names = {"linux-image-amd64", *self.include}
        for profile in PROFILES[: PROFILES.index(self.profile) + 1]:
            names.update(_lines(HERE / "packages" / f"{profile}.txt"))
        return sorted(names)


@dataclass
class Built:
    """The files of a finished image; they are gone with the folder that they lie in."""

    kernel: Path
    initrd: Path
    version: str = ""


@dataclass
class Builder:
    """One build in a folder of its own; `say` hears a line for each step, and for each of mmdebstrap's."""

    recipe: Recipe
    folder: Path
    #: A descriptor that the build's programs inherit: whoever holds its lock knows that they run.
    lock: int | None = None
    say: Callable[[str], None] = field(default=lambda line: None)

    def build(self) -> Built:
        """Build the image. Raises BuildError."""
        self._check()
        tar = self._root()
        kernel = self._taken("vmlinuz")
        squashed = self._squash(tar)
        tar.unlink()
        initrd = self._initrd(squashed)
        squashed.unlink()
        return Built(kernel, initrd, (self.folder / "version").read_text().strip())

    def _check(self) -> None:
        self.recipe.check()
        missing = sorted(package for tool, package in TOOLS.items() if not shutil.which(tool))
        if missing:
            raise BuildError(f"Programs are missing; install them: apt-get install {' '.join(missing)}")
        free = shutil.disk_usage(self.folder).free
        if free < SPACE:
            raise BuildError(f"{self.folder} has {free >> 20} MB free; building needs {SPACE >> 20} MB.")

    # The root file system

    def _root(self) -> Path:
        """Debian, with our files in it and without what it does not need, as a tar archive."""
        # No hook may empty the root's /tmp: mmdebstrap's apt would lose its configuration, and clear this host's lists.
        tar = self.folder / "root.tar"
        self.say(f"Debian {self.recipe.suite}: {len(self.recipe.packages())} packages and what they need")
        overlay = self._overlay()
        # A shell reads the hooks, and the data directory may lie anywhere.
        folder, modules = shlex.quote(str(self.folder)), HERE / "modules.py"
        list_modules = shlex.join([sys.executable, str(modules)])
        hooks = [
            f"sync-in {shlex.quote(str(overlay))} /",
            'chroot "$1" /bin/sh /usr/lib/rescuesite/finish-image',
            f'cp "$1"/boot/vmlinuz-* {folder}/vmlinuz',
            f'ls "$1"/usr/lib/modules > {folder}/version',
            *(
                f'find "$1"/usr/lib/modules "(" -name {name}.ko -o -name {name}.ko.xz ")" -exec cp -t {folder} {{}} +'
                for name in EARLY_MODULES
            ),
            f'cp "$1"/bin/busybox {folder}/busybox',
            f'{list_modules} "$(echo "$1"/usr/lib/modules/*)" {shlex.quote(str(HERE / "modules.txt"))}',
            f'chroot "$1" depmod "$(cat {folder}/version)"',
            'rm "$1"/usr/lib/rescuesite/finish-image',
            "rm -rf " + " ".join(f'"$1"/{path}' for path in _lines(HERE / "trim.txt")),
        ]
        command = [
            *("mmdebstrap", "--variant=minbase", "--components=main", "--format=tar"),
            f"--include={','.join(self.recipe.packages())}",
            *(
                f"--dpkgopt=path-exclude={path}"
                for path in ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
            ),
            '--aptopt=Acquire::Languages "none"',
            *(f"--customize-hook={hook}" for hook in hooks),
            *(self.recipe.suite, str(tar)),
            *([self.recipe.mirror] if self.recipe.mirror else []),
        ]
        self._run(command, "mmdebstrap")
        return tar

    def _overlay(self) -> Path:
        """Our files, with the modes that they need whatever the checkout's are."""
        overlay = self.folder / "overlay"
        shutil.copytree(HERE / "overlay", overlay, symlinks=True)
        programs = ("usr/local/sbin", "usr/lib/rescuesite", "usr/lib/systemd/system-generators", "etc/update-motd.d")
        for path in overlay.rglob("*"):
            runs = path.is_dir() or str(path.parent.relative_to(overlay)) in programs
            path.chmod(0o755 if runs else 0o644)
        return overlay

    def _squash(self, tar: Path) -> Path:
        """The root as one file that is read where it lies."""
        squashed = self.folder / "root.squashfs"
        self.say("compressing")
        # Its times come from SOURCE_DATE_EPOCH.
        times = ["-reproducible", "-no-exports"]
        # Reading a small file unpacks a whole block: blocks of 1 MB are 4 MB less in all, and take 3 s more to start.
        packing = ["-comp", "zstd", "-Xcompression-level", "19", "-b", "256K"]
        with tar.open("rb") as archive:
            self._run(
                ["mksquashfs", "-", str(squashed), "-tar", "-quiet", "-no-progress", *packing, *times],
                "mksquashfs",
                stdin=archive.fileno(),
            )
        return squashed

    # The initrd

    def _initrd(self, squashed: Path) -> Path:
        """The first program and the root, in one archive."""
        self.say("making the initrd")
        modules = {name: self._taken_module(name) for name in EARLY_MODULES}
        files = {
            "init": (0o755, (HERE / "early_init").read_bytes()),
            "bin/busybox": (0o755, self._taken("busybox").read_bytes()),
            "modules/order": (0o644, "".join(f"{name}.ko\n" for name in EARLY_MODULES).encode()),
            **{f"modules/{name}.ko": (0o644, content) for name, content in modules.items()},
            "root.squashfs": (0o644, squashed.read_bytes()),
        }
        initrd = self.folder / "initrd"
        initrd.write_bytes(newc.archive(files, {"proc": 0o755, "sys": 0o755, "dev": 0o755, "root": 0o700}))
        return initrd

    def _taken(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            raise BuildError(f"The packages of {self.recipe.suite} have no {name}; this suite is not supported.")
        return path

    def _taken_module(self, name: str) -> bytes:
        """A kernel module, unpacked: the first program has no tool for that."""
        plain, packed = self.folder / f"{name}.ko", self.folder / f"{name}.ko.xz"
        return lzma.decompress(packed.read_bytes()) if packed.exists() else self._taken(plain.name).read_bytes()

    def _run(self, command: Sequence[str], name: str, stdin: int = subprocess.DEVNULL) -> None:
        """Run a program, passing on what it says. Raises BuildError with the end of it where it fails."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TMPDIR": str(self.folder)}
        environment["SOURCE_DATE_EPOCH"] = str(_epoch())
        environment |= {name: os.environ[name] for name in ("http_proxy", "https_proxy", "HOME") if name in os.environ}
        said: list[str] = []
        with subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            pass_fds=[] if self.lock is None else [self.lock],
            # The image's files have the usual modes, whatever ours are.
            umask=0o022,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                said.append(line.rstrip())
                if line.startswith("I: ") and "hook" not in line:
                    self.say(f"  {line[3:].rstrip()}")
        if process.returncode:
            raise BuildError(f"{name} failed ({process.returncode}):\n" + "\n".join(said[-15:]))


def _epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a list, without comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return (line for line in lines if line)
