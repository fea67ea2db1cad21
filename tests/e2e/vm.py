"""A virtual server: QEMU, its serial port read as it prints."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

MAC = "52:54:00:12:34:56"
OVMF_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"
#: What stock iPXE is given as DHCP boot file (127 characters at most); it expands its settings in it.
ASK = "mac=${mac}&ip=${ip}&platform=${platform}"
SERIAL = "SN 42"


class VirtualServer:
    """One machine, from power-on to power-off. Use as context manager."""

    def __init__(
        self,
        disk: Path,
        *,
        boot_file: str | None,
        uefi_vars: Path | None = None,
        network: str = "",
        memory: int = 512,
        nic: str = "e1000",
        monitor: Sequence[str] = (),
    ) -> None:
        netdev = f"user,id=n0{network}"
        if boot_file:
            netdev += f",bootfile={boot_file}"
        self._command = [
            "qemu-system-x86_64",
            *("-accel", "tcg", "-m", str(memory), "-nodefaults", "-display", "none", "-no-reboot"),
            *("-smbios", f"type=1,serial={SERIAL},uuid=4c4c4544-0042-3510-8052-b4c04f4a4d31"),
            *("-netdev", netdev),
            *("-chardev", "stdio,id=s0,signal=off", "-serial", "chardev:s0"),
            *("-monitor", "none"),
        ]
        if uefi_vars:
            uefi_vars.write_bytes(Path(OVMF_VARS).read_bytes())
            self._command += [
                *("-machine", "q35"),
                *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"),
                *("-drive", f"if=pflash,format=raw,unit=1,file={uefi_vars}"),
                *("-drive", f"if=none,id=d0,format=raw,file=fat:rw:{disk}"),
                *("-device", "virtio-blk-pci,drive=d0,bootindex=2"),
                *(
                    "-device",
                    f"{nic},netdev=n0,mac={MAC},bootindex=1,romfile=/usr/lib/ipxe/qemu/efi-{nic}.rom",
                ),
            ]
        else:
            self._command += [
                *("-machine", "pc,graphics=off"),
                *("-drive", f"if=none,id=d0,format=raw,file={disk}"),
                *("-device", "ide-hd,drive=d0,bootindex=2"),
                *(
                    "-device",
                    f"{nic},netdev=n0,mac={MAC},bootindex=1,romfile=/usr/lib/ipxe/qemu/pxe-{nic}.rom",
                ),
            ]
        self._command += monitor
        self._text = ""
        self._news = threading.Condition()
        self._ended = False

    def __enter__(self) -> VirtualServer:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)

    @property
    def text(self) -> str:
        """What it has printed so far, without terminal control sequences."""
        with self._news:
            return re.sub(r"\x1b\[[0-9;?=]*[A-Za-z]", "", self._text)

    def wait_for(self, pattern: str, timeout: float = 120) -> re.Match[str]:
        """Return the first match in what it prints. Raises AssertionError with all of it after `timeout` seconds."""
        until = time.monotonic() + timeout
        with self._news:
            while True:
                if match := re.search(pattern, self.text):
                    return match
                if self._ended or not self._news.wait(max(0.0, until - time.monotonic())):
                    break
        raise AssertionError(f"no “{pattern}” within {timeout} s in:\n{self.text}")

    def _read(self) -> None:
        assert self._process.stdout
        while chunk := os.read(self._process.stdout.fileno(), 4096):
            with self._news:
                self._text += chunk.decode("ascii", "replace")
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
