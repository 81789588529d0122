"""What /connz and /subsz need of a shard: rows to filter, sort and cut, here for one shard and in the monitor for all.

A shard answers with at most `offset + limit` rows, in order, and with the number of all: the monitor merges these, sorts
once more and cuts. So a page costs the same whatever the number of connections, save for the walk over them.
Source: monitor.go Connz, monitor_sort_opts.go.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

LIMIT_DEFAULT = 1024
# What a query may ask to skip or to get; above it no server has anything (and nobody computes with 2^63).
OFFSET_MAX = 1 << 31


class ConnectionRow(NamedTuple):
    """One connection, open or closed. Times are nanoseconds since 1970; `stop_ns` is 0 while it is open."""

    cid: int
    ip: str
    port: int
    start_ns: int
    last_activity_ns: int
    stop_ns: int
    reason: int
    rtt_ns: int
    pending_bytes: int
    in_msgs: int
    out_msgs: int
    in_bytes: int
    out_bytes: int
    stalls: int
    subscriptions: int
    name: str
    lang: str
    version: str
    user: str
    account: str = "$G"
    # [subject, queue or None, sid, delivered, max] of each, when asked for
    subs: list[list[Any]] | None = None


class SubscriptionRow(NamedTuple):
    """One subscription."""

    subject: str
    queue: str | None
    sid: str
    delivered: int
    max: int
    cid: int
    account: str = "$G"


def _uptime(row: ConnectionRow) -> int:
    # Of two open connections the later started has the shorter uptime; `now` is the same for both.
    return (row.stop_ns or 1 << 62) - row.start_ns


# Name -> (key, descending). Only cid, start, uptime and reason ascend, as in monitor.go.
SORTS: dict[str, tuple[Callable[[ConnectionRow], Any], bool]] = {
    "": (operator.attrgetter("cid"), False),
    "cid": (operator.attrgetter("cid"), False),
    "start": (operator.attrgetter("cid"), False),
    "subs": (operator.attrgetter("subscriptions"), True),
    "pending": (operator.attrgetter("pending_bytes"), True),
    "msgs_to": (operator.attrgetter("out_msgs"), True),
    "msgs_from": (operator.attrgetter("in_msgs"), True),
    "bytes_to": (operator.attrgetter("out_bytes"), True),
    "bytes_from": (operator.attrgetter("in_bytes"), True),
    "last": (operator.attrgetter("last_activity_ns"), True),
    "idle": (operator.attrgetter("last_activity_ns"), False),
    "uptime": (_uptime, False),
    "stop": (operator.attrgetter("stop_ns"), True),
    "reason": (operator.attrgetter("reason"), False),
    "rtt": (operator.attrgetter("rtt_ns"), True),
}


def sort_rows(rows: Sequence[ConnectionRow], sort: str) -> list[ConnectionRow]:
    """Rows in the order of a /connz query."""
    key, descending = SORTS[sort]
    return sorted(rows, key=key, reverse=descending)
