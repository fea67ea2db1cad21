"""OpenSSH public keys: read, checked, and written again in one form. Pure.

A key that the site hands out is always re-serialised from its parts, so that no option, second line or control
character of the pasted text reaches an authorized_keys file. Formats: RFC 4253 section 6.6, RFC 5656, RFC 8709,
OpenSSH's PROTOCOL.u2f.
"""

import base64
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
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
_MAX_COMMENT = 100


class KeyFormatError(ValueError):
    """The text is no usable public key; the message says why, for the person who pasted it."""


@dataclass(frozen=True)
class PublicKey:
    """One public key, without options; `blob` is the wire format."""

    type: str
    blob: bytes
    comment: str = ""

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """Read one line as ssh-keygen writes it into a .pub file. Raises KeyFormatError."""
        line = text.strip()
        if "PRIVATE KEY" in line:
            raise KeyFormatError("This is a private key. Keep it to yourself, and paste the file ending in .pub.")
        if len(line) > _MAX_LINE or len(line.splitlines()) != 1:
            raise KeyFormatError("Paste one public key: a single line such as “ssh-ed25519 AAAA… name”.")
        kind, _, rest = line.partition(" ")
        if kind not in _TYPES + _SECURITY_KEY_TYPES:
            raise KeyFormatError(
                f"“{kind[:40]}” is no key type that is accepted; the line must begin with one of: "
                f"{', '.join(_TYPES + _SECURITY_KEY_TYPES)}."
            )
        encoded, _, comment = rest.strip().partition(" ")
        try:
            blob = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise KeyFormatError("The key is damaged: its second word is not base64.") from None
        key = cls(kind, blob, "".join(c for c in comment.strip() if c.isprintable())[:_MAX_COMMENT])
        key._check()
        return key

    def _check(self) -> None:
        if _first_string(self.blob) != self.type.encode():
            raise KeyFormatError("The key is damaged: what it holds is of another type than it says.")
        if self.type in _SECURITY_KEY_TYPES:
            # The library does not read these; the type inside has been compared, and sshd checks the rest.
            return
        try:
            loaded = load_ssh_public_key(self.line(comment=False).encode())
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFormatError("The key is damaged: it cannot be read.") from None
        if isinstance(loaded, rsa.RSAPublicKey) and loaded.key_size < MIN_RSA_BITS:
            raise KeyFormatError(f"An RSA key needs {MIN_RSA_BITS} bits or more; this one has {loaded.key_size}.")

    def line(self, *, comment: bool = True) -> str:
        """The key as a line of an authorized_keys or known_hosts file, without a line break."""
        words = [self.type, base64.b64encode(self.blob).decode()]
        if comment and self.comment:
            words.append(self.comment)
        return " ".join(words)

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return f"SHA256:{digest.rstrip('=')}"


def _first_string(blob: bytes) -> bytes:
    """The first length-prefixed string of a wire-format key (RFC 4251 section 5)."""
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + length]
