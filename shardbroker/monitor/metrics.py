"""/metrics: Prometheus' text format, bounded in size; /metrics/detailed has a series for each connection, account, stream too.

    gnatsd_*, jetstream_*    names, labels and values of nats-io/prometheus-nats-exporter (collector/*.go), with its default
                             prefix: boards and rules made for it go on working
    shardbroker_*            ours: counters and histograms, by shard

The exporter calls everything a gauge; where a name ends as only a counter's (or a histogram's) may, we say counter or nothing,
so that `promtool check metrics` is content.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

import shardbroker
from shardbroker import limits
from shardbroker.monitor.sampler import Sampler
from shardbroker.monitor.source import Statistics
from shardbroker.shm.layout import SLOT_READY

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# The histogram's edges are powers of two of nanoseconds: 1.024 us to 1.1 s. Below and above is little to be told.
LAG_FIRST, LAG_LAST = 10, 30
# objectToMetrics of the exporter: which texts become labels, and which maps are left out.
_TEXTS: Final = frozenset({"server_id", "server_name", "version", "domain", "leader", "name", "start", "config_load_time"})
_SKIPPED: Final = frozenset({"leaf", "trusted_operators_claim"})
# Name, help, field of a row, for counters by shard.
_COUNTERS: Final = (
    ("connections_opened", "Connections taken", "connections_total"),
    ("connections_closed", "Connections ended", "closed_total"),
    ("received_messages", "Messages from clients", "in_msgs"),
    ("received_bytes", "Bytes of messages from clients", "in_bytes"),
    ("sent_messages", "Messages to clients", "out_msgs"),
    ("sent_bytes", "Bytes of messages to clients", "out_bytes"),
    ("cross_shard_received_messages", "Records from other shards", "xs_in_msgs"),
    ("cross_shard_received_bytes", "Bytes of records from other shards", "xs_in_bytes"),
    ("cross_shard_sent_messages", "Records to other shards", "xs_out_msgs"),
    ("cross_shard_sent_bytes", "Bytes of records to other shards", "xs_out_bytes"),
    ("publisher_stalls", "Times that a publisher was slowed for a receiver", "stalls"),
    ("stale_connections", "Connections cut for unanswered PINGs", "stale_connections"),
    ("auth_errors", "Logins refused or too late", "auth_errors"),
    ("protocol_errors", "Connections closed for input that is not the protocol", "protocol_errors"),
    ("loop_turns", "Turns of the loop", "turns"),
    ("loop_turns_python", "Turns that entered Python", "turns_python"),
    ("wakeups_sent", "Doorbells rung", "wakeups_sent"),
    ("wakeups_missed", "Sleeps that ended by the clock with work waiting; always 0", "wakeups_missed"),
    ("ring_full", "Records that found a ring full", "ring_full"),
    ("ring_corrupt", "Records that could not be; always 0", "ring_corrupt"),
    ("queue_redraws", "Queue messages sent on because the member had left", "redraws"),
    ("queue_redraws_lost", "Of these, those that found nobody", "redraws_lost"),
    ("interest_records_sent", "Changes of interest told to other shards", "control_out"),
    ("interest_records_received", "Changes of interest heard from other shards", "control_in"),
    ("route_hits", "Messages whose subject had a route", "route_hits"),
    ("route_misses", "Messages whose subject was matched", "route_misses"),
    ("directory_full", "Subjects that found the directory full", "directory_full"),
)
_GAUGES: Final = (
    ("connections", "Open connections", "connections"),
    ("subscriptions", "Subscriptions", "subscriptions"),
    ("shard_resident_memory_bytes", "Resident memory", "rss_bytes"),
    ("ring_overflow_bytes", "Bytes that wait for shards whose rings are full", "overflow_bytes"),
    ("ring_overflow_bytes_max", "The most that ever waited", "overflow_bytes_max"),
)


class _Registry:
    """What generate_latest asks."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def text(families: Sequence[Metric]) -> bytes:
    """The body."""
    return generate_latest(_Registry(families))


# ---- ours ----


def own(front: Mapping[str, Any], statistics: Statistics, sampler: Sampler, mono_ns: int) -> list[Metric]:
    """shardbroker_*: of the broker and by shard."""
    build = GaugeMetricFamily("shardbroker_build_info", "Which program this is", labels=["version", "nats_version", "python"])
    build.add_metric([shardbroker.__version__, limits.PROTOCOL_VERSION, platform.python_version()], 1)
    found: list[Metric] = [
        build,
        _single("shardbroker_start_time_seconds", "When the broker was started, since 1970", front["start_ns"] / 1e9),
        _single("shardbroker_config_load_time_seconds", "When its settings were read", front["config_load_ns"] / 1e9),
        _single("shardbroker_shards", "Shards that there are", statistics.shards),
        _single("shardbroker_shards_ready", "Shards that serve", statistics.ready()),
    ]
    numbers = range(statistics.shards)
    rows = [statistics.row(number) for number in numbers]
    for name, words, field in _COUNTERS:
        found.append(_by_shard(CounterMetricFamily, name, words, [row[field] for row in rows]))
    for name, words, field in _GAUGES:
        found.append(_by_shard(GaugeMetricFamily, name, words, [row[field] for row in rows]))
    return found + _of_slots(statistics, mono_ns) + _of_rows(rows) + [_lag(statistics, rows)]


def _single(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _by_shard(kind: Any, name: str, words: str, values: Sequence[float]) -> Metric:
    family = kind(f"shardbroker_{name}", words, labels=["shard"])
    for shard, value in enumerate(values):
        family.add_metric([str(shard)], value)
    made: Metric = family
    return made


def _of_slots(statistics: Statistics, mono_ns: int) -> list[Metric]:
    from shardbroker.monitor.shardz import descriptors, ring_fill

    slots = [statistics.slot(number) for number in range(statistics.shards)]
    gauges = (
        ("shard_up", "Whether it serves", [float(slot.state == SLOT_READY) for slot in slots]),
        ("shard_start_time_seconds", "When its process was started", [slot.booted_unix_ns / 1e9 for slot in slots]),
        ("shard_heartbeat_age_seconds", "Since its last turn", [max(mono_ns - slot.heartbeat_ns, 0) / 1e9 for slot in slots]),
        ("shard_open_descriptors", "Open descriptors", [descriptors(slot.pid) for slot in slots]),
        ("ring_fill_ratio", "Of its fullest ring to another", [ring_fill(statistics, n) for n in range(len(slots))]),
    )
    found = [_by_shard(GaugeMetricFamily, *gauge) for gauge in gauges]
    restarts = [slot.restarts for slot in slots]
    return [*found, _by_shard(CounterMetricFamily, "shard_restarts", "Processes before this one", restarts)]


def _of_rows(rows: Sequence[Mapping[str, int]]) -> list[Metric]:
    cpu = CounterMetricFamily("shardbroker_shard_cpu_seconds", "Processor time", labels=["shard", "mode"])
    slow = CounterMetricFamily("shardbroker_slow_consumers", "Connections cut as too slow", labels=["shard", "reason"])
    for shard, row in enumerate(rows):
        cpu.add_metric([str(shard), "user"], row["cpu_user_us"] / 1e6)
        cpu.add_metric([str(shard), "system"], row["cpu_system_us"] / 1e6)
        late = row["slow_consumers_deadline"]
        slow.add_metric([str(shard), "pending_bytes"], row["slow_consumers"] - late)
        slow.add_metric([str(shard), "write_deadline"], late)
    return [cpu, slow]


def _lag(statistics: Statistics, rows: Sequence[Mapping[str, int]]) -> Metric:
    name = "shardbroker_loop_lag_seconds"
    family = Metric(name, "Length of turns: what a client waits while others are served", "histogram")
    for shard, row in enumerate(rows):
        counts = statistics.lag_buckets(shard)
        for at in range(LAG_FIRST, LAG_LAST + 1):
            labels = {"shard": str(shard), "le": repr((1 << at) / 1e9)}
            family.add_sample(f"{name}_bucket", labels, sum(counts[: at + 1]))
        family.add_sample(f"{name}_bucket", {"shard": str(shard), "le": "+Inf"}, sum(counts))
        family.add_sample(f"{name}_count", {"shard": str(shard)}, sum(counts))
        family.add_sample(f"{name}_sum", {"shard": str(shard)}, row["loop_lag_ns_sum"] / 1e9)
    return family


def of_processes(usage: Mapping[str, tuple[float, int, float]]) -> list[Metric]:
    """Of front and monitor: name -> shardz.Processes.usage."""
    memory = GaugeMetricFamily(
        "shardbroker_process_resident_memory_bytes", "Resident memory of a process that is no shard", labels=["process"]
    )
    cpu = CounterMetricFamily(
        "shardbroker_process_cpu_seconds", "Processor time of a process that is no shard", labels=["process"]
    )
    for name, (_, rss, seconds) in usage.items():
        memory.add_metric([name], rss)
        cpu.add_metric([name], seconds)
    return [memory, cpu]


def of_monitor(requests: Mapping[str, int], rejected: Mapping[str, int], certificates: Mapping[str, int]) -> list[Metric]:
    """Of the monitor itself, and when certificates end."""
    served = CounterMetricFamily("shardbroker_http_requests", "Requests to monitoring", labels=["path"])
    for path, count in sorted(requests.items()):
        served.add_metric([path], count)
    away = CounterMetricFamily("shardbroker_http_rejected", "Connections to monitoring turned away", labels=["reason"])
    for reason in ("accept", "connections", "handshake", "slow"):
        away.add_metric([reason], rejected.get(reason, 0))
    ends = GaugeMetricFamily(
        "shardbroker_tls_certificate_expiry_seconds", "When a listener's certificate ends, since 1970", labels=["listener"]
    )
    for listener, end_ns in sorted(certificates.items()):
        ends.add_metric([listener], end_ns / 1e9)
    return [served, away, ends]


def ring_pairs(statistics: Statistics) -> Metric:
    """Each ring; for the detailed page."""
    family = GaugeMetricFamily(
        "shardbroker_ring_pair_fill_ratio", "Of the ring from one shard to another", labels=["writer", "reader"]
    )
    for writer in range(statistics.shards):
        for reader in range(statistics.shards):
            if writer != reader:
                family.add_metric([str(writer), str(reader)], statistics.ring_fill(writer, reader))
    return family


# ---- the exporter's ----


class Families:
    """Families by name, made when a value comes. One name may come with other labels too: of a sum and of its parts."""

    def __init__(self) -> None:
        self._by_name: dict[str, Metric] = {}

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        family = self._by_name.get(name)
        if family is None:
            kind = kind_of(name)
            # The help is the name, as there. The library puts _total behind a counter's name itself.
            own = name.removesuffix("_total") if kind == "counter" else name
            family = self._by_name[name] = Metric(own, name.partition("_")[2], kind)
        family.add_sample(name, dict(labels), value)

    def all(self) -> list[Metric]:
        return list(self._by_name.values())


def kind_of(name: str) -> str:
    """Of a metric with one of the exporter's names."""
    if name.endswith("_api_total"):
        return "counter"
    return "unknown" if name.endswith(("_total", "_count", "_bucket", "_info")) else "gauge"


def flattened(families: Families, prefix: str, body: Mapping[str, Any], server_id: str, path: str = "") -> None:
    """Every number of a JSON answer, and some texts as labels (objectToMetrics of collector.go)."""
    for key, value in body.items():
        name = f"{path}_{key}".replace("/", "_").strip("_")
        while "__" in name:
            name = name.replace("__", "_")
        if name in _SKIPPED:
            continue
        full = f"{prefix}_{name}"
        if isinstance(value, Mapping):
            flattened(families, prefix, value, server_id, f"{path}_{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            families.add(full, {"server_id": server_id}, value)
        elif isinstance(value, str) and key in _TEXTS:
            moment = milliseconds(value)
            if moment >= 0:
                families.add(full, {"server_id": server_id}, moment)
            else:
                families.add(full, {"server_id": server_id, "value": value}, 1)


def milliseconds(text: str) -> float:
    """A time of RFC 3339 as milliseconds since 1970; -1: it is none."""
    from datetime import datetime

    if len(text) < 20 or not text[:4].isdigit() or text[10] != "T":
        return -1
    try:
        whole = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    except ValueError:
        return -1
    fraction = text[19:].removeprefix(".").removesuffix("Z")
    return round(whole * 1000) + (int(fraction.ljust(3, "0")[:3]) if fraction.isdigit() else 0)


def duration_milliseconds(text: str) -> float:
    """What myUptime writes: 1y2d3h4m5s."""
    units = {"y": 365 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
    total, digits = 0, ""
    for letter in text:
        if letter.isdigit():
            digits += letter
        else:
            total += int(digits or 0) * units.get(letter, 0)
            digits = ""
    return total * 1000
