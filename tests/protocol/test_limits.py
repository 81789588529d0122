"""Limits: payload, control line, subscriptions, connections, pending bytes, write deadline.

Source: client.go, const.go.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from harness import Broker, RawClient, msg, pub, wait_until

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]
Start = Callable[..., Broker]
TOO_LARGE = b"-ERR 'Maximum Payload Violation'\r\n"
TOO_LONG = b"-ERR 'maximum control line exceeded'\r\n"


# -- payload --


@pytest.mark.parametrize("size", [1048577, 2000000, 199380988, 999999999])
def test_payload_over_the_default(connect: Connect, size: int) -> None:
    """Told by the size alone, before any payload comes."""
    connect().send(f"PUB foo {size}\r\n").expect_closed(TOO_LARGE)


def test_payload_limit_from_the_configuration(fresh_broker: Start) -> None:
    broker = fresh_broker(config="max_payload: 1024\n")
    client = broker.client().connect(headers=True).sub("a")
    client.pub("a", "x" * 1024).expect(msg("a", 1, "x" * 1024))
    client.send(pub("a", "y") + pub("a", "x" * 1025)).expect_closed(msg("a", 1, "y") + TOO_LARGE)
    broker.client().connect(headers=True).send("HPUB a 12 1025\r\n").expect_closed(TOO_LARGE)


def test_the_rest_of_too_large_a_payload_harms_nobody(on_shards: OnShards, subject: str) -> None:
    bad, good, *_ = on_shards()
    good.sub(subject)
    bad.send(f"PUB {subject} 3000000\r\n".encode() + b"x" * 300000)
    assert bad.expect_closed_any() in (b"", TOO_LARGE)
    good.pub(subject, "fine").expect(msg(subject, 1, "fine"))


# -- control line --


@pytest.mark.parametrize("verb", ["PUB ", "SUB ", "UNSUB ", "CONNECT ", "HPUB ", "-ERR "])
@pytest.mark.parametrize("end", ["", "\r\n"])
def test_line_over_the_default(connect: Connect, verb: str, end: str) -> None:
    connect(headers=True).send(verb + "x" * 4200 + end).expect_closed(TOO_LONG)


def test_endless_line_in_small_writes(connect: Connect) -> None:
    client = connect().send("PUB ")
    for _ in range(84):
        client.send("x" * 50)
    client.expect_closed(TOO_LONG)


def test_longest_line_passes(connect: Connect) -> None:
    name = "s" * 4000
    connect().sub(name).pub(name, "x").expect(msg(name, 1, "x"))


@pytest.mark.parametrize("line", ["PUB foo " + "2" * 320, "SUB " + "s" * 300 + " 1\r\n"])
def test_line_limit_from_the_configuration(fresh_broker: Start, line: str) -> None:
    broker = fresh_broker(config="max_control_line: 256\n")
    broker.client().connect().send(line).expect_closed(TOO_LONG)
    name = "s" * 200
    broker.client().connect().sub(name).pub(name, "x").expect(msg(name, 1, "x"))


# -- subscriptions and connections --


@pytest.mark.parametrize("setting", ["max_subscriptions", "max_subs"])
def test_subscriptions(fresh_broker: Start, setting: str) -> None:
    broker = fresh_broker(config=f"{setting}: 2\n")
    client = broker.client().connect().sub("a", 1).sub("b", 2)
    client.send("SUB c 3\r\n").expect("-ERR 'maximum subscriptions exceeded'\r\n")
    client.pub("c", "x").pub("a", "y").expect(msg("a", 1, "y"))
    client.send("UNSUB 1\r\n").sub("c", 3).pub("c", "z").expect(msg("c", 3, "z")).expect_nothing()
    broker.client().connect().sub("a", 1).sub("b", 2)


def test_connections(fresh_broker: Start) -> None:
    broker = fresh_broker(config="max_connections: 4\n")
    clients = [broker.client().connect() for _ in range(4)]
    for _ in range(5):
        refused = broker.client(info=False)
        refused.expect_re(rb"(INFO [^\r]*\r\n)?-ERR 'maximum connections exceeded'\r\n")
        refused.expect_closed()
    for client in clients:
        client.flush()
    clients[2].close()

    def room_again() -> bool:
        with broker.client() as client:
            return (
                client.send("PING\r\n").expect_re(rb"PONG\r\n|-ERR 'maximum connections exceeded'\r\n")[0]
                == b"PONG\r\n"
            )

    wait_until(room_again, "room for one connection")


def test_many_subscriptions_on_one_connection(on_shards: OnShards, subject: str) -> None:
    publisher, receiver, *_ = on_shards()
    count = 30000
    receiver.send("".join(f"SUB {subject}.{i} {i}\r\n" for i in range(count))).flush()
    chosen = random.Random(3).sample(range(count), 500)
    publisher.send(b"".join(pub(f"{subject}.{i}", "x") for i in chosen))
    receiver.expect(b"".join(msg(f"{subject}.{i}", i, "x") for i in chosen))
    receiver.send("".join(f"UNSUB {i}\r\n" for i in range(count))).flush()
    publisher.send(b"".join(pub(f"{subject}.{i}", "x") for i in chosen)).flush()
    receiver.expect_nothing()


# -- receivers that do not read --


def publish_until_cut(
    broker: Broker, publisher: RawClient, receiver: RawClient, subject: str, size: int
) -> int:
    """Publish until the broker has closed the receiver's connection; how many messages it took."""
    sent = 0

    def gone() -> bool:
        nonlocal sent
        publisher.send(pub(subject, b"x" * size) * 4).flush()
        sent += 4
        return not broker.holds(receiver)

    wait_until(gone, "the slow receiver to be cut")
    return sent


@pytest.mark.parametrize("same_shard", [True, False])
def test_over_max_pending_the_receiver_is_cut_and_nobody_else(fresh_broker: Start, same_shard: bool) -> None:
    """What it got is a gapless beginning; a reading receiver of the same subject loses nothing."""
    # nats-server's blocked write delays the closing until the deadline; ours is cut by the bytes alone.
    deadline = "60s" if Broker.ours else "500ms"
    broker = fresh_broker(config=f'max_pending: 1MB\nwrite_deadline: "{deadline}"\n')
    slow = broker.client(receive_buffer=4096).connect().sub("a")
    publisher, reader = broker.client().connect(), broker.client().connect().sub("a")
    for _ in range(12):
        if not broker.ours or (broker.shard_of(publisher) == broker.shard_of(slow)) == (
            same_shard or broker.workers == 1
        ):
            break
        publisher = broker.client().connect()
    sent = 0

    def cut() -> bool:
        nonlocal sent
        publisher.send(pub("a", f"{sent:06d}".encode() + b"x" * 100000)).flush()
        reader.expect(msg("a", 1, f"{sent:06d}".encode() + b"x" * 100000))
        sent += 1
        return not broker.holds(slow)

    wait_until(cut, "the slow receiver to be cut")
    rest = slow.expect_closed_any()
    whole = rest.split(b"MSG a 1 100006\r\n")[1:]
    assert [part[:6] for part in whole[:-1]] == [b"%06d" % i for i in range(len(whole) - 1)]
    assert len(whole) < sent
    broker.client().connect().sub("b").pub("b", "x").expect(msg("b", 1, "x"))


def test_write_deadline(fresh_broker: Start) -> None:
    """Far below max_pending: the time decides. The receiver's socket buffers are filled first."""
    broker = fresh_broker(config='write_deadline: "200ms"\n')
    slow = broker.client(receive_buffer=4096).connect().sub("a")
    publisher = broker.client().connect()
    publish_until_cut(broker, publisher, slow, "a", 200000)
    publisher.sub("b").pub("b", "x").expect(msg("b", 1, "x"))
    assert slow.expect_closed_any().startswith(b"MSG a 1 200000\r\n")


def test_a_receiver_that_reads_late_but_in_time_loses_nothing(fresh_broker: Start) -> None:
    """20 MB wait in the broker, below max_pending; then all of it arrives."""
    broker = fresh_broker(config='write_deadline: "60s"\n')
    late = broker.client(receive_buffer=4096).connect().sub("a")
    publisher = broker.client().connect()
    frame = pub("a", b"x" * 100000)
    for _ in range(200):
        publisher.send(frame)
    publisher.flush()
    late.expect(msg("a", 1, b"x" * 100000))
    for _ in range(199):
        late.expect(msg("a", 1, b"x" * 100000))


def test_client_that_does_not_read_its_pongs(fresh_broker: Start) -> None:
    """Answers count as pending too: a flood of PINGs without reading ends the connection, not the broker."""
    broker = fresh_broker(config='max_pending: 2MB\nwrite_deadline: "1s"\n')
    rude = broker.client(receive_buffer=4096).connect()
    rude.socket.settimeout(0.05)

    def gone() -> bool:
        try:
            rude.socket.send(b"PING\r\n" * 20000)
        except TimeoutError:
            pass
        except OSError:
            return True
        return not broker.holds(rude)

    wait_until(gone, "the rude connection to be cut")
    broker.client().connect().sub("b").pub("b", "x").expect(msg("b", 1, "x"))
