"""A virtual server: QEMU, its serial port read as it prints."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

MAC = "52:54:00:12:34:56"
UUID = "4c4c4544-0042-3510-8052-b4c04f4a4d31"
SERIAL = "SN 42"
PRODUCT = "Server 9"
#: What stock iPXE is given as DHCP boot file (127 characters at most); it expands its settings in it.
ASK = "mac=${mac}&ip=${ip}&platform=${platform}"
#: Where the guest finds this host's loopback.
GATEWAY = "10.0.2.2"
OVMF_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"
_NIC = "e1000"


def ask_at(port: int) -> str:
    """The DHCP boot file that makes stock iPXE ask the site on `port`."""
    return f"http://{GATEWAY}:{port}/boot?{ASK}"


class VirtualServer:
    """One machine, from power-on to power-off. Use as context manager."""

    def __init__(
        self,
        disk: Path,
        *,
        boot_file: str = "",
        tftp: Path | None = None,
        uefi_vars: Path | None = None,
        dhcp: bool = True,
        link: bool = True,
        forwards: bool = True,
        memory: int = 512,
        cpus: int = 1,
        mac: str = MAC,
        ssh_port: int | None = None,
        address: str = "",
        nic: str = _NIC,
        rom: Path | None = None,
        spare: Path | None = None,
        stick: Path | None = None,
    ) -> None:
        """`disk` is an image file, or on UEFI (`uefi_vars`: where its variables are kept) a folder shown as one.

        `ssh_port` of this host leads to the guest's SSH server, at `address` where that is not DHCP's; `memory` is in
        MiB; `rom` takes the place of Debian's; `spare` is a second disk. Without `forwards` the cable leads to a switch
        that passes nothing on until `forward`. `stick` is a folder shown as a disk that is first in the order; the card
        then has no ROM, and is no boot device.
        """
        assert len(boot_file) <= 127, "DHCP has no room for it"
        self._forwards = forwards
        netdev = "hubport,id=n0,hubid=0" if not dhcp else "user,id=n0" if forwards else "user,id=u0"
        netdev += f",tftp={tftp}" if tftp else ""
        netdev += f",bootfile={boot_file}" if boot_file else ""
        netdev += f",hostfwd=tcp:127.0.0.1:{ssh_port}-{address}:22" if ssh_port else ""
        self._command = [
            "qemu-system-x86_64",
            *("-accel", "tcg", "-m", str(memory), "-smp", str(cpus), "-nodefaults", "-display", "none", "-S"),
            *("-smbios", f"type=1,product={PRODUCT},serial={SERIAL},uuid={UUID}"),
            *("-netdev", netdev),
            *(() if forwards else ("-netdev", "hubport,id=h0,hubid=0,netdev=u0", "-netdev", "hubport,id=n0,hubid=0")),
            *("-chardev", "stdio,id=s0,signal=off", "-serial", "chardev:s0"),
        ]
        if uefi_vars:
            uefi_vars.write_bytes(Path(OVMF_VARS).read_bytes())
            stock = f"efi-{nic}.rom"
            self._command += [
                *("-machine", "q35"),
                *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"),
                *("-drive", f"if=pflash,format=raw,unit=1,file={uefi_vars}"),
                *("-drive", f"if=none,id=d0,format=raw,file=fat:rw:{disk}"),
                *("-device", "virtio-blk-pci,drive=d0,bootindex=2"),
            ]
        else:
            stock = f"pxe-{nic}.rom"
            self._command += [
                *("-machine", "pc,graphics=off"),
                *("-drive", f"if=none,id=d0,format=raw,file={disk}"),
                *("-device", "ide-hd,drive=d0,bootindex=2"),
            ]
        if spare:
            self._command += ["-drive", f"if=none,id=d1,format=raw,file={spare}", "-device", "ide-hd,drive=d1"]
        boots = f"bootindex=1,romfile={rom or Path('/usr/lib/ipxe/qemu') / stock}"
        if stick:
            boots = "romfile="
            self._command += ["-drive", f"if=none,id=d2,format=raw,file=fat:rw:{stick}"]
            self._command += ["-device", "virtio-blk-pci,drive=d2,bootindex=1"]
        self._command += ["-device", f"{nic},netdev=n0,mac={mac},{boots}"]
        # The 82559 complains of each packet that it cannot pass on.
        self._errors = subprocess.DEVNULL if nic.startswith("i82") else subprocess.STDOUT
        if not (dhcp and link):
            # Nobody answers from outside, so its clock may run ahead whenever it waits: 20 s take 2 s.
            self._command += ["-icount", "shift=7,sleep=off"]
        self._link = link
        self._text = ""
        self._news = threading.Condition()
        self._ended = False

    def __enter__(self) -> VirtualServer:
        ours, theirs = socket.socketpair()
        with theirs:
            monitor = ["-chardev", f"socket,id=m0,fd={theirs.fileno()}", "-mon", "chardev=m0,mode=control"]
            self._process = subprocess.Popen(
                self._command + monitor,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            ours.settimeout(30)
            self._monitor = ours.makefile("rw", encoding="utf-8")
            ours.close()
            self._monitor.readline()
            self._tell("qmp_capabilities")
            if not self._link:
                self.unplug()
            if not self._forwards:
                self._tell("set_link", name="u0", up=False)
            self._tell("cont")
        except BaseException as error:
            self.__exit__()
            raise AssertionError(f"QEMU does not start: {self.text}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        self._monitor.close()
        assert self._process.stdout
        self._process.stdout.close()

    def reset(self) -> None:
        """Press the reset button. What was printed before stays in `text`."""
        self._tell("system_reset")

    def unplug(self) -> None:
        """Pull the network cable."""
        self._tell("set_link", name="n0", up=False)

    def forward(self) -> None:
        """Have the switch pass packets on."""
        self._tell("set_link", name="u0", up=True)

    @property
    def runs(self) -> bool:
        """Whether QEMU has not ended."""
        return self._process.poll() is None

    @property
    def text(self) -> str:
        """What it has printed so far, without terminal control sequences."""
        with self._news:
            return re.sub(r"\x1b\[[0-9;?=]*[A-Za-z]", "", self._text)

    def wait_for(self, pattern: str, timeout: float = 120, unless: str = "(?!)") -> re.Match[str]:
        """Return the first match in what it prints.

        Raises AssertionError with all of it after `timeout` seconds, or once it prints `unless` (nothing, by default).
        """
        until = time.monotonic() + timeout
        with self._news:
            while True:
                if match := re.search(pattern, self.text):
                    return match
                if self._ended or re.search(unless, self.text):
                    break
                if not self._news.wait(max(0.0, until - time.monotonic())):
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

    def _tell(self, command: str, **arguments: Any) -> None:
        """Have QEMU's monitor do something (QMP)."""
        self._monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._monitor.flush()
        while True:
            answer = json.loads(self._monitor.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return
