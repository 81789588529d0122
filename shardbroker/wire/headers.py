"""The header block of a message. Source: ADR-4 (NATS message headers).

NATS/1.0[ status[ description]]\\r\\n
Key: value\\r\\n
\\r\\n
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

VERSION: Final = b"NATS/1.0"
# What a request gets that nobody listens for (client.go processInboundClientMsg).
NO_RESPONDERS: Final = b"NATS/1.0 503\r\n\r\n"


class HeaderError(ValueError):
    """The block is not one."""


@dataclass(frozen=True, slots=True)
class Headers:
    """`fields` in the order sent; a key may come several times, and keys differ by case."""

    fields: tuple[tuple[str, str], ...] = ()
    status: int = 0  # 0: none
    description: str = ""

    def get(self, key: str) -> str | None:
        """The first value of a key."""
        return next((value for name, value in self.fields if name == key), None)

    def encode(self) -> bytes:
        """The block. Raises HeaderError for a key or value that would break it."""
        first = VERSION.decode()
        if self.status:
            first += f" {self.status:03d}" + (f" {self.description}" if self.description else "")
        lines = [first]
        for key, value in self.fields:
            if not key or ":" in key or any(c in key + value for c in "\r\n"):
                raise HeaderError(f"no header: {key!r}")
            lines.append(f"{key}: {value}")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def parse(block: bytes) -> Headers:
    """Read a whole block. Raises HeaderError."""
    if not block.startswith(VERSION) or not block.endswith(b"\r\n\r\n"):
        raise HeaderError("no header block")
    first, *lines = block[:-2].decode("utf-8", "surrogateescape").split("\r\n")[:-1]
    status, _, description = first[len(VERSION) :].strip().partition(" ")
    if status and not (status.isascii() and status.isdigit()):
        raise HeaderError(f"no status: {status!r}")
    fields = []
    for line in lines:
        key, colon, value = line.partition(":")
        if not colon or not key:
            raise HeaderError(f"no header: {line!r}")
        fields.append((key, value.strip()))
    return Headers(tuple(fields), int(status or 0), description.strip())


def build(fields: Iterable[tuple[str, str]], *, status: int = 0, description: str = "") -> bytes:
    """A block of these headers."""
    return Headers(tuple(fields), status, description).encode()


def strip(message: bytes, header_bytes: int) -> bytes:
    """The payload alone, as a client without headers gets it. Raises HeaderError when the length makes no sense."""
    if not 0 <= header_bytes <= len(message):
        raise HeaderError(f"{header_bytes} header bytes in a message of {len(message)}")
    return message[header_bytes:]
