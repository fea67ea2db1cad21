"""Public keys are read, checked, and written again from their parts."""

import base64
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from machines.models import SSHKey
from machines.ssh_keys import KeyFormatError, PublicKey


@cache
def made(kind: str, bits: int = 0, comment: str = "me@here") -> str:
    """The public line of a fresh key, by the real ssh-keygen."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "key"
        size = ["-b", str(bits)] if bits else []
        subprocess.run(
            ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", comment, "-f", str(path)],
            check=True,
            capture_output=True,
        )
        return path.with_suffix(".pub").read_text()


def wire(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def security_key(kind: str) -> str:
    """A key as a hardware token makes it; OpenSSH's PROTOCOL.u2f."""
    if "ed25519" in kind:
        parts = [kind.encode(), bytes(range(32)), b"ssh:"]
    else:
        point = ec.derive_private_key(1, ec.SECP256R1()).public_key()
        parts = [kind.encode(), b"nistp256", point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), b"ssh:"]
    return f"{kind} {base64.b64encode(wire(*parts)).decode()} token"


KINDS = [("ed25519", 0), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048)]
SECURITY_KEYS = ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"]


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_each_kind_of_key_comes_out_as_ssh_keygen_wrote_it(kind: str, bits: int) -> None:
    assert PublicKey.parse(made(kind, bits)).line() == made(kind, bits).strip()


@pytest.mark.parametrize("kind", SECURITY_KEYS)
def test_a_key_of_a_hardware_token_comes_out_as_it_was(kind: str) -> None:
    assert PublicKey.parse(security_key(kind)).line() == security_key(kind)


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(kind: str, bits: int) -> None:
    printed = subprocess.run(
        ["ssh-keygen", "-l", "-f", "/dev/stdin"], input=made(kind, bits).encode(), capture_output=True, check=True
    ).stdout.decode()
    assert PublicKey.parse(made(kind, bits)).fingerprint == printed.split()[1]


def test_a_comment_can_be_left_out() -> None:
    line = made("ed25519")
    assert PublicKey.parse(line).line(comment=False) == " ".join(line.split()[:2])


def test_a_key_without_a_comment_is_read() -> None:
    line = " ".join(made("ed25519").split()[:2])
    assert PublicKey.parse(line).line() == line


def test_a_comment_of_several_words_is_kept() -> None:
    words = made("ed25519").split()[:2]
    assert PublicKey.parse(" ".join([*words, "Ada", "at", "home"])).comment == "Ada at home"


def test_a_comment_has_a_limit() -> None:
    words = made("ed25519").split()[:2]
    assert len(PublicKey.parse(" ".join([*words, "x" * 1000])).comment) == 100


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x9b", "\u202e"])
def test_control_characters_do_not_come_out(character: str) -> None:
    words = made("ed25519").split()[:2]
    assert PublicKey.parse(f"{words[0]} {words[1]} me{character}[31m@here").comment == "me[31m@here"


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028"])
def test_a_second_line_is_refused(separator: str) -> None:
    with pytest.raises(KeyFormatError, match="a single line"):
        PublicKey.parse(made("ed25519").strip() + separator + made("rsa", 2048))


@pytest.mark.parametrize(
    "options", ['command="/bin/sh"', "no-pty", 'from="192.0.2.1",restrict', 'environment="A=\\"b c\\"",NO-PTY']
)
@pytest.mark.parametrize("space", [" ", "\t", "  "])
def test_options_before_a_key_are_read_and_dropped(options: str, space: str) -> None:
    key = PublicKey.parse(f"{options}{space}{made('ed25519')}")
    assert key.dropped == options
    assert key.line() == made("ed25519").strip()


@pytest.mark.parametrize("word", ["me@here", "unknown-option", 'from="open', "=", 'from="x"no-pty'])
def test_what_is_no_option_before_a_key_is_refused(word: str) -> None:
    with pytest.raises(KeyFormatError, match="is not a supported key type"):
        PublicKey.parse(f"{word} {made('ed25519')}")


def test_a_certificate_authority_is_no_key_of_a_person() -> None:
    with pytest.raises(KeyFormatError, match="certificate authority"):
        PublicKey.parse(f"cert-authority {made('ed25519')}")


def test_tabs_separate_as_spaces_do() -> None:
    assert PublicKey.parse(made("ed25519").replace(" ", "\t")).line() == made("ed25519").strip()


def test_a_line_with_a_comment_of_the_file_before_it_is_read() -> None:
    assert PublicKey.parse(f"\ufeff# laptop\r\n\r\n{made('ed25519')}").line() == made("ed25519").strip()


@pytest.mark.parametrize("kind", SECURITY_KEYS)
@pytest.mark.parametrize("cut", [1, 4, 5, 8, 20, 40])
def test_a_cut_key_of_a_hardware_token_is_refused(kind: str, cut: int) -> None:
    blob = base64.b64decode(security_key(kind).split()[1])
    with pytest.raises(KeyFormatError, match="damaged"):
        PublicKey.parse(f"{kind} {base64.b64encode(blob[:-cut]).decode()} yubi")


def test_a_point_off_the_curve_is_refused() -> None:
    kind = SECURITY_KEYS[1]
    blob = wire(kind.encode(), b"nistp256", b"\x04" + bytes(64), b"ssh:")
    with pytest.raises(KeyFormatError, match="damaged"):
        PublicKey.parse(f"{kind} {base64.b64encode(blob).decode()}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPublic-Lines: 2\nSECRET\n", "private key of PuTTY"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----", "ssh-keygen -i -f FILE"),
    ],
)
def test_a_file_of_another_program_is_called_what_it_is(text: str, said: str) -> None:
    with pytest.raises(KeyFormatError, match=said) as refused:
        PublicKey.parse(text)
    assert "SECRET" not in str(refused.value)


def test_a_private_key_is_refused_with_what_to_paste_instead() -> None:
    with pytest.raises(KeyFormatError, match=r"private key.*\.pub"):
        PublicKey.parse("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----")


def test_a_refused_private_key_is_not_repeated() -> None:
    with pytest.raises(KeyFormatError) as refused:
        PublicKey.parse("-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n-----END OPENSSH PRIVATE KEY-----")
    assert "SECRET" not in str(refused.value)


def test_a_weak_rsa_key_is_refused_with_its_size() -> None:
    with pytest.raises(KeyFormatError, match=r"needs at least 2048 bits. This key has 1024"):
        PublicKey.parse(made("rsa", 1024))


@pytest.mark.parametrize("kind", ["ssh-dss", "ssh-ed25519-cert-v01@openssh.com", "ed25519", "", "ssh-ed25519\tAAAA"])
def test_other_key_types_are_refused(kind: str) -> None:
    with pytest.raises(KeyFormatError):
        PublicKey.parse(f"{kind} AAAAC3NzaC1lZDI1NTE5")


#: What happens to a key on its way; takes its type, its second word and that word decoded.
DAMAGE: dict[str, Callable[[str, str, bytes], str]] = {
    "type alone": lambda kind, data, blob: kind,
    "type and a space": lambda kind, data, blob: f"{kind} ",
    "last letter missing": lambda kind, data, blob: f"{kind} {data[:-1]}",
    "last letters missing": lambda kind, data, blob: f"{kind} {data[:-8]}",
    "letters too many": lambda kind, data, blob: f"{kind} {data}AAAA",
    "not base64": lambda kind, data, blob: f"{kind} {data[:10]}!{data[11:]}",
    "not ASCII": lambda kind, data, blob: f"{kind} {data[:10]}ä{data[11:]}",
    "half a surrogate pair": lambda kind, data, blob: f"{kind} \ud800{data}",
    "last bytes missing": lambda kind, data, blob: f"{kind} {base64.b64encode(blob[:-5]).decode()}",
    "only its first bytes": lambda kind, data, blob: f"{kind} {base64.b64encode(blob[:3]).decode()}",
    "another type": lambda kind, data, blob: f"ssh-rsa {data}",
    "another curve": lambda kind, data, blob: f"ecdsa-sha2-nistp256 {made('ecdsa', 384).split()[1]}",
    "a token's type": lambda kind, data, blob: f"sk-ssh-ed25519@openssh.com {data}",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_key_is_refused(damage: str) -> None:
    kind, data, _ = made("ed25519").split()
    with pytest.raises(KeyFormatError):
        PublicKey.parse(DAMAGE[damage](kind, data, base64.b64decode(data)))


@given(st.text())
def test_any_text_is_a_key_or_refused(text: str) -> None:
    with suppress(KeyFormatError):
        PublicKey.parse(text)


@given(
    st.sampled_from(["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", *SECURITY_KEYS]),
    st.lists(st.binary(max_size=70), max_size=4),
    st.text(max_size=20),
)
def test_any_contents_are_a_key_of_one_clean_line_or_refused(kind: str, parts: list[bytes], comment: str) -> None:
    text = f"{kind} {base64.b64encode(wire(kind.encode(), *parts)).decode()} {comment}"
    try:
        line = PublicKey.parse(text).line()
    except KeyFormatError:
        return
    assert line.isprintable()
    assert PublicKey.parse(line).line() == line


@pytest.fixture
def user(db: None) -> User:
    return User.objects.create_user("ada")


def test_a_staff_key_is_stored_in_its_one_form(user: User) -> None:
    key = SSHKey(user=user, public_key=f"  {made('ed25519')}\n")
    key.full_clean()
    assert (key.public_key, key.fingerprint) == (
        made("ed25519").strip(),
        PublicKey.parse(made("ed25519")).fingerprint,
    )


def test_a_staff_key_that_is_none_is_refused_at_its_field(user: User) -> None:
    with pytest.raises(ValidationError) as refused:
        SSHKey(user=user, public_key="nonsense").full_clean()
    assert list(refused.value.message_dict) == ["public_key"]


def test_a_staff_key_with_letters_that_base64_lacks_is_refused_at_its_field(user: User) -> None:
    with pytest.raises(ValidationError) as refused:
        SSHKey(user=user, public_key="ssh-ed25519 ÄÄÄÄ").full_clean()
    assert list(refused.value.message_dict) == ["public_key"]


def test_the_same_key_cannot_be_added_twice_by_one_user(user: User) -> None:
    for comment in ("one", "two"):
        key = SSHKey(user=user, public_key=f"{' '.join(made('ed25519').split()[:2])} {comment}")
        if comment == "two":
            with pytest.raises(ValidationError, match="already been added"):
                key.full_clean()
            with pytest.raises(IntegrityError), transaction.atomic():
                key.save()
        else:
            key.full_clean()
            key.save()


def test_two_users_may_share_a_key(user: User) -> None:
    for owner in (user, User.objects.create_user("bob")):
        key = SSHKey(user=owner, public_key=made("ed25519"))
        key.full_clean()
        key.save()
    assert SSHKey.objects.count() == 2


def test_the_page_says_which_options_were_left_out(admin_client: Client) -> None:
    page = admin_client.post(
        "/admin/machines/sshkey/add/",
        {"public_key": f'from="10.0.0.0/8" {made("ed25519")}', "user": User.objects.get().pk},
        follow=True,
    )
    assert "The options from=&quot;10.0.0.0/8&quot; were removed" in page.content.decode()
    assert SSHKey.objects.get().public_key == made("ed25519").strip()
