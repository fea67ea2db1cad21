"""A rescue system that is not ours takes part: machines/rescue_system/join.sh gets its keys and reports for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import KEY
from tests.e2e.site import ROOT, Site, token_in
from tests.e2e.vm import MAC

pytestmark = pytest.mark.e2e


@pytest.fixture
def host_keys(tmp_path: Path) -> Path:
    """A folder with a host key, as sshd keeps it."""
    folder = tmp_path / "ssh"
    folder.mkdir()
    key = folder / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return folder


@pytest.mark.parametrize("without", ["wget", "curl"])
def test_the_script_for_other_systems_takes_the_keys_and_reports(
    site: Site, host_keys: Path, tmp_path: Path, without: str
) -> None:
    public = (host_keys / "ssh_host_ed25519_key.pub").read_text()
    site.manage("rescue", "enable", "web01", "--by", "alice")
    token = token_in(site.get(f"/boot?mac={MAC}").text)
    assert site.get(f"/boot/{token}/ready").status == 200
    # What would start services on this host, and the program that the system lacks, are none.
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "ssh-keygen"):
        (programs / name).symlink_to("/bin/true")
    for name in (
        "sh",
        "cat",
        "sed",
        "tr",
        "paste",
        "mkdir",
        "mv",
        "ip",
        "sleep",
        {"wget": "curl", "curl": "wget"}[without],
    ):
        (programs / name).symlink_to(str(shutil.which(name)))
    home = tmp_path / "home"
    joined = subprocess.run(
        ["/bin/sh", str(ROOT / "machines" / "rescue_system" / "join.sh"), f"{site.url}/boot/{token}"],
        env={"PATH": str(programs), "HOME": str(home), "SSH_DIRECTORY": str(host_keys)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert joined.returncode == 0, joined.stderr
    keys = home / ".ssh" / "authorized_keys"
    assert keys.read_text().strip() == KEY
    assert keys.stat().st_mode & 0o777 == 0o600
    rescue = site.rescue()
    assert rescue["state"] == "up"
    assert rescue["host_keys"] == [" ".join(public.split()[:2])]
    assert rescue["address"] == "127.0.0.1"
