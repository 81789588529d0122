"""Requests of the JetStream API, decoded as Go's encoding/json does with unknown fields refused: clients show its texts.

    STRUCT = Struct("ConsumerConfig", {"durable_name": STRING, "backoff": List(DURATION), ...})
    decode(payload, STRUCT) -> {"durable_name": "worker"}        only the fields that were given

What is given as null is as if it were not given (but for enumerations, which refuse it). Field names match without
regard to case. Integers are checked against their width. Source: nats-server's jetstream_api.go unmarshalRequest (strict
since 2.12), Go's encoding/json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

SECOND: Final = 1_000_000_000
ZERO_TIME_NS: Final = -62_135_596_800 * SECOND          # year 1: what Go calls the zero time


class DecodeError(ValueError):
    """The text that Go would have for it."""


# ---- time -------------------------------------------------------------------------------------------------------

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(Z|([+-])(\d\d):(\d\d))\Z", re.ASCII)
_LAYOUT: Final = "2006-01-02T15:04:05Z07:00"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Parts of the layout, as Go names what it could not read.
_PARTS = (
    ("2006", r"\d{4}"), ("-", "-"), ("01", r"\d\d"), ("-", "-"), ("02", r"\d\d"), ("T", "T"), ("15", r"\d\d"), (":", ":"),
    ("04", r"\d\d"), (":", ":"), ("05", r"\d\d(?:[.,]\d+)?"), ("Z07:00", r"Z|[+-]\d\d:\d\d"))


@dataclass(frozen=True)
class Time:
    """An instant in ns since 1970 (negative before), and the zone that it was given in, in minutes east."""

    ns: int
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> Time:
        m = _TIME.match(text)
        if m is None:
            raise DecodeError(_why_not_a_time(text))
        offset = 0
        if m[9]:
            offset = (int(m[10]) * 60 + int(m[11])) * (-1 if m[9] == "-" else 1)
        try:
            day = datetime(int(m[1]), int(m[2]), int(m[3]), int(m[4]), int(m[5]), int(m[6]), tzinfo=UTC)
        except ValueError as e:
            what = str(e).split()[0]
            raise DecodeError(f'parsing time "{text}": {what} out of range') from None
        since = day - _EPOCH
        ns = (since.days * 86400 + since.seconds - offset * 60) * SECOND
        return cls(ns + int(((m[7] or "") + "0" * 9)[:9]), offset)

    @property
    def is_zero(self) -> bool:
        return self.ns == ZERO_TIME_NS

    def utc(self) -> Time:
        return Time(self.ns)

    def __str__(self) -> str:
        return format_time(self.ns, self.offset)


def _why_not_a_time(text: str) -> str:
    rest = text
    for name, pattern in _PARTS:
        m = re.match(pattern, rest, re.ASCII)
        if m is None:
            return f'parsing time "{text}" as "{_LAYOUT}": cannot parse "{rest}" as "{name}"'
        rest = rest[m.end():]
    return f'parsing time "{text}": extra text: "{rest}"'


def format_time(ns: int, offset: int = 0) -> str:
    """RFC 3339 with as many digits of a second as are needed, as Go's RFC3339Nano."""
    seconds, rest = divmod(ns + offset * 60 * SECOND, SECOND)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    if rest:
        text += f".{rest:09d}".rstrip("0")
    if not offset:
        return text + "Z"
    hours, minutes = divmod(abs(offset), 60)
    return f"{text}{'-' if offset < 0 else '+'}{hours:02d}:{minutes:02d}"


_UNITS: Final = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 1_000_000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def parse_duration(text: str) -> int:
    """ns of Go's "1h2m3.5s"; DecodeError for anything else."""
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    at, total = 0, 0
    while at < len(body):
        m = _DURATION.match(body, at)
        if m is None:
            break
        whole, _, part = m[1].partition(".")
        unit = _UNITS[m[2]]
        total += int(whole or 0) * unit + (int(part) * unit // 10 ** len(part) if part else 0)
        at = m.end()
    if not body or at < len(body) or total >= 1 << 63:
        raise DecodeError(f'time: invalid duration "{text}"')
    return -total if text[0] == "-" else total


def format_duration(ns: int) -> str:
    """As Go prints a time.Duration: "1h0m0s", "1.5s", "300ms"."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    if ns < SECOND:
        for unit, size in (("ms", 1_000_000), ("µs", 1000)):
            if ns >= size:
                return f"{sign}{_decimal(ns, size)}{unit}"
        return f"{sign}{ns}ns" if ns else "0s"
    minutes, rest = divmod(ns, 60 * SECOND)
    text = f"{_decimal(rest, SECOND)}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = (f"{hours}h" if hours else "") + f"{minutes}m{text}"
    return sign + text


def _decimal(ns: int, unit: int) -> str:
    whole, rest = divmod(ns, unit)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


# ---- kinds ------------------------------------------------------------------------------------------------------

class _Number(str):
    """A number as it was written."""


class Kind:
    """What a value must be. `go` is the name of the type in Go's messages."""

    go = ""

    def take(self, value: Any, where: str) -> Any:
        raise NotImplementedError

    def refuse(self, value: Any, where: str) -> DecodeError:
        what = {dict: "object", list: "array", str: "string", bool: "bool"}.get(type(value), "number")
        if type(value) is _Number and self.numeric:
            what = f"number {value}"
        return DecodeError(f"json: cannot unmarshal {what} into Go {where} of type {self.go}")

    numeric = False
    null_is_absent = True


class _String(Kind):
    go = "string"

    def take(self, value: Any, where: str) -> str:
        if type(value) is not str:
            raise self.refuse(value, where)
        return value


class _Bool(Kind):
    go = "bool"

    def take(self, value: Any, where: str) -> bool:
        if type(value) is not bool:
            raise self.refuse(value, where)
        return value


class Int(Kind):
    """A whole number from `least` to `most`."""

    numeric = True

    def __init__(self, go: str, least: int, most: int) -> None:
        self.go, self.least, self.most = go, least, most

    def take(self, value: Any, where: str) -> int:
        if (type(value) is not _Number or not re.fullmatch(r"-?\d{1,20}", value, re.ASCII)
                or not self.least <= int(value) <= self.most):
            raise self.refuse(value, where)
        return int(value)


class _Time(Kind):
    go = "time.Time"

    def take(self, value: Any, where: str) -> Time:
        if type(value) is not str:
            raise DecodeError("Time.UnmarshalJSON: input is not a JSON string")
        return Time.parse(value)


class Enum(Kind):
    """One of some words. `refusal` makes the message from the value as JSON. read_as_string: as a string first, so that
    other values are refused as for any string."""

    null_is_absent = False

    go = "string"

    def __init__(
        self, words: Mapping[str, str], refusal: Callable[[str], str] | None = None, *, read_as_string: bool = False
    ) -> None:
        self.words = words
        self.read_as_string = read_as_string
        self.refusal = refusal or (lambda given: f"can not unmarshal {json.dumps(given)}")

    def take(self, value: Any, where: str) -> str:
        if type(value) is str and value in self.words:
            return self.words[value]
        if self.read_as_string and type(value) is not str and value is not None:
            raise self.refuse(value, where)
        raise DecodeError(self.refusal(_as_json(value)))


def _as_json(value: Any) -> str:
    if type(value) is _Number:
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_as_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_as_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


class List(Kind):
    """A list of one kind; null is no list. pointer: `*` where Go has pointers."""

    def __init__(self, item: Kind, pointer: str = "") -> None:
        self.item = item
        self.go = f"[]{pointer}{item.go}"

    def take(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.refuse(value, where)
        return [self.item.take(v, where) for v in value]


class _Strings(Kind):
    go = "map[string]string"

    def take(self, value: Any, where: str) -> dict[str, str]:
        if not isinstance(value, dict):
            raise self.refuse(value, where)
        return {k: STRING.take(v, where) for k, v in value.items() if v is not None}


class Struct(Kind):
    """An object of known fields. `name` is the type's in Go; decode gives a dict of the fields that were there."""

    def __init__(self, name: str, fields: Mapping[str, Kind]) -> None:
        self.name, self.go = name, f"server.{name}"
        self.fields = fields
        self.folded = {f.lower(): f for f in fields}

    def field(self, name: str) -> Kind | None:
        """The kind of a field; None: there is none of that name."""
        return self.fields.get(name) or self.fields.get(self.folded.get(name.lower(), ""))

    def take(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.refuse(value, where)
        # "struct field Outer.a" names the innermost struct and the whole path of fields.
        path = where.partition(".")[2]
        out = {}
        for key, v in value.items():
            name = key if key in self.fields else self.folded.get(key.lower())
            if name is None:
                raise DecodeError(f"json: unknown field {json.dumps(key)}")
            kind = self.fields[name]
            if v is None and kind.null_is_absent:
                continue
            out[name] = kind.take(v, f"struct field {self.name}.{path + '.' if path else ''}{name}")
        return out


STRING: Final = _String()
BOOL: Final = _Bool()
INT: Final = Int("int", -(1 << 63), (1 << 63) - 1)
INT64: Final = Int("int64", -(1 << 63), (1 << 63) - 1)
INT32: Final = Int("int32", -(1 << 31), (1 << 31) - 1)
UINT64: Final = Int("uint64", 0, (1 << 64) - 1)
DURATION: Final = Int("time.Duration", -(1 << 63), (1 << 63) - 1)
TIME: Final = _Time()
STRINGS: Final = _Strings()

_DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_Number)
_BLANK = " \t\r\n"
DEPTH_MAX: Final = 100


def _syntax(text: str, e: json.JSONDecodeError) -> DecodeError:
    if not text[e.pos:].strip(_BLANK) or e.msg.startswith("Unterminated"):
        return DecodeError("unexpected EOF")
    # Go reads bytes, and counts them.
    before, wrong = text[: e.pos].encode(errors="replace"), chr(text[e.pos].encode(errors="replace")[0])
    return DecodeError(f"invalid character {wrong!r} looking for beginning of value at offset {len(before) + 1}")


def _known(value: Any, kind: Kind) -> Any:
    """Without the fields that `kind` has not."""
    if isinstance(kind, List) and isinstance(value, list):
        return [_known(item, kind.item) for item in value]
    if not isinstance(kind, Struct) or not isinstance(value, dict):
        return value
    return {key: _known(v, field) for key, v in value.items() if (field := kind.field(key)) is not None}


def decode(payload: bytes, kind: Struct, *, strict: bool = True) -> dict[str, Any]:
    """The fields of a request. An empty payload is an empty object; of several objects the later ones add to the first,
    as Go's decoder has it. Not `strict`: fields that nobody knows are left out.

    Raises DecodeError with Go's text.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = payload.decode(errors="replace")
    if text.count("[") + text.count("{") > DEPTH_MAX and _too_deep(text):
        raise DecodeError("exceeded max depth")
    out: dict[str, Any] = {}
    at = _skip(text, 0)
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as e:
            raise _syntax(text, e) from None
        if value is not None:
            if not isinstance(value, dict):
                what = {list: "array", str: "string", bool: "bool"}.get(type(value), "number")
                raise DecodeError(f"json: cannot unmarshal {what} into Go value of type {kind.go}")
            out.update(kind.take(value if strict else _known(value, kind), ""))
        at = _skip(text, at)
    return out


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _too_deep(text: str) -> bool:
    depth = 0
    for c in text:
        depth += (c in "[{") - (c in "]}")
        if depth > DEPTH_MAX:
            return True
    return False


def is_object_or_array(payload: bytes) -> bool:
    """Whether a request has JSON to decode at all."""
    return payload.lstrip(b" \t\n\r")[:1] in (b"{", b"[")


def is_empty(payload: bytes) -> bool:
    """Whether a request that takes nothing was given nothing: no bytes, or an empty object."""
    if payload in (b"", b"{}"):
        return True
    try:
        return bool(json.loads(payload) == {})
    except (ValueError, RecursionError):
        return False
