"""PING and PONG in both directions, stale connections. Source: client.go processPing, processPingTimer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import Broker, RawClient, msg

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]
Start = Callable[..., Broker]

IMPATIENT = 'ping_interval: "150ms"\nping_max: 2\n'
# Who answers has two seconds for it.
FORBEARING = 'ping_interval: "50ms"\nping_max: 40\n'


@pytest.mark.parametrize(
    "line", ["PING\r\n", "ping\r\n", "PiNg\r\n", "PING\n", "PING abc\r\n", "PING   \r\n"]
)
def test_ping_is_answered(connect: Connect, line: str) -> None:
    connect().send(line).expect("PONG\r\n").expect_nothing()


def test_ping_before_connect(connect: Connect) -> None:
    connect(None).flush().connect().flush()


def test_ping_flood(connect: Connect) -> None:
    connect().send(b"PING\r\n" * 20000).expect(b"PONG\r\n" * 20000).expect_nothing()


def test_pong_is_taken_silently(connect: Connect) -> None:
    connect().send("PONG\r\npong x\r\n").expect_nothing()


def test_stale_connection_is_told_and_closed(fresh_broker: Start) -> None:
    client = fresh_broker(config=IMPATIENT).client(pings=True)
    client.send('CONNECT {"verbose":false}\r\n')
    client.expect_closed(b"PING\r\n" * 2 + b"-ERR 'Stale Connection'\r\n")


def test_pongs_sent_ahead_do_not_help(fresh_broker: Start) -> None:
    client = fresh_broker(config=IMPATIENT).client(pings=True)
    client.send(b'CONNECT {"verbose":false}\r\n' + b"PONG\r\n" * 100)
    client.expect_closed(b"PING\r\n" * 2 + b"-ERR 'Stale Connection'\r\n")


def test_answered_pings_keep_it_open(fresh_broker: Start) -> None:
    client = fresh_broker(config=FORBEARING).client(pings=True)
    client.send('CONNECT {"verbose":false}\r\n')
    for _ in range(50):
        client.expect("PING\r\n").send("PONG\r\n")


def test_stale_neighbour_costs_the_others_nothing(fresh_broker: Start) -> None:
    broker = fresh_broker(config=FORBEARING)
    stale, alive = broker.client(pings=True), broker.client(pings=True)
    stale.send('CONNECT {"verbose":false}\r\nSUB a 1\r\n')
    alive.send('CONNECT {"verbose":false}\r\nSUB b 1\r\n')
    while not stale.ended:
        stale._fill("the end of the stale connection")
        alive.send("PONG\r\n")
    assert stale.buffer.endswith(b"-ERR 'Stale Connection'\r\n")
    alive.pub("b", "x").expect_re(rb"(PING\r\n)*" + msg("b", 1, "x"))


def test_a_pong_follows_the_delivery_of_what_came_before_it(on_shards: OnShards, subject: str) -> None:
    """Whoever has flushed may go, and tell anyone: the message stands in the subscribers' sockets already, on whatever shard.

    nats-server delivers before it reads the next operation; users' code, and clients' test suites, count on it. A sender
    who gets the message as well may be the first who is written to.
    """
    clients, senders = on_shards(), on_shards()
    for number, client in enumerate(clients):
        client.sub(f"{subject}.*", 1).sub(f"{subject}.{number}", 2)
    for turn in range(60):
        sender = senders[turn % len(senders)]
        sender.pub(f"{subject}.{turn}", str(turn)).send("PING\r\n").expect("PONG\r\n")
        for client in clients:
            client.socket.setblocking(False)
            try:
                assert f"MSG {subject}.{turn} 1 ".encode() in client.socket.recv(1 << 16)
            finally:
                client.socket.settimeout(client.timeout)
