"""What the virtual machines boot: a local disk that prints a marker, and a small rescue system of Debian's parts."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

from machines.boot.newc import archive

DISK_MARKER = "LOCAL-DISK-BOOTED"
KERNEL_PACKAGE = "linux-image-amd64"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rescuesite-tests"

_INIT = r"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec >/dev/ttyS0 2>&1 </dev/ttyS0
echo "RESCUE-KERNEL $(uname -r)"
echo "RESCUE-CMDLINE $(cat /proc/cmdline)"
echo "RESCUE-KEYS $(cat /root/.ssh/authorized_keys)"
echo "RESCUE-KEYS-MODE $(stat -c '%a %u' /root/.ssh/authorized_keys) $(stat -c %a /root/.ssh)"
echo "RESCUE-REASON $(cat /etc/rescuesite/reason)"
grep -q rescue-test=silent /proc/cmdline && { echo "RESCUE-SILENT"; exec sleep 100000; }
insmod /lib/modules/e1000.ko
ip link set eth0 up
udhcpc -i eth0 -n -q -f -t 10 -T 1 -s /etc/udhcpc.sh
address=$(ip -4 -o addr show eth0 | sed 's/.*inet \([0-9.]*\).*/\1/')
boot_id=$(cat /proc/sys/kernel/random/boot_id)
for try in 1 2 3 4 5; do
  report="address=$address&hostname=rescue&boot_id=$boot_id"
  wget -q -O - --post-data "$report" "$(cat /etc/rescuesite/report_url)" && break
done
echo
echo "RESCUE-REPORTED"
exec sleep 100000
"""
_UDHCPC = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || ip route add default via "$router"
"""


def disk_image(path: Path, megabytes: int = 1) -> Path:
    """A disk whose boot sector writes DISK_MARKER to the first serial port, again and again.

    One larger than a megabyte has a partition at its first, for a test to fill.
    """
    # xor ax,ax; mov ds,ax; again: mov si,message; next: lodsb; or al,al; jz done; mov dx,3f8h; out dx,al; jmp next;
    # done: sti; hlt (until the timer ticks); jmp again
    code = bytes.fromhex("31c0 8ed8 be167c ac 08c0 7406 baf803 ee ebf5 fb f4 ebee")
    assert len(code) == 0x16, "mov si points behind the code"
    message = f"\r\n{DISK_MARKER}\r\n".encode() + b"\0"
    sector = (code + message).ljust(446, b"\0")
    if megabytes > 1:
        # One partition of type 8e (Linux LVM), from the first to the last full megabyte.
        sector += bytes([0, 0, 0, 0, 0x8E, 0, 0, 0]) + struct.pack("<II", 2048, (megabytes - 1) * 2048)
    path.write_bytes(sector.ljust(510, b"\0") + b"\x55\xaa")
    os.truncate(path, megabytes << 20)
    return path


def efi_disk(path: Path) -> Path:
    """A folder for QEMU to show as FAT disk, with a boot loader at the default place that prints DISK_MARKER."""
    boot = path / "EFI" / "BOOT"
    boot.mkdir(parents=True)
    config = path.with_name(f"{path.name}.cfg")
    config.write_text(f"echo {DISK_MARKER}\n")
    loader = ["--output", str(boot / "BOOTX64.EFI"), "--config", str(config), "--prefix", "/EFI/BOOT"]
    subprocess.run(["grub-mkimage", "--format", "x86_64-efi", *loader, "echo"], check=True, capture_output=True)
    return path


def kernel() -> Path:
    """Debian's kernel."""
    return next((_unpacked_kernel() / "boot").glob("vmlinuz-*"))


def initrd(path: Path) -> Path:
    """An initrd around busybox that prints what it was given, gets an address and reports to the site."""
    module = next(_unpacked_kernel().glob("lib/modules/*/kernel/drivers/net/ethernet/intel/e1000/e1000.ko"))
    busybox = Path("/bin/busybox").read_bytes()
    files = {
        "init": (0o755, _INIT.encode()),
        "etc/udhcpc.sh": (0o755, _UDHCPC.encode()),
        "lib/modules/e1000.ko": (0o644, module.read_bytes()),
        "bin/busybox": (0o755, busybox),
    }
    applets = [
        "sh",
        "mount",
        "echo",
        "cat",
        "uname",
        "stat",
        "grep",
        "insmod",
        "ip",
        "udhcpc",
        "sed",
        "wget",
        "sleep",
    ]
    files |= {
        f"bin/{name}": (0o755, b"#!/bin/busybox sh\nexec /bin/busybox " + name.encode() + b' "$@"\n')
        for name in applets
        if name != "sh"
    }
    files["bin/sh"] = (0o755, busybox)
    path.write_bytes(archive(files, {"proc": 0o755, "sys": 0o755, "dev": 0o755}))
    return path


def _unpacked_kernel() -> Path:
    """The kernel package's contents, downloaded once and kept for later runs."""
    package = subprocess.run(
        ["apt-cache", "depends", "--important", KERNEL_PACKAGE], check=True, capture_output=True, text=True
    ).stdout
    name = next(line.split(":", 1)[1].strip() for line in package.splitlines() if "Depends:" in line)
    folder = CACHE / name
    if not folder.exists():
        draft = CACHE / f"{name}.{os.getpid()}"
        draft.mkdir(parents=True)
        subprocess.run(["apt-get", "download", name], check=True, cwd=draft, capture_output=True)
        deb = next(draft.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(deb), str(draft)], check=True)
        deb.unlink()
        try:
            draft.rename(folder)
        except OSError:
            # Another test process was first.
            shutil.rmtree(draft)
    return folder
