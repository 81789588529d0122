"""Who has not come in yet costs little memory, however it drags out its beginning: in NATS, in TLS, in WebSocket."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proc.test_memory import resident

from harness import Broker, wait_until
from transports.conftest import Authority
from transports.conftest import authority as authority

CONNECTIONS = 600
# What documents promise is a control line and 16 KiB; a TLS connection has OpenSSL's state and buffers besides. The rest is room
# for what allocators and the kernel's accounting make of it.
KILOBYTES_EACH_MAX = {"nats": 24, "tls": 96, "websocket": 80, "deflate": 160}

# A ClientHello that is announced with 16,000 bytes and never ends, a request whose headers never end, a CONNECT without line end.
HELLO = b"\x16\x03\x01\x3e\x80\x01\x00\x3e\x7c\x03\x03" + b"\0" * 15_000
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
# The beginning of a frame of 60,000 bytes, masked with zeros, behind a good upgrade.
FRAME = b"\x82\xfe\xea\x60\0\0\0\0"
DEFLATED = b"\xc2\xfe\xea\x60\0\0\0\0"


@pytest.fixture
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.ours
@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("kind", list(KILOBYTES_EACH_MAX))
def test_beginnings_that_do_not_end(
    fresh_broker: Callable[..., Broker], authority: Authority, kind: str
) -> None:
    config = "authorization { token: secret, timeout: 600 }\nlogtime: false\n"
    web = kind in ("websocket", "deflate")
    if kind == "tls":
        config += authority.block("timeout: 600")
    elif web:
        config += "websocket { port: -1, no_tls: true, compression: true, handshake_timeout: 600s }\n"
    broker = fresh_broker(config=config)
    port = broker.port
    if web:
        port = int(broker.wait_log(r"Listening for websocket clients on \S+").rpartition(":")[2])
    extension = b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n"

    def begin() -> socket.socket:
        link = socket.create_connection(("127.0.0.1", port), 20)
        if kind == "nats":
            link.recv(4096)
            link.sendall(b'CONNECT {"name":"' + b"x" * 4000)
        elif kind == "tls":
            link.recv(4096)
            link.sendall(HELLO)
        else:
            deflate = kind == "deflate"
            link.sendall(REQUEST + (extension if deflate else b"") + b"\r\n")
            assert link.recv(4096).startswith(b"HTTP/1.1 101")
            link.sendall((DEFLATED if deflate else FRAME) + b"\0" * 50_000)
        return link

    def everything_read() -> bool:
        """The kernel holds nothing of ours any more: no bytes wait in the queues of the port's sockets."""
        waiting = 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01":
                waiting += int(fields[4].partition(":")[2], 16)
        return waiting == 0

    with contextlib.ExitStack() as stack:
        # The first of each shard make what all share.
        for _ in range(20):
            stack.enter_context(begin())
        wait_until(everything_read, "the first connections to be read")
        before = resident(broker)
        for _ in range(CONNECTIONS):
            stack.enter_context(begin())
        wait_until(everything_read, "all connections to be read")
        grown = resident(broker) - before
        assert grown <= CONNECTIONS * KILOBYTES_EACH_MAX[kind], grown / CONNECTIONS
        # Whoever comes properly is served meanwhile.
        if kind == "nats":
            broker.client().connect(auth_token="secret")
    wait_until(lambda: len(broker.shards_in_use()) == 0, "all to have gone")
