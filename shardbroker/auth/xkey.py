"""Curve keys: boxes that only the owner of the other key can open, as nkeys makes them (xkeys.go Seal, Open).

    sealed = "xkv1" | 24 bytes of nonce | box of NaCl (X25519, XSalsa20, Poly1305)

The library is imported when the first box is made: few have any.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

from shardbroker.auth import nkey

if TYPE_CHECKING:
    from nacl.public import Box

VERSION: Final = b"xkv1"
NONCE_BYTES: Final = 24


class XKeyError(ValueError):
    """It is no box, or not for us, or of someone else."""


def secret_of(seed: bytes) -> bytes:
    """The curve key of a server: from its seed, which is new at each start, so that all its processes have the same."""
    return hashlib.sha256(b"shardbroker xkey" + seed).digest()


def public_of(secret: bytes) -> str:
    """The text (X...) of a secret key's public half."""
    from nacl.public import PrivateKey

    return nkey.public_text("curve", bytes(PrivateKey(secret).public_key))


def seal(secret: bytes, receiver: str, text: bytes) -> bytes:
    """Box `text` for the owner of a public curve key. Raises XKeyError."""
    nonce = os.urandom(NONCE_BYTES)
    return VERSION + nonce + bytes(_box(secret, receiver).encrypt(text, nonce).ciphertext)


def open_box(secret: bytes, sender: str, sealed: bytes) -> bytes:
    """What the owner of a public curve key has boxed for us. Raises XKeyError."""
    from nacl.exceptions import CryptoError

    start = len(VERSION) + NONCE_BYTES
    if not sealed.startswith(VERSION) or len(sealed) <= start:
        raise XKeyError("it is no sealed message")
    try:
        return bytes(_box(secret, sender).decrypt(sealed[start:], sealed[len(VERSION) : start]))
    except (CryptoError, ValueError):
        raise XKeyError("it is not sealed by whom it should be, for this server") from None


def _box(secret: bytes, other: str) -> Box:
    from nacl.public import Box, PrivateKey, PublicKey

    raw = nkey.public_bytes(other, "curve")
    if raw is None:
        raise XKeyError("it is no public curve key")
    return Box(PrivateKey(secret), PublicKey(raw))
