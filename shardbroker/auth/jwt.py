"""JWTs of operators, accounts, users and activations: decoded, their signature checked, their claims as records.

    header.payload.signature, each base64url; the signature is the issuer's (an nkey), over `header.payload` in version 2,
    over `payload` in version 1

Whoever is trusted is the caller's matter; here a token is only what it says it is. Whatever comes in is of any size and form:
each field has its type, everything else is a JwtError. Source: the jwt library's decoder.go, header.go, *_claims.go.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson

from shardbroker.auth import nkey

# Account JWTs with many imports are the largest; they come over the wire as one message.
TOKEN_BYTES_MAX: Final = 1 << 20
PREFIX: Final = "eyJ"
_SECTION: Final = re.compile(r"(?s)\s*-{3,}[^\n]*?-{3,}\n(.+?)\n\s*-{3,}[^\n]*?-{3,}\n?")
# Who may sign what (Claims.ExpectedPrefixes).
_ISSUERS: Final[dict[str, tuple[nkey.Kind, ...]]] = {
    "operator": ("operator",),
    "account": ("account", "operator"),
    "user": ("account",),
    "activation": ("account", "operator"),
    "generic": ("account", "operator"),
    "authorization_request": ("server",),
    "authorization_response": ("account",),
}

T = TypeVar("T")


class JwtError(ValueError):
    """Not a JWT, or not one of this kind, or not signed by its issuer."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What every token has. Times in seconds since 1970; 0: none. `nats`: the rest, as JSON gave it."""

    kind: str
    subject: str
    issuer: str
    name: str
    issued: int
    expires: int
    not_before: int
    audience: str
    token_id: str
    tags: tuple[str, ...]
    nats: Mapping[str, Any] = field(repr=False)

    def valid_at(self, now: float) -> bool:
        """Whether it may be used now."""
        return not (self.expires and self.expires <= now) and self.not_before <= now


def decode(token: str, kind: str) -> Claims:
    """The claims of a token of this kind, whose signature is its issuer's. Raises JwtError."""
    if len(token) > TOKEN_BYTES_MAX:
        raise JwtError("token is too long")
    parts = token.split(".")
    if len(parts) != 3:
        raise JwtError("expected 3 chunks")
    header, payload = (_object(_decode_part(part)) for part in parts[:2])
    algorithm = _get(header, "alg", str)
    if _get(header, "typ", str).upper() != "JWT" or algorithm.lower() not in ("ed25519", "ed25519-nkey"):
        raise JwtError("not a NATS JWT")
    issuer = _get(payload, "iss", str)
    nats = _get(payload, "nats", dict)
    old_kind = _get(payload, "type", str)
    version = 1 if old_kind else _get(nats, "version", int)
    # What is of no kind of its own says nothing.
    found = old_kind or _get(nats, "type", str)
    if found != kind and (found or kind != "generic"):
        raise JwtError(f"it is of kind {found[:40]!r}, not {kind}")
    if version not in (1, 2) and kind != "generic":
        raise JwtError(f"version {version} is not known")
    if old_kind:
        nats = _as_version_2(kind, payload, nats)
    public = nkey.public_bytes(issuer, *_ISSUERS[kind])
    if public is None:
        raise JwtError("the issuer may not issue it")
    # The claims say what is signed, not the header (decoder.go Decode).
    signed = parts[1] if version <= 1 else f"{parts[0]}.{parts[1]}"
    if not nkey.verify(public, signed.encode(), _decode_part(parts[2])):
        raise JwtError("claim failed signature verification")
    return Claims(
        kind,
        _get(payload, "sub", str),
        issuer,
        _get(payload, "name", str),
        _get(payload, "iat", int),
        _get(payload, "exp", int),
        _get(payload, "nbf", int),
        _aud(payload),
        _get(payload, "jti", str),
        strings(nats, "tags"),
        nats,
    )


def _as_version_2(kind: str, payload: Mapping[str, Any], nats: Mapping[str, Any]) -> dict[str, Any]:
    """Claims of version 1 in the form of version 2 (the jwt library's decoder_*.go, migrateV1)."""
    moved = {name: payload[name] for name in ("tags", "issuer_account") if payload.get(name) is not None}
    if kind == "user":
        # Only here a missing number means that there is no limit.
        return {"subs": -1, "data": -1, "payload": -1, **nats, **moved}
    if kind == "activation":
        return {**nats, "kind": nats.get("type"), **moved}
    return {**nats, **moved}


def undecorated(text: str) -> str:
    """The token in a file: alone, or between lines of dashes (ParseDecoratedJWT)."""
    section = _SECTION.search(text)
    return (section[1] if section else text).strip()


# -- reading JSON of which nothing is known --


def get(values: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A field of this type, or the type's empty value when it is missing or null. Raises JwtError."""
    return _get(values, name, kind)


def strings(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of strings; the old form, one string with commas, too."""
    found = values.get(name)
    if isinstance(found, str):
        return tuple(part.strip() for part in found.split(",") if part.strip())
    return tuple(_checked(item, name, str) for item in _get(values, name, list))


def objects(values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects."""
    return [_checked(item, name, dict) for item in _get(values, name, list)]


def numbers(values: Mapping[str, Any], name: str) -> tuple[tuple[str, int], ...]:
    """An object of whole numbers."""
    return tuple((key, _checked(item, name, int)) for key, item in _get(values, name, dict).items())


def _get(values: Mapping[str, Any], name: str, kind: type[T]) -> T:
    found = values.get(name)
    return kind() if found is None else _checked(found, name, kind)


def _checked(value: Any, name: str, kind: type[T]) -> T:
    if type(value) is not kind:
        raise JwtError(f"{name[:40]!r} is of a wrong type")
    return value


def _aud(payload: Mapping[str, Any]) -> str:
    return _get(payload, "aud", str)


def _object(data: bytes) -> dict[str, Any]:
    try:
        return _checked(orjson.loads(data), "JSON", dict)
    except orjson.JSONDecodeError as error:
        raise JwtError(f"not JSON: {error.msg}") from None


def _decode_part(part: str) -> bytes:
    try:
        return base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise JwtError("not base64url") from None
