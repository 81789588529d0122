"""Keys and JWTs as `nsc` makes them: operators, accounts, users, activations, to any claims."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shardbroker.auth import nkey

UNLIMITED = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
}
USER_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """A key pair made from a word, so that tests repeat themselves."""

    def __init__(self, kind: nkey.Kind, word: str) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"{kind} {word}".encode()).digest())
        self.public = nkey.public_text(kind, self.key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        """The secret half as text, S and the letter of the kind first (nkeys' EncodeSeed)."""
        kind = base64.b32decode(self.public[:2] + "A" * 6)[0]
        raw = bytes([(18 << 3) | (kind >> 5), (kind & 31) << 3]) + self.key.private_bytes_raw()
        return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).rstrip(b"=").decode()

    def sign(self, text: str | bytes) -> str:
        return part(self.key.sign(text.encode() if isinstance(text, str) else text))

    def token(
        self,
        kind: str,
        subject: str,
        nats: dict[str, Any] | None = None,
        *,
        name: str = "",
        issued: int = 1_700_000_000,
        expires: int = 0,
        not_before: int = 0,
        audience: str = "",
        old: bool = False,
        version: int | None = 2,
    ) -> str:
        """A JWT that this key has signed; `old`: version 1, whatever `version` says."""
        payload: dict[str, Any] = {
            "jti": "x",
            "iat": issued,
            "iss": self.public,
            "name": name,
            "sub": subject,
        }
        payload |= {"exp": expires} if expires else {}
        payload |= {"nbf": not_before} if not_before else {}
        payload |= {"aud": audience} if audience else {}
        payload["nats"] = dict(nats or {})
        if old:
            payload["type"] = kind
        else:
            payload["nats"] |= {"type": kind, "version": version}
        header = {"typ": "jwt" if old else "JWT", "alg": "ed25519" if old else "ed25519-nkey"}
        first, second = (part(json.dumps(value).encode()) for value in (header, payload))
        return f"{first}.{second}.{self.sign(second if old else f'{first}.{second}')}"


class Estate:
    """An operator with a system account and accounts A and B; `user` makes users of them."""

    def __init__(self) -> None:
        self.operator = Signer("operator", "o")
        self.system = Signer("account", "sys")
        self.a = Signer("account", "a")
        self.b = Signer("account", "b")

    def operator_token(self, **nats: Any) -> str:
        return self.operator.token(
            "operator", self.operator.public, {"system_account": self.system.public, **nats}, name="O"
        )

    def account_token(self, account: Signer, *, by: Signer | None = None, issued: int = 1_700_000_000, expires: int = 0,
                      name: str = "", **nats: Any) -> str:  # fmt: skip
        return (by or self.operator).token(
            "account",
            account.public,
            {"limits": UNLIMITED, **nats},
            name=name,
            issued=issued,
            expires=expires,
        )

    def user_token(self, user: Signer, by: Signer, *, account: Signer | None = None, **more: Any) -> str:
        header = {key: more.pop(key) for key in ("issued", "expires", "not_before", "name") if key in more}
        nats = USER_UNLIMITED | more if account is None or "scoped" not in more else {}
        nats.pop("scoped", None)
        if account is not None:
            nats["issuer_account"] = account.public
        return by.token("user", user.public, nats, **header)
