"""Users and their permissions in the configuration file. Source: opts.go parseUsers, parseUserPermissions."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Final

from shardbroker.auth import nkey
from shardbroker.auth.model import (
    CONNECTION_TYPES,
    RESPONSE_SECONDS,
    RESPONSES_MAX,
    Permissions,
    ResponsePermission,
    SubjectPermission,
    User,
)
from shardbroker.control.config import values
from shardbroker.control.config.blocks import Exact, Keys, Report, keys, read_block
from shardbroker.control.config.document import Entry
from shardbroker.subject import is_valid_subject


def read_users(
    entry: Entry, account: str, defaults: Permissions | None, report: Report
) -> list[tuple[Entry, User]]:
    """The users of a list, each with where it stands. `defaults`: permissions of those who have none."""
    if not isinstance(entry.value, list):
        raise Exact(f"Expected users field to be an array, got {values.shown(entry)}")
    users = []
    for item in entry.value:
        if not isinstance(item.value, dict):
            report.error(item, f"Expected user entry to be a map/struct, got {values.shown(item)}")
            continue
        errors = len(report.errors)
        fields = read_block(item, user_keys(report), report)
        if len(report.errors) == errors and (user := _user(item, fields, account, report)) is not None:
            users.append(
                (item, user if user.permissions else dataclasses.replace(user, permissions=defaults))
            )
    return users


def user_keys(report: Report) -> Keys:
    return keys(
        {
            "nkey": ("nkey", values.read_string),
            "user username": ("name", values.read_string),
            "pass password": ("password", values.read_string),
            "permission permissions authorization": ("permissions", partial(read_permissions, report=report)),
            "allowed_connection_types connection_types clients": ("connection_types", read_connection_types),
            "proxy_required": ("proxy_required", values.read_bool),
        }
    )


def _user(entry: Entry, fields: dict[str, Any], account: str, report: Report) -> User | None:
    key = fields.get("nkey", "")
    if not key and not fields.get("name"):
        report.error(entry, "User entry requires a user")
    elif key and not nkey.is_public(key, "user"):
        report.error(entry, "Not a valid public nkey for a user")
    elif key and (fields.get("name") or fields.get("password")):
        report.error(entry, "Nkey users do not take usernames or passwords")
    else:
        return User(**fields, account=account)
    return None


def read_connection_types(entry: Entry) -> tuple[str, ...]:
    names = tuple(text.upper() for text in values.read_strings(entry))
    unknown = [name for name in names if name not in CONNECTION_TYPES]
    if unknown:
        raise Exact(f"invalid connection types {unknown!r}; known are {', '.join(CONNECTION_TYPES)}")
    return tuple(dict.fromkeys(names))


def read_permissions(entry: Entry, report: Report) -> Permissions:
    if not isinstance(entry.value, dict):
        raise Exact(f"Expected permissions to be a map/struct, got {values.shown(entry)}")
    fields = read_block(
        entry,
        keys(
            {
                "pub publish import": ("publish", partial(_subject_permission, report=report, queues=False)),
                "sub subscribe export": (
                    "subscribe",
                    partial(_subject_permission, report=report, queues=True),
                ),
                "publish_allow_responses allow_responses": ("responses", partial(_responses, report=report)),
            }
        ),
        report,
        'Unknown field "{key}" parsing permissions',
    )
    publish = fields.get("publish")
    if fields.get("responses") is not None and (publish is None or publish.allow is None):
        # Whoever may answer may not publish to everything besides, unless told (opts.go).
        fields["publish"] = dataclasses.replace(publish or SubjectPermission(), allow=())
    return Permissions(**fields)


def _subject_permission(entry: Entry, report: Report, queues: bool) -> SubjectPermission | None:
    if not isinstance(entry.value, dict):
        return SubjectPermission(allow=_subjects(entry, queues))
    if not entry.value:
        return None
    fields = read_block(
        entry,
        {
            "allow": ("allow", partial(_subjects, queues=queues)),
            "deny": ("deny", partial(_subjects, queues=queues)),
        },
        report,
        "Unknown field name \"{key}\" parsing subject permissions, only 'allow' or 'deny' are permitted",
    )
    return SubjectPermission(**fields)


_NO_SUBJECTS: Final = "Expected subject permissions to be a subject, or array of subjects, got {got}"


def _subjects(entry: Entry, queues: bool) -> tuple[str, ...]:
    items = entry.value if isinstance(entry.value, list) else [entry]
    subjects = []
    for item in items:
        try:
            subject = values.read_string(item)
        except ValueError:
            raise Exact(_NO_SUBJECTS.format(got=values.shown(item))) from None
        _check_subject(subject, queues)
        subjects.append(subject)
    return tuple(subjects)


def _check_subject(subject: str, queues: bool) -> None:
    if is_valid_subject(subject):
        return
    parts = subject.split()
    if not queues or len(parts) != 2:
        raise Exact(f'subject "{subject}" is not a valid subject')
    if not is_valid_subject(parts[0]):
        raise Exact(f'subject "{parts[0]}" is not a valid subject')
    if not is_valid_subject(parts[1]):
        raise Exact(f'queue "{parts[1]}" is not a valid queue')


def _responses(entry: Entry, report: Report) -> ResponsePermission | None:
    if isinstance(entry.value, bool):
        return ResponsePermission() if entry.value else None
    if not isinstance(entry.value, dict):
        raise Exact("error parsing response permissions, expected a boolean or a map")
    fields = read_block(
        entry,
        keys(
            {
                "max max_msgs max_messages max_responses": ("max_messages", values.read_int),
                "expires expiration ttl": ("expires", _expires),
            }
        ),
        report,
        'Unknown field "{key}" parsing permissions',
    )
    # 0 is the default, negative no limit.
    return ResponsePermission(
        fields.get("max_messages") or RESPONSES_MAX, fields.get("expires") or RESPONSE_SECONDS
    )


def _expires(entry: Entry) -> float:
    try:
        return values.read_any_duration(entry)
    except ValueError as error:
        raise Exact(f"error parsing expires: {error}") from None
