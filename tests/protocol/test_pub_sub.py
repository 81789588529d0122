"""PUB, SUB and MSG. Source: client.go processPub, parseSub, deliverMsg."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from harness import RawClient, msg, pub

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]


@pytest.mark.parametrize(
    "payload", [b"", b"x", b"hello", b"PING\r\nPUB x 1\r\ny\r\n", bytes(range(256)), b"\r\n\r\n"]
)
@pytest.mark.parametrize("reply", ["", "inbox.1"])
def test_to_oneself(connect: Connect, subject: str, payload: bytes, reply: str) -> None:
    client = connect().sub(subject, 7)
    client.pub(subject, payload, reply).expect(msg(subject, 7, payload, reply)).expect_nothing()


@pytest.mark.parametrize(
    "size", [1, 15, 16, 17, 1023, 2047, 2048, 2049, 4096, 65535, 65536, 262143, 262145, 1048576]
)
def test_sizes_to_every_shard(on_shards: OnShards, subject: str, size: int) -> None:
    """Each length of payload reaches subscribers on every shard unchanged, small ones right behind it."""
    clients = on_shards()
    for client in clients:
        client.sub(subject, 3)
    payload = random.Random(size).randbytes(size)
    clients[0].send(pub(subject, payload) + pub(subject, "z"))
    for client in clients:
        client.expect(msg(subject, 3, payload) + msg(subject, 3, "z"))


def test_every_pair_of_shards(on_shards: OnShards, subject: str) -> None:
    receivers, senders = on_shards(), on_shards()
    for index, client in enumerate(receivers):
        client.sub(f"{subject}.{index}", 1)
    for index in range(len(receivers)):
        for number, client in enumerate(senders):
            client.pub(f"{subject}.{index}", str(number))
            receivers[index].expect(msg(f"{subject}.{index}", 1, str(number)))
    for client in receivers:
        client.expect_nothing()


def test_each_matching_subscription_of_a_client_gets_a_copy(connect: Connect, subject: str) -> None:
    client = (
        connect().sub(subject + ".a", 1).sub(subject + ".*", 2).sub(subject + ".>", 3).sub(subject + ".a", 4)
    )
    client.pub(subject + ".a", "x").expect_set(*(msg(subject + ".a", sid, "x") for sid in (1, 2, 3, 4)))
    client.expect_nothing()


def test_order_over_subjects_and_wildcards(on_shards: OnShards, subject: str) -> None:
    """What one connection publishes arrives in that order, whatever subjects it went to."""
    clients = on_shards()
    for client in clients[1:]:
        client.sub(subject + ".>", 1)
    rng = random.Random(5)
    sent = [(f"{subject}.{rng.randrange(50)}.{rng.randrange(3)}", str(i)) for i in range(2000)]
    clients[0].send(b"".join(pub(s, p) for s, p in sent))
    for client in clients[1:]:
        client.expect(b"".join(msg(s, 1, p) for s, p in sent))


def test_pong_comes_after_own_messages(connect: Connect, subject: str) -> None:
    client = connect().sub(subject)
    client.send(pub(subject, "x") + b"PING\r\n" + pub(subject, "y") + b"PING\r\n")
    client.expect(msg(subject, 1, "x") + b"PONG\r\n" + msg(subject, 1, "y") + b"PONG\r\n")


def test_what_is_published_before_a_publishers_pong_comes_before_a_later_pong(
    on_shards: OnShards, subject: str
) -> None:
    """nats-server queues a message for its receivers before it answers the publisher's PING."""
    clients = on_shards()
    for number in range(200):
        publisher, receiver = clients[number % len(clients)], clients[(number + 1) % len(clients)]
        receiver.sub(f"{subject}.{number}", number)
        publisher.pub(f"{subject}.{number}", "x").flush()
        receiver.send("PING\r\n").expect(msg(f"{subject}.{number}", number, "x") + b"PONG\r\n")


def test_flush_promise_over_shards(on_shards: OnShards, subject: str) -> None:
    """After the PONG that follows SUB, a message that anyone publishes reaches the subscription."""
    clients = on_shards()
    for number in range(300):
        receiver, publisher = clients[number % len(clients)], clients[(number // 3 + 1) % len(clients)]
        form = ("{}.{}", "{}.{}.*", "{}.{}.>", "{}.{} q")[number % 4]
        name = form.format(subject, number)
        receiver.send(f"SUB {name} {number}\r\nPING\r\n").expect("PONG\r\n")
        literal = f"{subject}.{number}" + ("" if number % 4 in (0, 3) else ".x")
        publisher.pub(literal, "m")
        receiver.expect(msg(literal, number, "m"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"PUB {s} 002\r\nok\r\n", b"MSG {s} 1 0*2\r\nok\r\n"),
        (b"pub {s} 2\r\nok\r\n", b"MSG {s} 1 2\r\nok\r\n"),
        (b"PuB\t{s}\t2\r\nok\r\n", b"MSG {s} 1 2\r\nok\r\n"),
        (b"PUB   {s}   r   2  \r\nok\r\n", b"MSG {s} 1 r 2\r\nok\r\n"),
        (b"PUB {s} 2\nok\r\n", b"MSG {s} 1 2\r\nok\r\n"),
        (b"PUB {s} 0\r\n\r\n", b"MSG {s} 1 0\r\n\r\n"),
    ],
)
def test_ways_to_write_pub(on_shards: OnShards, subject: str, written: bytes, read: bytes) -> None:
    clients = on_shards()
    for client in clients:
        client.sub(subject)
    name = subject.encode()
    clients[0].send(written.replace(b"{s}", name) + pub(subject, "next"))
    for client in clients:
        client.expect_re(read.replace(b"{s}", name))
        client.expect(msg(subject, 1, "next"))


@pytest.mark.parametrize("line", ["sub {} 1\r\n", "SUB\t{}\t1\r\n", "SUB   {}   1  \r\n", "SUB {} 1\n"])
def test_ways_to_write_sub(connect: Connect, subject: str, line: str) -> None:
    connect().send(line.format(subject)).pub(subject, "x").expect(msg(subject, 1, "x"))


@pytest.mark.parametrize("sid", ["0", "1", "9223372036854775807", "abc", "a.b-c_d", "x" * 40, "é"])
def test_any_word_is_a_sid(on_shards: OnShards, subject: str, sid: str) -> None:
    publisher, *receivers = on_shards()
    receivers[0].sub(subject, sid)
    publisher.pub(subject, "x")
    receivers[0].expect(msg(subject, sid, "x")).send(f"UNSUB {sid}\r\n").flush()
    publisher.pub(subject, "y").flush()
    receivers[0].expect_nothing()


def test_a_repeated_sid_changes_nothing(connect: Connect, subject: str) -> None:
    client = connect().sub(subject + ".a", 1).sub(subject + ".b", 1).sub(subject + ".a", 1, "q")
    client.pub(subject + ".b", "x").pub(subject + ".a", "y").expect(
        msg(subject + ".a", 1, "y")
    ).expect_nothing()


def test_a_closed_subscriber_is_forgotten(connect: Connect, subject: str) -> None:
    gone = connect().sub(subject, 1)
    gone.close()
    client = connect().sub(subject, 2)
    client.pub(subject, "x").expect(msg(subject, 2, "x")).expect_nothing()


def test_a_publisher_that_leaves_at_once_loses_nothing(
    connect: Connect, on_shards: OnShards, subject: str
) -> None:
    receivers = on_shards()
    for client in receivers:
        client.sub(subject)
    leaver = connect()
    leaver.send(b"".join(pub(subject, str(i)) for i in range(500)))
    leaver.close()
    for client in receivers:
        client.expect(b"".join(msg(subject, 1, str(i)) for i in range(500)))


def test_ten_thousand_small_messages_in_one_write(on_shards: OnShards, subject: str) -> None:
    publisher, receiver, *_ = on_shards()
    receiver.sub(subject)
    publisher.send(pub(subject, "ok") * 10000)
    receiver.expect(msg(subject, 1, "ok") * 10000)


def test_utf8_passes_unchanged(on_shards: OnShards, subject: str) -> None:
    publisher, receiver, *_ = on_shards()
    name = subject + ".café.€"
    receiver.sub(name)
    publisher.pub(name, "€")
    receiver.expect(msg(name, 1, "€"))
