"""Auth callout: a service decides who comes in (ADR-26).

    CONNECT -> request, a JWT signed by this server -> $SYS.REQ.USER.AUTH in the callout account
            <- response, a JWT signed by the issuer: the user, again as a JWT, or an error

Each request names a user key of its own, which the response must be about, and this server, which it must be for: so that no
response counts twice or elsewhere. With a curve key (xkey) the request is sealed, as it has passwords, and the response may be.
Callout is for accounts of the configuration; for those of an operator see operator_callout.py. Source: nats-server's
auth_callout.go processClientOrLeafCallout.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
from collections.abc import Callable
from typing import Any, Final

import orjson

from shardbroker.auth import nkey, xkey
from shardbroker.auth.claims import user_claims
from shardbroker.auth.gate import Identity, Login, Refusal
from shardbroker.auth.jwt import Claims, JwtError, decode, get
from shardbroker.auth.model import GLOBAL_ACCOUNT, AuthCallout, Permissions, SubjectPermission
from shardbroker.auth.trust import allowed_until, source_allowed
from shardbroker.clock import Clock
from shardbroker.shard.internal import InternalClients, NoAnswer

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
AUDIENCE: Final = "nats-authorization-request"
# auth_timeout ends the connection; a request that is answered later than this is of no use to anyone.
SECONDS_MAX: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """What a service has answered: its claims are for this request and this server, and no error."""

    claims: Claims
    sealed: bool  # by the owner of the curve key


class Asker:
    """Puts the question to a service. `server`: the fields of server_id; `seed`: of this server's key."""

    def __init__(
        self, internal: InternalClients, server: dict[str, Any], seed: bytes, clock: Clock, timeout: float
    ) -> None:
        self._internal = internal
        self._server = server
        self._seed = seed
        self.clock = clock
        self._timeout = min(timeout, SECONDS_MAX)

    async def ask(
        self, settings: AuthCallout, login: Login, client: dict[str, Any], user: str, who: str = ""
    ) -> Response:
        """The service's response about `user`, the key made for this request. client: what is known of the client beside its
        login: id, name, lang, version, protocol, tls. who: its name, if not by the login. Raises JwtError, NoAnswer."""
        request = self._request(settings, login, client, user, who).encode()
        headers, secret = b"", b""
        if settings.xkey:
            secret = xkey.secret_of(self._seed)
            headers = f"NATS/1.0\r\nNats-Server-Xkey: {xkey.public_of(secret)}\r\n\r\n".encode()
            request = xkey.seal(secret, settings.xkey, request)
        answer = await self._internal.request(settings.account, SUBJECT, request, headers=headers, seconds=self._timeout)
        payload, sealed = answer.payload, False
        if secret and payload and not payload.startswith(b"eyJ"):
            try:
                payload, sealed = xkey.open_box(secret, settings.xkey, payload), True
            except xkey.XKeyError as error:
                raise JwtError(f"error decrypting auth callout response: {error}") from None
        return Response(self._read(payload.decode("ascii", "replace").strip(), user), sealed)

    def _read(self, token: str, user: str) -> Claims:
        if not token:
            raise JwtError("no reason supplied")
        response = decode(token, "authorization_response")
        if response.subject != user:
            raise JwtError("auth callout response is not for expected user")
        if response.audience != self._server["id"]:
            raise JwtError("auth callout response is not for server")
        if not response.valid_at(self.clock.time_ns() / 1e9):
            raise JwtError("auth callout response is no longer valid")
        if problem := get(response.nats, "error", str):
            raise JwtError(f"auth callout service returned an error: {problem[:200]}")
        return response

    def _request(self, settings: AuthCallout, login: Login, client: dict[str, Any], user: str, who: str) -> str:
        now = int(self.clock.time_ns() // 10**9)
        said = {
            "jwt": login.jwt, "nkey": login.nkey, "sig": login.signature, "auth_token": login.token, "user": login.user,
            "pass": login.password, "name": client["name"], "lang": client["lang"], "version": client["version"],
        }  # fmt: skip
        raw_user = who or login.nkey or login.user or ("[REDACTED]" if login.token else "")
        about = {
            "host": login.ip, "id": client["id"], "user": raw_user,
            "name": client["name"], "kind": "Client",
            "type": "websocket" if login.connection_type == "WEBSOCKET" else "nats",
            "nonce": login.nonce.decode() if login.signature else "",
        }  # fmt: skip
        server = self._server
        if settings.xkey:
            server = server | {"xkey": xkey.public_of(xkey.secret_of(self._seed))}
        payload: dict[str, Any] = {
            "aud": AUDIENCE,
            "exp": now + max(1, int(self._timeout)),
            "iat": now,
            "iss": self._server["id"],
            "sub": settings.issuer,
            "nats": {
                "server_id": server,
                "user_nkey": user,
                "client_info": {key: value for key, value in about.items() if value},
                "connect_opts": {key: value for key, value in said.items() if value}
                | {"protocol": client["protocol"]},
                **({"client_tls": client["tls"]} if client["tls"] is not None else {}),
                "type": "authorization_request",
                "version": 2,
            },
        }
        digest = hashlib.sha512(orjson.dumps(payload)).digest()[:32]
        payload["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
        return sign(self._seed, payload)


class Callout:
    """Asks the service of one set of options."""

    def __init__(self, settings: AuthCallout, asker: Asker, accounts: Callable[[str], bool]) -> None:
        self._settings = settings
        self._asker = asker
        self._knows_account = accounts

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
        return without_requests(identity) if identity.account == self._settings.account else identity

    async def decide(self, login: Login, client: dict[str, Any], answer: Identity | Refusal) -> Identity | Refusal:
        """Ask, whatever the configuration answers. `client`: see Asker.ask."""
        user = new_user()
        account = self._settings.account
        try:
            response = await self._asker.ask(self._settings, login, client, user)
            return self._read(response, user, login)
        except NoAnswer as error:
            return Refusal(f"Authorization callout on account {account!r}: {error}")
        except JwtError as error:
            return Refusal(f"Auth callout violation on account {account!r}: {error}")

    def _read(self, response: Response, user: str, login: Login) -> Identity | Refusal:
        now = self._asker.clock.time_ns() / 1e9
        if response.claims.issuer != self._settings.issuer:
            raise JwtError("wrong issuer for auth callout response")
        made = user_claims(get(response.claims.nats, "jwt", str))
        if made.subject != user or not made.claims.valid_at(now):
            raise JwtError("it is not for the user that was asked about, or not valid now")
        # Only accounts of operators have other keys that sign for them.
        if made.issuer != self._settings.issuer or get(made.claims.nats, "issuer_account", str):
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
        if not source_allowed(limits.sources, login.ip):
            raise JwtError(f"not allowed from source {login.ip}")
        if limits.proxied:
            raise JwtError("proxy connection required")
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


def new_user() -> str:
    """A public user key that nobody has the seed of."""
    return nkey.public_text("user", os.urandom(nkey.KEY_BYTES))


def without_requests(identity: Identity) -> Identity:
    """The same, without the right to publish requests to a callout's service."""
    permissions = identity.permissions or Permissions()
    publish = permissions.publish or SubjectPermission()
    if SUBJECT in publish.deny:
        return identity
    publish = dataclasses.replace(publish, deny=(*publish.deny, SUBJECT))
    return dataclasses.replace(identity, permissions=dataclasses.replace(permissions, publish=publish))


def sign(seed: bytes, payload: dict[str, Any]) -> str:
    """A JWT of version 2, signed by the owner of a seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = f"{part(orjson.dumps({'typ': 'JWT', 'alg': 'ed25519-nkey'}))}.{part(orjson.dumps(payload))}"
    return f"{text}.{part(Ed25519PrivateKey.from_private_bytes(seed).sign(text.encode()))}"
