"""Hostile bytes: the right -ERR or a close for whoever sent them, and nothing for anybody else.

Each test has witnesses on every shard that go on talking to each other meanwhile.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from harness import Broker, RawClient, connect_line, msg, wait_until

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]


@pytest.fixture
def unharmed(on_shards: OnShards, subject: str) -> Iterator[Callable[[], None]]:
    """A check to call: every witness still reaches every other."""
    witnesses = on_shards()
    for number, client in enumerate(witnesses):
        client.sub(f"{subject}.w.{number}", 1)

    def check() -> None:
        for sender in witnesses:
            for number, client in enumerate(witnesses):
                sender.pub(f"{subject}.w.{number}", "still here")
                client.expect(msg(f"{subject}.w.{number}", 1, "still here"))

    yield check
    check()


def lines(*texts: str) -> list[bytes]:
    return [text.encode() + b"\r\n" for text in texts]


CLOSES = [
    *lines("PUB x 99999999999999999999", "PUB x -1", "PUB x 1e3", "PUB x +1", "PUB x 0x1"),
    *lines("HPUB x 13 12", "HPUB x 12", "PUB x y z 1"),
    *lines("SUB a b c d", "CONNECT {", 'CONNECT {"verbose":1}', 'CONNECT {"lang":{}}'),
    *lines("CONNECT NaN", 'CONNECT {"protocol":99}'),
    *lines("MSG a 1 1", "RMSG $G a 1", "LS+ a", "RS+ $G a", "A+ x", "-ERR 'x'", "\0" * 100, "PUB \0"),
    b"CONNECT " + b"[" * 4000 + b"\r\n",
    b"CONNECT " + b'{"a":' * 5000 + b"\r\n",
    connect_line(lang="l" * 1000000),
    connect_line(version="v" * 5000),
    b"SUB " + b"." * 4097,
    b"PUB " + b"a" * 100000,
    b"\xff" * 1000,
    b"\r\n" * 1000,
    b"PUB x 5\r\nhello world\r\n",
]  # fmt: skip


@pytest.mark.parametrize("data", CLOSES, ids=lambda d: repr(d[:24])[2:-1] + f"_{len(d)}")
@pytest.mark.parametrize("connected", [False, True])
def test_closes(connect: Connect, unharmed: Callable[[], None], data: bytes, connected: bool) -> None:
    client = connect(headers=True) if connected else connect(None)
    end = client.send(data).expect_closed_any()
    assert end.count(b"-ERR") <= 1 and b"MSG" not in end


@pytest.mark.parametrize(
    "data",
    [
        *lines("SUB a..b 1", "SUB >.a 1", "SUB . 1", "SUB " + "." * 4000 + " 1", "UNSUB 12345"),
        *lines("SUB " + ".".join("t" * 1000) + " 1", "SUB >> 1"),
        *lines("SUB a q\0q 1", "SUB a q.*.> 1", "SUB > >", "PUB a..b 0\r\n", "PUB . 0\r\n"),
        *lines("PUB " + "." * 4000 + " 0\r\n", "+OK"),
        b"UNSUB 1\r\n" * 20000,
        b"SUB a 1\r\n" * 20000,
        b"SUB a.* q 1\r\nUNSUB 1\r\n" * 10000,
        b"SUB a..b 1\r\n" * 2000,
        b"HPUB a 0 0\r\n\r\n" * 1000,
        b"HPUB a 2 2\r\n\r\n\r\n" * 1000,
        b"HPUB a 10 10\r\nNATS/1.0\r\r\r\n",
        b"HPUB a 64000 64000\r\n" + b"NATS/1.0\r\n" * 6400 + b"\r\n",
        b"HPUB a 9 9\r\nNATS/9.9:\r\n",
    ],
    ids=lambda d: repr(d[:24])[2:-1] + f"_{len(d)}",
)  # fmt: skip
def test_is_borne(connect: Connect, unharmed: Callable[[], None], data: bytes) -> None:
    """Nothing that closes: after it the same connection still answers."""
    client = connect(headers=True, echo=False).send(data)
    client.send("PING\r\n").expect_re(rb"(-ERR 'Invalid Subject'\r\n)*PONG\r\n")


def test_deep_nesting_and_repeated_keys_are_borne(connect: Connect, unharmed: Callable[[], None]) -> None:
    connect(None).send(
        b'CONNECT {"verbose":false,"x":' + b"[" * 900 + b"]" * 900 + b"}\r\n"
    ).expect_nothing()
    connect(None).send(b"CONNECT {" + b'"echo":false,' * 300 + b'"verbose":false}\r\n').expect_nothing()


def test_random_bytes(broker: Broker, unharmed: Callable[[], None]) -> None:
    rng = random.Random(8)
    verbs = [
        b"PUB ",
        b"HPUB ",
        b"SUB ",
        b"UNSUB ",
        b"CONNECT ",
        b"PING",
        b"PONG",
        b"+OK",
        b"-ERR ",
        b"INFO ",
        b"\r\n",
        b" ",
        b"a.b",
        b"5",
        b"{}",
    ]
    for _ in range(60):
        with broker.client() as client:
            for _ in range(rng.randint(1, 30)):
                client.send(rng.choice(verbs) if rng.random() < 0.8 else rng.randbytes(rng.randint(1, 60)))
            client.finish_sending()
            client.expect_closed_any()


def reset(client: RawClient) -> None:
    """Close with RST instead of FIN."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize(
    "leave", [reset, RawClient.finish_sending, RawClient.close], ids=["rst", "fin", "close"]
)
@pytest.mark.parametrize(
    "sent", [b"", b"CONN", b"PUB a 1000000\r\nxxx", b"PUB a 3\r\nxxx", b"SUB a 1\r\nSUB b.* q 2\r\nPI"]
)
def test_half_open(
    broker: Broker, unharmed: Callable[[], None], leave: Callable[[RawClient], None], sent: bytes
) -> None:
    """Leaving in the middle of anything frees the server's side."""
    clients = [broker.client() for _ in range(6)]
    for client in clients:
        client.send(sent)
        leave(client)

    def freed(client: RawClient) -> bool:
        still_ours = client.socket.fileno() >= 0
        return not broker.holds(client) or (still_ours and client.expect_closed_any() == b"")

    for client in clients:
        wait_until(lambda c=client: freed(c), "the server's side to be freed")  # type: ignore[misc]
        client.close()


def test_connections_that_never_speak(broker: Broker, unharmed: Callable[[], None]) -> None:
    silent = [broker.client() for _ in range(200)]
    unharmed()
    for client in silent:
        client.close()


def test_connections_that_never_read_info(broker: Broker, unharmed: Callable[[], None]) -> None:
    for _ in range(100):
        reset(broker.client(info=False))


def test_no_echo_of_partial_payload_after_reset(broker: Broker, connect: Connect, subject: str) -> None:
    """A payload that never ended is delivered to nobody."""
    receiver, sender = connect().sub(subject), connect()
    sender.send(f"PUB {subject} 100\r\n" + "x" * 99)
    wait_until(lambda: broker.has_read([sender]), "the bytes to be read")
    reset(sender)
    receiver.expect_nothing()
