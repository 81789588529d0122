"""Auth callout: a service decides who comes in (ADR-26). Configuration mode.

    CONNECT -> request, a JWT signed by this server -> $SYS.REQ.USER.AUTH in the callout account
            <- response, a JWT signed by the issuer: the user, again as a JWT, or an error

Each request names a user key of its own, which the response must be about, and this server, which it must be for: so that no
response counts twice or elsewhere. Source: nats-server's auth_callout.go processClientOrLeafCallout.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
from collections.abc import Callable
from typing import Any, Final

import orjson

from shardbroker.auth import nkey
from shardbroker.auth.claims import user_claims
from shardbroker.auth.gate import Identity, Login, Refusal
from shardbroker.auth.jwt import JwtError, decode, get
from shardbroker.auth.model import GLOBAL_ACCOUNT, AuthCallout, Permissions, SubjectPermission
from shardbroker.auth.trust import allowed_until
from shardbroker.clock import Clock
from shardbroker.shard.internal import InternalClients, NoAnswer

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
AUDIENCE: Final = "nats-authorization-request"
# auth_timeout ends the connection; a request that is answered later than this is of no use to anyone.
SECONDS_MAX: Final = 60.0


class Callout:
    """Asks the service of one set of options. `server`: the fields of server_id; `seed`: of this server's key."""

    def __init__(
        self,
        settings: AuthCallout,
        internal: InternalClients,
        server: dict[str, Any],
        seed: bytes,
        accounts: Callable[[str], bool],
        clock: Clock,
        timeout: float,
    ) -> None:
        self._settings = settings
        self._internal = internal
        self._server = server
        self._seed = seed
        self._knows_account = accounts
        self._clock = clock
        self._timeout = min(timeout, SECONDS_MAX)

    def wanted(self, login: Login, answer: Identity | Refusal) -> bool:
        """Whether the service decides on this one, whatever the configuration says."""
        settings = self._settings
        if (login.nkey or login.user) in settings.auth_users:
            return False
        if isinstance(answer, Identity) and answer.account != GLOBAL_ACCOUNT:
            return not settings.allowed_accounts or answer.account in settings.allowed_accounts
        return True

    def guarded(self, identity: Identity) -> Identity:
        """Who is in the account of the service may not send requests to it in the server's name."""
        if identity.account != self._settings.account:
            return identity
        permissions = identity.permissions or Permissions()
        publish = permissions.publish or SubjectPermission()
        publish = dataclasses.replace(publish, deny=(*publish.deny, SUBJECT))
        return dataclasses.replace(identity, permissions=dataclasses.replace(permissions, publish=publish))

    async def decide(self, login: Login, client: dict[str, Any]) -> Identity | Refusal:
        """Ask. `client`: what is known of it beside its login: id, name, lang, version, protocol."""
        user = nkey.public_text("user", os.urandom(nkey.KEY_BYTES))
        account = self._settings.account
        try:
            answer = await self._internal.request(
                account, SUBJECT, self._request(login, client, user).encode(), seconds=self._timeout
            )
        except NoAnswer as error:
            return Refusal(f"Authorization callout on account {account!r}: {error}")
        try:
            return self._read(answer.payload.decode("ascii", "replace").strip(), user, login)
        except JwtError as error:
            return Refusal(f"Auth callout violation on account {account!r}: {error}")

    def _request(self, login: Login, client: dict[str, Any], user: str) -> str:
        now = int(self._clock.time_ns() // 10**9)
        said = {
            "jwt": login.jwt, "nkey": login.nkey, "sig": login.signature, "auth_token": login.token, "user": login.user,
            "pass": login.password, "name": client["name"], "lang": client["lang"], "version": client["version"],
        }  # fmt: skip
        about = {
            "host": login.ip, "id": client["id"], "user": login.nkey or login.user or ("[REDACTED]" if login.token else ""),
            "name": client["name"], "kind": "Client",
            "type": "websocket" if login.connection_type == "WEBSOCKET" else "nats",
            "nonce": login.nonce.decode() if login.signature else "",
        }  # fmt: skip
        payload: dict[str, Any] = {
            "aud": AUDIENCE,
            "exp": now + max(1, int(self._timeout)),
            "iat": now,
            "iss": self._server["id"],
            "sub": self._settings.issuer,
            "nats": {
                "server_id": self._server,
                "user_nkey": user,
                "client_info": {key: value for key, value in about.items() if value},
                "connect_opts": {key: value for key, value in said.items() if value}
                | {"protocol": client["protocol"]},
                "type": "authorization_request",
                "version": 2,
            },
        }
        digest = hashlib.sha512(orjson.dumps(payload)).digest()[:32]
        payload["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
        return sign(self._seed, payload)

    def _read(self, token: str, user: str, login: Login) -> Identity | Refusal:
        if not token:
            raise JwtError("no reason supplied")
        now = self._clock.time_ns() / 1e9
        response = decode(token, "authorization_response")
        if response.issuer != self._settings.issuer:
            raise JwtError("wrong issuer for auth callout response")
        if response.subject != user:
            raise JwtError("auth callout response is not for expected user")
        if response.audience != self._server["id"]:
            raise JwtError("auth callout response is not for server")
        if not response.valid_at(now):
            raise JwtError("auth callout response is no longer valid")
        if problem := get(response.nats, "error", str):
            raise JwtError(f"auth callout service returned an error: {problem[:200]}")
        made = user_claims(get(response.nats, "jwt", str))
        if made.subject != user or not made.claims.valid_at(now):
            raise JwtError("it is not for the user that was asked about, or not valid now")
        if made.issuer != self._settings.issuer or made.account != made.issuer:
            raise JwtError("wrong issuer for the user of an auth callout response")
        account = made.claims.audience
        if not self._knows_account(account):
            raise JwtError(f"no valid account {account[:80]!r} for auth callout response")
        if self._settings.allowed_accounts and account not in (
            *self._settings.allowed_accounts,
            GLOBAL_ACCOUNT,
        ):
            raise JwtError(f"account {account[:80]!r} is not among the allowed accounts")
        limits = made.limits
        if limits.restricted and login.connection_type not in limits.connection_types:
            raise JwtError("connection type not allowed")
        until = allowed_until(limits, now)
        if until is None:
            raise JwtError("outside of valid connect times")
        ends = [time for time in (made.claims.expires, int(until)) if time]
        return Identity(
            account,
            "user" if made.claims.name else "nkey",
            made.claims.name or user,
            permissions=limits.permissions,
            expires=min(ends, default=0),
            max_subscriptions=limits.max_subscriptions,
            max_payload=limits.max_payload,
            tags=made.claims.tags,
            name_tag=made.claims.name,
        )


def sign(seed: bytes, payload: dict[str, Any]) -> str:
    """A JWT of version 2, signed by the owner of a seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = f"{part(orjson.dumps({'typ': 'JWT', 'alg': 'ed25519-nkey'}))}.{part(orjson.dumps(payload))}"
    return f"{text}.{part(Ed25519PrivateKey.from_private_bytes(seed).sign(text.encode()))}"
