"""What `shardbroker top` shows: two looks at a server's /varz and /connz (and /shardz), and the rates between them.

Columns and the order of them are nats-top's. Works with any nats-server: what it does not say is left empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from shardbroker.cli.fetch import FetchError, get_json

# nats-top's names for /connz?sort=, and those that newer servers have.
SORTS: Final = (
    "cid", "subs", "pending", "msgs_to", "msgs_from", "bytes_to", "bytes_from", "last", "idle", "uptime", "rtt", "start",
)  # fmt: skip
COLUMNS: Final = (
    "HOST", "CID", "NAME", "SUBS", "PENDING", "MSGS_TO", "MSGS_FROM", "BYTES_TO", "BYTES_FROM", "LANG", "VERSION",
    "UPTIME", "LAST_ACTIVITY",
)  # fmt: skip
SHARD_COLUMNS: Final = (
    "SHARD", "PID", "STATE", "UPTIME", "CONNS", "SUBS", "IN_MSGS/S", "OUT_MSGS/S", "IN_BYTES/S", "OUT_BYTES/S", "CPU%",
    "MEM", "LAG_P99_US", "RING%", "CROSS%", "RESTARTS",
)  # fmt: skip
_RATES: Final = ("in_msgs", "in_bytes", "out_msgs", "out_bytes")

Fetch = Callable[[str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Look:
    """One look. `rates`: per second, 0 at the first. `shards`: rows of /shardz; None where the server has none."""

    varz: dict[str, Any]
    connections: list[dict[str, Any]]
    total: int
    rates: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_RATES, 0.0))
    shards: list[dict[str, Any]] | None = None


class Poller:
    """Looks again and again."""

    def __init__(self, url: str, seconds: float, ca_file: str = "", *, fetch: Fetch | None = None) -> None:
        self._url = url
        self._fetch = fetch or (lambda path: get_json(url + path, seconds, ca_file))
        self._before: tuple[float, dict[str, Any]] | None = None
        self._shards_served = True

    def look(self, sort: str, limit: int, *, subscriptions: bool = False, shards: bool = False) -> Look:
        """Raises FetchError."""
        varz = self._fetch("/varz")
        subs = "&subs=1" if subscriptions else ""
        connz = self._fetch(f"/connz?limit={limit}&sort={sort}{subs}")
        now = time.monotonic()
        rates = dict.fromkeys(_RATES, 0.0)
        if self._before is not None and self._before[1].get("server_id") == varz.get("server_id"):
            seconds = max(now - self._before[0], 1e-9)
            for name in _RATES:
                rates[name] = max(0.0, _number(varz, name) - _number(self._before[1], name)) / seconds
        self._before = (now, varz)
        listed = connz.get("connections")
        rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
        return Look(varz, rows, int(_number(connz, "total")), rates, self._shards() if shards else None)

    def _shards(self) -> list[dict[str, Any]] | None:
        if not self._shards_served:
            return None
        try:
            listed = self._fetch("/shardz").get("shards")
        except FetchError as error:
            if error.status == 404:
                self._shards_served = False
                return None
            raise
        return [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else None


def _number(body: dict[str, Any], name: str) -> float:
    value = body.get(name, 0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def connection_row(row: dict[str, Any], host: Callable[[str], str], raw: bool) -> list[str]:
    """A connection's cells, in the order of COLUMNS. `host(ip)` names an address; `raw`: whole numbers, not 1.5K."""
    show = whole if raw else short
    return [
        f"{host(text(row, 'ip'))}:{text(row, 'port')}",
        text(row, "cid"),
        text(row, "name"),
        text(row, "subscriptions"),
        show(_number(row, "pending_bytes")),
        show(_number(row, "out_msgs")),
        show(_number(row, "in_msgs")),
        show(_number(row, "out_bytes")),
        show(_number(row, "in_bytes")),
        text(row, "lang"),
        text(row, "version"),
        text(row, "uptime"),
        text(row, "last_activity"),
    ]


def shard_row(row: dict[str, Any], raw: bool) -> list[str]:
    """A shard's cells, in the order of SHARD_COLUMNS."""
    show = whole if raw else short
    rates, lag, rings, cross = (_part(row, name) for name in ("rates", "loop_lag", "rings", "cross_shard"))
    return [
        text(row, "shard"),
        text(row, "pid"),
        text(row, "state"),
        text(row, "uptime"),
        text(row, "connections"),
        text(row, "subscriptions"),
        *(show(_number(rates, name)) for name in ("in_msgs", "out_msgs", "in_bytes", "out_bytes")),
        f"{_number(row, 'cpu'):.1f}",
        show(_number(row, "mem")),
        f"{_number(lag, 'p99_us'):.0f}",
        f"{100 * _number(rings, 'fill'):.0f}",
        f"{100 * _number(cross, 'out_share'):.0f}",
        text(row, "restarts"),
    ]


def _part(row: dict[str, Any], name: str) -> dict[str, Any]:
    part = row.get(name)
    return part if isinstance(part, dict) else {}


def text(row: dict[str, Any], name: str) -> str:
    """A cell without anything that steers a terminal: names are what clients call themselves."""
    shown = str(row.get(name, ""))[:80]
    return shown if shown.isprintable() else "".join(c if c.isprintable() else "?" for c in shown)


def short(count: float) -> str:
    """1.5K, 12.0M: nats-top's way."""
    for unit in ("", "K", "M", "G"):
        if abs(count) < 1024:
            return f"{count:.1f}{unit}" if unit else f"{count:.0f}"
        count /= 1024
    return f"{count:.1f}T"


def whole(count: float) -> str:
    return f"{count:.0f}"
