"""A DHCP server that answers 20 s late, and a ROM whose script waits for it."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from roms.toolchain.ipxe.build import Builder, BuildRequest, Target
from roms.toolchain.ipxe.script.render import option_values, render, required_options
from roms.toolchain.ipxe.script.spec import ScriptSpec
from roms.toolchain.ipxe.source import DEFAULT_REF, SourceTree
from tests.e2e import guest
from tests.e2e.vm import VirtualServer

SOURCE = os.environ.get("RESCUESITE_IPXE_SOURCE", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SOURCE, reason="RESCUESITE_IPXE_SOURCE points to no source tree of iPXE"),
    pytest.mark.timeout(2400),
]

LATE = 20.0
OFFER, ACK = 2, 5


class LateServer:
    """A machine's only neighbour: it answers DHCP, `LATE` seconds after each question, and nothing else."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
            theirs.bind(("127.0.0.1", 0))
            self._guest = theirs.getsockname()
        self._timers: list[threading.Timer] = []

    @property
    def netdev(self) -> str:
        """What QEMU is told: the cable's frames travel as datagrams between it and us."""
        ours = self._socket.getsockname()
        return f"socket,id=n0,udp=127.0.0.1:{ours[1]},localaddr=127.0.0.1:{self._guest[1]}"

    def __enter__(self) -> LateServer:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        for timer in self._timers:
            timer.cancel()

    def _serve(self) -> None:
        while True:
            try:
                frame = self._socket.recv(2048)
            except OSError:
                return
            # IPv4, UDP, to a DHCP server; the options begin with what kind of message it is.
            if frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[36:38] == b"\0\x43":
                kind = {1: OFFER, 3: ACK}.get(frame[284]) if frame[282:284] == b"\x35\x01" else None
                if kind:
                    timer = threading.Timer(LATE, self._answer, [kind, frame])
                    timer.daemon = True
                    timer.start()
                    self._timers.append(timer)

    def _answer(self, kind: int, frame: bytes) -> None:
        try:
            self._socket.sendto(_answer(kind, frame), self._guest)
        except OSError:
            return
        self.answered.append(kind)


def _answer(kind: int, frame: bytes) -> bytes:
    """A DHCP message to the sender of `frame`: 10.9.8.7 of 10.9.8.1."""
    xid, mac = frame[46:50], frame[6:12]
    us, them = socket.inet_aton("10.9.8.1"), socket.inet_aton("10.9.8.7")
    options = b"\x35\x01" + bytes([kind]) + b"\x36\x04" + us + b"\x01\x04\xff\xff\xff\0" + b"\x33\x04\0\0\x0e\x10\xff"
    message = b"\x02\x01\x06\0" + xid + bytes(8) + them + us + bytes(4) + mac + bytes(10 + 192) + b"\x63\x82\x53\x63"
    message = (message + options).ljust(300, b"\0")
    datagram = struct.pack("!HHHH", 67, 68, 8 + len(message), 0) + message
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, us, b"\xff" * 4)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    return mac + b"\x02\0\0\0\0\x01" + b"\x08\0" + header + datagram


@pytest.fixture
def server() -> Iterator[LateServer]:
    with LateServer() as server:
        yield server


class Machine(VirtualServer):
    """One on the late server's cable."""

    def __init__(self, disk: Path, rom: Path, netdev: str) -> None:
        super().__init__(disk, rom=rom)
        self._command = [netdev if word == "user,id=n0" else word for word in self._command]


def test_a_machine_gets_its_address_from_a_server_that_answers_late(
    server: LateServer, disk: Path, tmp_path: Path
) -> None:
    spec = ScriptSpec("http://10.9.8.1", tries=1, timeout=3, dhcp_wait=int(LATE))
    options = {**dict.fromkeys(sorted(required_options(spec)), True), **option_values(spec)}
    request = BuildRequest(Target.ROM, render(spec).encode(), "8086:100e", options=options, banner=0)
    builder = Builder(SourceTree(SOURCE, DEFAULT_REF, guest.CACHE / "ipxe"), guest.CACHE / "ipxe")
    rom = builder.build(request, tmp_path).artifact
    with Machine(disk, rom, server.netdev) as machine:
        machine.wait_for(guest.DISK_MARKER, timeout=180)
    assert re.search(r"Configuring \[dhcp\] \(net0 [0-9a-f:]*\)[.\s]* ok", machine.text), machine.text
    # Nobody is there to be asked: the question was tried, and the disk reached.
    assert "http://10.9.8.1/boot" in machine.text
    assert {OFFER, ACK} <= set(server.answered)
