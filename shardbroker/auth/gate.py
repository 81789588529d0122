"""May this client come in, and as whom: users with passwords, tokens, nkeys, no_auth_user.

    Gate(options).check(login) -> Identity            come in
                                  Refusal             "Authorization Violation"; the reason is for the log
                                  PasswordHash        come in if this slow comparison says so (passwords.py)

Nothing here waits or talks to anyone. Source of the rules and their order: nats-server's auth.go
processClientOrLeafAuthentication, configureAuthorization. A comparison takes the same time whether the first or the last
byte differs, and whether the user exists or not.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final, Protocol

from shardbroker.auth import nkey
from shardbroker.auth.model import GLOBAL_ACCOUNT, Permissions, User

_BCRYPT: Final = re.compile(r"\$2[abxy]\$\d{2}\$.*", re.S)
_TOKEN: Final = "\0token"
# Compared with when there is no such user: the work is the same.
_NOBODY: Final = User(name="\0", password="\0" * 24)


class Settings(Protocol):
    """What a Gate reads of Options."""

    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def users(self) -> tuple[User, ...]: ...
    @property
    def no_auth_user(self) -> str: ...
    @property
    def system_users_only(self) -> bool: ...
    @property
    def maps_certificates(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Login:
    """What a client has said, and what is known of its connection."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    nkey: str = ""
    jwt: str = field(default="", repr=False)
    signature: str = field(default="", repr=False)
    nonce: bytes = b""
    ip: str = ""
    connection_type: str = "STANDARD"
    # Whom the client's certificate names, in the order in which they count; the last is its subject (RFC 4514).
    certificate_names: tuple[str, ...] = ()
    # Who the other end of the connection is, where `ip` is what that says of somebody else (X-Forwarded-For); else empty.
    peer: str = ""

    @property
    def says_nothing(self) -> bool:
        """No credentials at all: no_auth_user, if there is one."""
        return not (self.user or self.password or self.token or self.nkey)


@dataclass(frozen=True, slots=True)
class Bearer:
    """What an identity from a JWT rests on, to be looked at again when an account changes."""

    token: str = field(repr=False)
    subject: str
    issued: int
    issuer: str
    bearer: bool
    until: int  # the end of the times of day in which it came, seconds since 1970; 0: none


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom a client is in. `kind` and `name` are how logs and monitoring call it; `user` is its record, if it has one."""

    account: str = GLOBAL_ACCOUNT
    kind: str = ""  # user, nkey, jwt, token; empty: nobody asked
    name: str = ""
    user: User | None = None
    permissions: Permissions | None = None
    expires: int = 0  # seconds since 1970 when it must go; 0: never
    # Of a JWT: its own limits (-1: none beside the account's), what it rests on (trust.py), and words for monitoring
    max_subscriptions: int = -1
    max_payload: int = -1
    bearer: Bearer | None = None
    tags: tuple[str, ...] = ()
    name_tag: str = ""
    delegated: bool = False  # its account has a service that decides; until that has, it is not in

    @property
    def label(self) -> str:
        """`ACCOUNT/user:NAME` as log lines have it (client.go getAuthUserLabel); empty when nobody asked."""
        if not self.kind:
            return ""
        return f"{self.account}/{self.kind}" + (f":{self.name}" if self.name else "")


ANYBODY: Final = Identity()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not; for the debug log, without secrets. `error`: what the client is told, if not the usual words."""

    reason: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A bcrypt hash that the password has to be compared with, and who comes in then."""

    hash: str = field(repr=False)
    password: str = field(repr=False)
    identity: Identity


Answer = Identity | Refusal | PasswordHash


class Gate:
    """The rules of one set of options."""

    __slots__ = ("_maps_certificates", "_nkeys", "_no_auth_user", "_single", "_system_users_only", "_users")

    def __init__(self, settings: Settings) -> None:
        self._users = {user.name: user for user in settings.users if not user.nkey}
        self._nkeys = {user.nkey: user for user in settings.users if user.nkey}
        self._no_auth_user = settings.no_auth_user
        self._system_users_only = settings.system_users_only
        self._maps_certificates = settings.maps_certificates  # of these kinds of connection
        # A single user, or a token, is a user like others; a token's has no name that a client could say.
        self._single: User | None = None
        if settings.token:
            self._single = User(name=_TOKEN, password=settings.token)
        elif settings.user:
            self._single = User(name=settings.user, password=settings.password)

    @property
    def required(self) -> bool:
        """Whether anyone is asked anything."""
        return bool(self._users or self._nkeys or self._single)

    @property
    def nonce_required(self) -> bool:
        """Whether INFO has to carry something to sign (server.go nonceRequired)."""
        return bool(self._nkeys)

    def check(self, login: Login) -> Answer:
        """Whether the client may come in."""
        if not self.required:
            return ANYBODY
        default = self._no_auth_user if login.says_nothing else ""
        if self._system_users_only and login.says_nothing:
            return ANYBODY
        if login.connection_type in self._maps_certificates and self._users:
            return self._check_certificate(login)
        key = login.nkey or (default if default in self._nkeys else "")
        if self._nkeys and key:
            return self._check_nkey(key, login, default)
        name = login.user or default
        if self._users and name:
            return self._check_user(name, login, default)
        single = self._single
        if single is None:
            return Refusal("no credentials")
        if single.name == _TOKEN:
            return _compare(single.password, login.token, _identity(single))
        answer = _compare(single.password, login.password, _identity(single))
        return answer if _equal(single.name, login.user) else Refusal("no such user")

    def _check_certificate(self, login: Login) -> Answer:
        """verify_and_map: the user whom the certificate names (auth.go checkClientTLSCertSubject)."""
        for name in login.certificate_names:
            user = self._users.get(name)
            if user is not None:
                return _identity(user) if _connection_allowed(user, login) else Refusal("connection type not allowed")
        subject = relative_names(login.certificate_names[-1]) if login.certificate_names else None
        for user in self._users.values():
            if subject is not None and relative_names(user.name) == subject:
                return _identity(user) if _connection_allowed(user, login) else Refusal("connection type not allowed")
        return Refusal("no user of the certificate's names")

    def _check_nkey(self, key: str, login: Login, default: str) -> Answer:
        user = self._nkeys.get(key)
        if user is None:
            return Refusal("no such nkey")
        if not _connection_allowed(user, login):
            return Refusal("connection type not allowed")
        if key != default and (problem := check_signature(key, login)):
            return Refusal(problem)
        return _identity(user)

    def _check_user(self, name: str, login: Login, default: str) -> Answer:
        found = self._users.get(name)
        user = found or _NOBODY
        if found is not None and not _connection_allowed(found, login):
            return Refusal("connection type not allowed")
        if found is not None and name == default:
            return _identity(found)
        answer = _compare(user.password, login.password, _identity(user))
        return answer if found is not None else Refusal("no such user")

    def same(self, identity: Identity) -> Identity | None:
        """Who this is under these rules, when nothing has changed but what it may do; None: it must be checked anew."""
        before = identity.user
        if before is None:
            return None
        if before == self._single:
            return identity
        now = (self._nkeys if before.nkey else self._users).get(before.key)
        if now is None or (now.password, now.account, now.connection_types) != (
            before.password,
            before.account,
            before.connection_types,
        ):
            return None
        return _identity(now)


def check_signature(key: str, login: Login) -> str:
    """What is wrong with the signature of the nonce by the owner of a public user key; empty when nothing is."""
    if not login.signature:
        return "Signature missing"
    signature = nkey.decode_signature(login.signature)
    if signature is None:
        return "Signature not valid base64"
    public = nkey.public_bytes(key, "user")
    if public is None:
        return "User nkey not valid"
    # No nonce was sent when nobody needed one: then there is nothing that could have been signed.
    if not login.nonce or not nkey.verify(public, login.nonce, signature):
        return "Signature not verified"
    return ""


def relative_names(subject: str) -> frozenset[tuple[str, str]] | None:
    """The parts of a distinguished name, whose order may differ from writer to writer; None: it is none (RFC 4514)."""
    # Imported only for this: it is large.
    from cryptography import x509

    try:
        name = x509.Name.from_rfc4514_string(re.sub(r",\s+", ",", subject))
    except ValueError:
        return None
    return frozenset((part.oid.dotted_string, str(part.value)) for part in name) or None


def is_bcrypt(text: str) -> bool:
    """Whether a configured password is a hash (auth.go isBcrypt)."""
    return _BCRYPT.fullmatch(text) is not None


def _identity(user: User) -> Identity:
    if user.name == _TOKEN:
        return Identity(kind="token", user=user)
    kind = "nkey" if user.nkey else "user"
    return Identity(user.account, kind, user.key, user, user.permissions)


def _connection_allowed(user: User, login: Login) -> bool:
    return not user.connection_types or login.connection_type in user.connection_types


def _compare(expected: str, given: str, identity: Identity) -> Answer:
    if is_bcrypt(expected):
        return PasswordHash(expected, given, identity)
    return identity if _equal(expected, given) else Refusal("wrong password")


def _equal(expected: str, given: str) -> bool:
    # Digests are of one length: the time does not tell how long the secret is.
    return hmac.compare_digest(_digest(expected), _digest(given))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
