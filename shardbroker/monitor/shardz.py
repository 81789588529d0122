"""/shardz: what each shard does. Ours; read from shared memory, no shard is asked.

Rates, processor use and loop lag are of the last second (sampler.py); counters grow while the broker runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import psutil

from shardbroker.monitor.sampler import Sampler, percentile
from shardbroker.monitor.source import Statistics
from shardbroker.monitor.times import rfc3339, uptime
from shardbroker.shm.layout import SLOT_STATES

RATES: Final = {
    "in_msgs": "in_msgs", "in_bytes": "in_bytes", "out_msgs": "out_msgs", "out_bytes": "out_bytes",
    "xs_in_msgs": "xs_in_msgs", "xs_out_msgs": "xs_out_msgs", "turns": "turns", "connections": "connections_total",
    "closed": "closed_total",
}  # fmt: skip
COUNTERS: Final = (
    "connections", "connections_total", "closed_total", "subscriptions", "in_msgs", "in_bytes", "out_msgs", "out_bytes",
)  # fmt: skip
EVENTS: Final = (
    "slow_consumers", "slow_consumers_deadline", "stalls", "stale_connections", "auth_errors", "protocol_errors",
    "wakeups_sent", "wakeups_missed", "turns", "turns_python", "route_hits", "route_misses", "redraws", "redraws_lost",
    "control_out", "control_in", "directory_full",
)  # fmt: skip


def descriptors(pid: int) -> int:
    """Open descriptors of a process; -1 where that cannot be told."""
    path = f"/proc/{pid}/fd"
    try:
        # Newer kernels say the number as the size of the directory.
        return os.stat(path).st_size or len(os.listdir(path))
    except OSError:
        return -1


class Processes:
    """Memory and processor use of the processes that keep no row: front and monitor."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def usage(self, pid: int) -> tuple[float, int, float]:
        """(percent of one core since the last call, resident bytes, processor seconds); zeros when it has gone."""
        try:
            process = self._known.setdefault(pid, psutil.Process(pid))
            with process.oneshot():
                times = process.cpu_times()
                return process.cpu_percent(), process.memory_info().rss, times.user + times.system
        except psutil.Error:
            self._known.pop(pid, None)
            return 0.0, 0, 0.0


def ring_fill(statistics: Statistics, shard: int) -> float:
    """Of a shard's fullest outbound ring, 0 to 1."""
    return max((statistics.ring_fill(shard, reader) for reader in range(statistics.shards)), default=0.0)


def shardz(
    front: Mapping[str, Any], statistics: Statistics, sampler: Sampler, processes: Processes, now_ns: int, mono_ns: int
) -> dict[str, Any]:
    """The page. now_ns since 1970, mono_ns of the monotonic clock."""
    numbers = range(statistics.shards)
    shards = [_shard(statistics, sampler, number, now_ns, mono_ns) for number in numbers]
    pids = {"front": front["pid"], "monitor": front["monitor_pid"]}
    usage = {name: processes.usage(pid) for name, pid in pids.items() if pid}
    return {
        "server_id": front["server_id"],
        "server_name": front["server_name"],
        "now": rfc3339(now_ns),
        "start": rfc3339(front["start_ns"]),
        "uptime": uptime(now_ns - front["start_ns"]),
        "interval_seconds": round(sampler.seconds, 3),
        "shards_ready": statistics.ready(),
        "processes": {
            name: {"pid": pids[name], "cpu": round(cpu, 1), "mem": rss} for name, (cpu, rss, _) in usage.items()
        },
        "total": _total(statistics, sampler, shards),
        "shards": shards,
    }


def _numbers(rows: list[dict[str, int]], rates: dict[str, float], lags: list[int], fill: float) -> dict[str, Any]:
    """What a shard and all together have in common."""

    def added(name: str) -> int:
        return sum(row[name] for row in rows)

    def greatest(name: str) -> int:
        return max(row[name] for row in rows)

    inside, outside = rates["in_msgs"], rates["xs_in_msgs"]
    return {
        **{name: added(name) for name in COUNTERS},
        "rates": {name: round(rate, 1) for name, rate in rates.items()},
        "cross_shard": {
            "out_msgs": added("xs_out_msgs"), "out_bytes": added("xs_out_bytes"), "in_msgs": added("xs_in_msgs"),
            "in_bytes": added("xs_in_bytes"),
            # Records sent for each message that came from a client: with several shards that want one, more than 1.
            "out_share": round(min(1.0, rates["xs_out_msgs"] / inside), 4) if inside else 0.0,
            "in_share": round(outside / (outside + inside), 4) if outside else 0.0,
        },
        "loop_lag": {
            "p50_us": round(percentile(lags, 0.5) / 1e3, 3), "p99_us": round(percentile(lags, 0.99) / 1e3, 3),
            "p999_us": round(percentile(lags, 0.999) / 1e3, 3), "max_us": round(greatest("loop_lag_ns_max") / 1e3, 3),
        },
        "rings": {
            "fill": round(fill, 4), "full": added("ring_full"), "corrupt": added("ring_corrupt"),
            "overflow_bytes": added("overflow_bytes"), "overflow_bytes_max": greatest("overflow_bytes_max"),
        },
        **{name: added(name) for name in EVENTS},
    }  # fmt: skip


def _shard(statistics: Statistics, sampler: Sampler, number: int, now_ns: int, mono_ns: int) -> dict[str, Any]:
    slot, row = statistics.slot(number), statistics.row(number)
    rates = {name: sampler.rate(number, counter) for name, counter in RATES.items()}
    return {
        "shard": number,
        "pid": slot.pid,
        "state": SLOT_STATES[slot.state],
        "epoch": slot.epoch,
        "restarts": slot.restarts,
        "start": rfc3339(slot.booted_unix_ns),
        "uptime": uptime(now_ns - slot.booted_unix_ns),
        "heartbeat_age": round(max(mono_ns - slot.heartbeat_ns, 0) / 1e9, 3),
        "cpu": sampler.cpu_percent(number),
        "mem": row["rss_bytes"],
        "descriptors": descriptors(slot.pid),
        **_numbers([row], rates, sampler.lags(number), ring_fill(statistics, number)),
    }


def _total(statistics: Statistics, sampler: Sampler, shards: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = range(statistics.shards)
    rates = {name: sum(sampler.rate(number, counter) for number in numbers) for name, counter in RATES.items()}
    lags = [sum(counts) for counts in zip(*(sampler.lags(number) for number in numbers), strict=True)]
    busy = [shard["rates"]["in_msgs"] + shard["rates"]["out_msgs"] for shard in shards]
    return {
        "cpu": round(sum(shard["cpu"] for shard in shards), 1),
        "mem": sum(shard["mem"] for shard in shards),
        "descriptors": sum(max(shard["descriptors"], 0) for shard in shards),
        "restarts": sum(shard["restarts"] for shard in shards),
        # The busiest shard against the mean: 1.0 is even.
        "imbalance": round(max(busy) * len(busy) / sum(busy), 3) if sum(busy) else 0.0,
        **_numbers(
            [statistics.row(number) for number in numbers],
            rates,
            lags,
            max(shard["rings"]["fill"] for shard in shards),
        ),
    }
