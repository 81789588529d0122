"""What grows: subscriptions, connections, subjects, shards, payloads. A load for each, and the numbers it is run with.

Each gives the server's CPU time per message (`ns`, user and system, all its processes) at saturation, and where it holds
something, its memory per thing (`bytes_each`, PSS). All runs are checked as in perf.load.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from perf.load.shapes import Target, coprime_step, run_stream, subscribe_all
from shardbroker.bench import generator, index_text
from shardbroker.bench.connect import Connection

Point = dict[str, float]
FEW = 1000                              # from so many on, memory per thing means something
SOURCES = 3                             # addresses that connections come from: one has 28,000 ports


def _each(target: Target, count: float, held: int, before: int, after: int) -> Point:
    point = {"ns": target.measured["cpu_seconds"] / count * 1e9, "rate": count / target.measured["seconds"]}
    return {**point, "bytes_each": (after - before) / held} if held >= FEW else point


def _flow(target: Target, stack: ExitStack, sinks: list[Connection], *, subject: bytes, payload_bytes: int = 16,
          subjects: int = 1, indexed: bool = False, wildcard: bool = False, publishers: int = 1) -> int:
    """A stream to sinks that are subscribed already. How many messages they got."""
    flows = target.connect(stack, publishers, "publisher")
    made = generator.Stream(
        [flow.fd for flow in flows], [sink.fd for sink in sinks], subject=subject, payload_bytes=payload_bytes,
        subjects=subjects, indexed=indexed, wildcard=wildcard, step=coprime_step(subjects), copies=len(sinks),
        limit=target.messages,
    )
    figures = run_stream(target, made, target.seconds)
    target.measured["seconds"] = figures["seconds"]
    for connection in (*sinks, *flows):
        connection.silent()
    return int(figures["received"])


def subscriptions_hot(target: Target, count: int) -> Point:
    """One subject is published; a connection holds `count` others."""
    with ExitStack() as stack:
        [sink, ballast] = target.connect(stack, 2, "subscriber")
        before = target.memory()["pss_bytes"]
        subscribe_all(target, [ballast], b"load.other.", count)
        after = target.memory()["pss_bytes"]
        sink.subscribe(b"load.topic.%s 1" % index_text(0))
        got = _flow(target, stack, [sink], subject=b"load.topic.", indexed=True)
    return _each(target, got, count, before, after)


def subscriptions_spread(target: Target, count: int) -> Point:
    """The subscriber holds `count` subscriptions and all these subjects are published in turn."""
    with ExitStack() as stack:
        [sink] = target.connect(stack, 1, "subscriber")
        before = target.memory()["pss_bytes"]
        subscribe_all(target, [sink], b"load.topic.", count)
        after = target.memory()["pss_bytes"]
        got = _flow(target, stack, [sink], subject=b"load.topic.", subjects=count, indexed=True)
    return _each(target, got, count, before, after)


def connections(target: Target, count: int) -> Point:
    """One publisher, one subscriber, and `count` connections that do nothing."""
    with ExitStack() as stack:
        target.connect(stack, 100, "idle")      # what a server allocates once
        [sink] = target.connect(stack, 1, "subscriber")
        before = target.memory()["pss_bytes"]
        for i in range(count):
            source = f"127.0.0.{2 + i % SOURCES}"
            stack.enter_context(Connection(target.host, target.port, name="idle", source=source))
        after = target.memory()["pss_bytes"]
        sink.subscribe(b"load.topic 1")
        got = _flow(target, stack, [sink], subject=b"load.topic")
    return _each(target, got, count, before, after)


def subjects(target: Target, count: int) -> Point:
    """`count` subjects in turn to one subscriber of `load.topic.*`."""
    with ExitStack() as stack:
        [sink] = target.connect(stack, 1, "subscriber")
        sink.subscribe(b"load.topic.* 1")
        got = _flow(target, stack, [sink], subject=b"load.topic.", subjects=count, indexed=True, wildcard=True)
    return _each(target, got, 0, 0, 0)


def shards(target: Target, count: int) -> Point:
    """Four publishers, four subscribers that get all of it, on so many shards. Memory: of all processes."""
    with ExitStack() as stack:
        sinks = target.connect(stack, 4, "subscriber")
        for sink in sinks:
            sink.subscribe(b"load.topic 1")
        got = _flow(target, stack, sinks, subject=b"load.topic", payload_bytes=64, publishers=4)
        memory = target.memory()["pss_bytes"]
    return {**_each(target, got, 0, 0, 0), "bytes_all": memory}


def payload(target: Target, count: int) -> Point:
    """One publisher, one subscriber, messages of `count` bytes."""
    with ExitStack() as stack:
        [sink] = target.connect(stack, 1, "subscriber")
        sink.subscribe(b"load.topic 1")
        got = _flow(target, stack, [sink], subject=b"load.topic", payload_bytes=count)
    return _each(target, got, 0, 0, 0)


@dataclass(frozen=True)
class Growth:
    """`load(target, n)` for each n of `numbers`, on a server of `spec` (with {n} the number)."""

    of: str
    numbers: tuple[int, ...]
    load: Callable[[Target, int], Point]
    spec: str = "shardbroker:1"


GROWTHS = {
    "subscriptions_hot": Growth("subscriptions", (1, 10, 100, 1000, 10_000, 100_000, 1_000_000), subscriptions_hot),
    "subscriptions_spread": Growth("subscriptions", (1, 10, 100, 1000, 10_000, 100_000, 1_000_000), subscriptions_spread),
    "connections": Growth("connections", (1, 10, 100, 1000, 10_000), connections),
    "subjects": Growth("subjects", (1, 10, 100, 1000, 10_000, 100_000, 1_000_000), subjects),
    "shards": Growth("shards", (1, 2, 3, 4, 6, 8), shards, "shardbroker:{n}"),
    "payload": Growth("bytes of payload", (16, 64, 256, 1024, 2048, 4096, 16_384, 65_536, 262_144, 1_000_000), payload),
}
