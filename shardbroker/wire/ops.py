"""The operations of the client protocol as values. Source: the protocol's documentation and parser.go.

Text that travels as bytes stays bytes: subjects, queue groups and sids need not be UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT {json}: a client's options."""

    json: bytes


@dataclass(frozen=True, slots=True)
class Info:
    """INFO {json}: what a server says of itself."""

    json: bytes


@dataclass(frozen=True, slots=True)
class Pub:
    """PUB, or HPUB when there are headers (the whole block, from NATS/1.0 to the empty line)."""

    subject: bytes
    payload: bytes = b""
    reply: bytes = b""
    headers: bytes | None = None


@dataclass(frozen=True, slots=True)
class Msg:
    """MSG, or HMSG when there are headers."""

    subject: bytes
    sid: bytes
    payload: bytes = b""
    reply: bytes = b""
    headers: bytes | None = None


@dataclass(frozen=True, slots=True)
class Sub:
    """SUB subject [queue group] sid."""

    subject: bytes
    sid: bytes
    queue: bytes = b""


@dataclass(frozen=True, slots=True)
class Unsub:
    """UNSUB sid [max]; 0: at once."""

    sid: bytes
    max_messages: int = 0


@dataclass(frozen=True, slots=True)
class Ping:
    """PING."""


@dataclass(frozen=True, slots=True)
class Pong:
    """PONG."""


@dataclass(frozen=True, slots=True)
class Ok:
    """+OK."""


@dataclass(frozen=True, slots=True)
class Err:
    """-ERR 'text'; the quotes belong to it."""

    text: bytes


Operation = Connect | Info | Pub | Msg | Sub | Unsub | Ping | Pong | Ok | Err
