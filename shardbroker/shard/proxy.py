"""The header with which a proxy says whose connection it passes on: the PROXY protocol, versions 1 and 2, without a socket.

    1   "PROXY TCP4 192.0.2.1 198.51.100.7 56324 4222\\r\\n"      107 bytes at most; UNKNOWN: a look from the proxy itself
    2   signature of 12 bytes, version and command, family and protocol, length, addresses, more that is not looked at

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt; what is refused, as in nats-server's client_proxyproto.go.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

PREFIX: Final = b"PROXY "
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
LINE_BYTES_MAX: Final = 107
# What proxies add behind the addresses is a few hundred bytes; the format allows for 64 KiB.
HEADER_BYTES_MAX: Final = 4096
_FIXED_BYTES: Final = 16
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _STREAM = 0x00, 0x01
_INET, _INET6 = 0x10, 0x20


class ProxyError(ValueError):
    """It begins like a header and is none that can be read."""


@dataclass(frozen=True, slots=True)
class Header:
    """`bytes`: its length; 0: the connection begins without one. `source`: whose connection it is; None: the proxy's own."""

    bytes: int
    source: tuple[str, int] | None = None


def read(data: bytes) -> Header | None:
    """The header that a connection begins with; None: more bytes are needed to tell. Raises ProxyError."""
    if data[: len(PREFIX)] == PREFIX:
        return _line(data)
    if data[: len(SIGNATURE)] == SIGNATURE:
        return _binary(data)
    # What nats-server tells them by is six bytes; a wrong signature behind them is an error.
    if any(start.startswith(data[:6]) for start in (PREFIX, SIGNATURE)) and len(data) < 6:
        return None
    if data[:6] == SIGNATURE[:6]:
        if SIGNATURE.startswith(data):
            return None
        raise ProxyError("invalid signature")
    return Header(0)


def _line(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, LINE_BYTES_MAX)
    if end < 0:
        if len(data) >= LINE_BYTES_MAX:
            raise ProxyError("the line is too long")
        return None
    size = end + 2
    words = data[len(PREFIX) : end].decode("ascii", "replace").split()
    if words[:1] == ["UNKNOWN"]:
        return Header(size)
    if len(words) != 5 or words[0] not in ("TCP4", "TCP6"):
        raise ProxyError("invalid format")
    version = 4 if words[0] == "TCP4" else 6
    for word in words[1:3]:
        try:
            if "%" in word or ipaddress.ip_address(word).version != version:
                raise ProxyError(f"{words[0]} with an address of another family")
        except ProxyError:
            raise
        except ValueError:
            raise ProxyError("invalid address") from None
    for word in words[3:]:
        if not (word.isascii() and word.isdigit() and len(word) <= 5 and int(word) < 1 << 16):
            raise ProxyError("invalid port")
    return Header(size, (_plain(ipaddress.ip_address(words[1])), int(words[3])))


def _binary(data: bytes) -> Header | None:
    if len(data) < _FIXED_BYTES:
        return None
    command, family, length = struct.unpack_from("!BBH", data, len(SIGNATURE))
    size = _FIXED_BYTES + length
    if command not in (_LOCAL, _PROXY):
        raise ProxyError(f"invalid version or command 0x{command:02x}")
    if command == _PROXY:
        if family & 0x0F != _STREAM:
            raise ProxyError("only streams are served")
        if family & 0xF0 not in (_UNSPECIFIED, _INET, _INET6):
            raise ProxyError(f"unsupported address family 0x{family & 0xF0:02x}")
    address_bytes = {_INET: 4, _INET6: 16}.get(family & 0xF0, 0) if command == _PROXY else 0
    if length < 2 * address_bytes + (4 if address_bytes else 0):
        raise ProxyError("the addresses are cut short")
    if size > HEADER_BYTES_MAX:
        raise ProxyError(f"a header of {size} bytes")
    if len(data) < size:
        return None
    if not address_bytes:
        return Header(size)
    source = ipaddress.ip_address(data[_FIXED_BYTES : _FIXED_BYTES + address_bytes])
    (port,) = struct.unpack_from("!H", data, _FIXED_BYTES + 2 * address_bytes)
    return Header(size, (_plain(source), port))


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As addresses are shown everywhere: an IPv4 one in an IPv6 one is the former (Go's net.IP.String)."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
