"""What a configuration file comes to, for people: each setting that it makes, where it stands, and what is wrong where.

No secret is in what comes out: of settings that hold one only is said that they are set.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shardbroker.control.config.document import digest, parse_file
from shardbroker.control.config.load import load
from shardbroker.control.config.settings import read_settings
from shardbroker.errors import ConfigError
from shardbroker.options import Options

SECRETS: Final = frozenset({"password", "token", "user"})
# Told in other words, or of no interest.
_LEFT_OUT: Final = frozenset(
    {"arguments", "program", "config_file", "config_digest", "warnings", "users", "accounts", "operator_mode", "auth_block"}
)
_PLACE: Final = re.compile(r"(?P<file>[^\s()']+):(?P<line>\d+):(?P<column>\d+)")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting whose value is not the default. `place` is FILE:LINE:COLUMN; empty where several keys make it."""

    name: str
    value: str
    default: str
    place: str


@dataclass(frozen=True, slots=True)
class AccountSummary:
    """One account of the file."""

    name: str
    users: int
    exports: int
    imports: int
    mappings: int
    jetstream: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """`errors` and `warnings` as the broker says them; without errors the rest."""

    file: str
    digest: str = ""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    accounts: tuple[AccountSummary, ...] = ()
    trust: tuple[str, ...] = ()  # operator mode, in a few lines


def explain(file: str) -> Explanation:
    """Read a file as the broker does."""
    try:
        entries = parse_file(file)
        places: dict[str, str] = {}
        read_settings(entries, file, places)
        options = load(["-c", file])
    except ConfigError as error:
        return Explanation(file, errors=tuple(str(error).splitlines()))
    return Explanation(
        file,
        digest(entries),
        (),
        options.warnings,
        tuple(_settings(options, places)),
        tuple(_accounts(options)),
        tuple(_trust(options)),
    )


def excerpt(message: str) -> str:
    """The line that a message is about, and a mark below its column; empty when the message names none."""
    match = _PLACE.search(message)
    if match is None:
        return ""
    try:
        lines = Path(match["file"]).read_text(errors="replace").splitlines()
        line = lines[int(match["line"]) - 1]
    except (OSError, IndexError):
        return ""
    # The line may hold a password: of what follows a key of that kind nothing is shown.
    shown = re.sub(r"((?:pass|token|key|jwt)\w*[\"']?\s*[:= ]\s*).*", r"\1...", line, flags=re.I)
    mark = " " * min(max(int(match["column"]) - 1, 0), len(shown)) + "^"
    return f"{shown.rstrip()}\n{mark}".replace("\t", " ")


def _settings(options: Options, places: dict[str, str]) -> list[Setting]:
    defaults = Options()
    found = []
    for field in dataclasses.fields(Options):
        value, default = getattr(options, field.name), getattr(defaults, field.name)
        if field.name not in _LEFT_OUT and value != default:
            found.append(
                Setting(
                    field.name,
                    shown(field.name, value),
                    shown(field.name, default),
                    places.get(field.name, ""),
                )
            )
    return found


def shown(name: str, value: Any) -> str:
    """A value in one line, without secrets."""
    if name in SECRETS and value:
        return "(set)"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = []
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if inner not in ((), "", None, False, 0, {}):
                parts.append(f"{field.name} {shown(field.name, inner)}")
        return "{ " + ", ".join(parts) + " }" if parts else "{}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(name, item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key}: {item}" for key, item in value.items()) + " }"
    if isinstance(value, float):
        return f"{value:g}s"
    return "" if value is None else str(value)


def _accounts(options: Options) -> list[AccountSummary]:
    users = Counter(user.account for user in options.users)
    records = {account.name: account for account in options.accounts}
    names = [*records, *(name for name in users if name not in records)]
    summaries = []
    for name in names:
        record = records.get(name)
        exports, imports, mappings = (
            (len(record.exports), len(record.imports), len(record.mappings)) if record else (0, 0, 0)
        )
        jetstream = bool(record and record.jetstream) or (
            name == "$G" and options.jetstream.enabled and not records
        )
        summaries.append(AccountSummary(name, users[name], exports, imports, mappings, jetstream))
    return summaries


def _trust(options: Options) -> list[str]:
    mode = options.operator_mode
    if mode is None:
        return []
    resolver = mode.resolver.kind if mode.resolver else "none"
    return [
        f"operators: {len(mode.operators) or len(mode.trusted_keys)}",
        f"accounts from: {resolver}{f', {len(mode.preload)} preloaded' if mode.preload else ''}",
        f"system account: {options.system_account or 'none'}",
    ]
