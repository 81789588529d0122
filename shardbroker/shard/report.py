"""What monitoring reads of a shard: rows of connections and subscriptions, and the words of the questions.

A shard is asked in small steps (monitoring.py), so that none of its turns is long: first a table of numbers, enough to
filter, sort and cut, then the rows of the page only. Who asks (monitor/connz.py) puts the shards' parts together.
Source: monitor.go Connz, ConnInfo, SubDetail.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

# Engine.connection_table: client id, slot, and the numbers below.
TABLE_ROW: Final = struct.Struct("=11Q")
# Slots, rows and subscriptions in one step: about a tenth of a millisecond each.
TABLE_STEP: Final = 256
ROWS_STEP: Final = 32
SUBSCRIPTIONS_STEP: Final = 128
BLOCKS_STEP: Final = 4


class TableRow(NamedTuple):
    """The numbers of an open connection. `activity_ns` is of the shard's monotonic clock; 0: nothing yet."""

    cid: int
    slot: int
    in_msgs: int
    in_bytes: int
    out_msgs: int
    out_bytes: int
    pending_bytes: int
    subscriptions: int
    rtt_ns: int
    activity_ns: int
    stalls: int


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
    # What only some connections have, by its name in /connz: type, tls_version, jwt ...
    more: dict[str, Any] | None = None


class SubscriptionRow(NamedTuple):
    """One subscription."""

    subject: str
    queue: str | None
    sid: str
    delivered: int
    max: int
    cid: int
    account: str = "$G"
