"""Parse, check and normalise OpenSSH public keys. Pure.

The site always serialises a key from its parts. So no option, second line or control character of the pasted text
reaches an authorized_keys file. Formats: RFC 4253 section 6.6, RFC 5656, RFC 8709, OpenSSH's PROTOCOL.u2f. Options:
sshd(8), "AUTHORIZED_KEYS FILE FORMAT".
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

MIN_RSA_BITS = 2048
_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
_SECURITY_KEY_TYPES = ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")
_MAX_LINE = 4096
_OPTION = re.compile(r"""[A-Za-z0-9-]+(?:="(?:[^"\\]|\\.)*+")?""")
_OPTIONS = re.compile(rf"(?P<options>{_OPTION.pattern}(?:,{_OPTION.pattern})*)[ \t]+")
_OPTION_NAMES = frozenset(
    {
        *("agent-forwarding", "cert-authority", "command", "environment", "expiry-time", "from", "no-agent-forwarding"),
        *("no-port-forwarding", "no-pty", "no-touch-required", "no-user-rc", "no-x11-forwarding", "permitlisten"),
        *("permitopen", "port-forwarding", "principals", "pty", "restrict", "touch-required", "tunnel", "user-rc"),
        *("verify-required", "x11-forwarding"),
    }
)
_MAX_COMMENT = 100


class KeyFormatError(ValueError):
    """The text is not a valid public key. The message explains the problem to people."""


@dataclass(frozen=True)
class PublicKey:
    """One public key without options. `blob` is its wire format."""

    type: str
    blob: bytes
    comment: str = ""
    #: The options before the key, as in the input.
    dropped: str = ""

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """Parse one line as ssh-keygen writes it into a .pub file. Raises KeyFormatError.

        Options before the key are parsed as sshd does, and moved to `dropped`.
        """
        line = _one_line(text)
        options = _options(line)
        kind, encoded, comment = _words(line[len(options) :])
        if kind not in _TYPES + _SECURITY_KEY_TYPES:
            raise KeyFormatError(
                f"“{kind[:40]}” is not a supported key type. The line must begin with one of: "
                f"{', '.join(_TYPES + _SECURITY_KEY_TYPES)}."
            )
        try:
            blob = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise KeyFormatError("The key is damaged: its second word is not base64.") from None
        key = cls(kind, blob, "".join(c for c in comment if c.isprintable())[:_MAX_COMMENT], options.strip())
        key._check()
        return key

    def _check(self) -> None:
        parts = _strings(self.blob)
        if not parts or parts[0] != self.type.encode():
            raise KeyFormatError("The key is damaged: its data has another type than its first word.")
        if self.type in _SECURITY_KEY_TYPES:
            # The library cannot load these.
            if not _is_security_key(parts):
                raise KeyFormatError("The key is damaged: it is incomplete or changed. Copy the whole line.")
            return
        try:
            loaded = load_ssh_public_key(self.line(comment=False).encode())
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFormatError("The key is damaged: it cannot be read.") from None
        if isinstance(loaded, rsa.RSAPublicKey) and loaded.key_size < MIN_RSA_BITS:
            raise KeyFormatError(f"An RSA key needs at least {MIN_RSA_BITS} bits. This key has {loaded.key_size}.")

    def line(self, *, comment: bool = True) -> str:
        """Return the key as a line of an authorized_keys or known_hosts file, without a line break."""
        words = [self.type, base64.b64encode(self.blob).decode()]
        if comment and self.comment:
            words.append(self.comment)
        return " ".join(words)

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ssh-keygen -l prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return f"SHA256:{digest.rstrip('=')}"


def _one_line(text: str) -> str:
    """Return the line of a pasted text that contains the key. Raises KeyFormatError."""
    if "PRIVATE KEY" in text:
        raise KeyFormatError("This is a private key. Keep it secret. Paste the contents of the file that ends in .pub.")
    if "PuTTY-User-Key-File" in text:
        raise KeyFormatError(
            "This is a private key of PuTTY. Keep it secret. Open it in PuTTYgen, and paste the text from the box "
            "“Public key for pasting into OpenSSH authorized_keys file”."
        )
    if "BEGIN SSH2 PUBLIC KEY" in text:
        raise KeyFormatError("This key is in the SSH2 format. Paste the output of “ssh-keygen -i -f FILE”.")
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1 or len(lines[0]) > _MAX_LINE:
        raise KeyFormatError("Paste one public key in a single line, such as “ssh-ed25519 AAAA… name”.")
    return lines[0].strip()


def _options(line: str) -> str:
    """Return the options at the start of a line; empty if there are none. Raises KeyFormatError."""
    found = _OPTIONS.match(line)
    if not found:
        return ""
    names = {one.partition("=")[0].lower() for one in _OPTION.findall(found["options"])}
    if not names <= _OPTION_NAMES:
        return ""
    if "cert-authority" in names:
        raise KeyFormatError("This line trusts a certificate authority. Rescue systems accept only keys of people.")
    return found.group()


def _words(line: str) -> tuple[str, str, str]:
    """Split a line into type, key and comment at spaces and tabs."""
    kind, encoded, comment, *_ = [*line.split(None, 2), "", "", ""]
    return kind, encoded, comment.strip()


def _strings(blob: bytes) -> list[bytes]:
    """Return the length-prefixed strings of a wire-format key (RFC 4251 section 5); empty if one is incomplete."""
    strings = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            return []
        strings.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return strings


def _is_security_key(parts: list[bytes]) -> bool:
    """Whether the parts belong to the key of a hardware token: type, (curve,) key, application."""
    *key, application = parts[1:] or [b""]
    if not application or not application.isascii():
        return False
    if len(key) == 1:
        return parts[0].startswith(b"sk-ssh-ed25519") and len(key[0]) == 32
    return len(key) == 2 and key[0] == b"nistp256" and _is_point(key[1])


def _is_point(encoded: bytes) -> bool:
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), encoded)
    except ValueError:
        return False
    return True
