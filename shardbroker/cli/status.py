"""`shardbroker status`: what the shards of a running broker do, from its shared statistics.

Finds brokers by their control sockets in /proc/net/unix, gets the segment's descriptor, reads it twice. The broker is
asked once and does no work for the numbers. Exit status: 0 all shards serve, 3 some do not, 1 no broker or no access.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardbroker.control.requests import SOCKET_PREFIX
from shardbroker.errors import BrokerError
from shardbroker.ipc.handoff import receive_packet
from shardbroker.monitor.times import uptime
from shardbroker.shm import stats
from shardbroker.shm.layout import SLOT_READY, SLOT_STATES
from shardbroker.shm.ring import ring_info
from shardbroker.shm.segment import Segment

EXIT_OK, EXIT_FAILED, EXIT_UNHEALTHY = 0, 1, 3
ANSWER_SECONDS = 5.0
PACKET_BYTES_MAX = 256 << 10


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard's line; the total has the shard -1. Rates are per second, times nanoseconds."""

    shard: int
    pid: int
    state: str
    up_ns: int
    connections: int
    subscriptions: int
    in_msgs_rate: float
    out_msgs_rate: float
    in_bytes_rate: float
    out_bytes_rate: float
    lag_ns_p99: float
    ring_fill: float  # of its fullest outbound ring, 0 to 1
    overflow_bytes: int
    rss_bytes: int
    cpu: float  # processors in use
    slow_consumers: int
    restarts: int


def brokers() -> list[int]:
    """Process numbers of the brokers of this network namespace."""
    found = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        name = line.rpartition(" ")[2]
        if name.startswith(f"@{SOCKET_PREFIX}") and name[len(SOCKET_PREFIX) + 1 :].isdigit():
            found.append(int(name[len(SOCKET_PREFIX) + 1 :]))
    return sorted(set(found))


def attach(pid: int) -> tuple[dict[str, Any], Segment]:
    """A broker's description and its segment, read-only. Raises BrokerError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(f"\0{SOCKET_PREFIX}{pid}")
            sock.send(orjson.dumps({"op": "attach", "id": 1}))
            data, descriptors = receive_packet(sock, PACKET_BYTES_MAX)
        except TimeoutError as error:
            raise BrokerError(f"broker {pid} does not answer") from error
        except OSError as error:
            raise BrokerError(f"no broker has the process number {pid}: {error.strerror}") from error
    if not data or not descriptors:
        raise BrokerError(f"broker {pid} gives no access: only root and the user it runs as may ask")
    return orjson.loads(data), Segment.attach(descriptors[0], writable=False)


def measure(segment: Segment, seconds: float) -> list[ShardStatus]:
    """Two looks so many seconds apart; one line per shard and the total."""
    before, began = stats.snapshot(segment), time.monotonic()
    time.sleep(seconds)
    after = stats.snapshot(segment)
    rates = stats.rates(before, after, time.monotonic() - began)
    slots = stats.slots(segment)
    buckets = after["loop_lag_buckets"] - before["loop_lag_buckets"]
    now_ns = time.time_ns()
    lines = []
    for shard, (slot, row) in enumerate(zip(slots, after, strict=True)):
        lines.append(
            ShardStatus(
                shard=shard,
                pid=int(slot["pid"]),
                state=SLOT_STATES[int(slot["state"])],
                up_ns=now_ns - int(slot["booted_unix_ns"]),
                connections=int(row["connections"]),
                subscriptions=int(row["subscriptions"]),
                in_msgs_rate=float(rates["in_msgs"][shard]),
                out_msgs_rate=float(rates["out_msgs"][shard]),
                in_bytes_rate=float(rates["in_bytes"][shard]),
                out_bytes_rate=float(rates["out_bytes"][shard]),
                lag_ns_p99=stats.percentiles(buckets[shard], [0.99])[0],
                ring_fill=_ring_fill(segment, shard),
                overflow_bytes=int(row["overflow_bytes"]),
                rss_bytes=int(row["rss_bytes"]),
                cpu=float(rates["cpu_user_us"][shard] + rates["cpu_system_us"][shard]) / 1e6,
                slow_consumers=int(row["slow_consumers"]),
                restarts=int(slot["restarts"]),
            )
        )
    ready = all(int(slot["state"]) == SLOT_READY for slot in slots)
    lag = stats.percentiles(buckets.sum(axis=0), [0.99])[0]
    return [*lines, _total(lines, lag, "READY" if ready else "DEGRADED")]


def _ring_fill(segment: Segment, shard: int) -> float:
    shards = segment.map.shards
    if shards == 1:
        return 0.0
    infos = [ring_info(segment.map, shard, reader) for reader in range(shards) if reader != shard]
    fills = [(info.tail - info.head) / info.capacity for info in infos if info is not None]
    # The two cursors are not read at one moment.
    return min(1.0, max([0.0, *fills]))


def _total(lines: list[ShardStatus], lag_ns_p99: float, state: str) -> ShardStatus:
    def added(name: str) -> Any:
        return sum(getattr(line, name) for line in lines)

    return ShardStatus(
        shard=-1,
        pid=0,
        state=state,
        up_ns=max(line.up_ns for line in lines),
        connections=added("connections"),
        subscriptions=added("subscriptions"),
        in_msgs_rate=added("in_msgs_rate"),
        out_msgs_rate=added("out_msgs_rate"),
        in_bytes_rate=added("in_bytes_rate"),
        out_bytes_rate=added("out_bytes_rate"),
        lag_ns_p99=lag_ns_p99,
        ring_fill=max(line.ring_fill for line in lines),
        overflow_bytes=added("overflow_bytes"),
        rss_bytes=added("rss_bytes"),
        cpu=added("cpu"),
        slow_consumers=added("slow_consumers"),
        restarts=added("restarts"),
    )


# Turns that take so long keep clients waiting that somebody will notice; nearly full rings hold their writers.
LAG_NS_HIGH = 100e6
RING_FILL_HIGH = 0.9


def problems(lines: list[ShardStatus]) -> list[str]:
    """What is not as it should be, worst first; the total is the last line."""
    found = [f"shard {line.shard} is {line.state}" for line in lines[:-1] if line.state != "READY"]
    for line in lines[:-1]:
        if line.state != "READY":
            continue
        if line.overflow_bytes:
            found.append(f"shard {line.shard} has {_size(line.overflow_bytes)} for shards that do not take them")
        elif line.ring_fill > RING_FILL_HIGH:
            found.append(f"a ring of shard {line.shard} is {line.ring_fill * 100:.0f} % full")
        if line.lag_ns_p99 > LAG_NS_HIGH:
            found.append(f"turns of shard {line.shard} take {_time(line.lag_ns_p99)}")
    return found


def health_line(front: dict[str, Any], lines: list[ShardStatus]) -> str:
    """All in one line: who, since when, and what is wrong."""
    up = _shorter(uptime(time.time_ns() - front["start_ns"]))
    options = front["options"]
    who = f"{front['server_name']} on {options['host']}:{options['port']}, pid {front['pid']}, up {up}"
    return f"{who}: {', '.join(problems(lines)) or 'healthy'}"


def table(lines: list[ShardStatus]) -> Table:
    """What people see."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    columns = (
        "shard", "pid", "up", "conns", "subs", "in msg/s", "out msg/s", "lag p99", "ring", "overflow", "rss", "cpu",
        "restarts",
    )  # fmt: skip
    for column in columns:
        shown.add_column(column, justify="left" if column == "shard" else "right", no_wrap=True)
    for line in lines:
        total = line.shard < 0
        serving = line.state == "READY"
        shown.add_row(
            "total" if total else str(line.shard),
            "" if total else str(line.pid) if serving else line.state,
            "" if total else _shorter(uptime(line.up_ns)),
            f"{line.connections:,}",
            f"{line.subscriptions:,}",
            f"{line.in_msgs_rate:,.0f}",
            f"{line.out_msgs_rate:,.0f}",
            _time(line.lag_ns_p99),
            f"{line.ring_fill * 100:.0f} %",
            _size(line.overflow_bytes),
            _size(line.rss_bytes),
            f"{line.cpu * 100:.0f} %",
            str(line.restarts),
            style=None if serving or total else "red",
        )
    return shown


def as_json(front: dict[str, Any], lines: list[ShardStatus]) -> dict[str, Any]:
    """What programs see."""
    rows = [{name: getattr(line, name) for name in ShardStatus.__slots__} for line in lines]
    total = {name: value for name, value in rows.pop().items() if name not in ("shard", "pid")}
    names = ("server_id", "server_name", "pid", "start_ns")
    where = {name: front["options"][name] for name in ("host", "port")}
    body = {name: front[name] for name in names} | where | {"problems": problems(lines)}
    return body | {"shards": rows, "total": total}


def _shorter(text: str) -> str:
    """The two largest units: "3d4h"."""
    ends = [at for at, letter in enumerate(text) if letter.isalpha()]
    return text[: ends[1] + 1] if len(ends) > 1 else text


def _time(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:.1f} {unit}"
    return f"{ns:.0f} ns"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


@click.command(name="status")
@click.option("--pid", type=int, help="Process number of the broker, when several run.")
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
@click.option(
    "--interval", type=click.FloatRange(0.05, 60), default=1.0, show_default=True, help="Seconds of rates."
)
def status(pid: int | None, json_wanted: bool, interval: float) -> None:
    """Show what the shards of a running broker do."""
    try:
        front, segment = attach(pid if pid is not None else _only_broker())
        lines = measure(segment, interval)
    except BrokerError as error:
        print(f"shardbroker status: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    if json_wanted:
        sys.stdout.buffer.write(orjson.dumps(as_json(front, lines), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        # A pipe is as wide as the table needs.
        out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        out.print(table(lines))
        style = "red" if lines[-1].state != "READY" else "yellow" if problems(lines) else "green"
        out.print(Text(health_line(front, lines), style=style), soft_wrap=True)
    sys.exit(EXIT_OK if lines[-1].state == "READY" else EXIT_UNHEALTHY)


def _only_broker() -> int:
    found = brokers()
    if not found:
        raise BrokerError("no broker is running here. Start one with: shardbroker")
    if len(found) > 1:
        mine = [
            pid
            for pid in found
            if os.path.exists(f"/proc/{pid}") and os.stat(f"/proc/{pid}").st_uid == os.geteuid()
        ]
        if len(mine) != 1:
            raise BrokerError(f"several brokers run; choose one with --pid: {', '.join(map(str, found))}")
        return mine[0]
    return found[0]
