"""The PROXY protocol's header: every good one at every cut, and what is none."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.shard.proxy import HEADER_BYTES_MAX, LINE_BYTES_MAX, SIGNATURE, Header, ProxyError, read

RUNS = int(os.environ.get("SHARDBROKER_FUZZ_RUNS", "2000"))
REST = b"CONNECT {}\r\n"


def binary(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def inet(source: str, port: int, more: bytes = b"") -> bytes:
    kind, code = (socket.AF_INET6, 0x21) if ":" in source else (socket.AF_INET, 0x11)
    raw = socket.inet_pton(kind, source)
    return binary(0x21, code, raw + raw + struct.pack("!HH", port, 4222) + more)


GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 4222\r\n", ("192.0.2.1", 56324)),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", ("2001:db8::1", 1)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", ("192.0.2.1", 1)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (inet("192.0.2.1", 56324), ("192.0.2.1", 56324)),
    (inet("2001:db8::1", 9, b"\3\0\4abcd"), ("2001:db8::1", 9)),
    (binary(0x20, 0x00, b""), None),
    (binary(0x20, 0x11, b"x" * 12), None),
    (binary(0x21, 0x01, b"y" * 30), None),
]


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_headers(header: bytes, source: tuple[str, int] | None) -> None:
    for rest in (b"", REST):
        assert read(header + rest) == Header(len(header), source)
    for cut in range(1, len(header)):
        assert read(header[:cut]) is None


@pytest.mark.parametrize(
    "data",
    [b"C", REST, b"PING\r\n", b"PUB a 0\r\n\r\n", b"PROXZ", b"proxy TCP4", b"\x16\x03\x01\x02\x00\x01", b"\r\nPING\r\n", b"\0"],
)
def test_connections_without_one(data: bytes) -> None:
    assert read(data) == Header(0)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n", b"PROXY \r\n", b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n", b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP4 256.0.0.1 1.1.1.1 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 65536 2\r\n", b"PROXY TCP4 1.1.1.1 1.1.1.1 -1 2\r\n", b"PROXY TCP6 fe80::1%e ::1 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 " + "\u0661".encode() + b" 2\r\n", b"PROXY " + b"x" * LINE_BYTES_MAX,
        SIGNATURE[:11] + b"x", b"\r\n\r\n\0\rX",
        binary(0x11, 0x11, b"x" * 12), binary(0x22, 0x11, b"x" * 12), binary(0x21, 0x12, b"x" * 12),
        binary(0x21, 0x31, b"x" * 216), binary(0x21, 0x11, b"x" * 11), binary(0x21, 0x21, b"x" * 35),
        binary(0x20, 0x00, b"x" * HEADER_BYTES_MAX),
    ],
)  # fmt: skip
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(ProxyError):
        read(data)


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=40))
def test_any_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, rest: bytes) -> None:
    made = read(inet(str(address), port) + rest)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert made is not None and made.source == (str(mapped or address), port)


def test_damaged_headers_end_in_a_value_or_the_error() -> None:
    rng = random.Random(1)
    for _ in range(RUNS):
        data = bytearray(rng.choice(GOOD)[0])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            if rng.random() < 0.6:
                data[at] = rng.choice((0, 0x0D, 0x0A, 0x20, 0x21, 0xFF, rng.randrange(256)))
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 5))
        try:
            header = read(bytes(data))
        except ProxyError:
            continue
        assert header is None or 0 <= header.bytes <= len(data)
