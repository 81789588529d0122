"""Read a nats.conf text: a tree of entries that know where they stand.

Source of the rules: nats-server's conf/lex.go and conf/parse.go. The grammar is in grammar.lark; here are what words mean
(numbers, truth values, $variables), includes, and errors with line and column, both from 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from shardbroker.errors import ConfigError

# Files that include files: deeper is a cycle.
INCLUDE_DEPTH_MAX: Final = 32
# Maps and arrays in each other. What reads them calls itself, and the deepest that means anything is eight.
NESTING_DEPTH_MAX: Final = 64

SUFFIXES: Final = {
    unit + ending: base**power
    for power, unit in enumerate("kmgtpe", 1)
    for ending, base in (("", 1000), ("b", 1024), ("i", 1024), ("ib", 1024))
}
INTEGER: Final = re.compile(r"(-?\d+)([kmgtpe](?:b|ib?)?)?", re.IGNORECASE)
FLOAT: Final = re.compile(r"-?\d+\.\d+")
DATETIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
BOOLEANS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
ESCAPE: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|([\s\S])|$)")
ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", '"': '"', "\\": "\\"}


@dataclass(slots=True)
class Entry:
    """A value and where it stands: an entry of a map at its key, an item of a list at itself."""

    value: str | int | float | bool | datetime | list[Entry] | dict[str, Entry]
    file: str
    line: int
    column: int
    text: str = ""  # a bare word as it was written: `2m` is a number, and a duration where one is wanted
    key: str = ""  # of an entry of a map, as it was written
    used: bool = False  # some $variable meant it; then an unknown key is no error (parse.go usedVariable)

    @property
    def place(self) -> str:
        """FILE:LINE:COLUMN."""
        return f"{self.file}:{self.line}:{self.column}"


def parse_file(path: str) -> dict[str, Entry]:
    """The entries of a file. Raises ConfigError."""
    return _Reader(path, os.environ).document(_read(path))


def parse_text(text: str, file: str = "", environment: Mapping[str, str] | None = None) -> dict[str, Entry]:
    """The entries of a text; `file` is its name in messages and the base of its includes. Raises ConfigError."""
    return _Reader(file, os.environ if environment is None else environment).document(text)


def digest(entries: dict[str, Entry]) -> str:
    """nats-server's digest: sha256 of the values as JSON as Go writes it (parse.go configDigest)."""
    text = json.dumps(_plain(entries), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape") + b"\n").hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Entry):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return value


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise ConfigError(f"open {path!r}: no file can have this name") from None


@cache
def _parser() -> Lark:
    return Lark(Path(__file__).with_name("grammar.lark").read_text(), parser="lalr", propagate_positions=True)


class _Reader:
    """Turns one file's syntax tree into entries, keeping the maps around a place for $variables."""

    def __init__(
        self, file: str, environment: Mapping[str, str], depth: int = 0, pending: frozenset[str] = frozenset()
    ) -> None:
        # For the whole file
        self.file = file
        self.environment = environment
        self.depth = depth
        self.pending = pending  # environment variables that are being read, to see cycles
        # For the place being read: the maps around it, outermost first
        self.scopes: list[dict[str, Entry]] = []
        self.level = 0

    def document(self, text: str) -> dict[str, Entry]:
        try:
            tree: Tree[Token] = _parser().parse(text)
        except UnexpectedInput as error:
            # A brace too many as the last of a file does no harm in nats-server, and samples have one.
            at = error.pos_in_stream or 0
            if text[at:].rstrip() != "}":
                raise self._syntax_error(text, error) from None
            return self.document(text[:at])
        return self._entries(tree.children[0])

    # -- from tree to entries --

    def _entries(self, tree: Any) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        self.scopes.append(entries)
        for node in tree.children:
            if node.data == "include":
                entries.update(self._include(node))
                continue
            token: Token = node.children[0].children[0]
            key = token.value if token.type == "KEY" else token.value[1:-1]
            entry = self._value(node.children[1])
            # A key's column is that of its text, behind a quote.
            entry.line, entry.column = _position(token)[0], _position(token)[1] + (token.type != "KEY")
            entry.key = key
            entries[key] = entry
        self.scopes.pop()
        return entries

    def _value(self, node: Any) -> Entry:
        """The value at a node, placed there."""
        if node.data in ("map", "list"):
            inner = node.children[0]
            if self.level >= NESTING_DEPTH_MAX:
                raise self._error("maps and arrays are nested too deeply", node.meta.line, node.meta.column)
            self.level += 1
            value = (
                self._entries(inner) if node.data == "map" else [self._value(item) for item in inner.children]
            )
            self.level -= 1
            return Entry(value, self.file, node.meta.line, node.meta.column)
        token: Token = node.children[0]
        line, column = _position(token)
        text = token.value
        if node.data == "word":
            return self._word(text, line, column)
        if node.data == "quoted":
            text = self._unescape(text[1:-1], line, column + 1)
        else:
            text = text[1:-1]
        return Entry(text, self.file, line, column)

    def _word(self, text: str, line: int, column: int) -> Entry:
        if text[0] == "$" and "\\" not in text:
            return self._variable(text[1:], line, column)
        value: str | int | float | bool | datetime
        if (truth := BOOLEANS.get(text.lower())) is not None:
            value = truth
        elif number := INTEGER.fullmatch(text):
            value = whole = int(number[1]) * SUFFIXES.get((number[2] or "").lower(), 1)
            if not -(2**63) <= whole < 2**63:
                raise self._error(f"integer '{text}' is out of the range", line, column)
        elif FLOAT.fullmatch(text):
            value = float(text)
        elif DATETIME.fullmatch(text):
            try:
                value = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            except ValueError:
                raise self._error(
                    f"expected Zulu formatted DateTime, but got '{text}'", line, column
                ) from None
        elif text[0] == "-":
            raise self._error(f"Expected a digit but got '{text[1:2]}'.", line, column + 1)
        else:
            value = self._unescape(text, line, column)
        return Entry(value, self.file, line, column, text)

    def _unescape(self, text: str, line: int, column: int) -> str:
        if "\\" not in text:
            return text

        def replace(match: re.Match[str]) -> str:
            if match[1]:
                return chr(int(match[1], 16))
            if match[2] in ESCAPES:
                return ESCAPES[match[2]]
            before = text[: match.start()].split("\n")
            at = (line + len(before) - 1, len(before[-1]) + (column if len(before) == 1 else 1))
            raise self._error(
                f"Invalid escape character '{match[2] or ''}'. Only the following escape characters are allowed: "
                '\\xXX, \\t, \\n, \\r, \\", \\\\.', *at,
            )  # fmt: skip

        return ESCAPE.sub(replace, text)

    def _variable(self, name: str, line: int, column: int) -> Entry:
        if name.startswith("2a$"):
            # A bcrypt hash need not be quoted (parse.go bcryptPrefix).
            return Entry("$" + name, self.file, line, column, "$" + name)
        for scope in reversed(self.scopes):
            if (entry := scope.get(name)) is not None:
                entry.used = True
                return Entry(entry.value, self.file, line, column, entry.text)
        about = f"variable reference for '{name}' on line {line}"
        if name in self.pending:
            raise self._error(
                f"{about} could not be parsed: variable reference cycle for '{name}'", line, column
            )
        if name not in self.environment:
            raise self._error(f"{about} can not be found", line, column)
        reader = _Reader(self.file, self.environment, self.depth, self.pending | {name})
        try:
            entry = reader.document(f"pk={self.environment[name]}")["pk"]
        except (ConfigError, KeyError) as error:
            raise self._error(f"{about} could not be parsed: {error}", line, column) from None
        return Entry(entry.value, self.file, line, column, entry.text)

    def _include(self, node: Any) -> dict[str, Entry]:
        token, value = node.children
        name = self._value(value).value
        if not isinstance(name, str) or not name:
            raise self._error("include needs the name of a file", *_position(token))
        if self.depth >= INCLUDE_DEPTH_MAX:
            raise self._error(
                f"error parsing include file '{name}', includes are nested too deeply", *_position(token)
            )
        path = str(Path(self.file).parent / name.lstrip("/")) if self.file else name
        try:
            return _Reader(path, self.environment, self.depth + 1).document(_read(path))
        except ConfigError as error:
            raise self._error(f"error parsing include file '{name}', {error}", *_position(token)) from None

    # -- errors --

    def _error(self, text: str, line: int, column: int) -> ConfigError:
        place = f"{self.file}:{line}:{column}"
        return ConfigError(f"Parse error on line {line}: '{text}' ({place})")

    def _syntax_error(self, text: str, error: UnexpectedInput) -> ConfigError:
        at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
        offset = len(text) if at_end else (error.pos_in_stream or 0)
        before = text[:offset].split("\n")
        line, column = len(before), len(before[-1]) + 1
        return self._error(_explain(text, offset, error), line, column)


def _position(token: Token) -> tuple[int, int]:
    return token.line or 1, token.column or 1


def _explain(text: str, offset: int, error: UnexpectedInput) -> str:
    """What is wrong at an offset, in nats-server's words where it has some."""
    allowed: frozenset[str] = frozenset()
    if isinstance(error, UnexpectedToken):
        allowed = frozenset(error.accepts or error.expected)
    elif isinstance(error, UnexpectedCharacters):
        allowed = frozenset(error.allowed or ())
    here = text[offset : offset + 1]
    got = {"\n": "\\n", "\r": "\\r", "": "the end of the file"}.get(here, here)
    for needed, message in _EXPECTED:
        if needed(allowed, here):
            return message.format(got=got)
    return f"Unexpected {got}."


_EXPECTED: Final[tuple[tuple[Callable[[frozenset[str], str], bool], str], ...]] = (
    (
        lambda allowed, here: here in ('"', "'") and bool(allowed & {"QUOTED", "RAW"}),
        "Unexpected EOF: {got} has no partner.",
    ),
    (lambda allowed, here: here == "(" and "BLOCK" in allowed, "Unexpected EOF processing block."),
    (lambda allowed, here: here in (":", "=") and "KEY" in allowed, "Unexpected key separator '{got}'"),
    (lambda allowed, here: "WORD" in allowed and here in ("\n", "\r"), "Expected value but found new line"),
    (lambda allowed, here: "WORD" in allowed, "Expected value but got {got}"),
    (
        lambda allowed, here: "ITEM_WORD" in allowed,
        "Expected an array value or its end ']', but got {got} instead.",
    ),
    (
        lambda allowed, here: "RSQB" in allowed and "RBRACE" not in allowed,
        "Expected an array value terminator ',' or an array terminator ']', but got {got} instead.",
    ),
    (
        lambda allowed, here: "KEY" in allowed and "RBRACE" in allowed and not here,
        "Unexpected EOF processing map.",
    ),
    (
        lambda allowed, here: "RBRACE" in allowed,
        "Expected a map value terminator ',' or a map terminator '}}', but got {got} instead.",
    ),
    (
        lambda allowed, here: "_SEPARATOR" in allowed and "KEY" not in allowed,
        "Expected a top-level value to end with a new line, comment or EOF, but got '{got}' instead.",
    ),
)
