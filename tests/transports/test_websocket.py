"""Clients over WebSocket: the upgrade, its refusals, frames of every kind, and NATS inside them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from harness import Broker, RawClient, msg, pub, wait_until
from harness.broker import WATCHDOG_SECONDS
from shardbroker.options import WebSocketSettings
from shardbroker.shard.websocket import WebSocketLayer
from transports.conftest import Authority

Start = Callable[..., Broker]


def port_of(broker: Broker) -> int:
    return int(broker.wait_log(r"Listening for websocket clients on wss?://\S+").rpartition(":")[2])


class WebSocketClient(RawClient):
    """NATS protocol over a WebSocket connection of an independent library."""

    def __init__(self, broker: Broker, scheme: str = "ws", **options: Any) -> None:
        url = f"{scheme}://localhost:{port_of(broker)}"
        # The library looks for proxies in the environment unless told not to.
        connecting = connect(url, proxy=None, open_timeout=WATCHDOG_SECONDS, max_size=None, **options)
        self.web: ClientConnection = connecting.__enter__()
        self.buffer = self._partial = b""
        self.ended = False
        self.info: dict[str, Any] = json.loads(self.expect_re(rb"INFO (\{[^\r\n]*\}) \r\n")[1])

    def _fill(self, what: str) -> bool:
        piece = self.web.recv(timeout=WATCHDOG_SECONDS)
        assert isinstance(piece, bytes), "frames to clients are binary"
        self._without_pings(piece)
        return True

    def send(self, data: bytes | str | list[bytes]) -> WebSocketClient:  # type: ignore[override]
        self.web.send(data)
        return self

    def close(self) -> None:
        self.web.close()

    def closed(self) -> tuple[int, str]:
        """Code and reason of the server's close, whatever comes before."""

        def read_all() -> None:
            while True:
                self._fill("the end")

        with pytest.raises(ConnectionClosed) as ended:
            read_all()
        frame = ended.value.rcvd
        assert frame is not None, "the connection ended without a close frame"
        return frame.code, frame.reason


CLEAR = "websocket { port: -1, no_tls: true, %s }\n"


@pytest.fixture
def start(fresh_broker: Start) -> Callable[..., Broker]:
    def start_with(*lines: str, more: str = "", **options: Any) -> Broker:
        return fresh_broker(config=CLEAR % ", ".join(lines) + more, **options)

    return start_with


def test_publish_and_subscribe(start: Start) -> None:
    broker = start()
    web, plain = WebSocketClient(broker), broker.client().connect()
    assert web.info["port"] == port_of(broker)
    web.connect().send(b"SUB a.* 3\r\nPING\r\n").expect(b"PONG\r\n")
    plain.send(b"".join(pub("a.b", b"%d" % n) for n in range(3000)))
    web.expect(b"".join(msg("a.b", 3, b"%d" % n) for n in range(3000)))
    plain.sub("back", 1)
    web.send(b"".join(pub("back", b"%d" % n) for n in range(3000)))
    plain.expect(b"".join(msg("back", 1, b"%d" % n) for n in range(3000)))


@pytest.mark.parametrize("compression", ["compression: true", "compression: false"])
def test_large_and_split_messages(start: Start, compression: str) -> None:
    broker = start(compression)
    client = WebSocketClient(broker, compression="deflate").connect()
    client.send(b"SUB big 1\r\n")
    payload = os.urandom(1 << 19) + bytes(1 << 19)
    client.send(pub("big", payload)).expect(msg("big", 1, payload))
    # Fragments, text, one byte a frame: the protocol does not care how it is framed.
    client.send([b"PUB big", b" 3\r\nab", b"c\r\n"]).expect(msg("big", 1, b"abc"))
    client.send("PUB big 2\r\nhi\r\n").expect(msg("big", 1, b"hi"))
    for byte in pub("big", b"slow"):
        client.send(bytes([byte]))
    client.expect(msg("big", 1, b"slow"))
    client.web.ping().wait(WATCHDOG_SECONDS)


def test_over_tls(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config="websocket { port: -1, " + authority.block() + "}\n")
    client = WebSocketClient(broker, "wss", ssl=authority.context())
    assert client.info["tls_required"] is True
    client.connect().send(b"SUB x 1\r\n" + pub("x", b"y" * 100000)).expect(msg("x", 1, b"y" * 100000))
    assert "tls_required" not in broker.client().info


@pytest.mark.parametrize(
    ("line", "allowed", "refused"),
    [
        ("same_origin: true", "http://localhost:{port}", "http://elsewhere.example"),
        ('allowed_origins: ["http://good.example"]', "http://good.example", "https://good.example"),
        ('allowed_origins: ["http://good.example:81"]', "http://good.example:81", "http://good.example"),
    ],
)
def test_origins(start: Start, line: str, allowed: str, refused: str) -> None:
    broker = start(line)
    WebSocketClient(broker, origin=allowed.format(port=port_of(broker))).connect()
    WebSocketClient(broker).connect()  # who says nothing is no page
    with pytest.raises(InvalidStatus) as refusal:
        WebSocketClient(broker, origin=refused)
    assert refusal.value.response.status_code == 403
    broker.wait_log("websocket handshake error: origin not allowed")


def test_credentials_of_its_own(start: Start) -> None:
    """The block may ask for a user where other clients need none; cookies may say who it is."""
    broker = start("authorization { user: web, password: secret }", "user_cookie: u", "pass_cookie: p")
    broker.client().connect()
    client = WebSocketClient(broker)
    assert client.info["auth_required"] is True
    client.send(b'CONNECT {"user":"web","pass":"wrong"}\r\n').expect(b"-ERR 'Authorization Violation'\r\n")
    assert client.closed() == (1008, "Authentication Failure")
    WebSocketClient(broker).connect(user="web", **{"pass": "secret"})
    WebSocketClient(broker, additional_headers={"Cookie": "u=web; p=secret"}).connect()


def test_headers_that_the_operator_adds(start: Start) -> None:
    broker = start('headers { "X-Served-By": "tests" }')
    client = WebSocketClient(broker)
    assert client.web.response is not None
    assert client.web.response.headers["X-Served-By"] == "tests"


REQUEST = [
    "GET / HTTP/1.1",
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode(),
]


@pytest.fixture
def raw(start: Start) -> tuple[Broker, Callable[..., bytes]]:
    """Sends bytes to the listener, more once the upgrade is answered, and gives all that comes until it closes."""
    broker = start()
    port = port_of(broker)

    def exchange(data: bytes, frames: bytes = b"") -> bytes:
        with socket.create_connection(("127.0.0.1", port), WATCHDOG_SECONDS) as client:
            answer = b""
            # Who is sent away with bytes of his unread may be reset; what was said to him before is there all the same.
            with suppress(OSError):
                client.sendall(data)
                while frames and b"\r\n\r\n" not in answer:
                    answer += client.recv(65536)
                client.sendall(frames)
                client.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while piece := client.recv(65536):
                    answer += piece
        return answer

    return broker, exchange


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({0: "POST / HTTP/1.1"}, b"405"),
        ({0: "GET /leafnode HTTP/1.1"}, b"404"),
        ({0: "GET /mqtt HTTP/1.1"}, b"404"),
        ({0: "GET //[x HTTP/1.1"}, b"101"),  # a path, if no URL
        ({1: ""}, b"400"),
        ({2: ""}, b"426"),
        ({3: "Connection: close"}, b"426"),
        ({4: "Sec-WebSocket-Version: 12"}, b"400"),
        ({5: ""}, b"400"),
        ({5: "Sec-WebSocket-Key: short"}, b"400"),
        ({1: "Host: localhost\r\n" + "\r\n".join(f"X-{n}: y" for n in range(200))}, b"431"),
        ({1: "Host: " + "h" * 20000}, b"431"),
    ],
)
def test_bad_requests(raw: tuple[Broker, Callable[..., bytes]], change: dict[int, str], status: bytes) -> None:
    _, exchange = raw
    lines = [change.get(n, line) for n, line in enumerate(REQUEST)]
    answer = exchange("\r\n".join([line for line in lines if line] + ["", ""]).encode())
    assert answer.split(b" ")[1] == status, answer


def test_a_request_may_be_cut_anywhere() -> None:
    request = "\r\n".join([*REQUEST, "", ""]).encode()
    for cut in range(1, len(request)):
        layer = WebSocketLayer(WebSocketSettings(port=1), tls=False)
        assert layer.receive(request[:cut]) == []
        assert layer.receive(request[cut:]) == []
        assert layer.upgrade is not None
    layer = WebSocketLayer(WebSocketSettings(port=1), tls=False)
    for at in range(len(request)):
        layer.receive(request[at : at + 1])
    assert layer.upgrade is not None


def test_bytes_that_are_no_websocket(raw: tuple[Broker, Callable[..., bytes]]) -> None:
    """Garbage, cut requests and bad frames close their own connection only."""
    broker, exchange = raw
    good = WebSocketClient(broker).connect()
    request = "\r\n".join([*REQUEST, "", ""]).encode()
    for cut in range(0, len(request), 7):
        exchange(request[:cut])
    exchange(b"\0" * 5000)
    exchange(b"A" * 100000)
    assert exchange(request + b"\x82\x81\0\0\0\0a").split(b" ")[1] == b"400"
    bad_frames = {
        "not masked": b"\x82\x01a",
        "reserved bits": b"\xf2\x81\0\0\0\0a",
        "reserved opcode": b"\x83\x81\0\0\0\0a",
        "control frame too long": b"\x89\xfe\x01\0\0\0\0\0" + bytes(256),
        "fragmented control frame": b"\x09\x80\0\0\0\0",
        "continuation of nothing": b"\x80\x81\0\0\0\0a",
    }
    for what, frame in bad_frames.items():
        answer = exchange(request, frame)
        assert b"101 Switching Protocols" in answer, what
        assert b"\x88" in answer[answer.index(b"\r\n\r\n") :], what  # a close frame
    good.send(b"PING\r\n").expect(b"PONG\r\n")


def test_frames_are_bounded_before_connect(start: Start) -> None:
    broker = start()
    client = WebSocketClient(broker)
    with suppress(ConnectionClosed):
        client.send(b"x" * 70000)
    assert client.closed()[0] == 1009


def test_an_upgrade_has_its_time(start: Start) -> None:
    broker = start('handshake_timeout: "200ms"')
    with socket.create_connection(("127.0.0.1", port_of(broker)), WATCHDOG_SECONDS) as client:
        assert client.recv(100) == b""
    broker.wait_log("websocket handshake timeout")


def test_what_was_never_upgraded_is_no_client_that_has_closed(start: Start) -> None:
    broker = start('handshake_timeout: "200ms"', args=["-m", "-1"])
    monitor = broker.wait_log(r"Starting http monitor on \S+").rpartition(":")[2]
    for request in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0\1\2\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port_of(broker)), WATCHDOG_SECONDS) as client:
            client.sendall(request)
            while client.recv(1000):
                pass
    web, plain = WebSocketClient(broker).connect(), broker.client().connect()
    web.close()
    plain.close()

    def closed() -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/connz?state=closed") as answer:
            return sorted(row["type"] for row in json.load(answer)["connections"])

    # Both came after those that are left out.
    wait_until(lambda: len(closed()) >= 2, "the two clients to be in the list")
    assert closed() == ["nats", "websocket"]


def test_nats_py(start: Start) -> None:
    broker = start()
    pytest.importorskip("aiohttp", reason="nats-py speaks WebSocket with it")

    async def talk() -> None:
        nc = await nats.connect(f"ws://localhost:{port_of(broker)}")

        async def answer(message: Msg) -> None:
            await message.respond(message.data.upper())

        await nc.subscribe("svc", cb=answer)
        assert (await nc.request("svc", b"hello", timeout=60)).data == b"HELLO"
        await nc.close()

    asyncio.run(talk())
