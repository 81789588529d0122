"""Several engines over one segment, their turns interleaved at random: the promises of the broker, seed by seed."""

from __future__ import annotations

import random
import re
import struct
from collections import defaultdict

import pytest

from shardbroker.hot.probe import Shard
from shardbroker.shm import stats
from shardbroker.shm.directory import Directory
from shardbroker.shm.layout import SLOT_READY
from shardbroker.shm.ring import RingReader, RingWriter
from shardbroker.shm.segment import Segment
from sim.shards import boot, connect, small_segment

TURN_NS = 1_000_000
FRAME = re.compile(rb"MSG (\S+) (\S+) (\d+)\r\n|P[IO]NG\r\n|INFO [^\n]*\n")
PAIR = 12  # "pppp:nnnnnn|" begins every payload
Message = tuple[int, int]  # publisher, its number


class World:
    """Shards, two clients on each (a publisher and a subscriber), and what the subscribers got."""

    def __init__(self, seed: int, shards: int) -> None:
        self.random = random.Random(seed)
        self.segment: Segment = small_segment(shards, self.random.choice((4096, 8192)))
        self.now = 1_000_000_000
        self.clients = 0
        self.home: dict[int, int] = {}  # client -> shard
        self.sent: dict[int, int] = defaultdict(int)  # publisher -> messages
        self.got: dict[tuple[int, bytes], list[Message]] = defaultdict(list)
        self.pongs: dict[int, int] = defaultdict(int)
        self.rest: dict[int, bytes] = defaultdict(bytes)
        self.shards: list[Shard | None] = [None] * shards
        self.ended: list[Shard] = []  # a killed process frees nothing

    def boot(self, number: int) -> None:
        self.shards[number] = boot(
            self.segment, number, read_bytes=self.random.choice((64, 512, 65536)), overflow_bytes_max=1 << 30
        )

    def shard(self, number: int) -> Shard:
        found = self.shards[number]
        assert found is not None
        return found

    def client(self, number: int) -> int:
        self.clients += 1
        self.home[self.clients] = number
        connect(self.shard(number), self.clients)
        return self.clients

    def feed(self, client: int, data: bytes) -> None:
        assert self.shard(self.home[client]).feed(client, data)

    def publish(self, client: int, subject: bytes) -> None:
        size = self.random.choice((0, 5, 100, 900, 3000)) if self.random.random() < 0.3 else 20
        payload = b"%04d:%06d|" % (client, self.sent[client]) + b"." * size
        self.sent[client] += 1
        self.feed(client, b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload))

    def turn(self, number: int) -> None:
        self.now += TURN_NS
        shard = self.shard(number)
        shard.turn(self.now)
        for client, home in self.home.items():
            if home == number:
                self.take(client, self.rest.pop(client, b"") + shard.take_output(client))

    def take(self, client: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            frame = FRAME.match(data, at)
            if frame is None:
                assert b"\n" not in data[at:], data[at : at + 200]
                break
            end = frame.end()
            if frame[0] == b"PONG\r\n":
                self.pongs[client] += 1
            elif frame[3]:
                if len(data) < end + int(frame[3]) + 2:
                    break
                publisher, number = data[end : end + PAIR - 1].split(b":")
                self.got[client, frame[2]].append((int(publisher), int(number)))
                end += int(frame[3]) + 2
                assert data[end - 2 : end] == b"\r\n"
            at = end
        if at < len(data):
            self.rest[client] = data[at:]

    def some_turns(self, most: int) -> None:
        running = [n for n, shard in enumerate(self.shards) if shard is not None]
        for _ in range(self.random.randint(0, most)):
            self.turn(self.random.choice(running))

    def settle(self) -> None:
        for _ in range(5000):
            busy = [n for n, shard in enumerate(self.shards) if shard is not None and shard.busy()]
            if not busy:
                return
            self.turn(self.random.choice(busy))
        raise AssertionError("the shards do not come to rest")

    def replace(self, number: int) -> None:
        """Its process is killed, perhaps before a turn's flush; the front starts another one."""
        shard = self.shard(number)
        if self.random.random() < 0.5:
            shard.turn(self.now, killed=True)
        self.ended.append(shard)
        self.shards[number] = None
        self.home = {client: home for client, home in self.home.items() if home != number}
        self.segment.map.mark_dead(number)
        Directory(self.segment.map).clear_shard(number)
        self.some_turns(10)
        self.boot(number)
        for _ in range(2000):
            if self.segment.map.slot_row(number).state == SLOT_READY:
                return
            self.some_turns(10)
        raise AssertionError("the new shard is not told all interest")

    def counted(self, name: str) -> list[int]:
        """A statistic of every shard."""
        return [int(n) for n in stats.snapshot(self.segment)[name][: len(self.shards)]]


def in_order(messages: list[Message]) -> None:
    """Of each publisher, no number twice and none before a smaller one."""
    last: dict[int, int] = defaultdict(lambda: -1)
    for publisher, number in messages:
        assert number > last[publisher], (publisher, number, last[publisher])
        last[publisher] = number


def exactly(messages: list[Message], wanted: dict[int, range]) -> None:
    """All of what was published in these ranges of numbers, each once."""
    found = sorted(m for m in messages if m[1] in wanted.get(m[0], ()))
    assert found == sorted((publisher, n) for publisher, numbers in wanted.items() for n in numbers)


def start(world: World, shards: range) -> tuple[list[int], list[int]]:
    """A publisher and a subscriber on each shard; the latter's sids: 1 a pattern, 2 a literal, 3 and 4 queue groups."""
    for number in shards:
        world.boot(number)
    publishers = [world.client(number) for number in shards]
    subscribers = [world.client(number) for number in shards]
    for client in subscribers:
        world.feed(client, b"SUB s.* 1\r\nSUB s.1 2\r\nSUB s.* q 3\r\nSUB s.> p 4\r\n")
    world.settle()
    return publishers, subscribers


def flush_promise(world: World, asking: int, publisher: int) -> None:
    """Who has its PONG gets what is published from then on, on whatever shard."""
    subject = world.random.choice((b"f.%d", b"f.%d.x")) % world.sent[publisher]
    pattern = world.random.choice((subject, subject[:-1] + b"*" if subject.endswith(b".x") else subject))
    sid = b"f" + str(world.now).encode()
    pongs = world.pongs[asking]
    world.feed(asking, b"SUB %b %b\r\nPING\r\n" % (pattern, sid))
    for _ in range(5000):
        if world.pongs[asking] > pongs:
            break
        world.some_turns(3)
    number = world.sent[publisher]
    world.publish(publisher, subject)
    world.settle()
    assert world.got[asking, sid] == [(publisher, number)]
    world.feed(asking, b"UNSUB %b\r\n" % sid)


def delivered_promise(world: World, publisher: int, subscribers: list[int]) -> None:
    """Who has the PONG for a PING behind a PUB may go: the message stands in every subscriber's socket."""
    pongs, number = world.pongs[publisher], world.sent[publisher]
    world.publish(publisher, b"s.1")
    world.feed(publisher, b"PING\r\n")
    for _ in range(5000):
        if world.pongs[publisher] > pongs:
            break
        world.some_turns(3)
    for client in subscribers:
        assert (publisher, number) in world.got[client, b"1"], (client, world.home[client])


def traffic(world: World, publishers: list[int], asking: list[int], rounds: int) -> dict[int, list[int]]:
    """Publishing, subscriptions that come and go, flushes; the numbers of what went to s.1 or s.2."""
    r = world.random
    churners = [world.client(world.home[p]) for p in publishers]
    numbers: dict[int, list[int]] = defaultdict(list)
    for _ in range(rounds):
        kind = r.random()
        if kind < 0.7:
            client = r.choice(publishers)
            for _ in range(r.randint(1, 30)):
                numbers[client].append(world.sent[client])
                world.publish(client, r.choice((b"s.1", b"s.2")))
        elif kind < 0.75:
            client = r.choice(publishers)
            numbers[client].append(world.sent[client])
            delivered_promise(world, client, asking)
        elif kind < 0.95:
            subject = r.choice((b"s.*", b"s.1", b">", b"s.1 churn", b"s.* churn"))
            sid = b"c%d" % r.randint(1, 4)
            data = b"UNSUB %b\r\n" % sid if r.random() < 0.5 else b"SUB %b %b\r\n" % (subject, sid)
            world.feed(r.choice(churners), data)
        else:
            flush_promise(world, r.choice(asking), r.choice(publishers))
        world.some_turns(6)
    for client in churners:
        world.feed(client, b"".join(b"UNSUB c%d\r\n" % n for n in range(1, 5)))
    world.settle()
    return numbers


def check(world: World, subscribers: list[int], numbers: dict[int, list[int]], *, lost: bool = False) -> None:
    """Nothing is lost or twice; one member of each queue group has each message (lost: at most one)."""
    wanted = {(publisher, n) for publisher, some in numbers.items() for n in some}
    for client in subscribers:
        every = [m for m in world.got[client, b"1"] if m in wanted]
        assert sorted(every) == sorted(wanted), client
        for sid in (b"1", b"2", b"3", b"4"):
            in_order(world.got[client, sid])
        assert set(world.got[client, b"2"]) <= set(world.got[client, b"1"])
    for sid in (b"3", b"4"):
        queued = sorted(m for client in subscribers for m in world.got[client, sid] if m in wanted)
        assert len(queued) == len(set(queued))
        assert lost or queued == sorted(wanted)


@pytest.mark.parametrize("seed", range(10))
def test_promises(seed: int) -> None:
    world = World(seed, 2 + seed % 3)
    publishers, subscribers = start(world, range(2 + seed % 3))
    numbers = traffic(world, publishers, subscribers, 120)
    check(world, subscribers, numbers)
    assert not any(world.counted("ring_corrupt"))
    assert any(world.counted("ring_full")), "the rings were never full: too little traffic"


@pytest.mark.parametrize("seed", range(100, 106))
def test_a_replaced_shard_learns_interest(seed: int) -> None:
    count = 2 + seed % 3
    world = World(seed, count)
    publishers, subscribers = start(world, range(count))
    victim = world.random.randrange(count)
    dead = {publishers.pop(victim), subscribers.pop(victim)}
    others = [p for p in publishers if p not in dead]
    # What the others say to each other survives; what is on its way to the killed shard does not.
    before: dict[int, list[int]] = defaultdict(list)
    for _ in range(30):
        client = world.random.choice(others)
        before[client].append(world.sent[client])
        world.publish(client, world.random.choice((b"s.1", b"s.2")))
        world.some_turns(4)
    world.replace(victim)
    world.settle()
    check(world, subscribers, before, lost=True)
    publishers.append(world.client(victim))
    subscribers.append(world.client(victim))
    after = traffic(world, publishers, subscribers[:-1], 40)
    check(world, subscribers[:-1], after)


@pytest.mark.parametrize("ring", ["empty", "full"])
def test_a_pong_waits_for_what_was_published_before_it(ring: str) -> None:
    """Until the other shard has written it to its clients, has died, or has had a second."""
    world = World(7, 3)
    (publisher, *_), (_, near, far) = start(world, range(3))
    world.some_turns(20)
    world.settle()
    numbers = []

    def ask() -> None:
        for _ in range(1 if ring == "empty" else 400):
            numbers.append(world.sent[publisher])
            world.publish(publisher, b"s.1")
        world.feed(publisher, b"PING\r\nPUB s.1 12\r\n%04d:%06d|\r\n" % (publisher, world.sent[publisher]))
        numbers.append(world.sent[publisher])
        world.sent[publisher] += 1
        for _ in range(30):
            world.turn(0)
        assert world.pongs[publisher] == pongs

    def turns_until_pong(*shards: int) -> int:
        for n in range(1, 2000):
            for number in shards:
                world.turn(number)
            if world.pongs[publisher] > pongs:
                return n
        raise AssertionError("no PONG")

    pongs = world.pongs[publisher]
    ask()
    turns_until_pong(0, 1, 2)
    for client in (near, far):
        assert world.got[client, b"1"][: len(numbers) - 1] == [(publisher, n) for n in numbers[:-1]]
    world.settle()

    # A shard that takes no turns: a second, and no more. What it was sent it still gets.
    if ring == "empty":
        pongs = world.pongs[publisher]
        ask()
        assert 900 < turns_until_pong(0) < 1000
        world.settle()
        exactly(world.got[far, b"1"], {publisher: range(len(numbers))})

    # One that dies is not waited for.
    pongs = world.pongs[publisher]
    ask()
    for _ in range(200):
        world.turn(1)
    world.replace(2)
    assert turns_until_pong(0, 1) < 100 or ring == "full"  # then there are publishes left to carry out


def forged(r: random.Random, control: bool) -> tuple[int, bytes]:
    """A record as a shard that has gone mad may write it: (kind, body)."""
    if r.random() < 0.3:
        return r.choice((1, 2, 3, 4, 5, 6, 16, 17, 18, 19, 20, 21, 22)), r.randbytes(
            r.choice((0, 1, 4, 8, 16, 24, 48, 60, 200))
        )
    if control:
        kind = r.choice((16, 17, 18, 19, 20, 21))
        if kind == 21:
            body = struct.pack("<QII", r.randint(0, 5), r.randint(0, 5), r.randint(0, 40))
        elif kind == 20:
            body = struct.pack("<QII", r.randint(0, 5), r.randint(0, 5), r.randint(0, 20))
        else:
            subject = r.choice((b"z", b"z.*", b"z..z", b".", b"", b"\0", b"z.>"))
            queue = r.choice((b"", b"zq")) if kind == 17 else b""
            body = struct.pack("<6I", 1, 0, r.randint(0, 3), len(subject), len(queue), 0) + subject + queue
    elif r.random() < 0.1:
        kind, body = 5, struct.pack("<QII", r.randint(0, 5), r.randint(0, 5), r.randint(0, 40))
    elif r.random() < 0.3:
        kind, body = (
            2,
            struct.pack("<II", r.choice((0, 40, 5000, 1 << 31)), r.choice((0, 20, 40))) + r.randbytes(20),
        )
    else:
        tail = b"2\r\nhi\r\n"
        kind, body = 1, struct.pack("<QQIIiIIIIHBB", 1, 1, 0, 0, -1, 2, 3, 0, 0, 0, 1, 0) + b"z.z " + tail
    spoiled = bytearray(body)
    for _ in range(r.randint(0, 3) if kind < 16 else 0):
        spoiled[r.randrange(len(spoiled))] = r.choice((0, 1, 127, 128, 255))
    return kind, bytes(spoiled[: r.choice((len(spoiled), r.randint(0, len(spoiled))))])


@pytest.mark.parametrize("seed", range(200, 206))
def test_a_corrupt_shard_costs_nothing_but_its_own_messages(seed: int) -> None:
    world = World(seed, 3)
    r = world.random
    world.segment.map.mark_booting(2)
    world.segment.map.mark_ready(2)
    writers = [
        (RingWriter(world.segment.map, 2, to, control), control) for to in (0, 1) for control in (False, True)
    ]
    readers = [RingReader(world.segment.map, to, 2, control) for to in (0, 1) for control in (False, True)]
    publishers, subscribers = start(world, range(2))
    numbers: dict[int, list[int]] = defaultdict(list)
    for _ in range(200):
        for writer, control in writers:
            for _ in range(r.randint(0, 3)):
                kind, body = forged(r, control)
                writer.push(body, kind)
            writer.publish()
        client = r.choice(publishers)
        numbers[client].append(world.sent[client])
        world.publish(client, r.choice((b"s.1", b"s.2")))
        world.some_turns(4)
        for reader in readers:
            reader.read()
            reader.release()
    world.settle()
    check(world, subscribers, numbers)
    assert all(world.counted("ring_corrupt")[:2])
