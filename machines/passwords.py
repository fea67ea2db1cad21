"""Passwords for rescue systems. The site shows a new password once and stores only its crypt(3) hash."""

import secrets

from passlib.hash import sha512_crypt

#: Without letters and digits that look alike, because people type the password at a console.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
#: The default of crypt(3) for $6$. More rounds would make each login slower.
_ROUNDS = 5000


def make_password() -> str:
    """Return a password of four groups of five characters, such as `k3v9x-…`. It has 98 bits."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


def crypt_hash(password: str) -> str:
    """Return the hash for /etc/shadow: SHA-512 with a random salt, see crypt(5)."""
    hashed: str = sha512_crypt.using(rounds=_ROUNDS).hash(password)
    return hashed
