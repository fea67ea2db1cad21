"""Passwords for rescue systems: made here, shown once, kept only as what crypt(3) can check."""

import secrets

from passlib.hash import sha512_crypt

#: Without letters and digits that look alike: somebody types it at a console.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
#: crypt(3)'s default for $6$; each log-in at a slow console pays for them.
_ROUNDS = 5000


def make_password() -> str:
    """Four groups of five characters, 98 bits: `k3v9x-…`."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


def crypt_hash(password: str) -> str:
    """The hash as /etc/shadow holds it, SHA-512 with a random salt; crypt(5)."""
    hashed: str = sha512_crypt.using(rounds=_ROUNDS).hash(password)
    return hashed
