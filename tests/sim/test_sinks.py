"""The broker's own subscriptions and messages: sinks, publishing from inside, requests between shards, hooks' events."""

from __future__ import annotations

import pytest

from shardbroker.hot.engine import EVENTS, Engine
from shardbroker.hot.probe import Shard
from shardbroker.shm.segment import Segment
from sim.shards import boot, connect, small_segment


class World:
    """Shards with one client each: client 10 + shard."""

    def __init__(self, shards: int, ring_bytes: int = 4096) -> None:
        self.segment: Segment = small_segment(shards, ring_bytes)
        self.now = 1_000_000_000
        self.shards: list[Shard] = [boot(self.segment, number) for number in range(shards)]
        self.turns()
        for number, shard in enumerate(self.shards):
            connect(shard, 10 + number)
        self.turns()
        for number, shard in enumerate(self.shards):
            shard.take_output(10 + number)
        self.events()

    def turns(self, count: int = 6) -> None:
        for _ in range(count):
            self.now += 1_000_000
            for shard in self.shards:
                shard.turn(self.now)

    def engine(self, shard: int) -> Engine:
        return self.shards[shard].engine

    def events(self) -> list[list[tuple[object, ...]]]:
        return [shard.engine.take_events() for shard in self.shards]

    def of_kind(self, shard: int, kind: str) -> list[tuple[object, ...]]:
        return [event[1:] for event in self.engine(shard).take_events() if event[0] == EVENTS[kind]]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_sink_gets_what_is_published_anywhere_in_order(shards: int) -> None:
    world = World(shards)
    sink = world.engine(0).sink()
    sid = world.engine(0).sink_subscribe(sink, b"orders.*")
    other = world.engine(0).sink_subscribe(sink, b"literal")
    world.turns()
    for shard in range(shards):
        data = b"PUB orders.a in.box 3\r\nabc\r\nHPUB orders.b 16 19\r\nNATS/1.0\r\nA:\r\n\r\nxyz\r\n"
        assert world.shards[shard].feed(10 + shard, data + b"PUB literal 0\r\n\r\nPUB orders.a.b 1\r\nx\r\n")
    world.turns()
    assert (
        world.of_kind(0, "message")
        == [
            (sink, sid, b"orders.a", b"in.box", b"", b"abc"),
            (sink, sid, b"orders.b", b"", b"NATS/1.0\r\nA:\r\n\r\n", b"xyz"),
            (sink, other, b"literal", b"", b"", b""),
        ]
        * shards
    )


@pytest.mark.parametrize("shards", [1, 2])
def test_a_sink_is_interest_and_no_client(shards: int) -> None:
    world = World(shards)
    before = world.engine(0).memory()
    sink = world.engine(0).sink()
    sids = [world.engine(0).sink_subscribe(sink, subject) for subject in (b"a", b"b.*", b"c.>")]
    world.turns()
    assert all(engine.interest(b"b.x") for engine in map(world.engine, range(shards)))
    assert len(world.engine(0).connections()) == 1
    assert world.engine(0).all_subscriptions() == []
    assert world.engine(0).all_subscriptions(b"a") == []
    # A request is answered by nobody, but it has a responder.
    asker = shards - 1
    world.shards[asker].feed(10 + asker, b"SUB in.box 1\r\nPUB a in.box 0\r\n\r\n")
    world.turns()
    assert b"503" not in world.shards[asker].take_output(10 + asker)
    world.engine(0).sink_unsubscribe(sink, sids[0])
    world.turns()
    assert not world.engine(asker).interest(b"a")
    assert world.engine(asker).interest(b"c.1.2")
    world.engine(0).sink_close(sink)
    world.turns()
    assert not world.engine(asker).interest(b"c.1.2")
    world.shards[asker].feed(10 + asker, b"UNSUB 1\r\n")
    world.turns()
    assert world.engine(0).memory() | {"routes": 0} == before | {"routes": 0}


def test_a_closed_sink_gets_nothing_more() -> None:
    world = World(1)
    sink = world.engine(0).sink()
    world.engine(0).sink_subscribe(sink, b"a")
    world.shards[0].feed(10, b"PUB a 1\r\n1\r\nPUB a 1\r\n2\r\nPUB a 1\r\n3\r\n")
    world.turns(1)
    assert len(world.of_kind(0, "message")) == 3
    world.engine(0).sink_close(sink)
    world.shards[0].feed(10, b"PUB a 1\r\n4\r\n")
    world.turns()
    assert world.of_kind(0, "message") == []
    with pytest.raises(ValueError, match="invalid subject"):
        world.engine(0).sink_subscribe(world.engine(0).sink(), b"a..b")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("size", [0, 5, 1500, 3000, 20000])
def test_what_the_broker_publishes_shows_the_subject_it_is_given(shards: int, size: int) -> None:
    """Records larger than half a ring (2 KiB here) go in pieces."""
    world = World(shards)
    for shard in range(shards):
        world.shards[shard].feed(10 + shard, b"SUB deliver.here 7\r\nSUB deliver.* 7777\r\n")
    world.turns()
    payload = b"p" * size
    for _ in range(3):  # a match, then a route
        sent = world.engine(0).publish(
            b"deliver.here", payload, reply=b"$JS.ACK.x", headers=b"NATS/1.0\r\nA: b\r\n\r\n", shown=b"orders.new"
        )
        assert sent == 2 + (shards - 1)
        plain = world.engine(0).publish(b"deliver.here", payload)
        assert plain == sent
    world.turns(40)
    for shard in range(shards):
        out = world.shards[shard].take_output(10 + shard)
        for sid in (b"7", b"7777"):
            head = b"HMSG orders.new %b $JS.ACK.x %d %d\r\nNATS/1.0\r\nA: b\r\n\r\n" % (sid, 18, 18 + size)
            assert out.count(head) == 3, out[:300]
            assert out.count(b"MSG deliver.here %b %d\r\n%b\r\n" % (sid, size, payload)) == 3


def test_publishing_tells_when_a_ring_is_full() -> None:
    world = World(2)
    world.shards[1].feed(11, b"SUB far 1\r\n")
    world.turns()
    sent = 0
    for number in range(200):
        sent += world.engine(0).publish(b"far", b"%03d" % number + b"x" * 100)
    assert sent == 200
    world.turns(60)
    out = world.shards[1].take_output(11)
    assert [int(out.split(b"\r\n")[at][:3]) for at in range(1, 401, 2)] == list(range(200))


def test_requests_of_clients_are_intercepted() -> None:
    world = World(2)
    engine = world.engine(1)
    engine.intercept([b"$JS.API.", b"!$JS.API.CONSUMER.MSG.NEXT."])
    slot = world.shards[1].slots[11]
    world.shards[1].feed(
        11,
        b"SUB in.box 1\r\nSUB $JS.API.> 2\r\nPUB $JS.API.INFO in.box 2\r\n{}\r\nPUB $JS.API 1\r\nx\r\n"
        b"PUB $JS.API.CONSUMER.MSG.NEXT.s.c in.box 1\r\n1\r\nPUB $JS.OTHER in.box 0\r\n\r\n",
    )
    world.turns(1)
    assert world.of_kind(1, "request") == [(slot, 11, b"$JS.API.INFO", b"in.box", b"", b"{}", b"$G")]
    out = world.shards[1].take_output(11)
    assert b"MSG $JS.API.INFO 2 in.box 2\r\n{}\r\n" in out  # who subscribes sees it all the same
    assert out.count(b"503") == 1 and b"Nats-Subject: $JS.OTHER\r\n" in out
    for wrong in ([b"JS."], [b"$" * 65], [b"$A."] * 17, [b""]):
        with pytest.raises(ValueError, match="prefix"):
            engine.intercept(wrong)


@pytest.mark.parametrize("size", [0, 10, 5000, 100_000])
def test_requests_between_shards_follow_what_was_published(size: int) -> None:
    """The control side of a shard is told behind the messages that went the same way before, however large it is."""
    world = World(2, 8192)
    sink = world.engine(1).sink()
    sid = world.engine(1).sink_subscribe(sink, b"s")
    world.turns()
    data = bytes(at % 251 for at in range(size))
    for number in range(5):
        world.shards[0].feed(10, b"PUB s 1\r\n%d\r\n" % number)
        world.turns(1)
        world.engine(0).send_peer(1, b"%d" % number + data)
        world.turns(60)  # else a publisher would wait for room in the ring
    got = [event for event in world.engine(1).take_events() if event[0] in (EVENTS["message"], EVENTS["peer"])]
    want: list[tuple[object, ...]] = []
    for number in range(5):
        want.append((EVENTS["message"], sink, sid, b"s", b"", b"", b"%d" % number))
        want.append((EVENTS["peer"], 0, b"%d" % number + data))
    assert got == want
    assert world.engine(0).peer_ready(1) and world.engine(0).peer_epoch(1) == 1
    with pytest.raises(ValueError, match="no other shard"):
        world.engine(0).send_peer(0, b"")
    with pytest.raises(ValueError, match="too many"):
        world.engine(0).send_peer(1, bytes(20 << 20))
