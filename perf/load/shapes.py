"""The table of loads. Each is a shape of connections and its unit; `run(name, target)` does one.

    pub_only_16            [P] --> server                                   nobody listens
    1x1_N                  [P] --> server --> [S]                           N bytes
    fan_out_1xF_N          [P] --> server --> F x [S]                       all get all
    mesh_4x4x16_64         4 x [P] --16 subjects--> server --> 4 x [S]      each subscribed to the 16
    wildcard_1x8x500_64    [P] --500 subjects--> server --> 8 x [S *]       one wildcard each
    queue_2x8_64           2 x [P] --> server --> one of 8 x [S q]
    request_reply*         [requester] <--> server <--> [responder]
    churn                  connect, INFO, CONNECT, PING, PONG, close
    subscribe_C            1M literal SUBs over C connections
    hot_N / spread_N       1x1 with N literal subscriptions: one subject published / all N in turn
    idle_connections       memory of connections that do nothing
    start_and_rest         exec to the first INFO; memory with no connection

Rates count deliveries where there are subscribers and published messages where there are none.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from perf.servers import Server
from shardbroker.bench import LoadError, calls, churn, generator, index_text
from shardbroker.bench.connect import Connection, hello
from shardbroker.bench.histogram import Histogram
from shardbroker.bench.usage import cpu_seconds, memory_bytes, processes

MILLION = 1_000_000
IDLE_CONNECTIONS = 5000
IDLE_CONNECTIONS_FIRST = (
    200  # before the first look at the memory, so that what a server allocates once is in it
)
CHURN_WIDTH = 8

# Loads that any server of plain publish and subscribe can do: payload bytes, publishers, subscribers.
PLAIN = {
    "pub_only_16": (16, 1, 0),
    **{f"1x1_{size}": (size, 1, 1) for size in (16, 128, 1024, 16384)},
    "fan_out_1x8_16": (16, 1, 8),
    "fan_out_1x64_128": (128, 1, 64),
}

Result = dict[str, Any]


@dataclass
class Target:
    """A running server and how to load it. server or pid: for the accounting (neither: no accounting)."""

    host: str
    port: int
    server: Server | None = None
    pid: int = 0
    seconds: float = 2.0
    threads: int = 1
    messages: int = 2**62  # frames per publisher at most (streams only)
    measured: dict[str, float] = field(default_factory=dict)

    def pids(self) -> list[int]:
        pid = self.server.pid if self.server else self.pid
        return processes(pid) if pid else []

    def memory(self) -> dict[str, int]:
        return memory_bytes(self.pids())

    @contextmanager
    def meter(self) -> Iterator[None]:
        """Around the measured part: CPU seconds of the server's processes, and the generator's own.

        Where the generator's come near the wall seconds times its threads, it is what limits.
        """
        pids = self.pids()
        before, own = cpu_seconds(pids), time.process_time()
        yield
        self.measured["load_cpu_seconds"] = time.process_time() - own
        self.measured["cpu_seconds"] = cpu_seconds(pids) - before

    def accounted(self, result: Result) -> Result:
        """A load's figures with the server's CPU seconds and memory, and what follows from them."""
        made = {**result, **self.measured}
        cpu = self.measured.get("cpu_seconds", 0.0)
        if cpu > 0 and "count" in made:
            made["rate_per_cpu_second"] = made["count"] / cpu
            made["cpu_us_each"] = cpu / made["count"] * 1e6
        if "load_cpu_seconds" in made and "seconds" in made:
            made["load_cpu_share"] = made["load_cpu_seconds"] / made["seconds"]
        if self.pids():
            made.update(self.memory())
        return made

    def connect(self, stack: ExitStack, count: int = 1, name: str = "load") -> list[Connection]:
        return [stack.enter_context(Connection(self.host, self.port, name=name)) for _ in range(count)]


@dataclass(frozen=True)
class Shape:
    """A load: `metric` is the figure compared; `lower` says that less of it is better."""

    name: str
    unit: str
    run: Callable[[Target], Result]
    metric: str = "rate"
    lower: bool = False


def run(shape: str | Shape, target: Target) -> Result:
    """One load on a running server. Its figures, CPU and memory included; LoadError when a check fails."""
    target.measured = {}
    return target.accounted((SHAPES[shape] if isinstance(shape, str) else shape).run(target))


# ------------------------------------------------------------------ streams


def run_stream(target: Target, stream: generator.Stream, seconds: float) -> Result:
    """All groups of a stream, each in its thread; the first failure is raised."""
    failures: list[BaseException] = []

    def one(group: int) -> None:
        try:
            stream.run(group)
        except BaseException as failure:
            failures.append(failure)

    with target.meter():
        stream.start(seconds)
        threads = [threading.Thread(target=one, args=(group,)) for group in range(1, stream.groups)]
        for thread in threads:
            thread.start()
        one(0)
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    figures: Result = stream.result()
    return figures


def stream(
    payload_bytes: int,
    publishers: int,
    subscribers: int,
    *,
    subjects: int = 1,
    wildcard: bool = False,
    queue: bool = False,
) -> Callable[[Target], Result]:
    """A load of publishers and subscribers. queue: the subscribers are one group."""

    def load(target: Target) -> Result:
        subject = b"load.topic." if subjects > 1 else b"load.topic"
        with ExitStack() as stack:
            sinks = target.connect(stack, subscribers, "subscriber")
            for sink in sinks:
                if wildcard:
                    sink.subscribe(b"load.topic.* 1")
                elif subjects > 1:
                    sink.subscribe(*(b"%s%s %d" % (subject, index_text(i), i + 1) for i in range(subjects)))
                else:
                    sink.subscribe(b"load.topic workers 1" if queue else b"load.topic 1")
            flows = target.connect(stack, publishers, "publisher")
            made = generator.Stream(
                [flow.fd for flow in flows],
                [sink.fd for sink in sinks],
                subject=subject,
                payload_bytes=payload_bytes,
                subjects=subjects,
                step=coprime_step(subjects),
                wildcard=wildcard,
                exact=not queue,
                copies=1 if queue else subscribers,
                limit=target.messages,
                groups=min(target.threads, publishers + subscribers) if subscribers else 1,
            )
            figures = run_stream(target, made, target.seconds)
            for connection in (*sinks, *flows):
                connection.silent()
        count = figures["received"] if subscribers else figures["published"]
        result = {
            "count": count,
            "seconds": figures["seconds"],
            "rate": count / figures["seconds"],
            "published": figures["published"],
            "bytes_per_second": count * payload_bytes / figures["seconds"],
        }
        if queue:
            result["balance"] = max(figures["per_sink"]) / max(min(figures["per_sink"]), 1)
        return result

    return load


def coprime_step(count: int) -> int:
    """A step that visits all of `count` subjects, far from the last one each time (golden section)."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    return step


def subscriptions(held: int, spread: bool) -> Callable[[Target], Result]:
    """1x1, 16 bytes, with `held` literal subscriptions in the server."""

    def load(target: Target) -> Result:
        with ExitStack() as stack:
            [sink] = target.connect(stack, 1, "subscriber")
            if spread:
                subscribe_all(target, [sink], b"load.topic.", held)
            else:
                subscribe_all(target, target.connect(stack, 1, "ballast"), b"load.other.", held)
                sink.subscribe(b"load.topic.%s 1" % index_text(0))
            [flow] = target.connect(stack, 1, "publisher")
            made = generator.Stream(
                [flow.fd],
                [sink.fd],
                subject=b"load.topic.",
                subjects=held if spread else 1,
                indexed=True,
                copies=1,
                step=coprime_step(held) if spread else 1,
                limit=target.messages,
                groups=min(target.threads, 2),
            )
            figures = run_stream(target, made, target.seconds)
            sink.silent()
        count = figures["received"]
        return {"count": count, "seconds": figures["seconds"], "rate": count / figures["seconds"]}

    return load


def subscribe_all(target: Target, connections: list[Connection], prefix: bytes, count: int) -> Result:
    """`count` literal SUBs over the connections, as fast as they go; figures of the stream."""
    made = generator.Stream(
        [connection.fd for connection in connections],
        [],
        subject=prefix,
        subjects=count,
        indexed=True,
        limit=count // len(connections),
        subscribe=True,
    )
    return run_stream(target, made, 1e9)


def subscribe(connections: int, count: int = MILLION) -> Callable[[Target], Result]:
    def load(target: Target) -> Result:
        with ExitStack() as stack:
            owners = target.connect(stack, connections, "subscriber")
            before = target.memory()
            figures = subscribe_all(target, owners, b"load.topic.", count)
            after = target.memory()
        done = figures["published"]
        return {
            "count": done,
            "seconds": figures["seconds"],
            "rate": done / figures["seconds"],
            "bytes_each": (after["pss_bytes"] - before["pss_bytes"]) / done,
        }

    return load


# ------------------------------------------------------------------ requests, connections, the server itself


def percentiles(parts: list[bytes]) -> Result:
    """p50, p99 and the mean, in microseconds, of histograms."""
    figures = Histogram.of(parts).figures()
    return {key: figures.get(key, 0.0) for key in ("p50_us", "p99_us", "mean_us")}


def request_reply(requesters: int, in_flight: int) -> Callable[[Target], Result]:
    def load(target: Target) -> Result:
        with ExitStack() as stack:
            callers = target.connect(stack, requesters, "requester")
            for i, caller in enumerate(callers):
                caller.subscribe(b"_INBOX.%s.* 1" % index_text(i))
            [responder] = target.connect(stack, 1, "responder")
            responder.subscribe(b"load.service 1")
            made = calls.Calls(
                [caller.fd for caller in callers],
                [responder.fd],
                subject=b"load.service",
                inbox=b"_INBOX.",
                in_flight=in_flight,
            )
            with target.meter():
                made.start(target.seconds)
                began = time.monotonic()
                made.run()
                seconds = time.monotonic() - began
            figures = made.part()
            for connection in (*callers, responder):
                connection.silent()
        count = figures["answered"]
        return {
            "count": count,
            "seconds": seconds,
            "rate": count / seconds,
            **percentiles(figures["latency"]),
        }

    return load


def churn_load(target: Target) -> Result:
    made = churn.Lives(
        ipaddress.IPv4Address(target.host).packed, target.port, width=CHURN_WIDTH, hello=hello("churn")
    )
    with target.meter():
        made.start(target.seconds)
        began = time.monotonic()
        made.run()
        seconds = time.monotonic() - began
    figures = made.part()
    count = figures["answered"]
    return {
        "count": count,
        "seconds": seconds,
        "rate": count / seconds,
        **percentiles(figures["latency"]),
    }


def idle_connections(target: Target) -> Result:
    with ExitStack() as stack:
        target.connect(stack, IDLE_CONNECTIONS_FIRST, "idle")
        before = target.memory()
        with target.meter():
            target.connect(stack, IDLE_CONNECTIONS, "idle")
        after = target.memory()
    return {
        "count": IDLE_CONNECTIONS,
        "bytes_each": (after["pss_bytes"] - before["pss_bytes"]) / IDLE_CONNECTIONS,
        "rss_bytes_each": (after["rss_bytes"] - before["rss_bytes"]) / IDLE_CONNECTIONS,
    }


def start_and_rest(target: Target) -> Result:
    if target.server is None:
        raise LoadError("start_and_rest needs a server that it starts itself")
    return {"start_seconds": target.server.start_seconds, "rest_bytes": target.memory()["pss_bytes"]}


def _table() -> Iterable[Shape]:
    for name, (size, publishers, subscribers) in PLAIN.items():
        yield Shape(name, "msg/s", stream(size, publishers, subscribers))
    yield Shape("mesh_4x4x16_64", "msg/s", stream(64, 4, 4, subjects=16))
    yield Shape("wildcard_1x8x500_64", "msg/s", stream(64, 1, 8, subjects=500, wildcard=True))
    yield Shape("queue_2x8_64", "msg/s", stream(64, 2, 8, queue=True))
    yield Shape("request_reply", "us median", request_reply(1, 1), "p50_us", lower=True)
    yield Shape("request_reply_in_flight_16", "requests/s", request_reply(1, 16))
    yield Shape("request_reply_16_clients", "requests/s", request_reply(16, 1))
    yield Shape("churn", "connections/s", churn_load)
    yield Shape("subscribe_1", "SUB/s", subscribe(1))
    yield Shape("subscribe_8", "SUB/s", subscribe(8))
    for held in (1, 1000, 100_000, MILLION):
        yield Shape(f"hot_{held}", "msg/s", subscriptions(held, spread=False))
    for held in (1, 1000, 100_000, MILLION):
        yield Shape(f"spread_{held}", "msg/s", subscriptions(held, spread=True))
    yield Shape("idle_connections", "bytes each", idle_connections, "bytes_each", lower=True)
    yield Shape("start_and_rest", "s to INFO", start_and_rest, "start_seconds", lower=True)


SHAPES = {shape.name: shape for shape in _table()}
