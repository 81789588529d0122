"""Connections behind a proxy that says whose they are (`proxy_protocol: true`). Source: server.go createClientEx."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from unit.test_proxy import inet

from harness import Broker, RawClient, msg, wait_until
from transports.conftest import Authority
from transports.test_tls import TlsClient

Start = Callable[..., Broker]
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 5632 4222\r\n"


def rows(broker: Broker) -> list[dict[str, Any]]:
    port = broker.wait_log(r"Starting http monitor on \S+").rpartition(":")[2]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/connz") as answer:
        found: list[dict[str, Any]] = json.load(answer)["connections"]
    return found


def come(broker: Broker, header: bytes) -> RawClient:
    client = broker.client()
    assert "client_ip" not in client.info
    return client.send(header)


@pytest.fixture
def behind(fresh_broker: Start) -> Broker:
    return fresh_broker(config="proxy_protocol: true\ndebug: true\n", args=["-m", "-1"])


def test_whose_connection_it_is(behind: Broker) -> None:
    behind.wait_log("PROXY protocol enabled for client connections")
    one, two, none, local = (
        come(behind, header).connect().flush()
        for header in (LINE, inet("2001:db8::1", 9), b"", b"PROXY UNKNOWN\r\n")
    )
    two.sub("a", 1).flush()
    one.pub("a", "hi")
    two.expect(msg("a", 1, "hi"))
    found = {row["cid"]: (row["ip"], row["port"]) for row in rows(behind)}
    ids = [client.info["client_id"] for client in (one, two, none, local)]
    assert found[ids[0]] == ("192.0.2.1", 5632) and found[ids[1]] == ("2001:db8::1", 9)
    assert found[ids[2]][0] == found[ids[3]][0] == "127.0.0.1"
    # The INFO behind the first PONG knows it.
    come(behind, LINE).connect(protocol=1).expect_re(rb'INFO [^\r]*"client_ip":"192\.0\.2\.1"')
    behind.wait_log(r"192\.0\.2\.1:5632 - cid:")


def test_headers_in_pieces_and_with_what_follows(behind: Broker) -> None:
    # A subject for each: both are subscribed at once, and would hear each other.
    rest = 'CONNECT {{"verbose":false}}\r\nSUB {0} 1\r\nPUB {0} 2\r\nhi\r\nPING\r\n'
    for header in (LINE, inet("192.0.2.1", 7)):
        whole = behind.client().send(header + rest.format("whole").encode())
        pieces = behind.client()
        pieces.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header + rest.format("pieces").encode():
            pieces.send(bytes([byte]))
        for subject, client in (("whole", whole), ("pieces", pieces)):
            client.expect(msg(subject, 1, "hi")).expect(b"PONG\r\n")
            client.close()


def test_what_is_no_header(behind: Broker) -> None:
    good = come(behind, LINE).connect().flush()
    for header in (b"PROXY TCP4 x y 1 2\r\n", b"PROXY " + b"z" * 200, b"\r\n\r\n\0\rX" + b"z" * 20):
        come(behind, header).expect_closed()
    behind.wait_log(r"Error reading PROXY protocol header", 3)
    # One that ends in the midst of its header is gone at once.
    half = come(behind, LINE[:20])
    half.socket.shutdown(socket.SHUT_WR)
    half.expect_closed()
    good.send("PING\r\n").expect(b"PONG\r\n")


@pytest.mark.parametrize("mode", ["after", "first", "auto", "optional"])
def test_tls_behind_a_proxy(fresh_broker: Start, authority: Authority, mode: str) -> None:
    # `auto` is 50 ms, which a client may need for more than its handshake.
    more = {"first": "handshake_first: true", "auto": 'handshake_first: "3s"'}.get(mode, "")
    text = "proxy_protocol: true\n" + ("allow_non_tls: true\n" if mode == "optional" else "")
    broker = fresh_broker(config=text + authority.block(authority.trusted, more), args=["-m", "-1"])
    client = RawClient(broker.port, info=mode not in ("first", "auto"))
    client.send(LINE)
    secured = TlsClient.__new__(TlsClient)
    secured.__dict__.update(client.__dict__)
    secured.socket = authority.context().wrap_socket(client.socket, server_hostname="localhost")
    if mode in ("first", "auto"):
        secured.read_info()
    secured.connect().sub("a", 1).pub("a", "hi").expect(msg("a", 1, "hi"))
    (row,) = rows(broker)
    assert (row["ip"], row["tls_version"]) == ("192.0.2.1", "1.3")
    if mode == "optional":
        come(broker, LINE).connect().flush()
    if mode == "auto":
        # Who waits for INFO gets it.
        RawClient(broker.port)


def test_handshakes_a_second(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block(authority.trusted, "connection_rate_limit: 1"), workers=1)
    context = authority.context()

    def comes_in() -> bool:
        try:
            TlsClient(broker.port, context).connect().close()
        except (ssl.SSLError, OSError, AssertionError):
            return False
        return True

    # Two in one second are one too many, and another second has room for one.
    wait_until(lambda: not comes_in(), "one that is throttled")
    wait_until(comes_in, "one that comes in")
    wait_until(lambda: b"throttling is active" in RawClient(broker.port).expect_closed_any(), "the words")
