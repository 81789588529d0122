"""Operator mode: who is trusted, which accounts there are, and whether a user's JWT lets its bearer in.

    operator --signs--> account --signs--> user
        by its own key, or by one of its signing keys; a signing key of an account may have a scope: what its users may do

Source: nats-server's auth.go processClientOrLeafAuthentication (the part with juc), accounts.go verifyAccountClaims,
jwt.go validateSrc, validateTimesAt.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from shardbroker.auth.claims import (
    AccountClaims,
    UserClaims,
    UserLimits,
    account_claims,
    activates,
    operator_claims,
    parse_time,
    says_own_limits,
    user_claims,
)
from shardbroker.auth.gate import Bearer, Identity, Login, Refusal, check_signature
from shardbroker.auth.imports import ImportProblem, check_import
from shardbroker.auth.jwt import JwtError, decode
from shardbroker.auth.model import Account, Export, Import, OperatorMode
from shardbroker.auth.remote import UrlStore
from shardbroker.auth.resolver import AccountStore, DirectoryStore, MemoryStore
from shardbroker.auth.templates import Subjects, fill
from shardbroker.transform import TransformError

# Account JWTs kept decoded; the files and the configuration have them all.
ACCOUNTS_KEPT_MAX: Final = 10_000


@dataclass(slots=True)
class _Kept:
    stamp: object
    claims: AccountClaims | None


class AccountBook(Map[str, Account]):
    """The accounts of an operator, as they are now, with all imports that they name, checked or not.

    An account that is not there, not signed by who is trusted, or not valid now, is missing.
    """

    def __init__(self, mode: OperatorMode) -> None:
        operators = [operator_claims(token) for token in mode.operators]
        self.trusted = frozenset(key for operator in operators for key in operator.keys) | set(
            mode.trusted_keys
        )
        self._strict = frozenset(key for operator in operators if operator.strict for key in operator.keys)
        self.store = make_store(mode)
        self._kept: dict[str, _Kept] = {}

    def claims(self, name: str, now: float | None = None) -> AccountClaims | None:
        """The claims of an account; with `now` (seconds since 1970) only if they are valid then."""
        stamp = self.store.stamp(name)
        kept = self._kept.get(name)
        if kept is None or kept.stamp != stamp:
            if len(self._kept) >= ACCOUNTS_KEPT_MAX:
                self._kept.clear()
            kept = self._kept[name] = _Kept(stamp, self._load(name))
        claims = kept.claims
        if claims is not None and now is not None and not claims.claims.valid_at(now):
            return None
        return claims

    def _load(self, name: str) -> AccountClaims | None:
        token = self.store.load(name)
        try:
            return self.verify(token, name) if token else None
        except JwtError:
            return None

    def verify(self, token: str, name: str = "") -> AccountClaims:
        """An account's claims, if someone trusted has signed them (and they are this account's). Raises JwtError."""
        claims = account_claims(token)
        if claims.claims.issuer not in self.trusted:
            raise JwtError("account validation failed: not signed by a trusted operator")
        if name and claims.account.name != name:
            raise JwtError("account validation failed: it is another account's")
        if claims.claims.issuer in self._strict:
            claims = account_claims(token, strict=True)
        return claims

    def checked(self, name: str, now: float) -> Account | None:
        """An account with those of its imports that it may have."""
        claims = self.claims(name, now)
        if claims is None:
            return None
        account = claims.account
        good: list[Import] = []

        def token_check(exporter: str, export: Export, wanted: Import, importer: str) -> bool:
            known = self.claims(exporter)
            return known is not None and activates(wanted.token, known, export, wanted, importer, now)

        for made in account.imports:
            try:
                check_import(self, replace(account, imports=tuple(good)), made, token_check)
                good.append(made)
            except (ImportProblem, TransformError, KeyError):
                continue
        return replace(account, imports=tuple(good))

    def imports_until(self, name: str, now: float) -> float:
        """When the next activation token of an account's imports begins or ends, seconds since 1970; 0: never."""
        claims = self.claims(name, now)
        moments: set[int] = set()
        for made in claims.account.imports if claims is not None else ():
            if made.token:
                try:
                    activation = decode(made.token, "activation")
                except JwtError:
                    continue
                moments |= {activation.expires, activation.not_before}
        return min((moment for moment in moments if moment > now), default=0)

    # -- as a mapping --

    def __getitem__(self, name: str) -> Account:
        claims = self.claims(name)
        if claims is None:
            raise KeyError(name)
        return claims.account

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.claims(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.keys())

    def __len__(self) -> int:
        return len(self.store.keys())


def make_store(mode: OperatorMode) -> AccountStore:
    """The store that the configuration names. Raises ResolverError."""
    resolver = mode.resolver
    if resolver is None or resolver.kind == "memory":
        return MemoryStore(mode.preload)
    if resolver.kind == "url":
        return UrlStore(resolver)
    return DirectoryStore(
        resolver.directory,
        allow_delete=resolver.allow_delete,
        hard_delete=resolver.hard_delete,
        limit=resolver.limit,
    )


class OperatorGate:
    """The rules of operator mode. `accounts` are shared with whoever else needs them."""

    required = True
    nonce_required = True

    def __init__(self, mode: OperatorMode, accounts: AccountBook, system_account: str) -> None:
        self.accounts = accounts
        self._sentinel = mode.default_sentinel
        self._pinned = frozenset(mode.pinned_accounts)
        if self._pinned and system_account:
            self._pinned |= {system_account}

    def check(self, login: Login, now: float) -> Identity | Refusal:
        """Whether the client may come in at `now`, seconds since 1970."""
        token = login.jwt
        try:
            try:
                user = user_claims(token) if token else None
            except JwtError:
                user = None
            if user is None and self._sentinel:
                token = self._sentinel
                user = user_claims(token)
            if user is None:
                return Refusal("Authentication requires a user JWT")
            return self._check_user(user, login, now, token, placed=False)
        except JwtError as error:
            return Refusal(f"User JWT not valid: {error}")

    def place(
        self, token: str, user: str, asked: AccountClaims, login: Login, now: float
    ) -> Identity | Refusal:
        """As whom a client comes in by the token that a callout's service of account `asked` has given for the key `user`.
        Raises JwtError."""
        made = user_claims(token)
        allowed = asked.external.allowed_accounts if asked.external is not None else ()
        if made.subject != user:
            return Refusal("It is not for the user that was asked about")
        if made.account != asked.account.name and allowed != ("*",) and made.account not in allowed:
            return Refusal(f"Account {made.account} is not among those of the auth callout")
        found = self._check_user(made, login, now, token, placed=True)
        if isinstance(found, Identity) and made.claims.name:
            return replace(found, kind="user", name=made.claims.name)
        return found

    def _check_user(
        self, user: UserClaims, login: Login, now: float, token: str, *, placed: bool
    ) -> Identity | Refusal:
        """`placed`: a service has given the token; nobody has its key, and no one else is asked."""
        if not user.claims.valid_at(now):
            return Refusal("User JWT no longer valid")
        if self._pinned and user.account not in self._pinned:
            return Refusal(f"Account {user.account} not listed as operator pinned account")
        account = self.accounts.claims(user.account)
        if account is None:
            return Refusal("Account JWT lookup error")
        if user.issuer not in account.signing_keys:
            return Refusal("User JWT issuer is not known")
        limits = self._limits(user, account)
        if not account.claims.valid_at(now):
            return Refusal("Account JWT has expired")
        if limits.bearer and not account.bearer_allowed and not placed:
            return Refusal("Account does not allow bearer tokens")
        if limits.restricted and login.connection_type not in limits.connection_types:
            return Refusal("Connection type not allowed")
        if not limits.bearer and not placed and (problem := check_signature(user.subject, login)):
            return Refusal(problem)
        if account.is_revoked(user.subject, user.claims.issued):
            return Refusal("User authentication revoked")
        if not source_allowed(limits.sources, login.ip):
            return Refusal(f"Bad src Ip {login.ip}")
        if limits.proxied:
            return Refusal("Proxy connection required")
        until = allowed_until(limits, now)
        if until is None:
            return Refusal("Outside connect times")
        return Identity(
            user.account,
            "jwt",
            user.subject,
            permissions=limits.permissions or account.account.default_permissions,
            expires=_earliest(user.claims.expires, int(until), account.claims.expires),
            max_subscriptions=limits.max_subscriptions,
            max_payload=limits.max_payload,
            bearer=Bearer(
                token, user.subject, user.claims.issued, user.issuer, limits.bearer and not placed, int(until)
            ),
            tags=user.claims.tags,
            name_tag=user.claims.name,
            delegated=not placed and account.external is not None and user.subject not in account.external.auth_users,
        )

    def _limits(self, user: UserClaims, account: AccountClaims) -> UserLimits:
        """What the user may do: by its own words, or by the scope of the key that signed it. Raises JwtError."""
        scope = account.signing_keys[user.issuer]
        if scope is None:
            return user.limits
        if says_own_limits(user.claims):
            raise JwtError("scoped users require no permissions or limits set")
        names = Subjects(
            user.claims.name,
            user.subject,
            user.claims.tags,
            account.claims.name,
            user.account,
            account.claims.tags,
        )
        return replace(scope, permissions=fill(scope.permissions, names))

    def still(self, identity: Identity, now: float) -> Identity | Refusal:
        """Who a client is now that accounts have changed (updateAccountClaimsWithRefresh).

        What was signed stays signed; whether it counts, and what it allows, is looked at again.
        """
        bearer = identity.bearer
        if bearer is None:
            return Refusal("Authentication requires a user JWT")
        account = self.accounts.claims(identity.account)
        if account is None:
            return Refusal("Account JWT lookup error")
        if not account.claims.valid_at(now):
            return Refusal("Account JWT has expired", "Account Authentication Expired")
        if account.is_revoked(bearer.subject, bearer.issued):
            return Refusal("User authentication revoked", "User Authentication Revoked")
        user = user_claims(bearer.token)
        if not user.claims.valid_at(now) or (bearer.until and bearer.until <= now):
            return Refusal("User JWT no longer valid", "User Authentication Expired")
        if bearer.issuer not in account.signing_keys or (bearer.bearer and not account.bearer_allowed):
            return Refusal("User JWT issuer is not known")
        try:
            limits = self._limits(user, account)
        except JwtError as error:
            return Refusal(f"User JWT not valid: {error}")
        return replace(
            identity,
            permissions=limits.permissions or account.account.default_permissions,
            expires=_earliest(user.claims.expires, bearer.until, account.claims.expires),
        )


def source_allowed(networks: tuple[str, ...], ip: str) -> bool:
    """Whether an address is in one of the networks; no networks: everywhere."""
    if not networks:
        return True
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(text, strict=False) for text in networks)


def allowed_until(limits: UserLimits, now: float) -> float | None:
    """Until when a user may stay that comes now, seconds since 1970; 0: no end; None: it may not come now."""
    if not limits.times:
        return 0.0
    zone = ZoneInfo(limits.location) if limits.location else None
    here = datetime.fromtimestamp(now, zone)
    latest: float | None = None
    for first, last in limits.times:
        start, end = (datetime.combine(here.date(), parse_time(text), here.tzinfo) for text in (first, last))
        if start > end:
            # Over midnight: the part of today that began yesterday, or that ends tomorrow.
            if here < end:
                start -= timedelta(days=1)
            else:
                end += timedelta(days=1)
        if start < here < end and (latest is None or end.timestamp() > latest):
            latest = end.timestamp()
    return latest


def _earliest(*times: int) -> int:
    return min((time for time in times if time), default=0)


def system_account_of(mode: OperatorMode) -> str:
    """The system account that the first operator names; empty: none. Raises JwtError."""
    return operator_claims(mode.operators[0]).system_account if mode.operators else ""
