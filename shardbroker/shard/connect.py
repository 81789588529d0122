"""The JSON of a CONNECT, read by the rules of Go's encoding/json, since that is what clients were tried against.

Source: client.go ClientOpts and processConnect. Field names are matched without regard to case, the last of several
wins, `null` leaves a field as it was, unknown fields are ignored, a wrong type is an error. What a CONNECT does not name
keeps its value from the CONNECT before (Go decodes into the same struct), which a second CONNECT shows.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import orjson

INT64_MAX = (1 << 63) - 1
# encoding/json maxNestingDepth
DEPTH_MAX = 10000
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.S)


class ConnectError(Exception):
    """Not JSON, or a field of the wrong type; the connection is closed without -ERR."""


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """What a client said; the defaults are those of client.go defaultOpts."""

    verbose: bool = True
    pedantic: bool = True
    echo: bool = True
    tls_required: bool = False
    headers: bool = False
    no_responders: bool = False
    new_account: bool = False
    protocol: int = 0
    name: str = ""
    lang: str = ""
    version: str = ""
    user: str = ""
    password: str = ""
    auth_token: str = ""
    nkey: str = ""
    jwt: str = ""
    sig: str = ""
    account: str = ""
    remote_account: str = ""
    proxy_sig: str = ""


DEFAULTS = ConnectOptions()

# Name on the wire -> (our name, type).
_FIELDS: dict[str, tuple[str, type]] = {
    "pass" if name == "password" else name: (name, type(getattr(DEFAULTS, name)))
    for name in ConnectOptions.__dataclass_fields__
}
# Objects that routes and leaf nodes send; here only their type counts.
_OBJECTS = frozenset({"import", "export"})


def parse_connect(arg: bytes, before: ConnectOptions = DEFAULTS) -> ConnectOptions:
    """Read a CONNECT's argument; `before` is what the connection's last CONNECT said. Raises ConnectError."""
    document = _load(arg)
    if document is None:
        return before
    if not isinstance(document, dict):
        raise ConnectError(
            f"json: cannot unmarshal {_kind(document)} into Go value of type server.ClientOpts"
        )
    changes: dict[str, Any] = {}
    for key, value in document.items():
        field = _FIELDS.get(key) or _FIELDS.get(key.lower())
        if value is None:
            continue
        if field is None:
            if key.lower() in _OBJECTS and not isinstance(value, dict):
                _wrong_type(value, key)
            continue
        name, kind = field
        # bool is a kind of int in Python, so the types are compared exactly.
        if type(value) is not kind or (type(value) is int and not -INT64_MAX - 1 <= value <= INT64_MAX):
            _wrong_type(value, key)
        changes[name] = value
    return replace(before, **changes) if changes else before


def _load(arg: bytes) -> Any:
    try:
        return orjson.loads(arg)
    except orjson.JSONDecodeError:
        pass
    # Go replaces what is not UTF-8, and half of a surrogate pair, and goes deeper, where orjson refuses; all else it
    # refuses as well.
    return _load_flat(_flattened(arg.decode("utf-8", "replace")))


def _load_flat(text: str) -> Any:
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ConnectError(f"invalid CONNECT: {error}") from None
    return _without_surrogates(document) if isinstance(document, dict) else document


def _flattened(text: str) -> str:
    """The same document with every array and object inside the outermost one emptied, once it is seen to be JSON.

    Python's parsers recurse, and give up at a thousand levels; Go's goes to ten thousand.
    """
    open_parts: list[list[str]] = [[]]
    at = 0
    for token in _TOKENS.finditer(text):
        open_parts[-1].append(text[at : token.start()])
        at = token.end()
        mark = token.group()
        if mark in "[{":
            open_parts.append([mark])
            if len(open_parts) > DEPTH_MAX:
                raise ConnectError("invalid CONNECT: exceeded max depth")
        elif mark in "]}":
            part = "".join(open_parts.pop()) + mark
            if not open_parts:
                raise ConnectError(f"invalid CONNECT: invalid character {mark!r}")
            if len(open_parts) > 1:
                _load_flat(part)
                part = "{}" if mark == "}" else "[]"
            open_parts[-1].append(part)
        else:
            open_parts[-1].append(mark)
    if len(open_parts) > 1:
        raise ConnectError("invalid CONNECT: unexpected end of JSON input")
    return "".join(open_parts[0]) + text[at:]


def _without_surrogates(document: dict[str, Any]) -> dict[str, Any]:
    def clean(text: str) -> str:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    return {clean(key): clean(value) if isinstance(value, str) else value for key, value in document.items()}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"invalid character in {name}")


def _wrong_type(value: Any, key: str) -> NoReturn:
    # Quoted and cut: a name may hold line ends, and goes to the log.
    raise ConnectError(f"json: cannot unmarshal {_kind(value)} into Go struct field ClientOpts.{key[:64]!r}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return {str: "string", int: "number", float: "number", list: "array", dict: "object"}.get(
        type(value), "null"
    )
