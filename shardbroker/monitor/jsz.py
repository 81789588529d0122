"""/jsz, and what /varz says of streams, gathered in steps. Source: monitor.go Jsz, JSInfo, AccountDetail, StreamDetail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from shardbroker import limits
from shardbroker.monitor.query import UINT64_MAX, BadQuery, JszQuery
from shardbroker.monitor.source import Source
from shardbroker.monitor.times import rfc3339

# monitor.go: of a server without a setting of its own.
CONSUMERS_DEFAULT_MAX: Final = 1000
# Streams and consumers on one page. nats-server has no bound.
DETAILS_MAX: Final = 100_000


class Parts:
    """What the shards say of their streams together."""

    def __init__(self, parts: list[Mapping[str, Any]]) -> None:
        self.config: dict[str, Any] = next((dict(part["config"]) for part in parts if "config" in part), {})
        self.limits: dict[str, list[int]] = {}
        usage: dict[str, list[Mapping[str, int]]] = {}
        for part in parts:
            self.limits |= part.get("limits", {})
            for name, row in part.get("accounts", {}).items():
                usage.setdefault(name, []).append(row)
        self.accounts = {name: _sum(rows) for name, rows in usage.items()}
        self.total = _sum(list(self.accounts.values()))


def _sum(rows: list[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in rows[0]} if rows else {}


async def parts_of(source: Source) -> Parts:
    """Usage and settings of all shards."""
    parts = [await source.ask(shard, "jsz", {}) for shard in range(source.statistics.shards)]
    return Parts([part for part in parts if part is not None])


def _usage(total: Mapping[str, int], accounts: int, level: int) -> dict[str, Any]:
    """JetStreamStats."""
    return {
        "memory": total.get("memory", 0),
        "storage": total.get("storage", 0),
        "reserved_memory": total.get("reserved_memory", 0),
        "reserved_storage": total.get("reserved_storage", 0),
        "accounts": accounts,
        "ha_assets": 0,
        "api": {"level": level, "total": total.get("api_total", 0), "errors": total.get("api_errors", 0)},
    }


def varz(parts: Parts) -> dict[str, Any]:
    """The `jetstream` of /varz; nothing where there are no streams."""
    if not parts.config:
        return {}
    return {
        "config": parts.config,
        "stats": _usage(parts.total, len(parts.accounts), limits.API_LEVEL),
        "limits": {"default_max_consumers": CONSUMERS_DEFAULT_MAX},
    }


async def jsz(source: Source, query: JszQuery, server_id: str, now_ns: int) -> dict[str, Any]:
    """The page. Raises BadQuery for `leader-only` of a server without streams."""
    parts = await parts_of(source)
    total = parts.total
    if not parts.config:
        if query.leader_only:
            # Nobody leads what is not there (monitor.go Jsz, errSkipZreq).
            raise BadQuery("filtered response: not leader")
        body = _usage({}, 0, 0) | {"server_id": server_id, "now": rfc3339(now_ns), "disabled": True}
        nothing = {"max_memory": 0, "max_storage": 0}
        return body | {"config": nothing, "streams": 0, "consumers": 0, "messages": 0, "bytes": 0, "total": 0}
    body = _usage(total, len(parts.accounts), limits.API_LEVEL)
    body |= {
        "server_id": server_id,
        "now": rfc3339(now_ns),
        "config": parts.config,
        "limits": {"default_max_consumers": CONSUMERS_DEFAULT_MAX},
        "streams": total.get("streams", 0),
    }
    # One server leads everything that it has.
    leads = query.raft and total.get("streams", 0)
    body |= {"streams_leader": total["streams"]} if leads else {}
    body["consumers"] = total.get("consumers", 0)
    body |= {"consumers_leader": total["consumers"]} if leads and total["consumers"] else {}
    body |= {"messages": total.get("messages", 0), "bytes": total.get("memory", 0) + total.get("storage", 0)}
    names = sorted(parts.accounts)
    if query.account in parts.accounts:
        names = [query.account]
    elif query.accounts:
        names = names[query.offset :][: query.limit]
    else:
        names = []
    if names:
        body["account_details"] = [await account_detail(source, name, parts, query) for name in names]
    return body | {"total": len(parts.accounts)}


async def account_detail(source: Source, name: str, parts: Parts, query: JszQuery) -> dict[str, Any]:
    """AccountDetail."""
    detail: dict[str, Any] = {"name": name, "id": name, **_usage(parts.accounts[name], 0, 0)}
    memory, store = parts.limits[name]
    # What an account without limits has is -1, which is unsigned there.
    detail |= {"reserved_memory": memory & UINT64_MAX, "reserved_storage": store & UINT64_MAX}
    if query.streams:
        streams = [row async for row in _streams(source, name, query)]
        streams.sort(key=lambda stream: str(stream["name"]))
        if streams:
            detail["stream_detail"] = streams
    return detail


async def _streams(source: Source, account: str, query: JszQuery) -> AsyncIterator[dict[str, Any]]:
    count = 0
    for shard in range(source.statistics.shards):
        asked = {"acc": account, "config": query.config}
        async for stream in _steps(source, shard, "jsz_streams", asked):
            if count >= DETAILS_MAX:
                return
            count += 1
            tail = {key: stream.pop(key) for key in ("mirror", "sources") if key in stream}
            for wanted, direct, key in (
                (query.consumers, False, "consumer_detail"),
                (query.consumers and query.direct_consumers, True, "direct_consumer_detail"),
            ):
                if not wanted:
                    continue
                one = {"acc": account, "stream": stream["name"], "config": query.config, "direct": direct}
                rows = [row async for row in _steps(source, shard, "jsz_consumers", one)]
                count += len(rows)
                if rows:
                    stream[key] = rows
            yield stream | tail


async def _steps(source: Source, shard: int, op: str, query: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    first = 0
    while first >= 0:
        part = await source.ask(shard, op, {**query, "first": first})
        if not part:
            return
        for row in part["rows"]:
            yield row
        first = part["next"]
