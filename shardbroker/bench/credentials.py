"""What a client signs a server's nonce with: a seed, or a credentials file (a user's JWT and its seed).

Source of the forms: the nkeys library's strkey.go (decodeSeed), nats.go's UserCredentials. Secrets stay in the records that
are made here and in what is sent; they are in no message of an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Final

from shardbroker.auth.nkey import KEY_BYTES, PREFIXES, public_text
from shardbroker.bench import LoadError

_SEED_PREFIX: Final = 18 << 3  # S
_BLOCK: Final = re.compile(r"-{3,}\s*BEGIN ([A-Z ]+)-{3,}\s*([^-\s][^\s]*)\s*-{3,}\s*END")
_SEED: Final = re.compile(r"^\s*(SU[A-Z2-7]{56})\s*$", re.M)
FILE_BYTES_MAX: Final = 1 << 20


def read_nkey(path: Path) -> str:
    """The seed in a file that has one in a line of its own. Raises LoadError."""
    found = _SEED.search(_read(path))
    if found is None:
        raise LoadError(f"{path} has no user's seed (a line SU...)")
    seed_bytes(found[1])
    return found[1]


def read_credentials(path: Path) -> tuple[str, str]:
    """(JWT, seed) of a credentials file. Raises LoadError."""
    blocks = {kind.strip(): text for kind, text in _BLOCK.findall(_read(path))}
    jwt, seed = blocks.get("NATS USER JWT", ""), blocks.get("USER NKEY SEED", "")
    if not jwt or not seed:
        raise LoadError(f"{path} is no credentials file: it wants a NATS USER JWT and a USER NKEY SEED")
    seed_bytes(seed)
    return jwt, seed


def seed_bytes(seed: str) -> bytes:
    """The 32 bytes of a user's seed. Raises LoadError."""
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raw = b""
    good = len(raw) == KEY_BYTES + 4 and int.from_bytes(raw[-2:], "little") == binascii.crc_hqx(raw[:-2], 0)
    if not good or raw[0] & 0xF8 != _SEED_PREFIX or (raw[0] & 7) << 5 | raw[1] >> 3 != PREFIXES["user"]:
        raise LoadError("that is no seed of a user's nkey")
    return raw[2:-2]


def signed(seed: str, nonce: str, jwt: str) -> dict[str, str]:
    """What CONNECT says of who asks: the signature, and the JWT, or the public key when there is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed_bytes(seed))
    sig = base64.urlsafe_b64encode(key.sign(nonce.encode())).rstrip(b"=").decode()
    who = {"jwt": jwt} if jwt else {"nkey": public_text("user", key.public_key().public_bytes_raw())}
    return {**who, "sig": sig}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from None
