"""What a sweep says: the knee, how many workers, which ring size, where to put them; and what it cannot say.

The knee is the smallest measured count that no greater one beats by more than 10 % or by more than the two counts' own
spread, whichever is more. Up to there workers are worth their cores; behind it they cost CPU and bring little.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from shardbroker import limits
from shardbroker.tune.sweep import Point, Sweep
from shardbroker.tune.usl import COUNTS_TO_FIT, Fit, fit

GAIN = 0.10
RING_FULL_PER_MILLION = 10  # rings found full for a million messages in: a larger ring is worth a try


@dataclass(frozen=True, slots=True)
class Advice:
    """workers and ring_bytes: what is recommended. doubts: what this machine could not tell."""

    workers: int
    knee: int
    ring_bytes: int
    cpus: tuple[int, ...]
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]
    fit: Fit | None


def knee(made: Sweep) -> Point:
    """See the module's text. There is one measured point at least."""
    points = made.measured()
    for i, point in enumerate(points):
        rate = point.rate(made.workload)
        for other in points[i + 1 :]:
            noise = max(GAIN, point.spread(made.workload), other.spread(made.workload))
            if other.rate(made.workload) > rate * (1 + noise):
                break
        else:
            return point
    return points[-1]


def rings_to_try(made: Sweep) -> list[int]:
    """Ring sizes that are worth measuring at the knee: the default first; none when its rings were hardly ever full."""
    point = knee(made)
    came = point.counter("in_msgs")
    if point.workers < 2 or not came or point.counter("ring_full") / came * 1e6 < RING_FULL_PER_MILLION:
        return []
    return [limits.RING_BYTES, 2 * limits.RING_BYTES, 4 * limits.RING_BYTES]


def ring_bytes(made: Sweep) -> tuple[int, str]:
    """The smallest ring that no greater one beats beyond noise, and why."""
    if not made.rings:
        return (
            limits.RING_BYTES,
            f"rings of {limits.RING_BYTES >> 20} MiB (the default) were hardly ever full",
        )
    best, best_rates = made.rings[0]
    for size, rates in made.rings[1:]:
        noise = max(0.05, _spread(best_rates), _spread(rates))
        if statistics.median(rates) > statistics.median(best_rates) * (1 + noise):
            best, best_rates = size, rates
    tried = ", ".join(f"{size >> 20} MiB" for size, _ in made.rings)
    return (
        best,
        f"rings were full at times; of {tried} the smallest that no greater one beat is {best >> 20} MiB",
    )


def _spread(rates: list[float]) -> float:
    return (max(rates) - min(rates)) / statistics.median(rates)


def advise(made: Sweep, generators: int, cores: int) -> Advice:
    """From whatever was measured (one point at least)."""
    workload = made.workload
    points = made.measured()
    best = knee(made)
    first = points[0]
    reasons = []
    for before, after in pairwise(points):
        gain = after.rate(workload) / before.rate(workload) - 1
        reasons.append(f"{before.workers} → {after.workers} workers: {gain:+.0%} messages/s")
    if len(points) > 1:
        last = points[-1]
        if best is last:
            reasons.append(f"no knee up to {last.workers} workers: each step brought more than {GAIN:.0%}")
        else:
            reasons.append(
                f"the knee is at {best.workers}: no greater count was faster by more than {GAIN:.0%} or the spread of the runs"
            )
    size, why = ring_bytes(made)
    if best.workers > 1:
        reasons.append(why)
    cross = best.cross_shard(workload)
    if cross is not None and best.workers > 1:
        reasons.append(
            f"{cross:.2f} records cross shards for each message: connections are spread over the shards by number, "
            "so what is published on one is mostly wanted on others, too"
        )
    cpus, where = placement(best.workers)
    reasons.append(where)
    return Advice(
        best.workers,
        best.workers,
        size,
        cpus,
        tuple(reasons),
        tuple(doubts(made, generators, cores, first)),
        fit([(point.workers, rate) for point in points for rate in point.rates(workload)]),
    )


def doubts(made: Sweep, generators: int, cores: int, first: Point) -> list[str]:
    """What could not be told on this machine."""
    said = []
    points = made.measured()
    counts = [point.workers for point in points]
    generator = [point.workers for point in points if point.bound_by() == "generator"]
    starved = [point.workers for point in points if point.bound_by() == "cores"]
    if generator:
        said.append(
            f"at {_words(generator)} workers the generators were the limit: the broker can do more than is shown"
        )
    if starved:
        said.append(
            f"at {_words(starved)} workers the cores were exhausted: broker and generators wanted more than the {cores} that "
            "this machine has, so what those counts can do was not seen"
        )
    crowded = [count for count in counts if count + generators > cores]
    if crowded:
        said.append(
            f"{cores} cores for {_words(crowded)} workers and {generators} generator process{'es' if generators > 1 else ''}: "
            "workers shared cores with the load, as they would not with clients on other machines"
        )
    if len(points) < COUNTS_TO_FIT:
        said.append(
            f"{len(points)} worker count{'s' if len(points) > 1 else ''} measured: too few for a scalability curve "
            f"(it needs {COUNTS_TO_FIT}, and more to be trusted)"
        )
    noisy = [point.workers for point in points if point.spread(made.workload) > 0.2]
    if noisy:
        said.append(
            f"runs at {_words(noisy)} workers differ by over 20 %: the machine was not quiet, or --repeat more"
        )
    single = [point.workers for point in points if len(point.rates(made.workload)) < 2]
    if single:
        said.append(f"only one run at {_words(single)} workers: no range is known")
    late = [point.workers for point in points if any(one.late for runs in point.latency for one in runs)]
    if late:
        said.append(
            f"at {_words(late)} workers the generator itself sent late, so latencies there are not the broker's alone"
        )
    if made.interrupted:
        said.append("the sweep was interrupted: what is missing was not measured")
    return said


def _words(counts: list[int]) -> str:
    return ", ".join(str(count) for count in counts)


def placement(workers: int) -> tuple[tuple[int, ...], str]:
    """Processors for the shards: one hardware thread of each core first, of one package before the next; and why."""
    allowed = sorted(os.sched_getaffinity(0))
    keyed = [(*_topology(cpu), cpu) for cpu in allowed]
    first_threads: dict[tuple[int, int], int] = {}
    for package, core, cpu in keyed:
        first_threads.setdefault((package, core), cpu)
    ordered = [cpu for _, cpu in sorted(first_threads.items())]
    siblings = [cpu for cpu in allowed if cpu not in ordered]
    chosen = tuple((ordered + siblings)[:workers])
    if workers > len(allowed):
        return (), f"placement: {workers} workers have {len(allowed)} processors; leave it to the kernel"
    if workers >= len(allowed):
        return (), "placement: as many workers as processors; leave it to the kernel"
    threads = ", one hardware thread of a core each" if siblings and workers <= len(ordered) else ""
    words = ",".join(str(cpu) for cpu in allowed)
    return chosen, (
        f"placement: keep the broker on processor{'s' if workers > 1 else ''} {','.join(map(str, chosen))}{threads}, and clients "
        f"on this machine on others of {words} (taskset -c, or CPUAffinity= of its systemd unit)"
    )


def _topology(cpu: int) -> tuple[int, int]:
    """(package, core) of a processor; itself where the kernel does not say."""
    top = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return int((top / "physical_package_id").read_text()), int((top / "core_id").read_text())
    except (OSError, ValueError):
        return 0, cpu


def fragment(advice: Advice, made: Sweep) -> str:
    """A configuration file that can be used as it is (`-c`), or included in another one."""
    lines = [
        "# Made by `shardbroker tune`. Use it with -c, or include it in your own file.",
        *(f"# {part.share:.0%} {part.load.describe()}" for part in made.workload.parts),
        *(f"# {reason}" for reason in advice.reasons),
        *(f"# Not known: {doubt}" for doubt in advice.doubts),
        f"workers: {advice.workers}",
        f"ring_bytes: {advice.ring_bytes}",
    ]
    return "\n".join(lines) + "\n"
