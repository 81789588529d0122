"""One run of one load: generators started, warmed up, measured, checked; what came of it.

What limits, told by these rules (`bound_by`), for each generator process over the measured part:

    generator   its CPU time is 90 % of the wall time or more: it could not have done more
    cores       CPU time and time spent waiting for a processor together are 90 % or more, or the server's processes
                waited for a processor for a quarter of the time: there would have been more on a machine with more cores,
                or one that nothing else uses
    rate        an open loop: the rate that was asked for was reached, so nothing was at its limit
    waiting     the server's processes together used less than half of one core: with so little in flight, both sides
                wait for each other, and the time of a round trip is what counts
    server      none of these: the generators had time left, so the server (or TCP) was what limited

In an open loop, messages are late when the generator wrote them late: when the 99th percentile of that is half of the
99th percentile of the latency or more, the latency is the generator's, and `late` says so.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from shardbroker.bench import LoadError, interrupt, streams
from shardbroker.bench.connect import Connection, Endpoint
from shardbroker.bench.fleet import Answer, Fleet, Phase, totals
from shardbroker.bench.histogram import Histogram
from shardbroker.bench.shapes import Load, drawn, plans
from shardbroker.bench.usage import cpu_seconds, memory_bytes, processes, waited_seconds

BOUND_SHARE = 0.9
IDLE_SHARE = 0.5
STARVED_SHARE = 0.25
LATE_SHARE = 0.5
RATE_SHARE = 0.98
FOREVER = 1e9
BACKGROUND_NICE = 10
OPEN_FACTOR = (
    3.0  # an open loop that the server cannot follow is given so many times its seconds, then it is cut
)
SINGLE_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Target:
    """The server. endpoint: resolved. pid: of its first process, 0: unknown (no CPU and memory figures).

    statistics: gives a broker's per-shard counters as a list of dicts, or None where there are none.
    """

    endpoint: Endpoint
    pid: int = 0
    statistics: Callable[[], list[dict[str, int]]] | None = None

    def pids(self) -> list[int]:
        return processes(self.pid) if self.pid else []


@dataclass(frozen=True, slots=True)
class Settings:
    """How runs are done. cpus: for each generator process its processors; empty: wherever the kernel likes."""

    generators: int = 1
    cpus: Sequence[Sequence[int]] = ()
    warm_up: float = 0.3
    timeout: float = 20.0


@dataclass(slots=True)
class Outcome:
    """What one run came to. count: units (shapes.py) in `seconds`. Bytes are payload bytes delivered or accepted."""

    load: Load
    count: int
    seconds: float
    published: int = 0
    latency: Histogram | None = None
    lateness: Histogram | None = None
    server_cpu_seconds: float | None = None
    server_waited_seconds: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    memory_growth: int | None = None
    generator_cpu_shares: list[float] = field(default_factory=list)
    generator_busy_shares: list[float] = field(default_factory=list)
    bound_by: str = ""
    late: bool = False
    interrupted: bool = False
    shards: list[dict[str, int]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.count / self.seconds if self.seconds > 0 else 0.0

    @property
    def cross_shard(self) -> float | None:
        """Records that went from one shard to another for each message that came in; None where there are no shards."""
        came = sum(shard["in_msgs"] for shard in self.shards)
        return sum(shard["xs_out_msgs"] for shard in self.shards) / came if came else None

    def as_json(self) -> dict[str, Any]:
        """For programs: plain numbers, with units in the names."""
        load = self.load
        cpu = self.server_cpu_seconds
        return {
            "shape": load.shape,
            "load": load.describe(),
            "options": {
                name: getattr(load, name) for name in Load.__slots__ if name not in ("token", "shape")
            },
            "unit": load.row.unit,
            "count": self.count,
            "published": self.published,
            "seconds": self.seconds,
            "rate": self.rate,
            "latency": self.latency.figures() if self.latency else {},
            "generator_lateness": self.lateness.figures() if self.lateness else {},
            "server_cpu_seconds": cpu,
            "server_waited_seconds": self.server_waited_seconds,
            "server_cpu_us_each": cpu / self.count * 1e6 if cpu is not None and self.count else None,
            "server_memory": self.memory,
            "server_memory_growth_bytes": self.memory_growth,
            "generator_cpu_shares": self.generator_cpu_shares,
            "generator_busy_shares": self.generator_busy_shares,
            "bound_by": self.bound_by,
            "late": self.late,
            "interrupted": self.interrupted,
            "cross_shard": self.cross_shard,
            "shards": self.shards,
            **self.more,
        }


Progress = Callable[
    [str, float, int], None
]  # what happens, how far (0 to 1, negative: unknown), units so far


def run(
    load: Load,
    target: Target,
    settings: Settings,
    progress: Progress | None = None,
    beside: Load | None = None,
) -> Outcome:
    """Do one load. beside: another that goes on meanwhile. LoadError when a check fails, or the server cannot be had."""
    tell = progress or (lambda what, share, count: None)
    interrupt.check()
    tell("connecting", -1, 0)
    with ExitStack() as stack:
        prepared: streams.Prepared | None = None
        if load.is_jetstream:
            prepared = stack.enter_context(streams.prepare(load, target.endpoint, settings, tell))
            made = prepared.plans
        else:
            # One connection first: wrong credentials and the like are told once, and no generator is started for it.
            host, port = target.endpoint.host, target.endpoint.port
            Connection(host, port, endpoint=target.endpoint, timeout_seconds=settings.timeout).close()
            made = plans(load, target.endpoint, settings.generators, settings.timeout)
        made = [
            {**plan, "cpus": list(cpus)} for plan, cpus in zip(made, _cpus(settings, len(made)), strict=True)
        ]
        memory_before = memory_bytes(target.pids())
        other = stack.enter_context(_beside(beside, target, settings)) if beside else None
        fleet = stack.enter_context(Fleet(made, draws=drawn(load)))
        fleet.connect()
        if other:
            other.start()
        # A slow subscriber would still be reading what the warm-up sent it.
        warm_up = 0.0 if load.is_jetstream or load.shape in ("idle", "slow") else settings.warm_up
        if warm_up > 0:
            tell("warming up", -1, 0)
            fleet.make(_limit(load, warm_up))
            if fleet.go(warm_up).interrupted:
                raise KeyboardInterrupt
            fleet.check()
        outcome = _measured(load, target, fleet, tell, prepared)
        outcome.memory_growth = (
            outcome.memory.get("pss_bytes", 0) - memory_before["pss_bytes"] if target.pid else None
        )
        if other:
            outcome.more["background"] = other.stop()
        if load.shape != "slow" and not outcome.interrupted:
            tell("checking", -1, outcome.count)
            fleet.check()
        if prepared:
            outcome.more.update(prepared.check(outcome.count, outcome.interrupted))
        return outcome


def _cpus(settings: Settings, count: int) -> Sequence[Sequence[int]]:
    return settings.cpus[:count] if len(settings.cpus) >= count else [()] * count


def _limit(load: Load, seconds: float) -> int:
    """Messages (of batches: batches) of each publisher or requester at most."""
    each = load.left * _unit(load)
    if load.rate and not load.msgs:
        return max(1, math.ceil(load.rate * seconds / each))
    return max(1, math.ceil(load.msgs / each)) if load.msgs else SINGLE_LIMIT


def _unit(load: Load) -> int:
    """Messages of one request."""
    return load.batch if load.shape == "js-pub-batch" else 1


def _measured(
    load: Load, target: Target, fleet: Fleet, tell: Progress, prepared: streams.Prepared | None
) -> Outcome:
    """The measured phase."""
    limit = _limit(load, load.seconds)
    by_count = bool(load.msgs or load.rate or (prepared and prepared.due))
    bounded = by_count and load.row.kind != "idle"
    seconds = FOREVER if bounded else load.seconds
    if load.rate and not load.msgs:
        seconds = load.seconds * OPEN_FACTOR + 1
    fleet.make(limit)
    due = prepared.due if prepared and prepared.due else limit * _unit(load) * load.left if bounded else 0
    if load.row.kind == "stream" and load.row.right and due:
        due *= load.right if load.shape not in ("queue", "subjects") else 1
    statistics = target.statistics() if target.statistics else []
    pids = target.pids()
    before, waited_before = cpu_seconds(pids), waited_seconds(pids)
    began = time.monotonic()

    def tick(lines: list[tuple[int, int, int, int]]) -> None:
        done = sum(line[0] for line in lines) or sum(line[1] for line in lines)
        share = done / due if due else (time.monotonic() - began) / load.seconds
        tell("measuring", min(share, 1.0), done)

    phase = fleet.go(seconds, tick)
    cpu = cpu_seconds(pids) - before
    outcome = _outcome(load, fleet, phase)
    if pids:
        outcome.server_cpu_seconds = cpu
        outcome.server_waited_seconds = max(0.0, waited_seconds(pids) - waited_before)
        outcome.memory = memory_bytes(target.pids())
    if target.statistics:
        after = target.statistics()
        outcome.shards = [
            {key: value - earlier[key] if key not in GAUGES else value for key, value in now.items()}
            for earlier, now in zip(statistics, after, strict=True)
        ]
    if load.rate and not phase.interrupted:
        outcome.more["rate_wanted"] = load.rate
    outcome.bound_by = bound_by(load, phase.answers, outcome)
    return outcome


GAUGES = (
    "connections",
    "subscriptions",
    "overflow_bytes",
    "overflow_bytes_max",
    "rss_bytes",
    "loop_lag_ns_max",
)


def _outcome(load: Load, fleet: Fleet, phase: Phase) -> Outcome:
    """Figures of the parts, checked against each other."""
    parts = [answer.part for answer in phase.answers]
    latency = Histogram.of(one for part in parts for one in part.get("latency", ()))
    lateness = Histogram.of(one for part in parts for one in part.get("lateness", ()))
    last_ns = max((line[3] for line in phase.lines), default=0)
    seconds = max((last_ns - phase.started_ns) / 1e9, 1e-9)
    more: dict[str, Any] = {}
    published = 0
    if load.row.kind == "stream":
        copies = _copies(load)
        found = totals(fleet.board, parts, phase.started_ns, copies=copies, exact=_exact(load))
        published, seconds = found["published"], found["seconds"]
        count = found["received"] if load.row.right else published
        if load.shape == "queue":
            more["balance"] = max(found["per_sink"]) / max(min(found["per_sink"]), 1)
        if load.shape == "slow":
            slow = [one for part in parts for one in part["slow"]]
            cuts = [ns / 1e9 for _, cut, ns in slow if cut]
            more["slow"] = {
                "consumers": len(slow),
                "cut_by_server": len(cuts),
                # Of one that reads nothing the cut is seen only when it is read in the end.
                "first_cut_seconds": min(cuts, default=None) if load.slow_rate else None,
                "received": [received for received, _, _ in slow],
            }
    else:
        count = sum(part["answered"] for part in parts)
        published = sum(part.get("asked", part["answered"]) for part in parts)
        if published != count:
            raise LoadError(f"{count} answers came, {published} were due")
        if load.row.kind == "idle":
            seconds = max(answer.wall_seconds for answer in phase.answers)
        if any(part.get("acks", (0, 0, 0, 0))[1] for part in parts):
            more["acks"] = streams.acks([part["acks"] for part in parts], _unit(load))
        if load.row.kind == "consume" and not phase.interrupted:
            streams.check_sums(load, fleet.board.sums()[0])
    outcome = Outcome(load, count, seconds, published, interrupted=phase.interrupted, more=more)
    outcome.latency = latency if latency.count else None
    outcome.lateness = lateness if lateness.count else None
    outcome.generator_cpu_shares = [_share(answer.cpu_seconds, answer) for answer in phase.answers]
    outcome.generator_busy_shares = [
        _share(answer.cpu_seconds + answer.waited_seconds, answer) for answer in phase.answers
    ]
    if outcome.latency and outcome.lateness:
        outcome.late = outcome.lateness.percentile(99) >= LATE_SHARE * outcome.latency.percentile(99)
    return outcome


def _share(seconds: float, answer: Answer) -> float:
    return min(seconds / answer.wall_seconds, 1.0) if answer.wall_seconds > 0 else 0.0


def _exact(load: Load) -> bool:
    return load.shape != "queue" and not (load.shape == "subjects" and load.subjects > 1)


def _copies(load: Load) -> int:
    if not load.row.right:
        return 0
    return load.right if _exact(load) else 1


def bound_by(load: Load, answers: Sequence[Answer], outcome: Outcome) -> str:
    """What limited the run: see the module's rules."""
    if load.row.kind == "idle":
        return ""
    if load.rate and outcome.published / outcome.seconds >= RATE_SHARE * load.rate:
        return "rate"
    if max(outcome.generator_cpu_shares, default=0.0) >= BOUND_SHARE:
        return "generator"
    starved = (outcome.server_waited_seconds or 0.0) >= STARVED_SHARE * outcome.seconds
    if starved or max(outcome.generator_busy_shares, default=0.0) >= BOUND_SHARE:
        return "cores"
    if outcome.server_cpu_seconds is not None and outcome.server_cpu_seconds < IDLE_SHARE * outcome.seconds:
        return "waiting"
    return "server"


class _beside:
    """A load that goes on while another one is measured. It is checked as any other."""

    def __init__(self, load: Load, target: Target, settings: Settings) -> None:
        self.load = load
        self._target, self._settings = target, replace(settings, generators=1)
        self._prepared: streams.Prepared | None = None
        self.started_ns = 0

    def __enter__(self) -> _beside:
        with ExitStack() as stack:
            if self.load.is_jetstream:
                made = streams.prepare(self.load, self._target.endpoint, self._settings, lambda what, share, count: None)
                self._prepared = stack.enter_context(made)
                own = self._prepared.plans
            else:
                own = plans(self.load, self._target.endpoint, 1, self._settings.timeout)
            # Where there are fewer cores than processes, what is measured finds one first.
            niced = [{**plan, "nice": BACKGROUND_NICE} for plan in own]
            self.fleet = stack.enter_context(Fleet(niced, draws=drawn(self.load)))
            self.fleet.connect()
            self.fleet.make()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self) -> None:
        self.started_ns = self.fleet.launch(self.load.seconds)

    def stop(self) -> dict[str, Any]:
        """End it in order; its load, rate and latency."""
        self.fleet.board.stop()
        outcome = _outcome(self.load, self.fleet, self.fleet.finish(self.started_ns))
        if self._prepared:
            self._prepared.check(outcome.count, outcome.interrupted)
        return {
            "load": self.load.describe(),
            "rate": outcome.rate,
            "latency": outcome.latency.figures() if outcome.latency else {},
        }


def default_generators(cores: int, workers: int) -> int:
    """Generator processes on a machine of `cores`, beside a server of so many busy ones (0: it runs elsewhere)."""
    return max(1, min(8, cores - workers))


def pinning(generators: int, workers: int) -> tuple[list[list[int]], list[int]]:
    """Processors of each generator, and of the server; both empty where there are not enough for everyone."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < generators + workers:
        return [], []
    return [[cpu] for cpu in cpus[-generators:]], cpus[: len(cpus) - generators]
