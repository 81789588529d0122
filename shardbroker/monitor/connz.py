"""/connz: gathered from the shards in small steps, sorted and cut here. Source: monitor.go Connz, monitor_sort_opts.go.

    table of numbers of all open connections  ->  filtered, sorted, cut  ->  whole rows of the page, their subscriptions
    blocks of closed ones, unpacked here      ->

So what a shard does for a page is a copy of its counters and the rows that are shown, whatever it is sorted by.
"""

from __future__ import annotations

import base64
import operator
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, NamedTuple

from shardbroker.auth.model import GLOBAL_ACCOUNT
from shardbroker.errors import close_text
from shardbroker.monitor.query import ConnzQuery
from shardbroker.monitor.source import Source
from shardbroker.monitor.times import rfc3339, rtt_duration, uptime
from shardbroker.shard.closed import ClosedConnections
from shardbroker.shard.report import ROWS_STEP, TABLE_ROW, ConnectionRow, SubscriptionRow, TableRow
from shardbroker.subject import collides, is_valid_subject

# Subscriptions shown on one page. nats-server has no bound; a client with a million would fill the memory of who asks.
SUBSCRIPTIONS_MAX: Final = 100_000
# What an answer says only to who asks for `auth`, beside user and account.
AUTH_ONLY: Final = ("jwt", "issuer_key", "tags", "tls_peer_certs", "name_tag")


class Brief(NamedTuple):
    """What a connection is sorted by, and where it is: a slot of a shard, or a row that is here already."""

    cid: int
    start_ns: int
    stop_ns: int
    last_activity_ns: int
    reason: int
    rtt_ns: int
    pending_bytes: int
    in_msgs: int
    out_msgs: int
    in_bytes: int
    out_bytes: int
    subscriptions: int
    shard: int
    slot: int
    row: ConnectionRow | None


def _uptime(now_ns: int) -> Callable[[Brief], int]:
    return lambda brief: (brief.stop_ns or now_ns) - brief.start_ns


# Name -> (key, descending). Only cid, start, uptime and reason ascend.
SORTS: Final[dict[str, tuple[Callable[[Brief], Any], bool]]] = {
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
    # The longest idle first: it was active the longest ago.
    "idle": (operator.attrgetter("last_activity_ns"), False),
    "stop": (operator.attrgetter("stop_ns"), True),
    "reason": (lambda brief: close_text(brief.reason), False),
    "rtt": (operator.attrgetter("rtt_ns"), True),
}


def sorted_briefs(briefs: Iterable[Brief], sort: str, now_ns: int) -> list[Brief]:
    """In the order of a query."""
    key, descending = (_uptime(now_ns), False) if sort == "uptime" else SORTS[sort]
    return sorted(briefs, key=key, reverse=descending)


async def connz(source: Source, query: ConnzQuery, server_id: str, now_ns: int) -> dict[str, Any]:
    """The page."""
    body: dict[str, Any] = {"server_id": server_id, "now": rfc3339(now_ns)}
    briefs: list[Brief] = []
    total = 0
    if query.state in ("open", "all"):
        async for part in tables(source, query):
            briefs += part
        total += len(briefs)
    if query.state in ("closed", "all"):
        closed = [brief async for brief in _closed(source)]
        if query.acc:
            closed = [brief for brief in closed if brief.row is not None and brief.row.account == query.acc]
        total += len(closed)
        briefs += closed
    briefs = await _chosen(source, query, briefs)
    if query.user or query.mqtt_client or query.filter_subject or query.cid:
        total = len(briefs)
    briefs = sorted_briefs(briefs, query.sort, now_ns)[query.offset :][: query.limit]
    rows = await _rows(source, briefs)
    subs = await _subscriptions(source, query, briefs)
    shown = [
        _connection(rows[brief.cid], brief.shard, query, subs.get(brief.cid, []), now_ns)
        for brief in briefs
        if brief.cid in rows
    ]
    body |= {"num_connections": len(shown), "total": total, "offset": query.offset, "limit": query.limit}
    return body | {"connections": shown}


# ---- gathering ----


async def tables(source: Source, query: ConnzQuery) -> AsyncIterator[list[Brief]]:
    """The open connections' numbers, a step of a shard at a time."""
    asked = {"acc": query.acc, "starts": query.sort == "uptime"}
    for shard in range(source.statistics.shards):
        first = 0
        while first >= 0:
            part = await source.ask(shard, "table", {**asked, "first": first})
            if part is None:
                break
            first = part["next"]
            starts = part.get("starts")
            offset = part["offset_ns"]
            found = map(TableRow._make, TABLE_ROW.iter_unpack(base64.b64decode(part["rows"])))
            yield [
                Brief(
                    row.cid, starts[at] if starts else 0, 0, row.activity_ns and row.activity_ns + offset, 0, row.rtt_ns,
                    row.pending_bytes, row.in_msgs, row.out_msgs, row.in_bytes, row.out_bytes, row.subscriptions, shard,
                    row.slot, None,
                )
                for at, row in enumerate(found)
            ]  # fmt: skip


async def _closed(source: Source) -> AsyncIterator[Brief]:
    for shard in range(source.statistics.shards):
        rows: list[list[Any]] = []
        most = first = 0
        while first >= 0:
            part = await source.ask(shard, "closed", {"first": first})
            if part is None:
                break
            for block in part["blocks"]:
                rows += ClosedConnections.unpack(base64.b64decode(block))
            rows += part["recent"]
            first, most = part["next"], part["most"]
        for fields in rows[max(0, len(rows) - most) :]:
            row = ConnectionRow(*fields)
            yield Brief(
                row.cid, row.start_ns, row.stop_ns, row.last_activity_ns, row.reason, row.rtt_ns, row.pending_bytes,
                row.in_msgs, row.out_msgs, row.in_bytes, row.out_bytes, row.subscriptions, shard, -1, row,
            )  # fmt: skip


async def _chosen(source: Source, query: ConnzQuery, briefs: list[Brief]) -> list[Brief]:
    """What the query's filters leave."""
    # Nobody comes over MQTT.
    if query.mqtt_client and not query.cid:
        return []
    if query.cid:
        return [brief for brief in briefs if brief.cid == query.cid][:1]
    if query.user:
        here = {
            row[0] for shard in range(source.statistics.shards) for row in await _of_user(source, shard, query)
        }
        briefs = [b for b in briefs if (b.row.user == query.user if b.row is not None else b.cid in here)]
    if query.filter_subject:
        # The closed ones have no subscriptions any more, and are not filtered (monitor.go Connz).
        subs = await _subscriptions(source, query, [b for b in briefs if b.row is None and b.subscriptions], always=True)
        wanted = {cid for cid, found in subs.items() if any(_meets(query.filter_subject, sub.subject) for sub in found)}
        briefs = [b for b in briefs if b.row is not None or b.cid in wanted]
    return briefs


async def _of_user(source: Source, shard: int, query: ConnzQuery) -> list[tuple[int, ...]]:
    rows: list[tuple[int, ...]] = []
    first = 0
    while first >= 0:
        part = await source.ask(shard, "table", {"acc": query.acc, "user": query.user, "first": first})
        if part is None:
            break
        rows += TABLE_ROW.iter_unpack(base64.b64decode(part["rows"]))
        first = part["next"]
    return rows


def _meets(one: str, other: str) -> bool:
    return is_valid_subject(one) and is_valid_subject(other) and collides(one, other)


async def _rows(source: Source, briefs: list[Brief]) -> dict[int, ConnectionRow]:
    """By client id. One that has gone meanwhile is missing."""
    rows = {brief.cid: brief.row for brief in briefs if brief.row is not None}
    for shard, ids in _ids(briefs):
        part = await source.ask(shard, "rows", {"ids": ids})
        for fields in part["rows"] if part is not None else ():
            row = ConnectionRow(*fields)
            rows[row.cid] = row
    return rows


def _ids(briefs: list[Brief]) -> Iterable[tuple[int, list[tuple[int, int]]]]:
    """(shard, [(slot, client id)]) in portions that a shard takes at once."""
    by_shard: dict[int, list[tuple[int, int]]] = {}
    for brief in briefs:
        if brief.row is None:
            by_shard.setdefault(brief.shard, []).append((brief.slot, brief.cid))
    for shard, ids in by_shard.items():
        for at in range(0, len(ids), ROWS_STEP):
            yield shard, ids[at : at + ROWS_STEP]


async def _subscriptions(
    source: Source, query: ConnzQuery, briefs: list[Brief], *, always: bool = False
) -> dict[int, list[SubscriptionRow]]:
    """Of the open ones, by client id."""
    found: dict[int, list[SubscriptionRow]] = {}
    if not (query.subs or always):
        return found
    async for row in listed(source, [brief for brief in briefs if brief.subscriptions], SUBSCRIPTIONS_MAX):
        found.setdefault(row.cid, []).append(row)
    return found


async def listed(source: Source, briefs: list[Brief], most: int) -> AsyncIterator[SubscriptionRow]:
    """The subscriptions of open connections, one after the other, `most` of them."""
    for shard, ids in _ids(briefs):
        first = 0
        while ids and most > 0:
            part = await source.ask(shard, "subscriptions", {"ids": ids, "first": first, "most": most})
            if part is None:
                break
            for fields in part["rows"]:
                yield SubscriptionRow(*fields)
            most -= len(part["rows"])
            ids, first = ids[part["done"] :], part["next"]


# ---- a row ----


def _connection(
    row: ConnectionRow, shard: int, query: ConnzQuery, subs: list[SubscriptionRow], now_ns: int
) -> dict[str, Any]:
    end = row.stop_ns or now_ns
    more = dict(row.more or {})
    body: dict[str, Any] = {
        "cid": row.cid,
        "kind": "Client",
        "type": more.pop("type", "nats"),
        "ip": row.ip,
        "port": row.port,
        "start": rfc3339(row.start_ns),
        "last_activity": rfc3339(row.last_activity_ns),
    }
    if row.stop_ns:
        body |= {"stop": rfc3339(row.stop_ns), "reason": close_text(row.reason)}
    body |= {
        "rtt": rtt_duration(row.rtt_ns),
        "uptime": uptime(end - row.start_ns),
        "idle": uptime(end - row.last_activity_ns),
        "pending_bytes": row.pending_bytes,
        "in_msgs": row.in_msgs,
        "out_msgs": row.out_msgs,
        "in_bytes": row.in_bytes,
        "out_bytes": row.out_bytes,
    }
    if row.stalls:
        body["stalls"] = row.stalls
    body["subscriptions"] = row.subscriptions
    texts = (("name", row.name), ("lang", row.lang), ("version", row.version))
    body |= {name: text for name, text in texts if text}
    auth = {name: more.pop(name) for name in AUTH_ONLY if name in more}
    body |= {name: more[name] for name in ("tls_version", "tls_cipher_suite") if name in more}
    if query.auth and "tls_peer_certs" in auth:
        body["tls_peer_certs"] = auth["tls_peer_certs"]
    if "tls_first" in more:
        body["tls_first"] = True
    if query.auth and row.user:
        body["authorized_user"] = row.user
    if query.auth and row.account != GLOBAL_ACCOUNT:
        body["account"] = row.account
    if query.subs == "list" and subs:
        body["subscriptions_list"] = [sub.subject for sub in subs]
    elif query.subs == "detail" and subs:
        body["subscriptions_list_detail"] = [subscription(sub) for sub in subs]
    if query.auth:
        body |= {name: auth[name] for name in ("jwt", "issuer_key") if name in auth}
        body["name_tag"] = auth.get("name_tag", row.account)
        if "tags" in auth:
            body["tags"] = auth["tags"]
    return body | {"shard": shard}


def subscription(row: SubscriptionRow) -> dict[str, Any]:
    """monitor.go SubDetail, as it stands under a connection."""
    body: dict[str, Any] = {"subject": row.subject}
    if row.queue:
        body["qgroup"] = row.queue
    body |= {"sid": row.sid, "msgs": row.delivered}
    if row.max:
        body["max"] = row.max
    return body | {"cid": row.cid}
