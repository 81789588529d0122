"""The micro benchmarks by name. A case makes a loop, how many operations one pass of it is, and the sum of one pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from perf.micro import inputs
from perf.micro.hot_loops import Matcher, Output, Parser, Router, Shards
from perf.micro.shm_loops import Bell, Changes, Lookups, Ring
from shardbroker.hot.probe import Shard
from shardbroker.shm.directory import Directory
from shardbroker.shm.doorbell import Doorbell
from shardbroker.shm.probe import mixed
from shardbroker.shm.ring import RingReader, RingWriter

READ_BYTES = 256 * 1024                 # one read of the broker


class Loop(Protocol):
    def run(self, passes: int, /) -> int: ...


class Made(NamedTuple):
    loop: Loop
    operations: int                     # of one pass
    total: int                          # of one pass: what run() must return


@dataclass(frozen=True)
class Case:
    name: str
    operation: str                      # what one operation is
    make: Callable[[], Made]


# ---- parser, sublist, routes ----


def parse(payload_bytes: int, *, reply: bytes = b"", headers: bool = False) -> Callable[[], Made]:
    def make() -> Made:
        count = min(1000, READ_BYTES // (payload_bytes + 80))
        data, total = inputs.publishes(inputs.subjects(count), payload_bytes, reply=reply, headers=headers)
        return Made(Parser(data), count, total)

    return make


def parse_sub() -> Made:
    data, total = inputs.subscribes(inputs.subjects(1000))
    return Made(Parser(data), 1000, total)


def held(interest: list[bytes], queue: bytes = b"") -> list[Shard]:
    """One engine with a client that holds these subscriptions."""
    shards = inputs.engines()
    inputs.client(shards, 0, inputs.PUBLISHER, inputs.subscribes(interest, queue)[0])
    return shards


def match(literals: int, wild: int = 0) -> Callable[[], Made]:
    """Subjects that are all subscribed to, among so many literals and patterns."""

    def make() -> Made:
        names = inputs.subjects(max(literals, 1000 if wild else 1))
        interest = names[:literals] + (inputs.patterns(wild, names) if wild else [])
        asked = names[:: max(1, len(names) // (200 if wild else 1000))] * (1 if len(names) > 1 else 1000)
        [shard] = held(interest)
        return Made(Matcher(shard.engine, asked), len(asked), inputs.found(asked, interest))

    return make


def route(count: int, repeats: int = 1, wild: int = 0) -> Callable[[], Made]:
    """So many subjects in turn, all subscribed to; the routes are kept as the broker keeps them."""

    def make() -> Made:
        names = inputs.subjects(count)
        interest = names + (inputs.patterns(wild, names) if wild else [])
        [shard] = held(interest)
        return Made(Router(shard.engine, names * repeats), count * repeats, repeats * inputs.found(names, interest))

    return make


def route_once() -> Made:
    """Reply subjects that come once, as a requester's inbox makes them: caught by one pattern."""
    names = inputs.subjects(20_000, tokens=1, prefix="_INBOX.k3j4h5g6f7d8s9a0.")
    [shard] = held([b"_INBOX.k3j4h5g6f7d8s9a0.*", *inputs.subjects(1000)])
    return Made(Router(shard.engine, names), len(names), len(names))


# ---- a whole shard, two shards ----


def turn(payload_bytes: int, subscribers: int, *, names: int = 1, pattern: bytes = b"", queue: bytes = b"",
         shards: int = 1, subscribers_on: int = 0) -> Callable[[], Made]:
    """One read of PUBs: parsed, routed, delivered. Subscribers on shard 0 or, over the ring, on 1."""

    def make() -> Made:
        made = inputs.engines(shards)
        topics = inputs.subjects(names, tokens=3, prefix="load.")
        sids = [b"SUB %s%s 1\r\n" % (pattern or topics[0], b" " + queue if queue else b"")]
        for i in range(subscribers):
            inputs.client(made, subscribers_on, inputs.PUBLISHER + 1 + i, sids[0])
        slot = inputs.client(made, 0, inputs.PUBLISHER)
        count = min(1000, READ_BYTES // (payload_bytes + 60))
        asked = (topics * count)[:count]
        data, _ = inputs.publishes(asked, payload_bytes)
        loop = Shards(made[0].engine, slot, inputs.PUBLISHER, data, made[1].engine if shards > 1 else None)
        return Made(loop, count, inputs.delivered_bytes(asked, payload_bytes, 1 if queue else subscribers))

    return make


def subscribe(interest: list[bytes], queue: bytes = b"") -> Callable[[], Made]:
    """SUB and UNSUB of each, on top of 1000 other subscriptions; a PING at the end."""

    def make() -> Made:
        shards = held(inputs.subjects(1000, prefix="held."))
        slot = inputs.client(shards, 0, inputs.PUBLISHER + 1)
        middle = b" " + queue if queue else b""
        data = b"".join(b"SUB %s%s %d\r\nUNSUB %d\r\n" % (s, middle, i, i) for i, s in enumerate(interest, 1))
        loop = Shards(shards[0].engine, slot, inputs.PUBLISHER + 1, data + b"PING\r\n")
        return Made(loop, len(interest), len(b"PONG\r\n"))

    return make


def publish_after_change() -> Made:
    """A subscription that no message matches comes and goes before every message: the message's route must survive."""
    shards = inputs.engines()
    inputs.client(shards, 0, inputs.PUBLISHER + 1, b"SUB load.topic 1\r\n")
    slot = inputs.client(shards, 0, inputs.PUBLISHER)
    message, count = b"PUB load.topic 16\r\n%s\r\n" % (b"x" * 16), 1000
    data = b"".join(b"SUB other.%d.* 1\r\nUNSUB 1\r\n%s" % (i, message) for i in range(count))
    return Made(Shards(shards[0].engine, slot, inputs.PUBLISHER, data), count,
                inputs.delivered_bytes([b"load.topic"] * count, 16, 1))


# ---- output, ring, doorbell, directory ----


def output(how: str, frame_bytes: int, frames: int) -> Callable[[], Made]:
    def make() -> Made:
        return Made(Output(how, frame_bytes, frames), frames, frame_bytes * frames)

    return make


def ring(body_bytes: int) -> Callable[[], Made]:
    def make() -> Made:
        shared, records, batch = inputs.segment(2), 4096, 64
        loop = Ring(RingWriter(shared.map, 0, 1), RingReader(shared.map, 0, 1), body_bytes, records, batch)
        return Made(loop, records, records * (records + 1) // 2)

    return make


def doorbell(sleeps: bool) -> Callable[[], Made]:
    def make() -> Made:
        eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        return Made(Bell(Doorbell(inputs.segment(2).map, 1, eventfd), 1000, sleeps), 1000, 1000 if sleeps else 0)

    return make


def lookups(keys: int, hit: bool) -> Callable[[], Made]:
    def make() -> Made:
        directory = Directory(inputs.segment(2).map)
        held_keys = [mixed(i) | 1 for i in range(keys)]
        for i, key in enumerate(held_keys):
            assert directory.add(key, i % 3)
        step = max(1, keys // 1000)
        asked = held_keys[::step] if hit else [mixed(keys + i) | 1 for i in range(1000)]
        return Made(Lookups(directory, asked), len(asked), sum(1 << i * step % 3 for i in range(len(asked))) if hit else 0)

    return make


def changes() -> Made:
    return Made(Changes(Directory(inputs.segment(2).map), [mixed(i) | 1 for i in range(1000)], 3), 1000, 1000)


def _table() -> Iterator[Case]:
    for size in (16, 128, 1024, 16384):
        yield Case(f"parse_pub_{size}", "PUB", parse(size))
    yield Case("parse_request_16", "PUB with reply", parse(16, reply=b"_INBOX.k3j4h5g6f7d8s9a0.q1w2e3r4"))
    yield Case("parse_hpub_128", "HPUB", parse(128, headers=True))
    yield Case("parse_sub", "SUB", parse_sub)
    for count in (1, 1000, 100_000):
        yield Case(f"match_literal_{count}", "match", match(count))
    for count in (10, 1000):
        yield Case(f"match_pattern_{count}", "match", match(1, wild=count))
    yield Case("route_hit_1", "route", route(1, repeats=1000))
    yield Case("route_hit_1000", "route", route(1000))
    yield Case("route_crowded_10000", "route", route(10_000))
    yield Case("route_once", "route", route_once)
    yield Case("subscribe_literal", "SUB + UNSUB", subscribe(inputs.subjects(1000)))
    yield Case("subscribe_pattern", "SUB + UNSUB", subscribe(inputs.patterns(1000, inputs.subjects(1000))))
    yield Case("subscribe_queue", "SUB + UNSUB", subscribe(inputs.subjects(1000), b"workers"))
    yield Case("publish_after_change", "SUB + UNSUB + PUB", publish_after_change)
    yield Case("shard_nobody_16", "message", turn(16, 0))
    for size in (16, 128, 1024, 16384):
        yield Case(f"shard_1x1_{size}", "message", turn(size, 1))
    yield Case("shard_fan_8_16", "message", turn(16, 8))
    yield Case("shard_fan_64_128", "message", turn(128, 64))
    yield Case("shard_pattern_8x500_64", "message", turn(64, 8, names=500, pattern=b"load.>"))
    yield Case("shard_queue_8_64", "message", turn(64, 8, queue=b"workers"))
    for size in (16, 128, 1024, 16384):
        yield Case(f"shards_2_1x1_{size}", "message", turn(size, 1, shards=2, subscribers_on=1))
    yield Case("shards_2_fan_8_16", "message", turn(16, 8, shards=2, subscribers_on=1))
    yield Case("shards_2_local_16", "message", turn(16, 1, shards=2))
    for size in (16, 128, 1024):
        yield Case(f"output_append_{size}", "frame", output("append", size, 1000))
    yield Case("output_borrow_4096", "frame", output("borrow", 4096, 400))
    yield Case("output_keep_4096", "frame", output("keep", 4096, 400))
    for size in (64, 256, 1024, 16384):
        yield Case(f"ring_{size}", "record", ring(size))
    yield Case("doorbell_awake", "look", doorbell(False))
    yield Case("doorbell_asleep", "wake-up", doorbell(True))
    for keys in (1000, 100_000):
        yield Case(f"directory_hit_{keys}", "lookup", lookups(keys, hit=True))
    yield Case("directory_miss_1000", "lookup", lookups(1000, hit=False))
    yield Case("directory_change", "add + remove", changes)


CASES = {case.name: case for case in _table()}
