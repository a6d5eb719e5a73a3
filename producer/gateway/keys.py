"""How an API key is made. What the settings hold of it is its digest."""

from __future__ import annotations

import hashlib
import secrets

KEY_BYTES = 32
PREFIX = "clr_"
"""What a key begins with, so that scanners of source code can find one that was committed."""


def new_key() -> str:
    """A fresh key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()
