"""Boot answers a second, and how long one takes, against rescue.php, which looks nothing up and logs nothing."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from bench.peers import rescue_php
from tests.e2e.site import Site

MAC = "52:54:00:12:34:56"
_SECONDS, _CONNECTIONS = 6, 16


def run(base: Path) -> None:
    base.mkdir()
    base.chmod(0o755)
    with rescue_php(base / "peer") as peer, Site(base / "data") as site:
        _furnish(site, base)
        site.start()
        _await(f"{peer}/rescue.php?mac=x")
        query = f"mac={MAC}&ip=127.0.0.1&uuid=4c4c4544&serial=SN42"
        measured = {"rescue.php, machine in rescue (peer)": _wrk(f"{peer}/rescue.php?{query}")}
        measured["disk: a known machine"] = _wrk(f"{site.url}/boot?{query}")
        measured["disk: an unknown MAC"] = _wrk(f"{site.url}/boot?mac=52:54:00:99:99:99&ip=127.0.0.1")
        site.manage("rescue", "enable", "web01")
        measured["rescue: a machine in rescue"] = _wrk(f"{site.url}/boot?{query}")
    print(f"\nBoot answers, {_CONNECTIONS} connections for {_SECONDS} s each; the site looks up, decides and records")
    print(f"{'':40}{'req/s':>9}{'ratio':>8}{'median':>10}{'99 %':>10}")
    reference = next(iter(measured.values()))[0]
    for name, (rate, median, slow) in measured.items():
        print(f"{name:40}{rate:9.0f}{rate / reference:8.2f}{median:>10}{slow:>10}")


def _furnish(site: Site, base: Path) -> None:
    site.data_dir.mkdir()
    site.manage("migrate", "--verbosity", "0")
    (base / "kernel").write_bytes(b"kernel")
    site.manage("image", "add", "bench", "--kernel", str(base / "kernel"), "--default")
    site.manage("machine", "add", "web01", "--mac", MAC, "--network", "127.0.0.1")


def _wrk(url: str) -> tuple[float, str, str]:
    """Requests a second, and the median and 99th percentile of the latency as wrk writes them."""
    printed = subprocess.run(
        ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_SECONDS}s", "--latency", url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = {name: re.search(pattern, printed) for name, pattern in _WRK.items()}
    rate, median, slow = (match.group(1) if match else "nan" for match in found.values())
    return float(rate), median, slow


_WRK = {"rate": r"Requests/sec:\s+([\d.]+)", "median": r"50%\s+(\S+)", "slow": r"99%\s+(\S+)"}


def _await(url: str) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            urlopen(url, timeout=2).close()
        except URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
