"""The `accounts {}` block, `mappings {}`, and the checks over all accounts. Source: opts.go parseAccounts, accounts.go.

Reading gives records as they stand in the file (Draft); `finish` checks what needs all accounts: names that are mentioned,
who may import what, cycles. Both tell everything that is wrong, at its place.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from shardbroker.auth import nkey
from shardbroker.auth.imports import ImportProblem, check_exports, check_import, check_mapping_list
from shardbroker.auth.model import (
    GLOBAL_ACCOUNT,
    Account,
    AccountLimits,
    Export,
    Import,
    JetStreamLimits,
    MapDestination,
    Mapping,
    MessageTrace,
    Permissions,
    ResponseType,
    ServiceLatency,
    User,
)
from shardbroker.control.config import values
from shardbroker.control.config.blocks import Exact, Keys, Report, keys, read_block, read_list
from shardbroker.control.config.document import Entry
from shardbroker.control.config.permissions import read_permissions, read_users
from shardbroker.subject import has_wildcard, is_valid_subject
from shardbroker.transform import TransformError

RESPONSE_TYPES: Final[dict[str, ResponseType]] = {
    "single": "singleton",
    "singleton": "singleton",
    "stream": "stream",
    "chunk": "chunked",
    "chunked": "chunked",
}


@dataclass(slots=True)
class Draft:
    """An account as the file has it, before its imports and exports are checked against the others."""

    entry: Entry
    account: Account
    users: list[tuple[Entry, User]] = field(default_factory=list)
    exports: list[tuple[Entry, Export]] = field(default_factory=list)
    imports: list[tuple[Entry, Import]] = field(default_factory=list)


def read_accounts(entry: Entry, report: Report) -> list[Draft]:
    """A map of accounts, or a list of names."""
    drafts: dict[str, Draft] = {}
    if isinstance(entry.value, list):
        for item in entry.value:
            name = values.read_string(item)
            if name in drafts:
                report.error(item, f"Duplicate Account Entry: {name}")
            elif _may_be_named(name, item, report):
                drafts[name] = Draft(item, Account(name))
    else:
        for name, item in values.read_map(entry).items():
            if item.used:
                continue
            if not isinstance(item.value, dict):
                report.error(item, "Expected map entries for accounts")
            elif _may_be_named(name, item, report):
                drafts[name] = _read_account(name, item, report)
    return list(drafts.values())


def _may_be_named(name: str, entry: Entry, report: Report) -> bool:
    if name == GLOBAL_ACCOUNT:
        report.error(entry, f'"{name}" is a Reserved Account')
        return False
    # A name is a token of $SYS.ACCOUNT.<name>.>; nats-server takes any, and its events then cannot be subscribed to.
    if not name or not name.isprintable():
        report.error(entry, f"{name!r} cannot be the name of an account")
        return False
    return True


def _read_account(name: str, entry: Entry, report: Report) -> Draft:
    fields = read_block(entry, _account_keys(report), report)
    users, exports, imports = (fields.pop(key, None) for key in ("users", "exports", "imports"))
    draft = Draft(entry, Account(name, **fields))
    if users is not None:
        try:
            draft.users = read_users(users, name, draft.account.default_permissions, report)
        except ValueError as error:
            report.error(users, str(error))
    draft.exports = exports or []
    draft.imports = imports or []
    return draft


def _account_keys(report: Report) -> Keys:
    return keys(
        {
            "nkey": ("nkey", _account_nkey),
            "users": ("users", lambda entry: entry),
            "exports": ("exports", partial(_exports, report=report)),
            "imports": ("imports", partial(_imports, report=report)),
            "jetstream": ("jetstream", partial(read_jetstream, report=report)),
            "default_permissions": ("default_permissions", partial(_permissions, report=report)),
            "mappings maps": ("mappings", partial(read_mappings, report=report)),
            "limits": ("limits", partial(_limits, report=report)),
            "msg_trace trace_dest": ("trace", partial(_trace, report=report)),
        }
    )


def _permissions(entry: Entry, report: Report) -> Permissions:
    return read_permissions(entry, report)


def _account_nkey(entry: Entry) -> str:
    key = values.read_string(entry)
    if not nkey.is_public(key, "account"):
        raise Exact(f'Not a valid public nkey for an account: "{key}"')
    return key


# -- limits --


def _limits(entry: Entry, report: Report) -> AccountLimits:
    number = _int32
    return AccountLimits(
        **read_block(
            entry,
            keys(
                {
                    "max_connections max_conn": ("max_connections", number),
                    "max_subscriptions max_subs": ("max_subscriptions", number),
                    "max_payload max_pay": ("max_payload", number),
                    "max_leafnodes max_leafs": ("max_leafnodes", number),
                }
            ),
            report,
            'Unknown field "{key}" parsing account limits',
        )
    )


def _int32(entry: Entry) -> int:
    number = values.read_int(entry)
    if not -(2**31) <= number < 2**31:
        raise ValueError("value is too big")
    return number


_JETSTREAM: Final = keys(
    {
        "max_memory max_mem mem memory": ("max_memory", values.read_int),
        "max_store max_file max_disk store disk": ("max_store", values.read_int),
        "max_streams streams": ("max_streams", values.read_int),
        "max_consumers consumers": ("max_consumers", values.read_int),
        "max_bytes_required max_stream_bytes max_bytes": ("max_bytes_required", values.read_bool),
        "mem_max_stream_bytes memory_max_stream_bytes": ("memory_max_stream_bytes", values.read_int),
        "disk_max_stream_bytes store_max_stream_bytes": ("store_max_stream_bytes", values.read_int),
        "max_ack_pending": ("max_ack_pending", values.read_int),
        "cluster_traffic": ("cluster_traffic", lambda entry: _one_of(entry, ("system", "owner", ""))),
    }
)


def _one_of(entry: Entry, words: tuple[str, ...]) -> str:
    word = values.read_string(entry)
    if word not in words:
        raise ValueError(f"one of {', '.join(filter(None, words))}")
    return word


def read_jetstream(entry: Entry, report: Report) -> tuple[tuple[str, JetStreamLimits], ...]:
    """An account's limits by tier; empty: JetStream is off for it (parseJetStreamForAccount)."""
    if isinstance(entry.value, bool):
        return (("", JetStreamLimits()),) if entry.value else ()
    if isinstance(entry.value, str):
        word = entry.value.lower()
        if word not in ("enabled", "enable", "disabled", "disable"):
            raise Exact(f"Expected 'enabled' or 'disabled' for string value, got '{entry.value}'")
        return (("", JetStreamLimits()),) if word.startswith("en") else ()
    if not isinstance(entry.value, dict):
        raise Exact(f"Expected map, bool or string to define JetStream, got {values.shown(entry)}")
    fields = read_block(entry, _JETSTREAM, report)
    fields.pop("cluster_traffic", None)
    return (("", JetStreamLimits(**fields)),)


def _trace(entry: Entry, report: Report) -> MessageTrace | None:
    fields: dict[str, Any]
    if isinstance(entry.value, dict):
        fields = read_block(
            entry,
            {"dest": ("destination", _trace_destination), "sampling": ("sampling", _percent)},
            report,
            'Unknown field "{key}" parsing account message trace',
        )
    else:
        fields = {"destination": _trace_destination(entry)}
    if "destination" not in fields:
        report.warning(entry, "Trace destination sampling ignored since no destination was set")
        return None
    return MessageTrace(**fields)


def _trace_destination(entry: Entry) -> str:
    subject = values.read_string(entry)
    if not is_valid_subject(subject) or has_wildcard(subject):
        raise Exact(f'Trace destination "{subject}" is not valid')
    return subject


def _percent(entry: Entry, least: int = 1) -> int:
    """`50` or `50%`."""
    number = entry.value
    if isinstance(number, str) and number.removesuffix("%").isdigit():
        number = int(number.removesuffix("%"))
    if type(number) is not int or not least <= number <= 100:
        raise ValueError(f"a percentage from {least} to 100 is needed")
    return number


# -- exports and imports --


def _exports(entry: Entry, report: Report) -> list[tuple[Entry, Export]]:
    found = []
    for item in read_list(entry, "Exports"):
        if not isinstance(item.value, dict):
            report.error(item, f"Export Items should be a map with type entry, got {values.shown(item)}")
        elif (export := _export(item, report)) is not None:
            found.append((item, export))
    return found


def _export(entry: Entry, report: Report) -> Export | None:
    errors = len(report.errors)
    fields = read_block(entry, _export_keys(report), report)
    stream, service = fields.pop("stream", None), fields.pop("service", None)
    if len(report.errors) > errors:
        return None
    if stream is not None and service is not None:
        report.error(entry, f'Detected stream "{stream}" but already saw a service')
    elif stream is None and service is None:
        report.error(entry, "an export needs a stream or a service")
    elif stream is not None and (names := fields.keys() & {"response_type", "response_seconds"}):
        report.error(entry, f"Detected response directive on non-service ({', '.join(sorted(names))})")
    elif stream is not None and "latency" in fields:
        report.error(entry, "Detected latency directive on non-service")
    elif stream is not None and "allow_trace" in fields:
        report.error(entry, "Detected allow_trace directive on non-service")
    else:
        # An empty list of accounts means that a token is asked for, as setExportAuth has it.
        if fields.get("accounts") == ():
            fields |= {"token_required": True}
        return Export("stream" if stream is not None else "service", stream or service or "", **fields)
    return None


def _export_keys(report: Report) -> Keys:
    return keys(
        {
            "stream": ("stream", values.read_string),
            "service": ("service", values.read_string),
            "response response_type": ("response_type", _response_type),
            "threshold response_threshold response_max_time response_time": ("response_seconds", _threshold),
            "accounts": ("accounts", _names),
            "latency": ("latency", partial(_latency, report=report)),
            "account_token_position": ("account_token_position", _position),
            "allow_trace": ("allow_trace", values.read_bool),
        }
    )


def _response_type(entry: Entry) -> ResponseType:
    word = values.read_string(entry)
    if (kind := RESPONSE_TYPES.get(word.lower())) is None:
        raise Exact(f'Unknown response type: "{word}"')
    return kind


def _threshold(entry: Entry) -> float:
    try:
        return values.read_any_duration(entry)
    except ValueError:
        raise Exact("Expected response threshold to be a parseable time duration") from None


def _names(entry: Entry) -> tuple[str, ...]:
    return tuple(values.read_string(item) for item in read_list(entry, "Accounts"))


def _position(entry: Entry) -> int:
    number = values.read_int(entry)
    if number < 0:
        raise ValueError("value can not be negative")
    return number


def _latency(entry: Entry, report: Report) -> ServiceLatency | None:
    if isinstance(entry.value, str):
        return ServiceLatency(entry.value)
    if not isinstance(entry.value, dict):
        raise Exact(f"Expected latency entry to be a map/struct or string, got {values.shown(entry)}")
    fields = read_block(
        entry, {"subject": ("subject", values.read_string), "sampling": ("sampling", _sampling)}, report
    )
    if "subject" not in fields:
        raise Exact("Latency subject required, but missing")
    return ServiceLatency(**fields)


def _sampling(entry: Entry) -> int:
    if isinstance(entry.value, str) and entry.value.strip().lower() == "headers":
        return 0
    return _percent(entry)


def _imports(entry: Entry, report: Report) -> list[tuple[Entry, Import]]:
    found = []
    for item in read_list(entry, "Imports"):
        if not isinstance(item.value, dict):
            report.error(item, f"Import Items should be a map with type entry, got {values.shown(item)}")
        elif (made := _import(item, report)) is not None:
            found.append((item, made))
    return found


def _import(entry: Entry, report: Report) -> Import | None:
    errors = len(report.errors)
    fields = read_block(
        entry,
        {
            "stream": ("stream", partial(_source, what="Stream", report=report)),
            "service": ("service", partial(_source, what="Service", report=report)),
            "prefix": ("prefix", values.read_string),
            "to": ("to", values.read_string),
            "share": ("share", values.read_bool),
            "allow_trace": ("allow_trace", values.read_bool),
        },
        report,
    )
    if len(report.errors) > errors:
        return None
    stream, service, prefix, to = (fields.get(key) for key in ("stream", "service", "prefix", "to"))
    if stream and service:
        report.error(entry, "Detected service but already saw a stream")
    elif not stream and not service:
        report.error(entry, "an import needs a stream or a service")
    elif stream and prefix and to:
        report.error(entry, "Stream import can not have a 'prefix' and a 'to' property")
    elif stream and prefix and has_wildcard(prefix):
        report.error(entry, "stream import prefix can not contain wildcard tokens")
    elif service and "allow_trace" in fields:
        report.error(entry, "Detected allow_trace directive on a non-stream")
    else:
        account, subject = cast(tuple[str, str], stream or service)
        if stream:
            to = f"{prefix.rstrip('.')}.{subject}" if prefix else to or subject
            return Import("stream", account, subject, to, allow_trace=fields.get("allow_trace", False))
        return Import("service", account, subject, to or subject, share=fields.get("share", False))
    return None


def _source(entry: Entry, what: str, report: Report) -> tuple[str, str]:
    if not isinstance(entry.value, dict):
        raise Exact(f"{what} entry should be an account map, got {values.shown(entry)}")
    fields = read_block(
        entry,
        {"account": ("account", values.read_string), "subject": ("subject", values.read_string)},
        report,
    )
    if not fields.get("account") or not fields.get("subject"):
        raise Exact("Expect an account name and a subject")
    return fields["account"], fields["subject"]


# -- mappings --


def read_mappings(entry: Entry, report: Report) -> tuple[Mapping, ...]:
    """`{source: destination}`, where a destination is text, or {destination, weight}, or a list of these."""
    found = []
    for source, item in values.read_map(entry).items():
        if item.used:
            continue
        errors = len(report.errors)
        if not is_valid_subject(source):
            report.error(item, f'Subject "{source}" is not a valid subject')
            continue
        if isinstance(item.value, list):
            destinations = [_destination(one, report) for one in item.value]
        elif isinstance(item.value, dict):
            destinations = [_destination(item, report)]
        else:
            destinations = [MapDestination(values.read_string(item))]
        if len(report.errors) > errors:
            continue
        mapping = Mapping(source, tuple(one for one in destinations if one is not None))
        try:
            check_mapping_list(mapping)
            found.append(mapping)
        except (TransformError, ImportProblem) as error:
            report.error(item, f'Error adding mapping for "{source}" : {error}')
    return tuple(found)


def _destination(entry: Entry, report: Report) -> MapDestination | None:
    if not isinstance(entry.value, dict):
        report.error(entry, "Expected an entry for the mapping destination")
        return None
    fields = read_block(
        entry,
        keys(
            {
                "dest destination": ("destination", values.read_string),
                "weight": ("weight", partial(_percent, least=0)),
                "cluster": ("cluster", values.read_string),
            }
        ),
        report,
        'Unknown field "{key}" for mapping destination',
    )
    if "weight" not in fields and "weight" not in entry.value:
        report.error(entry, f'Missing weight for mapping destination "{fields.get("destination", "")}"')
        return None
    if not fields.get("destination"):
        report.error(entry, "a mapping destination needs a subject")
        return None
    return MapDestination(**fields)


# -- all accounts --


def finish(
    drafts: list[Draft], report: Report, *, no_system: bool = False
) -> tuple[tuple[Account, ...], tuple[User, ...]]:
    """The accounts with what they exchange, once all are known, and their users."""
    names = {draft.account.name: draft for draft in drafts}
    for draft in drafts:
        for entry, export in draft.exports:
            for name in export.accounts or ():
                if name not in names:
                    report.error(entry, f'"{name}" account not defined for {export.kind} export')
        good: list[Export] = []
        for entry, export in draft.exports:
            try:
                if export.latency is not None and no_system:
                    raise ImportProblem("system account not setup")
                check_exports((*good, export), export)
                good.append(export)
            except ImportProblem as problem:
                report.error(entry, f'Error adding {export.kind} export "{export.subject}": {problem}')
        draft.account = dataclasses.replace(draft.account, exports=tuple(good))
    accounts = {name: draft.account for name, draft in names.items()}
    for draft in drafts:
        for entry, made in draft.imports:
            if made.account not in accounts:
                report.error(entry, f'"{made.account}" account not defined for {made.kind} import')
                continue
            account = accounts[draft.account.name]
            try:
                check_import(accounts, account, made)
            except (ImportProblem, TransformError) as problem:
                report.error(entry, f'Error adding {made.kind} import "{made.subject}": {problem}')
                continue
            accounts[account.name] = dataclasses.replace(account, imports=(*account.imports, made))
    users = tuple(user for draft in drafts for _, user in draft.users)
    return tuple(accounts.values()), users
