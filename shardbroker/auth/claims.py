"""What the claims of accounts, users and operators come to: the records of model.py.

Source: the jwt library's account_claims.go, user_claims.go, operator_claims.go; nats-server's accounts.go
updateAccountClaimsWithRefresh, buildPermissionsFromJwt.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping as Map
from dataclasses import dataclass
from datetime import time
from typing import Any, Final, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shardbroker.auth import nkey
from shardbroker.auth.imports import ImportProblem, check_exports, check_mapping_list
from shardbroker.auth.jwt import Claims, JwtError, decode, get, numbers, objects, strings
from shardbroker.auth.model import (
    CONNECTION_TYPES,
    RESPONSE_SECONDS,
    RESPONSES_MAX,
    SERVICE_RESPONSE_SECONDS,
    Account,
    AccountLimits,
    Export,
    Import,
    JetStreamLimits,
    MapDestination,
    Mapping,
    MessageTrace,
    Permissions,
    ResponsePermission,
    ResponseType,
    ServiceLatency,
    SubjectPermission,
)
from shardbroker.subject import has_wildcard, is_subset, is_valid_subject
from shardbroker.transform import TransformError

_RESPONSES: Final[dict[str, ResponseType]] = {
    "": "singleton",
    "Singleton": "singleton",
    "Stream": "stream",
    "Chunked": "chunked",
}


@dataclass(frozen=True, slots=True)
class OperatorClaims:
    """An operator. `keys`: what may sign accounts for it."""

    subject: str
    keys: tuple[str, ...]
    system_account: str
    strict: bool  # the operator's own key signs nothing but signing keys
    account_server_url: str
    assert_server_version: str


@dataclass(frozen=True, slots=True)
class UserLimits:
    """What a user may do, by its own claims or by the scope of the key that signed it. Counts and bytes; -1: no limit."""

    permissions: Permissions | None = None
    max_subscriptions: int = -1
    max_payload: int = -1
    sources: tuple[str, ...] = ()  # networks (CIDR) it may come from; empty: all
    times: tuple[tuple[str, str], ...] = ()  # from, to; each HH:MM:SS; empty: always
    location: str = ""  # a time zone; empty: the server's
    bearer: bool = False  # the token alone is enough
    connection_types: tuple[str, ...] = ()
    restricted: bool = False  # connection types were named, though none that is known here
    proxied: bool = False  # it must come through a trusted proxy; there are none here, so it may not come


@dataclass(frozen=True, slots=True)
class UserClaims:
    """A user."""

    claims: Claims
    account: str  # the account it is in
    limits: UserLimits

    @property
    def subject(self) -> str:
        return self.claims.subject

    @property
    def issuer(self) -> str:
        return self.claims.issuer


@dataclass(frozen=True, slots=True)
class ExternalAuthorization:
    """An account whose users are decided on by a service of its own (ADR-26)."""

    auth_users: tuple[str, ...]
    allowed_accounts: tuple[str, ...]
    xkey: str


@dataclass(frozen=True, slots=True)
class AccountClaims:
    """An account, and what is about its users."""

    claims: Claims
    account: Account
    signing_keys: Map[str, UserLimits | None]  # key -> the scope of users that it signs, or None
    revocations: Map[str, int]  # user key or `*` -> users issued at or before that second are revoked
    bearer_allowed: bool
    external: ExternalAuthorization | None

    def is_revoked(self, user: str, issued: int) -> bool:
        """Whether a user's token no longer counts (accounts.go isRevoked)."""
        return any(self.revocations.get(key, -1) >= issued for key in (user, "*"))


def operator_claims(token: str) -> OperatorClaims:
    """Raises JwtError."""
    claims = decode(token, "operator")
    nats = claims.nats
    strict = get(nats, "strict_signing_key_usage", bool)
    keys = (() if strict else (claims.subject,)) + strings(nats, "signing_keys")
    for key in (claims.subject, *keys):
        if not nkey.is_public(key, "operator"):
            raise JwtError("an operator's keys are public operator keys")
    if claims.issuer not in (claims.subject, *keys):
        raise JwtError("an operator signs itself")
    return OperatorClaims(
        claims.subject,
        keys,
        get(nats, "system_account", str),
        strict,
        get(nats, "account_server_url", str),
        get(nats, "assert_server_version", str),
    )


def user_claims(token: str) -> UserClaims:
    """Raises JwtError."""
    claims = decode(token, "user")
    if not nkey.is_public(claims.subject, "user"):
        raise JwtError("a user's subject is a public user key")
    account = get(claims.nats, "issuer_account", str) or claims.issuer
    if not nkey.is_public(account, "account"):
        raise JwtError("account of the issuer is no public account key")
    return UserClaims(claims, account, _user_limits(claims.nats))


def account_claims(token: str, *, strict: bool = False) -> AccountClaims:
    """`strict`: of an operator with strict_signing_key_usage. Raises JwtError."""
    claims = decode(token, "account")
    if not nkey.is_public(claims.subject, "account"):
        raise JwtError("an account's subject is a public account key")
    nats = claims.nats
    signing: dict[str, UserLimits | None] = {} if strict else {claims.subject: None}
    for item in get(nats, "signing_keys", list):
        if isinstance(item, str):
            key, scope = item, None
        elif isinstance(item, dict):
            key, scope = get(item, "key", str), _user_limits(get(item, "template", dict))
        else:
            raise JwtError("'signing_keys' is of a wrong type")
        if not nkey.is_public(key, "account"):
            raise JwtError("a signing key is no public account key")
        signing[key] = scope
    limits = get(nats, "limits", dict)
    exports = tuple(_exports(nats))
    external = get(nats, "authorization", dict)
    account = Account(
        claims.subject,
        claims.subject,
        exports,
        tuple(_imports(nats)),
        tuple(_mappings(nats)),
        _permissions(get(nats, "default_permissions", dict)),
        AccountLimits(
            # Go leaves out what is 0, so that a missing limit is 0.
            get(limits, "conn", int),
            get(limits, "subs", int),
            get(limits, "payload", int),
            get(limits, "leaf", int),
            get(limits, "imports", int),
            get(limits, "exports", int),
            get(limits, "wildcards", bool),
        ),
        tuple(_jetstream(limits)),
        _trace(get(nats, "trace", dict)),
        claims.name,
        claims.issuer,
    )
    auth_users = strings(external, "auth_users")
    return AccountClaims(
        claims,
        account,
        signing,
        dict(numbers(nats, "revocations")),
        not get(limits, "disallow_bearer", bool),
        ExternalAuthorization(auth_users, strings(external, "allowed_accounts"), get(external, "xkey", str))
        if auth_users
        else None,
    )


def activates(
    token: str, exporter: AccountClaims, export: Export, made: Import, importer: str, now: float
) -> bool:
    """Whether an activation token lets an account import (accounts.go checkActivation)."""
    try:
        claims = decode(token, "activation")
        kind, subject = get(claims.nats, "kind", str), get(claims.nats, "subject", str)
        issuer_account = get(claims.nats, "issuer_account", str)
    except JwtError:
        return False
    # Signed by the exporter, or by a key that it says is its own; for this importer; for this subject.
    name = exporter.account.name
    if claims.issuer != name and (issuer_account != name or claims.issuer not in exporter.signing_keys):
        return False
    if claims.subject not in (importer, "public") or not claims.valid_at(now):
        return False
    if kind and kind != made.kind:
        return False
    if subject and subject != export.subject and not _covers(subject, made.subject):
        return False
    revoked = dict(export.revocations)
    return not any(revoked.get(key, -1) >= claims.issued for key in (importer, "*"))


def _covers(pattern: str, subject: str) -> bool:
    return is_valid_subject(pattern) and is_valid_subject(subject) and is_subset(subject, pattern)


# What a user signed by a scoped key must not say itself (HasEmptyPermissions).
_SCOPED: Final = (
    "pub", "sub", "resp", "src", "times", "times_location", "subs", "data", "payload", "bearer_token",
    "allowed_connection_types", "proxy_required",
)  # fmt: skip


def says_own_limits(claims: Claims) -> bool:
    """Whether a user's claims say what it may do, which those signed by a scoped key may not."""
    return any(claims.nats.get(name) not in (None, False, 0, "", [], {}) for name in _SCOPED)


# -- parts --


def _user_limits(nats: Map[str, Any]) -> UserLimits:
    types = tuple(text.upper() for text in strings(nats, "allowed_connection_types"))
    known = tuple(text for text in types if text in CONNECTION_TYPES)
    sources = strings(nats, "src")
    for text in sources:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise JwtError("'src' is no network") from None
    times = tuple((get(item, "start", str), get(item, "end", str)) for item in objects(nats, "times"))
    for pair in times:
        for text in pair:
            parse_time(text)
    location = get(nats, "times_location", str)
    if location:
        try:
            ZoneInfo(location)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise JwtError("'times_location' is no time zone") from None
    return UserLimits(
        _permissions(nats),
        get(nats, "subs", int),
        get(nats, "payload", int),
        sources,
        times,
        location,
        get(nats, "bearer_token", bool),
        known,
        bool(types),
        get(nats, "proxy_required", bool),
    )


def parse_time(text: str) -> time:
    """`15:04:05`. Raises JwtError."""
    try:
        hour, minute, second = text.split(":")
        return time(int(hour), int(minute), int(second))
    except ValueError:
        raise JwtError("'times' is no time of day") from None


def _permissions(nats: Map[str, Any]) -> Permissions | None:
    publish = _subjects(get(nats, "pub", dict))
    subscribe = _subjects(get(nats, "sub", dict), queues=True)
    responses = None
    if (answer := nats.get("resp")) is not None:
        if not isinstance(answer, dict):
            raise JwtError("'resp' is of a wrong type")
        responses = ResponsePermission(
            get(answer, "max", int) or RESPONSES_MAX, get(answer, "ttl", int) / 1e9 or RESPONSE_SECONDS
        )
        if publish is None or publish.allow is None:
            publish = SubjectPermission((), publish.deny if publish else ())
    if publish is None and subscribe is None and responses is None:
        return None
    return Permissions(publish, subscribe, responses)


def _subjects(values: Map[str, Any], queues: bool = False) -> SubjectPermission | None:
    allow, deny = strings(values, "allow"), strings(values, "deny")
    for text in (*allow, *deny):
        # Templates of scoped keys are no subjects yet; what they become is checked then.
        parts = text.split() if queues and "{{" not in text else [text]
        if "{{" not in text and not (1 <= len(parts) <= 2 and all(map(is_valid_subject, parts))):
            raise JwtError("a permission is no subject")
    # An empty list is no list here: Go leaves both out.
    return SubjectPermission(allow or None, deny) if allow or deny else None


def _exports(nats: Map[str, Any]) -> list[Export]:
    """Those that can be; the others are left out, as nats-server does."""
    found: list[Export] = []
    for item in objects(nats, "exports"):
        kind, subject = get(item, "type", str), get(item, "subject", str)
        token = get(item, "token_req", bool)
        if kind not in ("stream", "service") or get(item, "response_type", str) not in _RESPONSES:
            raise JwtError("an export is of no kind")
        latency = get(item, "service_latency", dict)
        export = Export(
            cast(Any, kind),
            subject,
            None,
            get(item, "account_token_position", int),
            token,
            numbers(item, "revocations"),
            _RESPONSES[get(item, "response_type", str)],
            get(item, "response_threshold", int) / 1e9 or SERVICE_RESPONSE_SECONDS,
            ServiceLatency(get(latency, "results", str), _sampling(latency.get("sampling")))
            if latency
            else None,
            get(item, "allow_trace", bool),
        )
        try:
            check_exports((*found, export), export)
        except ImportProblem:
            continue
        found.append(export)
    return found


def _sampling(value: Any) -> int:
    if value in ("headers", None):
        return 0
    if type(value) is not int or not 0 <= value <= 100:
        raise JwtError("'sampling' is no percentage")
    return value


def _imports(nats: Map[str, Any]) -> list[Import]:
    found = []
    for item in objects(nats, "imports"):
        kind, account, subject = (get(item, name, str) for name in ("type", "account", "subject"))
        to, local = get(item, "to", str), get(item, "local_subject", str)
        if kind not in ("stream", "service") or not nkey.is_public(account, "account"):
            raise JwtError("an import is of no kind, or from no account")
        token = get(item, "token", str)
        if kind == "stream":
            # `to` is a prefix in the old form.
            there, here = subject, local or (f"{to.rstrip('.')}.{subject}" if to else subject)
        elif local:
            there, here = subject, local
        else:
            there, here = to or subject, subject
        found.append(
            Import(
                cast(Any, kind),
                account,
                there,
                here,
                get(item, "share", bool),
                get(item, "allow_trace", bool),
                token,
            )
        )
    return found


def _mappings(nats: Map[str, Any]) -> list[Mapping]:
    found = []
    for source in get(nats, "mappings", dict):
        destinations = tuple(
            MapDestination(
                get(item, "subject", str), get(item, "weight", int) or 100, get(item, "cluster", str)
            )
            for item in objects(nats["mappings"], source)
        )
        mapping = Mapping(source, destinations)
        try:
            if is_valid_subject(source):
                check_mapping_list(mapping)
                found.append(mapping)
        except (ImportProblem, TransformError):
            continue
    return found


def _jetstream(limits: Map[str, Any]) -> list[tuple[str, JetStreamLimits]]:
    tiers: dict[str, Map[str, Any]] = {
        name: get(get(limits, "tiered_limits", dict), name, dict)
        for name in get(limits, "tiered_limits", dict)
    }
    if get(limits, "mem_storage", int) or get(limits, "disk_storage", int):
        tiers = {"": limits} | tiers
    return [
        (name, _jetstream_tier(tier))
        for name, tier in tiers.items()
        if get(tier, "mem_storage", int) or get(tier, "disk_storage", int)
    ]


def _jetstream_tier(tier: Map[str, Any]) -> JetStreamLimits:
    def unlimited(name: str) -> int:
        number = get(tier, name, int)
        return number if number > 0 else -1

    return JetStreamLimits(
        get(tier, "mem_storage", int),
        get(tier, "disk_storage", int),
        get(tier, "streams", int),
        get(tier, "consumer", int),
        unlimited("max_ack_pending"),
        unlimited("mem_max_stream_bytes"),
        unlimited("disk_max_stream_bytes"),
        get(tier, "max_bytes_required", bool),
    )


def _trace(values: Map[str, Any]) -> MessageTrace | None:
    destination, sampling = get(values, "dest", str), get(values, "sampling", int)
    if not destination or not is_valid_subject(destination) or has_wildcard(destination):
        return None
    return MessageTrace(destination, sampling if 0 < sampling <= 100 else 100)
