"""Operator mode in the configuration file: operator, resolver, resolver_preload, trusted_keys and their like.

Source: opts.go processConfigFileLine, jwt.go validateTrustedOperators. Operators are files with a JWT, or the JWT itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from shardbroker.auth import nkey
from shardbroker.auth.claims import OperatorClaims, account_claims, operator_claims, user_claims
from shardbroker.auth.jwt import PREFIX, TOKEN_BYTES_MAX, JwtError, undecorated
from shardbroker.auth.model import OperatorMode, Resolver
from shardbroker.control.config import values
from shardbroker.control.config.blocks import Exact, Report, keys, read_block
from shardbroker.control.config.document import Entry
from shardbroker.control.config.listeners import read_client_tls
from shardbroker.limits import PROTOCOL_VERSION

_MEMORY: Final = re.compile(r"(?i)(?:MEM|MEMORY)\s*")
_URL: Final = re.compile(r'(?i)URL\(\s*"?([^\s"]*)"?\s*\)\s*')


@dataclass(slots=True)
class Operators:
    """What has been read so far."""

    report: Report
    entry: Entry | None = None
    claims: list[OperatorClaims] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    # -- keys of the file --

    def read_operators(self, entry: Entry) -> None:
        self.entry = entry
        tokens = []
        for item in entry.value if isinstance(entry.value, list) else [entry]:
            try:
                token = _operator_token(values.read_string(item))
                self.claims.append(operator_claims(token))
                tokens.append(token)
            except (JwtError, OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                self.report.error(item, f"error parsing operator JWT: {why}")
        self.fields["operators"] = tuple(tokens)

    def read_trusted_keys(self, entry: Entry) -> None:
        self.entry = entry
        trusted = values.read_strings(entry)
        for key in trusted:
            if not nkey.is_public(key, "operator"):
                self.report.error(entry, f'trust key "{key}" required to be a valid public operator nkey')
        self.fields["trusted_keys"] = trusted

    def read_resolver(self, entry: Entry) -> None:
        self.fields["resolver"] = read_resolver(entry, self.report)

    def read_preload(self, entry: Entry) -> None:
        if not isinstance(entry.value, dict):
            raise Exact("preload should be a map of account_public_key:account_jwt")
        found = []
        for key, item in entry.value.items():
            try:
                account_claims(values.read_string(item))
                found.append((key, values.read_string(item)))
            except JwtError:
                self.report.error(item, "invalid account JWT")
            except ValueError:
                self.report.error(item, "preload map value should be a string JWT")
        self.fields["preload"] = tuple(found)

    def read_pinned(self, entry: Entry) -> None:
        pinned = values.read_strings(entry)
        for key in pinned:
            if not nkey.is_public(key, "account"):
                self.report.error(entry, f'pinned account key "{key}" is not a valid public account nkey')
        self.fields["pinned_accounts"] = pinned

    def read_tls(self, entry: Entry) -> None:
        """resolver_tls: how the web server of `URL(...)` is talked to."""
        self.fields["tls"] = read_client_tls(entry, self.report)

    def read_sentinel(self, entry: Entry) -> None:
        token = values.read_string(entry)
        try:
            user = user_claims(token)
        except JwtError:
            raise Exact("default sentinel JWT not valid") from None
        scoped = user.claims.issuer != user.account
        if not user.limits.bearer and not scoped:
            raise Exact("default sentinel must be a bearer token")
        self.fields["default_sentinel"] = token

    # -- all together --

    def finish(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of Options. `options`: those that the rest of the file sets. What is wrong is in the report."""
        entry = self.entry
        if entry is None:
            if self.fields.get("default_sentinel"):
                self.report.errors.append("default sentinel requires operators and accounts")
            # A resolver without operators has nobody to ask for; nats-server takes no notice of it.
            return {}
        tls = self.fields.pop("tls", {})
        resolver = self.fields.get("resolver") or self._resolver_of_operator()
        if resolver is not None and resolver.kind == "url":
            self.fields["resolver"] = replace(resolver, **tls)
            if self.fields.get("preload"):
                self.report.error(
                    entry, "resolver preloads only available for writeable resolver types MEM/DIR/CACHE_DIR"
                )
        mode = OperatorMode(**self.fields)
        error = self.report.error
        if mode.operators and mode.trusted_keys:
            error(entry, "conflicting options for 'TrustedKeys' and 'TrustedOperators'")
        if mode.resolver is None:
            error(entry, "operators require an account resolver to be configured")
        if any(account.name != "$G" for account in options.get("accounts", ())):
            error(entry, "operators do not allow Accounts to be configured directly")
        if options.get("users"):
            error(entry, "operators do not allow users to be configured directly")
        if options.get("auth_callout"):
            error(entry, "operators do not allow authorization callouts to be configured directly")
        if options.get("no_auth_user"):
            error(entry, "no_auth_user not compatible with Trusted Operator")
        system = self._system_account(entry, options.get("system_account", ""), mode)
        for claims in self.claims:
            self._check_version(entry, claims)
        return {"operator_mode": mode, **({"system_account": system} if system else {})}

    def _resolver_of_operator(self) -> Resolver | None:
        """Where the operator's own JWT says that its accounts are (opts.go, after operators)."""
        url = self.claims[0].account_server_url if len(self.claims) == 1 else ""
        try:
            return Resolver("url", _checked_url(url).rstrip("/") + "/accounts") if url else None
        except ValueError:
            # nsc writes the address of a server of NATS there, for those that are pushed to.
            return None

    def _system_account(self, entry: Entry, named: str, mode: OperatorMode) -> str:
        theirs = [claims.system_account for claims in self.claims if claims.system_account]
        if named and theirs and named not in theirs:
            self.report.error(entry, "system_account in config and operator JWT must be identical")
        system = named or (self.claims[0].system_account if self.claims else "")
        if system and not nkey.is_public(system, "account"):
            self.report.error(entry, f'system account "{system}" is no public account key')
        if not system and mode.resolver is not None and mode.resolver.kind in ("full", "cache"):
            self.report.error(
                entry,
                "using nats based account resolver - the system account needs to be specified in configuration or the "
                "operator jwt",
            )
        return system

    def _check_version(self, entry: Entry, claims: OperatorClaims) -> None:
        wanted = claims.assert_server_version
        if not wanted:
            return
        if not re.fullmatch(r"\d+\.\d+\.\d+", wanted):
            self.report.error(entry, f'operator {claims.subject} expects version "{wanted}", which is none')
        elif [int(part) for part in wanted.split(".")] > [int(part) for part in PROTOCOL_VERSION.split(".")]:
            self.report.error(
                entry,
                f"operator {claims.subject} expects version {wanted}; this server is as {PROTOCOL_VERSION}",
            )


def _operator_token(text: str) -> str:
    if text.startswith(PREFIX):
        return undecorated(text)
    with Path(text).open(encoding="utf-8") as file:
        return undecorated(file.read(TOKEN_BYTES_MAX))


def _checked_url(url: str) -> str:
    """The address of a web server. Raises ValueError; the text does not show the address, which may have a password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or not url.isascii():
        raise ValueError("the URL of an account resolver begins with http:// or https:// and a host, and ends with a path")
    return url


def read_resolver(entry: Entry, report: Report) -> Resolver | None:
    """`MEMORY`, `URL(...)`, or a block with type and dir."""
    if isinstance(entry.value, str):
        if _MEMORY.fullmatch(entry.value):
            return Resolver()
        if (match := _URL.fullmatch(entry.value)) and match[1]:
            return Resolver("url", _checked_url(match[1]))
        raise Exact(
            'error parsing account resolver, should be MEM or  URL("url") or a map containing dir and type '
            "state=[FULL|CACHE])"
        )
    if not isinstance(entry.value, dict):
        raise Exact(f"error parsing operator resolver, wrong type, got {values.shown(entry)}")
    fields = read_block(
        entry,
        keys(
            {
                "type": ("kind", values.read_string),
                "dir": ("directory", values.read_string),
                "allow_delete": ("allow_delete", values.read_bool),
                "hard_delete": ("hard_delete", values.read_bool),
                "limit": ("limit", values.read_int),
                "ttl": ("ttl", values.read_any_duration),
                "interval": ("interval", values.read_any_duration),
                "timeout": ("timeout", values.read_any_duration),
            }
        ),
        report,
    )
    kind = fields.get("kind", "").lower()
    if kind in ("mem", "memory"):
        return Resolver()
    if kind == "cache":
        raise ValueError(
            "a cache needs other servers to fill it, and there are none: use a directory of type full"
        )
    if kind != "full":
        raise Exact("a resolver is of type full or memory")
    if not fields.get("directory"):
        raise Exact("dir has no value and needs to point to a directory")
    directory = Path(fields["directory"])
    if directory.exists() and not directory.is_dir():
        raise Exact("dir needs to point to an accessible directory")
    if fields.get("ttl"):
        report.error(entry, "FULL does not accept ttl")
    if fields.get("hard_delete") and not fields.get("allow_delete"):
        report.error(entry, "hard_delete has no effect without delete")
    return Resolver(**fields | {"kind": "full"})
