"""The rescue system itself: built of Debian's packages, booted, logged in to, and used to repair a disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import guest
from tests.e2e.site import ROOT, Site, free_port
from tests.e2e.vm import GATEWAY, VirtualServer, ask_at

# One worker builds the image, once, and these tests go on from each other: `--dist loadfile` keeps them together.
pytestmark = pytest.mark.e2e

API = (ROOT / "docs" / "api.md").read_text()
UEFI_MAC = "52:54:00:00:00:ef"
#: What the second machine has instead of DHCP, and QEMU's name server.
STATIC, NAME_SERVER = "10.0.2.99", "10.0.2.3"
REASON = "RAID lost two disks"
#: What the small profile is promised to run in, in MiB.
MEMORY = 768
#: The first extent of the volume in the disk's only partition: a megabyte for each of their headers.
VOLUME_AT = 2 << 20


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two key pairs: `alice`, who may log in, and `mallory`, who may not."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "mallory"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    return folder


@pytest.fixture(scope="module")
def site(furnished: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose default image is the small one, just built; and a second machine, for UEFI."""
    data_dir = tmp_path_factory.mktemp("rescue") / "site"
    shutil.copytree(furnished, data_dir)
    with Site(data_dir) as site:
        site.shell(
            "from django.contrib.auth.models import User\nfrom machines.models import SSHKey\n"
            f"key = SSHKey(user=User.objects.get(), public_key={(keys / 'alice.pub').read_text()!r})\n"
            "key.full_clean()\nkey.save()"
        )
        site.manage("build_rescue_image", "--profile", "small", timeout=900)
        static = ("--static-address", f"{STATIC}/24", "--gateway", GATEWAY, "--dns", NAME_SERVER)
        site.manage("machine", "add", "uefi01", "--mac", UEFI_MAC, "--network", "127.0.0.1", *static)
        site.start()
        yield site
    site.check_log()


class Rescued:
    """A machine in which the rescue system runs."""

    def __init__(self, site: Site, server: VirtualServer, port: int, keys: Path, disk: Path) -> None:
        self.site, self.server, self.disk = site, server, disk
        self._port, self._keys = port, keys
        # The host key that was reported, and no trust in any other.
        self._known = keys / "known_hosts"
        lines = [f"[127.0.0.1]:{port} {key}\n" for key in site.rescue()["host_keys"]]
        self._known.write_text("".join(lines))

    def ssh(
        self, command: str, *, key: str = "alice", options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._ssh(key, options, command), capture_output=True, text=True, timeout=120)

    def _ssh(self, key: str, options: tuple[str, ...], command: str) -> list[str]:
        strict = (
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self._known}",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
        )
        settings = [part for option in (*strict, "LogLevel=ERROR", *options) for part in ("-o", option)]
        place = ["-F", "none", "-i", str(self._keys / key), "-p", str(self._port), "root@127.0.0.1"]
        return ["ssh", *settings, *place, command]

    def answer(self, command: str, prompt: str, answer: str) -> str:
        """Run a command that asks at a terminal; return what it says after the answer."""
        with subprocess.Popen(
            self._ssh("alice", ("RequestTTY=force",), command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin
            assert process.stdout
            said = ""
            while prompt not in said:
                character = process.stdout.read(1)
                assert character, said
                said += character
            # Nothing is seen of what is typed, unless it came between the prompt and the end of the echo: then it was
            # thrown away (cryptsetup sets the terminal with TCSAFLUSH), and has to be typed again.
            said, seen = "", f"{answer}\n"
            self._type(process, answer)
            while character := process.stdout.read(1):
                said += character
                if said.endswith(seen):
                    self._type(process, answer)
            assert process.wait(60) == 0, said
            return said

    @staticmethod
    def _type(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin
        process.stdin.write(f"{line}\n")
        process.stdin.flush()

    def run(self, command: str) -> str:
        done = self.ssh(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


def test_building_leaves_this_hosts_package_lists_alone(site: Site) -> None:
    """mmdebstrap's apt works on this host's lists where its own configuration is lost on the way."""
    shown = subprocess.run(["apt-cache", "show", "linux-image-amd64"], capture_output=True)
    assert shown.returncode == 0


@pytest.fixture(scope="module")
def rescued(site: Site, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rescued]:
    site.manage("rescue", "enable", "web01", "--reason", REASON, "--by", "alice")
    disk, port = guest.disk_image(tmp_path_factory.mktemp("disk") / "disk", megabytes=256), free_port()
    spare = disk.with_name("spare")
    with spare.open("wb") as file:
        file.truncate(128 << 20)
    with VirtualServer(disk, boot_file=ask_at(site.port), memory=MEMORY, ssh_port=port, spare=spare) as server:
        site.manage("rescue", "status", "web01", "--wait", "--timeout", "200", timeout=240)
        yield Rescued(site, server, port, keys, disk)


def test_the_reported_host_key_is_the_one_that_ssh_meets(rescued: Rescued) -> None:
    assert rescued.site.rescue()["host_keys"]
    assert rescued.run("id -u").strip() == "0"


def test_a_key_that_was_not_delivered_is_refused(rescued: Rescued) -> None:
    refused = rescued.ssh("true", key="mallory")
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr


def test_no_password_is_even_asked_for(rescued: Rescued) -> None:
    refused = rescued.ssh("true", options=("PubkeyAuthentication=no", "PreferredAuthentications=password"))
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr


def test_the_command_line_and_the_address_are_what_was_given_and_reported(rescued: Rescued) -> None:
    assert "BOOTIF=01-52-54-00-12-34-56 initrd=initrd initrd=rescue.cpio" in rescued.run("cat /proc/cmdline")
    address = rescued.site.rescue()["address"]
    assert re.search(rf"\b{re.escape(address)}/", rescued.run("ip -brief address"))


def test_names_are_looked_up_where_dhcp_says(rescued: Rescued) -> None:
    assert rescued.run("cat /etc/resolv.conf").splitlines()[0] == f"nameserver {NAME_SERVER}"


def test_the_message_of_the_day_says_what_and_why_this_is(rescued: Rescued) -> None:
    said = rescued.run("run-parts /etc/update-motd.d")
    for expected in ("web01", "debian-", "alice", REASON, "the next boot", "sda1"):
        assert expected in said


def test_the_serial_console_shows_the_message_too(rescued: Rescued) -> None:
    rescued.server.wait_for(re.escape(REASON))


def test_a_network_driver_has_what_it_needs_of_parts_that_were_left_out(rescued: Rescued) -> None:
    assert "/mtd.ko" in rescued.run("modprobe --show-depends sfc")
    assert rescued.ssh("modprobe --show-depends snd").returncode != 0


def test_the_small_profile_leaves_half_of_its_memory_free(rescued: Rescued) -> None:
    total, available = (int(n) for n in rescued.run("free -m | awk '/Mem/ { print $2, $7 }'").split())
    assert total < MEMORY
    assert available > total / 2


def test_nothing_on_the_disks_is_touched_until_somebody_does(rescued: Rescued) -> None:
    make = (
        "vgcreate --quiet system /dev/sda1 && lvcreate --quiet --yes --name root --extents 100%FREE system"
        " && mkfs.ext4 -q /dev/system/root && mount /dev/system/root /mnt && mkdir -p /mnt/etc /mnt/sbin /mnt/usr/bin"
        " && mkdir -p /mnt/bin /mnt/dev /mnt/proc /mnt/sys /mnt/run"
        " && cp /bin/busybox /mnt/bin/sh && cp /bin/busybox /mnt/sbin/init"
        " && echo '/dev/system/root / ext4 defaults 0 1' > /mnt/etc/fstab && echo broken > /mnt/etc/state"
        " && umount /mnt && vgchange --quiet --activate n system"
    )
    rescued.run(make)
    # As udev sees it when a disk appears.
    rescued.run("udevadm trigger --action=add --subsystem-match=block && udevadm settle")
    assert rescued.run("lvs --noheadings --options lv_active system").strip() == ""
    assert "sda" not in rescued.run("findmnt --noheadings --list --output SOURCE")


def test_rescue_mount_finds_the_root_in_a_volume_and_leaves_it_as_it_is(rescued: Rescued) -> None:
    assert "read-only" in rescued.run("rescue-mount")
    assert rescued.run("cat /mnt/etc/state").strip() == "broken"
    assert rescued.ssh("touch /mnt/etc/new").returncode != 0
    assert "proc" in rescued.run("findmnt --noheadings --output FSTYPE /mnt/proc")
    rescued.run("rescue-umount")
    # Closed in every mount namespace: not even the volume is open any more.
    assert rescued.run("lvs --noheadings --options lv_active system").strip() == ""


#: A root in a volume in LUKS on a RAID array of the spare disk's first two partitions, and as it stands in its third.
SEALED = """
set -e
root() {
    mount $1 /mnt
    mkdir -p /mnt/etc /mnt/usr/bin
    touch /mnt/etc/fstab
    echo $2 > /mnt/etc/hostname
    echo "PRETTY_NAME=\\"$3\\"" > /mnt/etc/os-release
    umount /mnt
}
printf 'size=40M\nsize=40M\nsize=30M\n' | sfdisk --quiet /dev/sdb
udevadm settle
mdadm --create /dev/md/pair --quiet --run --level=1 --raid-devices=2 --metadata=1.2 /dev/sdb1 /dev/sdb2
fast="--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
printf secret | cryptsetup luksFormat $fast --batch-mode --key-file - /dev/md/pair
printf secret | cryptsetup open --key-file - /dev/md/pair inner
vgcreate --quiet vault /dev/mapper/inner
lvcreate --quiet --yes --name root --extents 100%FREE vault
mkfs.ext4 -q /dev/vault/root
root /dev/vault/root vault01 'Debian GNU/Linux 12'
mkfs.btrfs --quiet --mixed /dev/sdb3
mount /dev/sdb3 /mnt
btrfs --quiet subvolume create /mnt/@
umount /mnt
root '-o subvol=@ /dev/sdb3' plain 'Another'
vgchange --quiet --activate n vault
cryptsetup close inner
mdadm --stop --quiet /dev/md/pair
"""


def test_of_several_roots_rescue_mount_takes_none_and_says_which_there_are(rescued: Rescued) -> None:
    rescued.run(SEALED)
    several = rescued.ssh("rescue-mount")
    assert several.returncode == 1
    assert re.search(r"^  /dev/mapper/system-root: $", several.stderr, re.MULTILINE)
    assert re.search(r"^  /dev/sdb3: Another, plain$", several.stderr, re.MULTILINE)
    assert "Name one: rescue-mount /dev/…" in several.stderr
    assert rescued.ssh("mountpoint /mnt").returncode != 0


def test_a_root_in_a_subvolume_is_mounted_and_what_is_encrypted_named(rescued: Rescued) -> None:
    said = rescued.run("rescue-mount /dev/sdb3")
    assert "/dev/sdb3 is mounted at /mnt, read-only." in said
    assert "Not looked into, as it is encrypted: /dev/md" in said
    assert rescued.run("cat /mnt/etc/hostname").strip() == "plain"
    rescued.run("rescue-umount")


def test_no_root_is_mounted_where_there_is_none(rescued: Rescued) -> None:
    rescued.run("wipefs --quiet --all /dev/sdb3")
    none = rescued.ssh("rescue-mount /dev/sdb3")
    assert none.returncode == 1
    assert "No root file system found" in none.stderr


def test_without_a_terminal_a_passphrase_is_said_to_need_one(rescued: Rescued) -> None:
    closed = rescued.ssh("rescue-mount /dev/sdb")
    assert closed.returncode == 1
    assert "there is no terminal to ask for its passphrase" in closed.stderr


def test_rescue_mount_finds_the_root_in_a_volume_in_luks_on_raid_and_leaves_it_as_it_is(rescued: Rescued) -> None:
    assert "read-only" in rescued.answer("rescue-mount /dev/sdb", "Enter passphrase for /dev/md", "secret")
    assert rescued.run("cat /mnt/etc/hostname").strip() == "vault01"
    writable = rescued.run("lsblk --noheadings --raw --output TYPE,RO /dev/sdb1").split("\n")
    assert {"raid1 1", "crypt 1"} <= set(writable)


def test_what_was_opened_to_be_read_is_opened_anew_to_be_written(rescued: Rescued) -> None:
    rescued.run("umount --recursive /mnt")
    assert "writable" in rescued.answer("rescue-mount --write /dev/sdb", "Enter passphrase for /dev/md", "secret")
    rescued.run("echo mended > /mnt/etc/hostname && rescue-umount")
    # Nothing of it is open any more.
    assert set(rescued.run("lsblk --noheadings --raw --output TYPE /dev/sdb").split()) == {"disk", "part"}
    rescued.run("wipefs --quiet --all /dev/sdb")


def test_a_change_made_with_rescue_mount_is_on_the_disk_after_rescue_done_and_the_machine_boots_it(
    rescued: Rescued,
) -> None:
    rescued.run("rescue-mount --write && echo mended > /mnt/etc/state")
    assert rescued.run("rescue-chroot /bin/sh -c 'read -r state < /etc/state; echo $state'").strip() == "mended"
    rescued.ssh("rescue-done")
    rescued.server.wait_for(guest.DISK_MARKER, 200)
    ended = rescued.site.rescue()
    assert (ended["state"], ended["end_cause"]) == ("ended", "next_boot")
    volume = f"{rescued.disk}?offset={VOLUME_AT}"
    read = subprocess.run(["debugfs", "-R", "cat /etc/state", volume], capture_output=True, text=True, check=True)
    assert read.stdout.strip() == "mended"


def test_the_example_for_programs_enables_waits_and_logs_in(
    rescued: Rescued, site: Site, keys: Path, tmp_path: Path
) -> None:
    token = site.manage("token", "add", "alice", "readme").strip()
    [example] = re.findall(r"^```sh\n(export SITE=.*?)^```", API, re.MULTILINE | re.DOTALL)
    example = example.replace("http://127.0.0.1:8000", site.url).replace("rs_…", token)
    if site.rescue()["state"] != "ended":
        site.manage("rescue", "disable", "web01")
    disk, port = guest.disk_image(tmp_path / "disk"), free_port()
    # The guest's network ends in QEMU: its address leads to a port of this host.
    programs = tmp_path / "programs"
    programs.mkdir()
    here = f"-o HostName=127.0.0.1 -o Port={port} -o HostKeyAlias=10.0.2.15 -o StrictHostKeyChecking=yes"
    (programs / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F none -i {keys / "alice"} {here} "$@"\n')
    (programs / "ssh").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", "-e", "-c", example], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        said = ""
        while '"armed"' not in said:
            character = process.stdout.read(1)
            assert character, said
            said += character
        with VirtualServer(disk, boot_file=ask_at(site.port), memory=MEMORY, ssh_port=port):
            said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert "RAID lost a disk" in said
    assert json.loads((tmp_path / "rescue.json").read_text())["state"] == "up"


def test_the_same_image_comes_up_on_uefi_with_its_own_address_and_opens_to_the_password_that_was_made(
    site: Site, tmp_path: Path
) -> None:
    enabled = site.manage("rescue", "enable", "uefi01", "--reason", "on UEFI", "--password", "--by", "alice", "--json")
    disk, port = guest.efi_disk(tmp_path / "efi-disk"), free_port()
    where = ask_at(site.port)
    firmware = {"uefi_vars": tmp_path / "vars", "boot_file": where, "memory": 1024, "mac": UEFI_MAC}
    with VirtualServer(disk, **firmware, ssh_port=port, address=STATIC):  # type: ignore[arg-type]
        site.manage("rescue", "status", "uefi01", "--wait", "--timeout", "200", timeout=240)
        assert site.rescue("uefi01")["address"] == STATIC
        known = tmp_path / "known_hosts"
        known.write_text("".join(f"[127.0.0.1]:{port} {key}\n" for key in site.rescue("uefi01")["host_keys"]))
        assert log_in_by_password(port, known, enabled["password"]).returncode == 0
        assert log_in_by_password(port, known, "wrong").returncode == 255


def log_in_by_password(port: int, known: Path, password: str) -> subprocess.CompletedProcess[bytes]:
    ask = known.with_name("askpass")
    ask.write_text(f"#!/bin/sh\necho {password}\n")
    ask.chmod(0o700)
    options = ("StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}", "PubkeyAuthentication=no")
    settings = [part for option in (*options, "NumberOfPasswordPrompts=1") for part in ("-o", option)]
    return subprocess.run(
        ["ssh", "-F", "none", *settings, "-p", str(port), "root@127.0.0.1", "true"],
        env={**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
