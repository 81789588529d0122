"""/jsz from the shards' parts, and what /varz says of streams. Source: monitor.go Jsz, JSzOptions, JSInfo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardbroker import limits
from shardbroker.monitor.endpoints import BadQuery, rfc3339

LIMIT_DEFAULT = 1024
# monitor.go: of a server without a setting of its own.
CONSUMERS_DEFAULT_MAX = 1000
Parts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class JszQuery:
    account: str
    accounts: bool
    streams: bool
    consumers: bool
    config: bool
    offset: int
    limit: int

    def for_shards(self) -> dict[str, Any]:
        """What a shard has to know of it."""
        return {
            "acc": self.account,
            "streams": self.streams,
            "consumers": self.consumers,
            "config": self.config,
        }


def read_query(given: Mapping[str, str]) -> JszQuery:
    """Raises BadQuery. What is asked for implies what holds it: consumers are of streams, streams of accounts."""

    def flag(name: str) -> bool:
        text = given.get(name, "")
        if text in ("", "0", "false", "False", "f", "F", "FALSE"):
            return False
        if text in ("1", "true", "True", "t", "T", "TRUE"):
            return True
        raise BadQuery(f"error decoding boolean '{text}' for '{name}': invalid syntax")

    def number(name: str, default: int) -> int:
        text = given.get(name, "")
        try:
            return max(int(text), 0) if text else default
        except ValueError:
            raise BadQuery(f"error decoding '{text}' for '{name}': invalid syntax") from None

    consumers = flag("consumers")
    streams = consumers or flag("streams")
    account = given.get("acc", "")
    accounts = bool(account) or streams or flag("accounts")
    limit = number("limit", LIMIT_DEFAULT) or LIMIT_DEFAULT
    return JszQuery(account, accounts, streams, consumers, flag("config"), number("offset", 0), limit)


def _sum(rows: list[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in rows[0]} if rows else {}


def _usage(total: Mapping[str, int], accounts: int) -> dict[str, Any]:
    """JetStreamStats."""
    return {
        "memory": total.get("memory", 0),
        "storage": total.get("storage", 0),
        "reserved_memory": total.get("reserved_memory", 0),
        "reserved_storage": total.get("reserved_storage", 0),
        "accounts": accounts,
        "ha_assets": 0,
        "api": {
            "level": limits.API_LEVEL,
            "total": total.get("api_total", 0),
            "errors": total.get("api_errors", 0),
        },
    }


def _accounts(parts: Parts) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for part in parts.values():
        for name, account in part.get("accounts", {}).items():
            found.setdefault(name, []).append(account)
    return found


def _config(parts: Parts) -> dict[str, Any]:
    return next((dict(part["config"]) for part in parts.values() if "config" in part), {})


def varz(parts: Parts) -> dict[str, Any]:
    """The `jetstream` of /varz."""
    accounts = _accounts(parts)
    total = _sum([account["usage"] for each in accounts.values() for account in each])
    return {
        "config": _config(parts),
        "stats": _usage(total, len(accounts)),
        "limits": {"default_max_consumers": CONSUMERS_DEFAULT_MAX},
    }


def jsz(server_id: str, parts: Parts, query: JszQuery, now_ns: int) -> dict[str, Any]:
    """/jsz."""
    accounts = _accounts(parts)
    total = _sum([account["usage"] for each in accounts.values() for account in each])
    body = _usage(total, len(accounts))
    body |= {"server_id": server_id, "now": rfc3339(now_ns)}
    config = _config(parts)
    if not config:
        return body | {"disabled": True, "config": {}, "limits": {}}
    body |= {
        "config": config,
        "limits": {"default_max_consumers": CONSUMERS_DEFAULT_MAX},
        "streams": total.get("streams", 0),
        "consumers": total.get("consumers", 0),
        "messages": total.get("messages", 0),
        "bytes": total.get("memory", 0) + total.get("storage", 0),
    }
    if query.accounts:
        names = sorted(accounts)[query.offset : query.offset + query.limit]
        details = [_account(name, accounts[name], query) for name in names]
        body["account_details"] = details
    return body | {"total": len(accounts)}


def _account(name: str, parts: list[Mapping[str, Any]], query: JszQuery) -> dict[str, Any]:
    """AccountDetail."""
    detail = {"name": name, "id": name, **_usage(_sum([part["usage"] for part in parts]), 0)}
    if query.streams:
        streams = [stream for part in parts for stream in part.get("streams", ())]
        detail["stream_detail"] = sorted(streams, key=lambda stream: str(stream["name"]))
    return detail
