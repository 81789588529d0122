"""Read a block of the configuration file by a table of its keys, and collect what is wrong with it.

    KEYS = keys({"max_connections max_conn": ("max_connections", read_int), ...})
    fields = read_block(entry, KEYS, report)            -> {"max_connections": 7}

A reader takes an Entry and returns the value; it raises ValueError with what is wrong, or Warned with a value that can be
used. A key nobody knows is an error unless some $variable meant it (opts.go unknownConfigFieldErr).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shardbroker.control.config import values
from shardbroker.control.config.document import Entry

Reader = Callable[[Entry], Any]
Keys = Mapping[str, tuple[str, Reader]]


class Report:
    """Errors and warnings so far, each as FILE:LINE:COLUMN: text."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(self, entry: Entry, text: str) -> None:
        self.errors.append(f"{entry.place}: {text}")

    def warning(self, entry: Entry, text: str) -> None:
        self.warnings.append(f"{entry.place}: {text}")


class Exact(ValueError):
    """What is wrong, in words that need no name of the key before them."""


def keys(table: Mapping[str, tuple[str, Reader]]) -> Keys:
    """A table with each of the names of a key by itself; they are written with blanks between."""
    return {name: field for names, field in table.items() for name in names.split()}


def read_block(
    entry: Entry, table: Keys, report: Report, unknown: str = 'unknown field "{key}"'
) -> dict[str, Any]:
    """The fields that a block sets. What is wrong goes to the report, and that field is left out."""
    fields: dict[str, Any] = {}
    try:
        entries = values.read_map(entry)
    except ValueError as error:
        report.error(entry, str(error))
        return fields
    for key, value in entries.items():
        known = table.get(key.lower())
        if known is None:
            if not value.used:
                report.error(value, unknown.format(key=key))
            continue
        field, read = known
        ok, result = read_value(key, value, read, report)
        if ok:
            fields[field] = result
    return fields


def read_value(key: str, entry: Entry, read: Reader, report: Report) -> tuple[bool, Any]:
    """Whether a value could be read, and the value."""
    try:
        return True, read(entry)
    except values.Warned as warned:
        report.warning(entry, f'invalid use of field "{key}": {key} {warned.args[1]}')
        return True, warned.args[0]
    except Exact as error:
        report.error(entry, str(error))
    except ValueError as error:
        report.error(entry, f"{key.lower()}: {error}")
    return False, None


def read_list(entry: Entry, what: str) -> list[Entry]:
    """The items of a list. Raises Exact in nats-server's words: `what` should be an array."""
    if isinstance(entry.value, list):
        return entry.value
    raise Exact(f"{what} should be an array, got {values.shown(entry)}")
