"""The same bytes give the same answer, however they are split. Source: split_test.go.

Many connections hold the same conversation, each split at another byte. The second part is sent only when
the server has read the first one from its socket buffer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from harness import Broker, RawClient, pub, wait_until

Connect = Callable[..., RawClient]


def conversation(name: str, tail: str = "PING\r\n") -> bytes:
    """Every verb, with odd blanks, replies, headers, a queue member, -ERRs that do not close."""
    return (
        'CONNECT {{"verbose":true,"pedantic":true,"headers":true,"name":"x"}}\r\n'
        "SUB {0} 1\r\nsub  {0}.*  q   2 \r\nSUB bad..x 3\r\n"
        "PUB {0} 5\r\nhello\r\nPUB {0}.a {0}.reply 0\r\n\r\n"
        "PUB {0} 4\r\n\r\n\r\n\r\nPUB  {0}\t003\r\nabc\r\n"
        "HPUB {0} 12 17\r\nNATS/1.0\r\n\r\nhello\r\nHPUB {0} {0}.reply 12 12\r\nNATS/1.0\r\n\r\n\r\n"
        "PING\r\nPONG\r\nUNSUB 1 7\r\nUNSUB 2\r\n+OK\r\nping x\r\n"
        # A CR is a blank in SUB and UNSUB. nats-server loses it, and what it parted, where its input was split; and it
        # checks the subject of a split PUB twice, and says so twice.
        + (
            "SUB {0}.cr\rq\r4\r\r\nSUB \r{0}.cr \r5\nPUB {0}.cr 2\r\ncr\r\nUNSUB 4\r1\r\nUNSUB 5\r\r\nPUB {0}.* 1\r\nx\r\n"
            if Broker.ours
            else ""
        )
    ).format(name).encode() + tail.encode()  # fmt: skip


def answer(client: RawClient, name: str) -> bytes:
    """All that comes until the end, with the connection's own subject taken out."""
    client.finish_sending()
    return client.expect_closed_any().replace(name.encode(), b"SUBJECT")


def in_one_write(broker: Broker, name: str, text: bytes) -> bytes:
    with broker.client() as client:
        client.send(text)
        return answer(client, name)


@pytest.mark.parametrize("tail", ["PING\r\n", "PUB a\r\n", "ZZZ", "SUB\r\n", "PUB b 2\r\nabc\r\n"])
def test_split_at_every_byte(broker: Broker, subject: str, tail: str) -> None:
    whole = in_one_write(broker, subject, conversation(subject, tail))
    assert b"MSG" in whole and b"HMSG" in whole and whole.count(b"-ERR") >= 1
    length = len(conversation(subject + "-0000", tail))
    for start in range(1, length, 100):
        names = {at: f"{subject}-{at:04d}" for at in range(start, min(start + 100, length))}
        clients = {at: broker.client() for at in names}
        for at, client in clients.items():
            client.send(conversation(names[at], tail)[:at])
        wait_until(lambda c=clients: broker.has_read(c.values()), "the first parts to be read")  # type: ignore[misc]
        for at, client in clients.items():
            client.send(conversation(names[at], tail)[at:])
        for at, client in clients.items():
            got = answer(client, names[at])
            assert got == whole, f"split at byte {at}: {conversation(names[at], tail)[:at][-30:]!r}"
            client.close()


def test_one_byte_a_write(broker: Broker, subject: str) -> None:
    clients = [broker.client() for _ in range(3)]
    names = [f"{subject}-{number}" for number in range(3)]
    whole = in_one_write(broker, subject, conversation(subject))
    texts = [conversation(name) for name in names]
    for at in range(len(texts[0])):
        for client, text in zip(clients, texts, strict=True):
            client.send(text[at : at + 1])
        if at % 10 == 0:  # looking costs ten times what sending does
            wait_until(lambda: broker.has_read(clients), "the bytes to be read")
    for client, name in zip(clients, names, strict=True):
        assert answer(client, name) == whole


def test_random_pieces_of_large_messages(broker: Broker, subject: str) -> None:
    """Payloads around and above the receive buffer, cut at random places, in and out of the payload."""
    rng = random.Random(21)
    sizes = [rng.choice([1, 100, 4096, 70000, 262144, 300000]) + rng.randint(-1, 1) for _ in range(12)]
    receiver = broker.client().connect().sub(subject + ".>")
    for turn in range(4):
        name = f"{subject}.{turn}"
        payloads = [rng.randbytes(size) for size in sizes]
        text = b"".join(pub(name, payload) for payload in payloads)
        cuts = sorted(rng.sample(range(1, len(text)), 15))
        sender = broker.client().connect()
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            sender.send(text[start:end])
            wait_until(lambda s=sender: broker.has_read([s]), "the piece to be read")  # type: ignore[misc]
        sender.flush()
        assert [payload for _, _, payload in receiver.messages(len(payloads))] == payloads
