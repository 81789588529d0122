"""/subsz. Source: monitor.go Subsz, SublistStats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shardbroker.monitor.connz import SUBSCRIPTIONS_MAX, Brief, listed, subscription, tables
from shardbroker.monitor.query import ConnzQuery, SubszQuery
from shardbroker.monitor.source import Source
from shardbroker.monitor.times import rfc3339
from shardbroker.shard.monitoring import MATCHING_MAX
from shardbroker.shard.report import SubscriptionRow


async def subsz(source: Source, query: SubszQuery, server_id: str, now_ns: int) -> dict[str, Any]:
    """The page."""
    parts = [await source.ask(shard, "sublist", {"acc": query.acc}) for shard in range(source.statistics.shards)]
    total = 0
    rows: list[SubscriptionRow] = []
    if query.subs:
        total, rows = await (_matching(source, query) if query.test else _all(source, query))
    body: dict[str, Any] = {"server_id": server_id, "now": rfc3339(now_ns)}
    body |= sublist_stats([part["stats"] for part in parts if part is not None])
    body |= {"total": total, "offset": query.offset, "limit": query.limit}
    if rows:
        body["subscriptions_list"] = [
            {"account": row.account, "account_tag": row.account} | subscription(row) for row in rows
        ]
    return body


def sublist_stats(stats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """SublistStats of several shards together."""

    def added(name: str) -> int:
        return sum(row[name] for row in stats)

    cached, matches = added("num_cache"), added("num_matches")
    return {
        "num_subscriptions": added("num_subscriptions"),
        "num_cache": cached,
        "num_inserts": added("num_inserts"),
        "num_removes": added("num_removes"),
        "num_matches": matches,
        "cache_hit_rate": _mean(stats, "cache_hit_rate", "num_matches", matches),
        "max_fanout": max((row["max_fanout"] for row in stats), default=0),
        "avg_fanout": _mean(stats, "avg_fanout", "num_cache", cached),
    }


def _mean(rows: Sequence[Mapping[str, Any]], value: str, weight: str, weights: int) -> float:
    return sum(row[value] * row[weight] for row in rows) / weights if weights else 0


async def _matching(source: Source, query: SubszQuery) -> tuple[int, list[SubscriptionRow]]:
    """Those that a message to `test` would reach."""
    total = 0
    rows: list[SubscriptionRow] = []
    most = min(query.offset + query.limit, MATCHING_MAX)
    for shard in range(source.statistics.shards):
        part = await source.ask(shard, "matching", {"acc": query.acc, "test": query.test, "most": most})
        if part is not None:
            total += part["total"]
            rows += [SubscriptionRow(*fields) for fields in part["rows"]]
    return total, rows[query.offset :][: query.limit]


async def _all(source: Source, query: SubszQuery) -> tuple[int, list[SubscriptionRow]]:
    """All, connection by connection; those on the page only are asked for."""
    briefs: list[Brief] = []
    async for part in tables(source, ConnzQuery(acc=query.acc)):
        briefs += [brief for brief in part if brief.subscriptions]
    total = sum(brief.subscriptions for brief in briefs)
    skip, wanted = query.offset, min(query.limit, SUBSCRIPTIONS_MAX)
    at = 0
    while at < len(briefs) and skip >= briefs[at].subscriptions:
        skip -= briefs[at].subscriptions
        at += 1
    rows = [row async for row in listed(source, briefs[at:], skip + wanted)] if at < len(briefs) else []
    return total, rows[skip:]
