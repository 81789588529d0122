"""UNSUB, with and without a maximum. Source: client.go processUnsub, deliverMsg."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import RawClient, msg, pub

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]


def test_ends_delivery_of_that_sid_only(connect: Connect, subject: str) -> None:
    client = connect().sub(subject, 1).sub(subject, 2)
    client.send(pub(subject, "a") + b"UNSUB 1\r\n" + pub(subject, "b"))
    client.expect_set(msg(subject, 1, "a"), msg(subject, 2, "a"))
    client.expect(msg(subject, 2, "b")).expect_nothing()


def test_is_known_to_every_shard(on_shards: OnShards, subject: str) -> None:
    clients = on_shards()
    for client in clients:
        client.sub(subject).send("UNSUB 1\r\n").flush()
    for client in clients:
        client.pub(subject, "x").flush()
    for client in clients:
        client.expect_nothing()


@pytest.mark.parametrize("maximum", [1, 2, 5, 100])
def test_maximum(on_shards: OnShards, subject: str, maximum: int) -> None:
    publisher, receiver, *_ = on_shards()
    receiver.send(f"SUB {subject} 1\r\nUNSUB 1 {maximum}\r\n").flush()
    publisher.send(pub(subject, "x") * (maximum + 7)).flush()
    receiver.expect(msg(subject, 1, "x") * maximum).expect_nothing()
    receiver.sub(subject, 1)
    publisher.pub(subject, "again")
    receiver.expect(msg(subject, 1, "again"))


def test_maximum_counts_what_was_delivered_before(connect: Connect, subject: str) -> None:
    client = connect().sub(subject)
    client.send(pub(subject, "a") * 2 + b"UNSUB 1 5\r\n" + pub(subject, "b") * 9)
    client.expect(msg(subject, 1, "a") * 2 + msg(subject, 1, "b") * 3).expect_nothing()


def test_maximum_already_reached_ends_at_once(connect: Connect, subject: str) -> None:
    client = connect().sub(subject)
    client.send(pub(subject, "a") * 3 + b"UNSUB 1 3\r\n" + pub(subject, "b"))
    client.expect(msg(subject, 1, "a") * 3).expect_nothing()


@pytest.mark.parametrize("maximum", ["abc", "0", "-1"])
def test_maximum_that_is_none_ends_at_once(connect: Connect, subject: str, maximum: str) -> None:
    connect().sub(subject).send(f"UNSUB 1 {maximum}\r\n").pub(subject, "x").expect_nothing()


def test_second_unsub_overrides(connect: Connect, subject: str) -> None:
    client = connect().sub(subject)
    client.send(b"UNSUB 1 10\r\n" + pub(subject, "a") + b"UNSUB 1\r\n" + pub(subject, "b"))
    client.expect(msg(subject, 1, "a")).expect_nothing()
    client.sub(subject, 2).send(b"UNSUB 2 2\r\nUNSUB 2 4\r\n" + pub(subject, "c") * 6)
    client.expect(msg(subject, 2, "c") * 4).expect_nothing()


def test_unknown_sid_is_no_error(connect: Connect) -> None:
    connect().send("UNSUB 99\r\nUNSUB 99 5\r\nUNSUB x\r\n").expect_nothing()


def test_sid_is_free_again(connect: Connect, subject: str) -> None:
    client = connect().sub(subject + ".a").send("UNSUB 1\r\n").sub(subject + ".b")
    client.pub(subject + ".a", "x").pub(subject + ".b", "y").expect(
        msg(subject + ".b", 1, "y")
    ).expect_nothing()


def test_leaves_the_same_sid_of_others_alone(on_shards: OnShards, subject: str) -> None:
    first, second, *_ = on_shards()
    first.sub(subject)
    second.sub(subject).send("UNSUB 1\r\n").flush()
    second.pub(subject, "x")
    first.expect(msg(subject, 1, "x"))
    second.expect_nothing()


@pytest.mark.parametrize("line", ["unsub 1", "UNSUB\t1", "UNSUB   1  "])
def test_ways_to_write_it(connect: Connect, subject: str, line: str) -> None:
    connect().sub(subject).send(line + "\r\n").pub(subject, "x").expect_nothing()


@pytest.mark.parametrize("line", ["UNSUB \r\n", "UNSUB 1 2 3\r\n"])
def test_bad_arguments_close_without_words(connect: Connect, line: str) -> None:
    connect().send(line).expect_closed()


def test_bare_unsub(connect: Connect) -> None:
    connect().send("UNSUB\r\n").expect_closed(b"-ERR 'Unknown Protocol Operation'\r\n")


def test_flood_of_subscriptions_that_come_and_go(on_shards: OnShards, subject: str) -> None:
    """Interest that has gone again leaves nothing: neither messages nor a broken neighbour."""
    clients = on_shards()
    for client in clients:
        client.sub(subject + ".keep", "keep")
        client.send(
            "".join(
                f"SUB {subject}.{i % 40} {i}\r\nUNSUB {i}\r\nSUB {subject}.*.{i} w{i}\r\nUNSUB w{i}\r\n"
                for i in range(3000)
            )
        )
        client.flush()
    for client in clients:
        client.send(b"".join(pub(f"{subject}.{i}", "x") + pub(f"{subject}.a.{i}", "x") for i in range(40)))
        client.flush()
    clients[0].pub(subject + ".keep", "k")
    for client in clients:
        client.expect(msg(subject + ".keep", "keep", "k")).expect_nothing()
