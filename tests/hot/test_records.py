"""A peer gone mad: whatever stands in its rings, a shard does not crash, counts it, and goes on."""

from __future__ import annotations

import random
import struct

import pytest

from shardbroker.hot.probe import Shard
from shardbroker.shm.directory import Directory
from shardbroker.shm.ring import RingWriter
from shardbroker.shm.stats import snapshot
from sim.shards import boot, connect, small_segment

MESSAGE, FRAGMENT, PLAIN, QUEUE, SNAPSHOT_BEGIN, SNAPSHOT_END, STALL = 1, 2, 16, 17, 18, 19, 20
RING = 1 << 16


class Victim:
    """Shard 0 of 2 with clients 1 and 2 on it, and both rings of what should be shard 1."""

    def __init__(self) -> None:
        self.segment = small_segment(2, RING, RING)
        self.shard: Shard = boot(self.segment, 0, max_payload=5000)
        self.segment.map.mark_booting(1)
        self.data = RingWriter(self.segment.map, 1, 0)
        self.control = RingWriter(self.segment.map, 1, 0, True)
        self.now = 1
        for client in (1, 2):
            connect(self.shard, client, headers=client == 1)
            self.shard.feed(client, b"SUB a.b 1\r\nSUB a.* q 2\r\nSUB a.b q 3\r\nPING\r\n")
        self.turns()

    def turns(self, count: int = 3) -> None:
        for _ in range(count):
            self.now += 10_000_000
            self.shard.turn(self.now)

    def corrupt(self) -> int:
        return int(snapshot(self.segment)[0]["ring_corrupt"])

    def message(self, subject: bytes = b"a.b", payload: bytes = b"hello", *, reply: bytes = b"", header_bytes: int = -1,
                plain: bool = True, queues: tuple[bytes, ...] = (), account: int = 0) -> bytes:
        """A message record as a peer writes it."""
        names = b"".join(struct.pack("<I", len(q)) + q + bytes(-len(q) % 4) for q in queues)
        sizes = b"%d %d" % (header_bytes, len(payload)) if header_bytes >= 0 else b"%d" % len(payload)
        head = struct.pack(
            "<QQIiIIIIHBBI", account, 77, 0, header_bytes, len(payload), len(subject), len(reply), len(names), len(queues),
            plain, 0, 0,
        )  # fmt: skip
        line = (reply + b" " if reply else b"") + sizes
        return head + names + subject + b" " + line + b"\r\n" + payload + b"\r\n"

    def interest(self, subject: bytes, queue: bytes = b"", count: int = 1, epoch: int = 1) -> bytes:
        return struct.pack("<Q4I", 0, epoch, count, len(subject), len(queue)) + subject + queue

    def assert_well(self) -> None:
        """Traffic both ways, new interest from both sides."""
        self.turns()
        for client in (1, 2):
            assert self.shard.is_open(client)
            self.shard.take_output(client)
        assert self.data.push(self.message(), MESSAGE)
        assert self.data.push(self.message(b"a.c", plain=False, queues=(b"q",)), MESSAGE)
        assert self.control.push(self.interest(b"far.*"), PLAIN)
        assert self.control.push(self.interest(b"far.away", b"q", 2), QUEUE)
        self.data.publish()
        self.control.publish()
        self.shard.feed(1, b"SUB new 9\r\nPUB new 1\r\nx\r\n")
        self.turns()
        out = [self.shard.take_output(client) for client in (1, 2)]
        for data in out:
            assert data.count(b"MSG a.b 1 5\r\nhello\r\n") == 1
        assert b"".join(out).count(b"MSG a.c 2 5\r\nhello\r\n") == 1
        assert out[0].endswith(b"MSG new 9 1\r\nx\r\n")
        _, groups, remote = self.shard.match(b"far.away")
        assert remote == 2
        assert groups == {b"q": ([], 2)}
        self.shard.feed(1, b"UNSUB 9\r\n")
        self.control.push(self.interest(b"far.*", count=0), PLAIN)
        self.control.push(self.interest(b"far.away", b"q", 0), QUEUE)
        self.control.publish()
        self.turns()
        assert self.shard.match(b"far.away") == ([], {}, 0)


@pytest.mark.parametrize("headers", [False, True])
def test_the_test_writes_records_as_a_shard_does(headers: bool) -> None:
    victim = Victim()
    data = b"NATS/1.0\r\nA: b\r\n\r\nbody" if headers else b"body"
    n = len(data) - 4 if headers else -1
    victim.data.push(victim.message(b"a.b", data, reply=b"r", header_bytes=n, queues=(b"q", b"other")), MESSAGE)
    victim.data.publish()
    for client in (1, 2):
        victim.shard.take_output(client)
    victim.turns()
    whole = b"HMSG a.b 1 r %d %d\r\n%b\r\n" % (n, len(data), data) if headers else b"MSG a.b 1 r 4\r\nbody\r\n"
    out = [victim.shard.take_output(client) for client in (1, 2)]
    assert out[0].startswith(whole)
    assert out[1].startswith(b"MSG a.b 1 r 4\r\nbody\r\n")
    assert sum(data.count(b"MSG a.b") for data in out) == 3
    assert victim.corrupt() == 0
    victim.assert_well()


def lengths_that_lie(victim: Victim) -> list[bytes]:
    """Message records of which one field is wrong."""
    good = victim.message(b"a.b", b"hello", reply=b"rr", queues=(b"q", b"name5"))
    bad = [good[:n] for n in (0, 1, 47, 48, 49, len(good) - 1)]
    for at in range(16, 48, 2):
        for value in (0xFFFF, 0x7FFF, 0x8000, 1, 0):
            bad.append(good[:at] + struct.pack("<H", value) + good[at + 2 :])
    for at in (48, 56):                         # lengths of the queue names
        for value in (0, 2, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFC, 0x80000000, 1000):
            bad.append(good[:at] + struct.pack("<I", value) + good[at + 4 :])
    return bad


def test_lengths_that_lie() -> None:
    victim = Victim()
    for body in lengths_that_lie(victim):
        assert victim.data.push(body, MESSAGE)
        victim.data.publish()
        victim.turns(1)
    assert victim.corrupt() > 30
    victim.assert_well()


def test_a_message_of_an_account_that_nobody_here_is_in_is_no_message() -> None:
    victim = Victim()
    for bit in range(64):
        assert victim.data.push(victim.message(account=1 << bit), MESSAGE)
    victim.data.publish()
    victim.turns(1)
    for client in (1, 2):
        assert b"MSG" not in victim.shard.take_output(client)
    assert victim.corrupt() == 64
    victim.assert_well()


@pytest.mark.parametrize("seed", range(4))
def test_mutated_records(seed: int) -> None:
    """Good records with bytes changed, on both rings, of every kind."""
    draw = random.Random(seed)
    victim = Victim()
    data = [
        (MESSAGE, victim.message()), (MESSAGE, victim.message(b"a.c", b"x" * 3000, queues=(b"q",))),
        (MESSAGE, victim.message(reply=b"_INBOX.r", header_bytes=3, queues=(b"q", b"r"))),
        (FRAGMENT, struct.pack("<II", 100, 0) + b"f" * 50), (FRAGMENT, struct.pack("<II", 100, 50) + b"f" * 50),
    ]  # fmt: skip
    whole = victim.message(b"a.b", b"y" * 200)
    data += [(FRAGMENT, struct.pack("<II", len(whole), at) + whole[at : at + 90]) for at in range(0, len(whole), 90)]
    control = [
        (PLAIN, victim.interest(b"x.*")), (PLAIN, victim.interest(b"x.*", count=0)), (PLAIN, victim.interest(b"a..b")),
        (QUEUE, victim.interest(b"a.b", b"q", 3)), (QUEUE, victim.interest(b"a.>", b"q", 0xFFFFFFFF)),
        (QUEUE, victim.interest(b"a.b", b"", 3)), (SNAPSHOT_BEGIN, victim.interest(b"")), (SNAPSHOT_END, victim.interest(b"")),
        (STALL, struct.pack("<QII", 1, 0, 1)), (STALL, struct.pack("<QII", 1, 99999, 5)), (STALL, b""),
    ]  # fmt: skip
    for round_ in range(400):
        for ring, records in ((victim.data, data), (victim.control, control)):
            kind, body = draw.choice(records)
            changed = bytearray(body)
            for _ in range(draw.randint(0, 3)):
                if changed and draw.random() < 0.8:
                    changed[draw.randrange(min(len(changed), 70))] = draw.choice([0, 1, 2, 127, 128, 255, draw.randrange(256)])
                elif draw.random() < 0.5:
                    del changed[draw.randrange(len(changed) + 1) :]
                else:
                    changed += draw.randbytes(draw.randint(1, 40))
            ring.push(bytes(changed), kind if draw.random() < 0.9 else draw.randint(1, 32))
            if draw.random() < 0.5:
                ring.publish()
        # What is published meets routes and queues that the garbage has changed.
        victim.shard.feed(draw.choice((1, 2)), b"PUB a.b 3\r\nabc\r\nPUB x.y 1\r\n1\r\nPUB a.c r 0\r\n\r\n")
        if round_ % 7 == 0:
            victim.shard.feed(1, b"UNSUB 3\r\nSUB a.b q 3\r\n")
        victim.turns(1)
    for ring in (victim.data, victim.control):
        ring.publish()
    victim.turns()
    assert victim.corrupt() > 100
    # Whatever interest the garbage has left goes with a snapshot that has none.
    for kind in (SNAPSHOT_BEGIN, SNAPSHOT_END):
        victim.control.push(victim.interest(b""), kind)
    victim.control.publish()
    victim.assert_well()


@pytest.mark.parametrize("seed", range(4))
def test_rings_of_noise(seed: int) -> None:
    """Record headers, bodies and tails that were never written by ring_commit."""
    draw = random.Random(seed)
    victim = Victim()
    for _ in range(100):
        for ring in (victim.data, victim.control):
            ring.poke(ring.tail, draw.randbytes(draw.randint(8, 300)))
            if draw.random() < 0.5:
                # A header that may pass
                ring.poke(ring.tail, struct.pack("<IHH", draw.randint(0, 400), draw.choice([1, 2, 16, 17, 18, 19, 20]), 0))
            ring.poke_tail(ring.tail + draw.choice([1, 4, 8, 64, 256, 304, RING, RING + 8, 1 << 40]))
        victim.turns(1)
        # The mad writer comes to itself where the reader has gone to.
        for ring in (victim.data, victim.control):
            ring.poke_tail(ring.tail & ~7)
        victim.turns(1)
    assert victim.corrupt() > 50
    for kind in (SNAPSHOT_BEGIN, SNAPSHOT_END):
        victim.control.push(victim.interest(b""), kind)
    victim.control.publish()
    victim.assert_well()


def test_a_process_that_never_was_is_not_believed() -> None:
    """Control records with an epoch that the front has not given out, and of one that is gone."""
    victim = Victim()
    for epoch in (0, 2, 1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        victim.control.push(victim.interest(b"wrong.*", epoch=epoch), PLAIN)
    victim.control.publish()
    victim.assert_well()
    assert victim.shard.match(b"wrong.x")[2] == 0


def test_fragments_that_do_not_fit_together() -> None:
    victim = Victim()
    whole = victim.message(b"a.b", b"z" * 1000)
    total = len(whole)
    for pieces in (
        [(500, total, whole[500:])],                                                     # no beginning
        [(0, total, whole[:500])],                                                       # never finished
        [(0, total, whole[:500]), (400, total, whole[400:])],                            # overlapping
        [(0, total, whole[:500]), (500, total + 1, whole[500:])],                        # of another record
        [(0, total, whole[:500]), (500, total, whole[500:] + b"xx")],                    # too long
        [(0, 0, b"x")], [(0, 10, whole)], [(0, 0xFFFFFFFF, b"x")], [(0, total, b"")],
        [(0, total, bytes(total))], [(0, 3, b"abc")],
    ):  # fmt: skip
        for offset, of, piece in pieces:
            victim.data.push(struct.pack("<II", of, offset) + piece, FRAGMENT, MESSAGE)
        victim.data.publish()
        victim.turns(1)
        for client in (1, 2):
            assert b"zzz" not in victim.shard.take_output(client)
    for at in range(0, total, 100):
        victim.data.push(struct.pack("<II", total, at) + whole[at : at + 100], FRAGMENT, MESSAGE)
    victim.data.publish()
    victim.turns(1)
    for client in (1, 2):
        assert victim.shard.take_output(client) == b"MSG a.b 1 1000\r\n" + b"z" * 1000 + b"\r\n"
    victim.assert_well()


def test_a_directory_of_noise() -> None:
    """Bits of shards that do not exist: messages go to those that do, and nowhere else."""
    victim = Victim()
    directory = Directory(victim.segment.map)
    for shard in (1, 2, 5, 63):
        directory.add(victim.shard.hash(b"a.b"), shard)
        directory.add(victim.shard.hash(b"nobody"), shard)
    for client in (1, 2):
        victim.shard.take_output(client)
    for _ in range(4):
        victim.shard.feed(1, b"PUB a.b 2\r\nhi\r\nPUB nobody 2\r\nhi\r\n")
        victim.turns(1)
    for client in (1, 2):
        assert victim.shard.take_output(client).count(b"MSG a.b 1 2\r\nhi\r\n") == 4
    victim.assert_well()
