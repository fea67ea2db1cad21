"""Rendered scripts, run by a real iPXE: Debian's of 2019, and one built with nothing in it but what they need."""

from __future__ import annotations

import http.server
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from machines.boot.request import BootRequest
from roms.toolchain.ipxe.script.render import render, required_options
from roms.toolchain.ipxe.script.spec import VARIABLES, ScriptSpec, StaticNetwork
from roms.toolchain.ipxe.script.waits import worst_case
from tests.e2e import guest
from tests.e2e.site import Site, free_port
from tests.e2e.vm import GATEWAY, MAC, PRODUCT, SERIAL, UUID, VirtualServer
from tests.roms.ipxe_tree import Tree

pytestmark = pytest.mark.e2e

STATIC = StaticNetwork("10.0.2.77", "255.255.255.0", GATEWAY, "10.0.2.3")
#: What a vendor may have written, and breaks an address that is not escaped. QEMU wants commas doubled.
AWKWARD = "A &B #C+D%E?F=G/H:@,,x"
NO_ANSWER = "The rescue site does not answer, trying again"
NO_NETWORK = "No network yet, trying again"


class Listener:
    """An HTTP server that keeps what it was asked, and answers as the site does without a rescue, or as it is told."""

    def __init__(self, body: str = "#!ipxe\nset rescuesite local\necho Asked and answered\nexit 1\n") -> None:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.asked = asked
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://{GATEWAY}:{self._server.server_port}"

    def __enter__(self) -> Listener:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def request(self) -> BootRequest:
        """What the site would make of the one question."""
        (asked,) = self.asked
        return BootRequest.parse(asked.partition("?")[2], source=None)


class Machine(VirtualServer):
    """A virtual server with another ROM or vendor; all that crosses its network cable is kept."""

    def __init__(
        self, disk: Path, *, rom: Path | None = None, product: str = "", more: tuple[str, ...] = (), **options: Any
    ) -> None:
        super().__init__(disk, **options)
        self._wire = disk.with_name(f"{disk.name}.pcap")
        self._command += ["-object", f"filter-dump,id=f0,netdev=n0,file={self._wire}", *more]
        if rom:
            self._command = [re.sub(r"romfile=/usr/lib/ipxe/\S+$", f"romfile={rom}", word) for word in self._command]
        if product:
            self._command = [word.replace(f"product={PRODUCT}", f"product={product}") for word in self._command]

    def __enter__(self) -> Machine:
        super().__enter__()
        return self

    def packets(self) -> list[tuple[float, bytes]]:
        """What crossed the cable, and when by the machine's own clock."""
        data, at, found = self._wire.read_bytes(), 24, []
        while at + 16 <= len(data):
            seconds, microseconds, length, _ = struct.unpack_from("<IIII", data, at)
            found.append((seconds + microseconds / 1e6, data[at + 16 : at + 16 + length]))
            at += 16 + length
        return found

    def asked_for_an_address(self) -> int:
        """How many packets went to a DHCP server."""
        return sum(
            packet[12:14] == b"\x08\0" and packet[23] == 17 and packet[36:38] == b"\0\x43"
            for _, packet in self.packets()
        )

    def seconds_busy(self) -> float:
        """From the first packet to the last, by the machine's own clock."""
        times = [at for at, _ in self.packets()]
        return max(times) - min(times)


@contextmanager
def silent_site() -> Iterator[str]:
    """A site that takes connections and says nothing, ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://{GATEWAY}:{server.getsockname()[1]}"


@contextmanager
def ftp_server(folder: Path) -> Iterator[int]:
    """A server for everybody, as machines reach it; its port."""
    port = free_port()
    # What it tells a client to connect to must lead to this host: -n.
    options = ["-i", "127.0.0.1", "-p", str(port), "-n", GATEWAY, "-d", str(folder)]
    command = [sys.executable, "-W", "ignore", "-m", "pyftpdlib", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        try:
            said = ""
            while "starting FTP server" not in said:
                said = server.stderr.readline()
                assert said, "the FTP server does not start"
            yield port
        finally:
            server.terminate()


@pytest.fixture
def tftp(tmp_path: Path) -> Path:
    folder = tmp_path / "tftp"
    folder.mkdir()
    return folder


def boot_file(tftp: Path, script: str, *, pause: bool = False) -> dict[str, Any]:
    """Have Debian's iPXE fetch `script` as its boot file. With `pause` it says “Ready” first, and waits."""
    # iPXE of 2019 has neither: its `ifconf` waits for the link itself, and for an address without a bound.
    script = re.sub(r"iflinkwait --timeout \d+ (\S+) \|\| goto next", r"ifopen \1", script)
    script = script.replace("dhcp --timeout 60000", "dhcp")
    if pause:
        script = script.replace("#!ipxe\n", "#!ipxe\necho Ready\nsleep 5\n")
    (tftp / "boot.ipxe").write_text(script)
    return {"tftp": tftp, "boot_file": "boot.ipxe"}


# Debian's iPXE


def test_all_variables_reach_the_site(disk: Path, tftp: Path) -> None:
    with Listener() as site, Machine(disk, **boot_file(tftp, render(ScriptSpec(site.url)))) as server:
        server.wait_for(guest.DISK_MARKER)
        assert "Asked and answered" in server.text
        request = site.request
    assert request.mac == MAC
    assert str(request.ip) == "10.0.2.15"
    known = {"uuid": UUID, "serial": SERIAL, "product": PRODUCT, "manufacturer": "QEMU", "platform": "pcbios"}
    known |= {"buildarch": "i386", "gateway": GATEWAY, "netmask": "255.255.255.0", "dns": "10.0.2.3"}
    assert {name: request.params.get(name) for name in known} == known
    # QEMU has no asset number and its DHCP server no host name.
    assert set(VARIABLES) - set(request.params) == {"asset", "hostname"}
    assert request.params["version"].startswith("1.0.0+git-20190125")


def test_a_site_that_says_nothing_is_left_after_its_tries(disk: Path, tftp: Path) -> None:
    with silent_site() as url:
        spec = ScriptSpec(url, tries=2, timeout=3)
        with Machine(disk, **boot_file(tftp, render(spec), pause=True)) as server:
            server.wait_for("Ready")
            started = time.monotonic()
            server.wait_for(guest.DISK_MARKER)
            took = time.monotonic() - started
    assert server.text.count(NO_ANSWER) == 1
    # It does wait, and then not much longer; how much is measured by the machine's own clock further below.
    assert 2 * 3 + 3 <= took <= worst_case(spec).no_site + 60


def test_a_machine_whose_cable_is_pulled_boots_its_disk(disk: Path, tftp: Path) -> None:
    with Machine(disk, **boot_file(tftp, render(ScriptSpec("http://10.0.2.99", tries=2)), pause=True)) as server:
        server.wait_for("Ready")
        server.unplug()
        server.wait_for(guest.DISK_MARKER)
    assert server.text.count(NO_NETWORK) == 1


def test_a_static_address_is_the_one_that_asks(disk: Path, tftp: Path) -> None:
    with Listener() as site, Machine(disk, **boot_file(tftp, render(ScriptSpec(site.url, STATIC)))) as server:
        server.wait_for(guest.DISK_MARKER)
        request = site.request
    assert str(request.ip) == STATIC.ip
    # The firmware has asked for an address, to fetch the script at all; the script has not.
    assert server.text.count("Configuring") == 1


def test_a_uefi_machine_without_a_site_boots_its_disk(tmp_path: Path, tftp: Path) -> None:
    script = render(ScriptSpec(f"http://{GATEWAY}:1", tries=2, timeout=3))
    options = boot_file(tftp, script) | {"uefi_vars": tmp_path / "efi-vars"}
    with Machine(guest.efi_disk(tmp_path / "efi-disk"), **options) as server:
        server.wait_for(NO_ANSWER)
        # OVMF has network boot entries of its own for the card; without a cable they give up at once.
        server.unplug()
        server.wait_for(guest.DISK_MARKER)
    assert server.text.count(NO_ANSWER) == 1


def test_a_machine_with_a_rendered_script_is_rescued(site: Site, disk: Path, tftp: Path) -> None:
    mac = "52:54:00:00:00:05"
    identity = [f"uuid={UUID}", f"serial={SERIAL}", f"product={PRODUCT}", f"gateway={GATEWAY}"]
    arguments = [word for item in identity for word in ("--identity", item)]
    site.manage("machine", "add", "web05", "--mac", mac, "--network", "127.0.0.1", *arguments)
    site.manage("rescue", "enable", "web05")
    options = boot_file(tftp, render(ScriptSpec(f"http://{GATEWAY}:{site.port}")))
    with VirtualServer(disk, mac=mac, **options) as server:
        server.wait_for("RESCUE-REPORTED", unless=guest.DISK_MARKER)
    assert site.rescue("web05")["state"] == "up"


def test_a_machine_whose_script_is_a_file_is_rescued_once(site: Site, disk: Path, tftp: Path) -> None:
    export(site, tftp)
    options = boot_file(tftp, render(ScriptSpec(f"tftp://{GATEWAY}/MAC-${{mac:hexraw}}.ipxe")))
    with VirtualServer(disk, **options) as server:
        server.wait_for("RESCUE-REPORTED", unless=guest.DISK_MARKER)
        server.reset()
        server.wait_for(guest.DISK_MARKER)
    assert site.rescue()["end_cause"] == "next_boot"
    assert NO_ANSWER not in server.text


def export(site: Site, folder: Path) -> None:
    """Enable rescue for web01, and write the scripts."""
    site.manage("rescue", "enable", "web01", "--by", "alice")
    site.environment["RESCUESITE_BASE_URL"] = f"http://{GATEWAY}:{site.port}"
    site.manage("export_boot", str(folder))


# iPXE as it is flashed: v2.0.0, with no option but those that the script needs


@pytest.fixture
def flashed(tmp_path: Path) -> Any:
    """Build a ROM that embeds a spec's script."""
    Tree()

    def build(spec: ScriptSpec) -> Path:
        rom = tmp_path / "rom"
        # The others are on in iPXE as it comes.
        tree = Tree(on=required_options(spec) & {"DOWNLOAD_PROTO_FTP"})
        rom.write_bytes(tree.build("bin/8086100e.rom", render(spec)))
        return rom

    return build


@pytest.mark.timeout(1800)
class TestFlashed:
    """A machine with the script in its ROM. Where nobody answers from outside, its clock runs ahead of ours."""

    def test_all_variables_reach_the_site(self, disk: Path, flashed: Any) -> None:
        with Listener() as site, Machine(disk, rom=flashed(ScriptSpec(site.url)), product=AWKWARD) as server:
            server.wait_for(guest.DISK_MARKER)
            request = site.request
        assert (request.mac, str(request.ip)) == (MAC, "10.0.2.15")
        assert request.params["product"] == AWKWARD.replace(",,", ",")
        assert request.params["serial"] == SERIAL
        # No DNS_RESOLVER, no dns.
        assert set(VARIABLES) - set(request.params) == {"asset", "hostname", "dns"}

    def test_without_a_cable_the_disk_is_booted(self, disk: Path, flashed: Any) -> None:
        spec = ScriptSpec("http://10.0.2.99", tries=2, link_wait=7)
        with Machine(disk, rom=flashed(spec), link=False) as server:
            server.wait_for(guest.DISK_MARKER)
        assert server.text.count(NO_NETWORK) == 1
        # A dot for each second.
        assert len(re.findall(r"link-up on net0\.{3}\.{6,7} Down", server.text)) == 2

    def test_without_an_answer_to_dhcp_the_disk_is_booted_in_time(self, disk: Path, flashed: Any) -> None:
        spec = ScriptSpec("http://10.0.2.99")
        with Machine(disk, rom=flashed(spec), dhcp=False) as server:
            server.wait_for(guest.DISK_MARKER)
        assert server.text.count(NO_NETWORK) == 2
        assert server.asked_for_an_address() == 4 * 3
        # The last of four packets leaves eight seconds before DHCP gives up. There was no need to wait for the link.
        bound = worst_case(spec).no_address - 3 * (spec.link_wait - 1)
        assert 3 * 15 + 2 * 5 <= server.seconds_busy() + 8 <= bound

    def test_a_static_network_needs_no_dhcp(self, disk: Path, flashed: Any) -> None:
        with Listener() as site, Machine(disk, rom=flashed(ScriptSpec(site.url, STATIC))) as server:
            server.wait_for(guest.DISK_MARKER)
            request = site.request
        assert str(request.ip) == STATIC.ip
        assert (request.value("netmask"), request.value("gateway")) == (STATIC.netmask, STATIC.gateway)
        assert server.asked_for_an_address() == 0

    def test_a_site_that_drops_all_packets_costs_what_is_said(self, disk: Path, flashed: Any) -> None:
        spec = ScriptSpec("http://192.0.2.99", STATIC)
        with Machine(disk, rom=flashed(spec), dhcp=False) as server:
            server.wait_for(guest.DISK_MARKER)
        assert server.text.count(NO_ANSWER) == 2
        assert server.asked_for_an_address() == 0
        assert server.seconds_busy() <= worst_case(spec).no_site

    def test_a_site_that_says_nothing_costs_what_is_said(self, disk: Path, flashed: Any) -> None:
        with silent_site() as url:
            spec = ScriptSpec(url, tries=2, timeout=3)
            with Machine(disk, rom=flashed(spec)) as server:
                server.wait_for(guest.DISK_MARKER)
        assert server.text.count("Connection timed out") == 2
        assert server.seconds_busy() <= worst_case(spec).no_site

    def test_a_page_that_is_no_script_is_not_run(self, disk: Path, flashed: Any) -> None:
        # With IMAGE_PXE, iPXE takes it for a program, and the machine starts anew, again and again.
        with Listener("<html>404, says this proxy with status 200</html>") as site:
            with Machine(disk, rom=flashed(ScriptSpec(site.url, tries=2))) as server:
                server.wait_for(guest.DISK_MARKER)
            assert len(site.asked) == 2
        assert server.text.count("Exec format error") == 2
        assert server.text.count("Features:") == 1

    def test_the_second_card_asks_where_the_first_has_no_network(self, disk: Path, flashed: Any) -> None:
        other = ("-netdev", "user,id=n1", "-device", "e1000,netdev=n1,mac=52:54:00:00:00:06,romfile=")
        with Listener() as site:
            rom = flashed(ScriptSpec(site.url, link_wait=3))
            server = Machine(disk, rom=rom, more=other)
            with server:
                server.unplug()
                server.wait_for(guest.DISK_MARKER)
            assert site.request.mac == "52:54:00:00:00:06"

    def test_a_script_that_lies_on_an_ftp_server_sends_a_machine_in_rescue_on(
        self, disk: Path, flashed: Any, site: Site, tftp: Path
    ) -> None:
        export(site, tftp)
        with ftp_server(tftp) as port:
            spec = ScriptSpec(f"ftp://{GATEWAY}:{port}/MAC-${{mac:hexraw}}.ipxe")
            with Machine(disk, rom=flashed(spec)) as server:
                server.wait_for("RESCUE-REPORTED", unless=guest.DISK_MARKER)
        assert site.rescue()["state"] == "up"

    def test_a_machine_that_has_no_file_boots_its_disk(self, disk: Path, flashed: Any, tftp: Path) -> None:
        with ftp_server(tftp) as port:
            spec = ScriptSpec(f"ftp://{GATEWAY}:{port}/MAC-${{mac:hexraw}}.ipxe", tries=2)
            with Machine(disk, rom=flashed(spec)) as server:
                server.wait_for(guest.DISK_MARKER)
        assert server.text.count(NO_ANSWER) == 1
        assert "Operation not supported" not in server.text
