"""Public nkeys: what kind a key is, and whether a signature is its owner's.

    text = base32( prefix byte | 32 bytes of an Ed25519 or Curve25519 public key | CRC-16 )     no padding, upper case

The first letter tells the kind. Source: the nkeys library's strkey.go (decode, isValidPublicKey). The library with the
curves is imported when the first signature is looked at, since start-up time counts.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, Literal

Kind = Literal["account", "curve", "cluster", "server", "operator", "user"]

PREFIXES: Final[dict[Kind, int]] = {
    "account": 0,  # A
    "cluster": 2 << 3,  # C
    "server": 13 << 3,  # N
    "operator": 14 << 3,  # O
    "user": 20 << 3,  # U
    "curve": 23 << 3,  # X
}
_TEXT: Final = re.compile(r"[A-Z2-7]{56}")
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


def public_bytes(text: str, *kinds: Kind) -> bytes | None:
    """The 32 bytes of a public key of one of these kinds; None when the text is none."""
    if not _TEXT.fullmatch(text):
        return None
    raw = base64.b32decode(text)
    if int.from_bytes(raw[-2:], "little") != binascii.crc_hqx(raw[:-2], 0):
        return None
    return raw[1:-2] if raw[0] in {PREFIXES[kind] for kind in kinds} else None


def is_public(text: str, *kinds: Kind) -> bool:
    """Whether it is a public key of one of these kinds."""
    return public_bytes(text, *kinds) is not None


def public_text(kind: Kind, raw: bytes) -> str:
    """The text of a public key of 32 bytes."""
    data = bytes([PREFIXES[kind]]) + raw
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode()


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of an Ed25519 public key (32 bytes) signed the message."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def decode_signature(text: str) -> bytes | None:
    """A signature of a CONNECT: base64url without padding, or the usual base64 (auth.go). None when it is neither."""
    try:
        data = text.encode("ascii")
        if b"=" not in data and b"+" not in data and b"/" not in data:
            return base64.b64decode(data + b"=" * (-len(data) % 4), b"-_", validate=True)
        return base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error):
        return None


def new_server_key() -> tuple[bytes, str]:
    """A new key pair of a server: its seed of 32 bytes, and the text of its public half."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    return key.private_bytes_raw(), public_text("server", key.public_key().public_bytes_raw())
