"""Who may come in, as the file says: `authorization {}`, `accounts {}`, operators. Source: opts.go, auth.go validateAuth.

`Access` gathers what the keys of the file say, in whatever order they stand; `finish` checks them against each other and
gives fields of Options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from shardbroker.auth import nkey
from shardbroker.auth.model import GLOBAL_ACCOUNT, SYSTEM_ACCOUNT, Account, AuthCallout, User
from shardbroker.control.config import values
from shardbroker.control.config.accounts import Draft, finish, read_accounts, read_mappings
from shardbroker.control.config.blocks import Exact, Report, keys, read_block, read_list
from shardbroker.control.config.document import Entry
from shardbroker.control.config.permissions import read_permissions, read_users

TIMEOUT_SECONDS_HIGH: Final = 60.0


@dataclass(slots=True)
class Access:
    """What has been read so far."""

    report: Report
    drafts: list[Draft] = field(default_factory=list)
    global_draft: Draft | None = None  # made by top-level mappings and the authorization block
    authorization: Entry | None = None
    accounts: Entry | None = None
    callout: tuple[Entry, AuthCallout] | None = None
    no_auth_user: tuple[Entry, str] | None = None
    system_account: tuple[Entry, str] | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    # -- keys of the file --

    def read_accounts(self, entry: Entry) -> None:
        self.accounts = entry
        self.drafts = read_accounts(entry, self.report)

    def read_mappings(self, entry: Entry) -> None:
        mappings = read_mappings(entry, self.report)
        draft = self._global(entry)
        draft.account = Account(GLOBAL_ACCOUNT, mappings=mappings)

    def read_no_auth_user(self, entry: Entry) -> None:
        self.no_auth_user = entry, values.read_string(entry)

    def read_system_account(self, entry: Entry) -> None:
        self.system_account = entry, values.read_string(entry)

    def read_authorization(self, entry: Entry) -> None:
        report = self.report
        fields = read_block(
            entry,
            keys(
                {
                    "user username": ("user", values.read_string),
                    "pass password": ("password", values.read_string),
                    "token": ("token", values.read_string),
                    "timeout": ("auth_timeout", partial(read_timeout, report=report)),
                    "users": ("users", lambda inner: inner),
                    "default_permission default_permissions permissions": (
                        "default_permissions",
                        partial(read_permissions, report=report),
                    ),
                    "auth_callout auth_hook": ("auth_callout", partial(_callout, report=report)),
                    "proxy_required": ("proxy_required", _no_proxies),
                }
            ),
            report,
        )
        fields.pop("proxy_required", None)
        defaults = fields.pop("default_permissions", None)
        users = fields.pop("users", None)
        if fields.get("token") and (fields.get("user") or fields.get("password")):
            report.error(entry, "Cannot have a user/pass and token")
        if users is not None:
            try:
                self._global(entry).users = read_users(users, GLOBAL_ACCOUNT, defaults, report)
            except ValueError as error:
                report.error(users, str(error))
        if (callout := fields.pop("auth_callout", None)) is not None:
            self.callout = entry, callout
        self.authorization = entry
        self.fields |= fields | {"auth_block": True}

    def _global(self, entry: Entry) -> Draft:
        if self.global_draft is None:
            self.global_draft = Draft(entry, Account(GLOBAL_ACCOUNT))
        return self.global_draft

    # -- all together --

    def places(self) -> dict[str, str]:
        """FILE:LINE:COLUMN of the key that made a field which `finish` gives."""
        found = dict.fromkeys(self.fields, self.authorization.place) if self.authorization is not None else {}
        if self.accounts is not None:
            found["accounts"] = self.accounts.place
        for name in ("no_auth_user", "system_account"):
            if (read := getattr(self, name)) is not None:
                found[name] = read[0].place
        if self.callout is not None:
            found["auth_callout"] = self.callout[0].place
        return found

    def finish(self, *, operators: bool = False, no_system: bool = False) -> dict[str, Any]:
        """Fields of Options. `operators`: accounts are JWTs; `no_system`: there is no system account. What is wrong is in
        the report."""
        drafts = [*self.drafts, *([self.global_draft] if self.global_draft is not None else [])]
        accounts, users = finish(drafts, self.report, no_system=no_system)
        self._check_users(drafts)
        fields = dict(self.fields)
        # The global account need not be told of when the file says nothing about it.
        fields["accounts"] = tuple(a for a in accounts if a != Account(GLOBAL_ACCOUNT))
        fields["users"] = users
        if self.no_auth_user is not None:
            entry, fields["no_auth_user"] = self.no_auth_user
            # With operators it is told by operators.py.
            if not operators and (text := check_no_auth_user(fields["no_auth_user"], users)):
                self.report.error(entry, text)
        if self.system_account is not None:
            fields["system_account"] = self.system_account[1]
            if not operators:
                self._check_system_account(accounts)
        elif any(account.name == SYSTEM_ACCOUNT for account in accounts):
            fields["system_account"] = SYSTEM_ACCOUNT
        if self.callout is not None:
            fields["auth_callout"] = self.callout[1]
            self._check_callout(accounts, users)
        return {name: value for name, value in fields.items() if value != ()}

    def _check_users(self, drafts: list[Draft]) -> None:
        """One name, one user, over all accounts; and no single user beside them."""
        seen: set[str] = set()
        for draft in drafts:
            for entry, user in draft.users:
                if user.key in seen:
                    kind = "nkey" if user.nkey else "user"
                    self.report.error(entry, f'Duplicate {kind} "{user.key}" detected')
                seen.add(user.key)
        if seen and self.authorization is not None:
            if self.fields.get("user"):
                self.report.error(self.authorization, "Can not have a single user/pass and a users array")
            if self.fields.get("token"):
                self.report.error(self.authorization, "Can not have a token and a users array")

    def _check_system_account(self, accounts: tuple[Account, ...]) -> None:
        assert self.system_account is not None
        entry, name = self.system_account
        known = {GLOBAL_ACCOUNT, SYSTEM_ACCOUNT} | {account.name for account in accounts}
        if name not in known:
            self.report.error(entry, f'error resolving system account "{name}": account missing')
        elif name == GLOBAL_ACCOUNT:
            self.report.error(entry, "the global account cannot be the system account")

    def _check_callout(self, accounts: tuple[Account, ...], users: tuple[User, ...]) -> None:
        """nats-server logs the first and the last of these as errors and goes on, with a callout that nobody answers."""
        assert self.callout is not None
        entry, callout = self.callout
        known = {GLOBAL_ACCOUNT} | {account.name for account in accounts}
        if callout.account not in known:
            self.report.error(entry, f'Authorization callout account "{callout.account}" not valid')
        for name in callout.allowed_accounts:
            if name not in {draft.account.name for draft in self.drafts}:
                self.report.error(entry, f'auth_callout allowed account "{name}" not found in configured accounts')
        names = {user.key for user in users} | {self.fields.get("user", "")}
        for name in callout.auth_users:
            if name not in names:
                self.report.error(entry, f'Authorization callout user "{name}" not valid')


def check_no_auth_user(name: str, users: tuple[User, ...]) -> str:
    """What is wrong with a `no_auth_user`; empty when nothing is (auth.go validateNoAuthUser)."""
    if not name:
        return ""
    if not users:
        return f'no_auth_user: "{name}" present, but users/nkeys are not defined'
    if name not in {user.key for user in users}:
        return f'no_auth_user: "{name}" not present as user or nkey in authorization block or account configuration'
    return ""


def read_timeout(entry: Entry, report: Report) -> float:
    """Seconds: a number, a fraction, or a duration; a high one is warned about (opts.go parseAuthorization)."""
    value = entry.value
    if type(value) is int and not entry.text.lstrip("-").isdigit():
        # A bare 2m is two minutes here, and two million seconds for nats-server.
        seconds = values.duration(entry.text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        seconds = values.read_duration(entry)
    if not 0 <= seconds <= values.DURATION_SECONDS_MAX:
        raise ValueError("needs to be positive" if seconds < 0 else "more than 100 years")
    if seconds > TIMEOUT_SECONDS_HIGH:
        report.warning(entry, f"timeout of {seconds:g} seconds is high, consider keeping it under 60 seconds")
    return seconds


def _no_proxies(entry: Entry) -> bool:
    if values.read_bool(entry):
        raise ValueError("proxies are not served yet, so the server would admit whom it should not")
    return False


def _callout(entry: Entry, report: Report) -> AuthCallout | None:
    if not isinstance(entry.value, dict):
        raise Exact(f"Expected authorization callout to be a map/struct, got {values.shown(entry)}")
    errors = len(report.errors)
    fields = read_block(
        entry,
        keys(
            {
                "issuer": ("issuer", _callout_issuer),
                "account acc": ("account", values.read_string),
                "auth_users users": ("auth_users", partial(_names, what="auth_users field")),
                "xkey key": ("xkey", _callout_xkey),
                "allowed_accounts": ("allowed_accounts", partial(_names, what="allowed accounts field")),
            }
        ),
        report,
        'Unknown field "{key}" parsing authorization callout',
    )
    if len(report.errors) > errors:
        return None
    if not fields.get("issuer"):
        raise Exact("Authorization callouts require an issuer to be specified")
    if not fields.get("auth_users"):
        raise Exact("Authorization callouts require authorized users to be specified")
    return AuthCallout(**fields)


def _names(entry: Entry, what: str) -> tuple[str, ...]:
    return tuple(values.read_string(item) for item in read_list(entry, what))


def _callout_issuer(entry: Entry) -> str:
    key = values.read_string(entry)
    if not nkey.is_public(key, "account"):
        raise Exact(f'Expected callout user to be a valid public account nkey, got "{key}"')
    return key


def _callout_xkey(entry: Entry) -> str:
    key = values.read_string(entry)
    if not nkey.is_public(key, "curve"):
        raise Exact("Expected callout xkey to be a valid public xkey")
    return key
