"""The bodies of nats-server's monitoring endpoints, from the shared statistics and what front and shards answer.

Field names, their order and what is left out when empty: monitor.go (Varz, Connz, ConnInfo, Subsz, SubDetail). One broker
to the outside: numbers are summed over the shards, lists are merged; `shard` is the only field of ours.
Monitor process only; pure functions, the clock is an argument.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from shardbroker import limits
from shardbroker.auth.model import GLOBAL_ACCOUNT
from shardbroker.errors import close_text
from shardbroker.shard.report import (
    LIMIT_DEFAULT,
    OFFSET_MAX,
    SORTS,
    ConnectionRow,
    SubscriptionRow,
    sort_rows,
)
from shardbroker.subject import is_literal_subject

INT_MAX = (1 << 63) - 1
UINT64_MAX = (1 << 64) - 1
SECOND_NS = 1_000_000_000


class BadQuery(Exception):
    """A query argument that cannot be; the text is nats-server's, the status 400."""


# ---- query arguments: monitor.go decodeBool, decodeInt, decodeUint64, decodeState, decodeSubs ----


@dataclass(frozen=True, slots=True)
class ConnzQuery:
    """Arguments of /connz. `subs`: "", "list" or "detail"."""

    sort: str = ""
    auth: bool = False
    subs: str = ""
    offset: int = 0
    limit: int = LIMIT_DEFAULT
    cid: int = 0
    state: str = "open"
    user: str = ""
    acc: str = ""
    mqtt_client: str = ""

    def for_shards(self) -> dict[str, Any]:
        """The part that a shard must know."""
        return {
            "sort": self.sort,
            "offset": min(self.offset, OFFSET_MAX),
            "limit": min(self.limit, OFFSET_MAX),
            "cid": self.cid,
            "state": self.state,
            "user": self.user,
            "acc": self.acc,
            "subs": bool(self.subs),
        }


@dataclass(frozen=True, slots=True)
class SubszQuery:
    """Arguments of /subsz."""

    subs: bool = False
    offset: int = 0
    limit: int = LIMIT_DEFAULT
    test: str = ""
    acc: str = ""

    def for_shards(self) -> dict[str, Any]:
        """The part that a shard must know."""
        return {
            "subs": self.subs,
            "test": self.test,
            "acc": self.acc,
            "offset": min(self.offset, OFFSET_MAX),
            "limit": min(self.limit, OFFSET_MAX),
        }


def connz_query(args: Mapping[str, str]) -> ConnzQuery:
    """Read and check; raises BadQuery."""
    detail = args.get("subs", "").lower() == "detail"
    auth = _bool(args, "auth")
    subs = "detail" if detail else "list" if _bool(args, "subs") else ""
    offset, limit = _int(args, "offset"), _int(args, "limit")
    cid = _uint64(args, "cid")
    state = _state(args.get("state", ""))
    sort = args.get("sort", "")
    if sort not in SORTS:
        raise BadQuery(f"invalid sorting option: {sort}")
    if sort in ("stop", "reason") and state != "closed":
        raise BadQuery(f"sort by {sort} only valid on closed connections")
    return ConnzQuery(
        sort=sort,
        auth=auth,
        subs=subs,
        offset=max(offset, 0),
        limit=1 if cid else limit if limit > 0 else LIMIT_DEFAULT,
        cid=cid,
        state=state,
        user=args.get("user", ""),
        acc=args.get("acc", ""),
        mqtt_client=args.get("mqtt_client", ""),
    )


def subsz_query(args: Mapping[str, str]) -> SubszQuery:
    """Read and check; raises BadQuery."""
    subs = _bool(args, "subs")
    offset, limit = _int(args, "offset"), _int(args, "limit")
    test = args.get("test", "")
    if test and not is_literal_subject(test):
        raise BadQuery(f"invalid test subject, must be valid publish subject: {test}")
    return SubszQuery(
        subs=subs,
        offset=max(offset, 0),
        limit=limit if limit > 0 else LIMIT_DEFAULT,
        test=test,
        acc=args.get("acc", ""),
    )


def _bool(args: Mapping[str, str], name: str) -> bool:
    text = args.get(name, "")
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("", "0", "f", "F", "FALSE", "false", "False"):
        return False
    raise BadQuery(
        f"Error decoding boolean for '{name}': strconv.ParseBool: parsing {_go_quoted(text)}: invalid syntax"
    )


def _int(args: Mapping[str, str], name: str) -> int:
    text = args.get(name, "")
    if not text:
        return 0
    digits = text[1:] if text[0] in "+-" else text
    what = f"Error decoding int for '{name}': strconv.Atoi: parsing {_go_quoted(text)}"
    if not (digits.isascii() and digits.isdigit()):
        raise BadQuery(f"{what}: invalid syntax")
    # Twenty digits are over 64 bits, whatever they are.
    value = int(digits) if len(digits.lstrip("0")) < 20 else INT_MAX + 2
    if value > INT_MAX + (text[0] == "-"):
        raise BadQuery(f"{what}: value out of range")
    return -value if text[0] == "-" else value


def _uint64(args: Mapping[str, str], name: str) -> int:
    text = args.get(name, "")
    if not text:
        return 0
    what = f"Error decoding uint64 for '{name}': strconv.ParseUint: parsing {_go_quoted(text)}"
    if not (text.isascii() and text.isdigit()):
        raise BadQuery(f"{what}: invalid syntax")
    if len(text.lstrip("0")) > 20 or int(text) > UINT64_MAX:
        raise BadQuery(f"{what}: value out of range")
    return int(text)


def _state(text: str) -> str:
    try:
        return {"": "open", "open": "open", "closed": "closed", "any": "all", "all": "all"}[text.lower()]
    except KeyError:
        raise BadQuery(f"Error decoding state for {text}") from None


def _go_quoted(text: str) -> str:
    """Go's %q, as far as query arguments need it."""
    shown = "".join(
        f"\\{c}"
        if c in '"\\'
        else c
        if c.isprintable()
        else f"\\u{ord(c):04x}"
        if ord(c) > 255
        else f"\\x{ord(c):02x}"
        for c in text
    )
    return f'"{shown}"'


# ---- times ----


def uptime(ns: int) -> str:
    """monitor.go myUptime: "1y2d3h4m5s", whole seconds, from the largest unit that is not 0."""
    seconds = max(ns, 0) // SECOND_NS
    minutes, hours, days, years = seconds // 60, seconds // 3600, seconds // 86400, seconds // (86400 * 365)
    text = f"{seconds % 60}s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    if hours:
        text = f"{hours % 24}h{text}"
    if days:
        text = f"{days % 365}d{text}"
    return f"{years}y{text}" if years else text


def go_duration(ns: int) -> str:
    """Go's time.Duration.String: "0s", "1.5µs", "250ms", "1m2.5s"."""
    if ns <= 0:
        return "0s"
    if ns < SECOND_NS:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if ns >= size:
                return f"{_decimal(ns, size)}{unit}"
    seconds, rest = divmod(ns, SECOND_NS)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(seconds * SECOND_NS + rest, SECOND_NS)}s"
    if minutes or hours:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    return f"{whole}.{rest:0{len(str(size)) - 1}d}".rstrip("0") if rest else str(whole)


def rtt_duration(ns: int) -> str:
    """client.go getRTT: whole microseconds between a microsecond and a millisecond."""
    return go_duration(ns // 1000 * 1000 if 1_000 < ns < 1_000_000 else ns)


def rfc3339(ns: int) -> str:
    """Go's RFC3339Nano in UTC."""
    moment = datetime.fromtimestamp(ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{ns % SECOND_NS:09d}".rstrip("0")
    return f"{moment}.{fraction}Z" if fraction else f"{moment}Z"


# ---- bodies ----


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory (bytes) and processor (percent of one) of all processes together."""

    rss_bytes: int
    cpu_percent: float


def varz(
    front: Mapping[str, Any],
    stats: Mapping[str, int],
    usage: Usage,
    http_requests: Mapping[str, int],
    now_ns: int,
    shards: Sequence[Mapping[str, Any]],
    streams: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """/varz. `front`: its answer to "varz"; `stats`: counters summed over the shards; `shards`: rows of ours."""
    options = front["options"]
    body: dict[str, Any] = {
        "server_id": front["server_id"],
        "server_name": front["server_name"],
        "version": limits.PROTOCOL_VERSION,
        "proto": limits.PROTOCOL_LEVEL,
        "go": limits.GO_VERSION,
        "host": options["host"],
        "port": options["port"],
    }
    if front["auth_required"]:
        body["auth_required"] = True
    body["max_connections"] = options["max_connections"]
    if options["max_subscriptions"]:
        body["max_subscriptions"] = options["max_subscriptions"]
    base_path = options["http_base_path"]
    body |= {
        "ping_interval": _nanoseconds(options["ping_interval"]),
        "ping_max": options["ping_max"],
        "http_host": options["http_host"],
        "http_port": options["http_port"],
        "http_base_path": "" if base_path == "/" else base_path,
        "https_port": 0,
        "auth_timeout": _number(options["auth_timeout"]),
        "max_control_line": options["max_control_line"],
        "max_payload": options["max_payload"],
        "max_pending": options["max_pending"],
        "cluster": {},
        "gateway": {},
        "leaf": {},
        "mqtt": {},
        "websocket": {},
        "jetstream": dict(streams),
        "tls_timeout": 2,
        "write_deadline": _nanoseconds(options["write_deadline"]),
        "start": rfc3339(front["start_ns"]),
        "now": rfc3339(now_ns),
        "uptime": uptime(now_ns - front["start_ns"]),
        "mem": usage.rss_bytes,
        "cores": os.cpu_count() or 1,
        "gomaxprocs": len(shards),
        "cpu": usage.cpu_percent,
        "connections": stats["connections"],
        "total_connections": stats["connections_total"],
        "routes": 0,
        "remotes": 0,
        "leafnodes": 0,
        "in_msgs": stats["in_msgs"],
        "in_bytes": stats["in_bytes"],
        "in_client_msgs": stats["in_msgs"],
        "in_client_bytes": stats["in_bytes"],
        "out_msgs": stats["out_msgs"],
        "out_bytes": stats["out_bytes"],
        "out_client_msgs": stats["out_msgs"],
        "out_client_bytes": stats["out_bytes"],
        "slow_consumers": stats["slow_consumers"],
        "stale_connections": stats["stale_connections"],
        "stalled_clients": stats["stalls"],
        "subscriptions": stats["subscriptions"],
        "http_req_stats": dict(sorted(http_requests.items())),
        "config_load_time": rfc3339(front["config_load_ns"]),
        "config_digest": options["config_digest"],
    }
    if options["server_tags"]:
        body["tags"] = options["server_tags"]
    if options["server_metadata"]:
        body["metadata"] = options["server_metadata"]
    return body | {
        "slow_consumer_stats": _kinds(stats["slow_consumers"]),
        "stale_connection_stats": _kinds(stats["stale_connections"]),
        "disk_io_wait_stats": {"waiters": 0, "waits": 0, "wait_time": 0, "max_wait_time": 0},
        "shards": list(shards),
    }


def connz(
    server_id: str, parts: Mapping[str, Mapping[str, Any]], query: ConnzQuery, now_ns: int
) -> dict[str, Any]:
    """/connz from the shards' parts: {number: {"total", "rows"}}."""
    body: dict[str, Any] = {"server_id": server_id, "now": rfc3339(now_ns)}
    tail = {"offset": query.offset, "limit": query.limit}
    # Nobody comes over MQTT.
    if query.mqtt_client:
        return body | {"num_connections": 0, "total": 0} | tail | {"connections": []}
    total = 0
    shard_of: dict[int, int] = {}
    rows: list[ConnectionRow] = []
    for number, part in parts.items():
        total += part["total"]
        for fields in part["rows"]:
            row = ConnectionRow(*fields)
            rows.append(row)
            shard_of[row.cid] = int(number)
    rows = sort_rows(rows, query.sort)[query.offset : query.offset + query.limit]
    shown = [_connection(row, shard_of[row.cid], query, now_ns) for row in rows]
    return body | {"num_connections": len(shown), "total": total} | tail | {"connections": shown}


def _connection(row: ConnectionRow, shard: int, query: ConnzQuery, now_ns: int) -> dict[str, Any]:
    end = row.stop_ns or now_ns
    body: dict[str, Any] = {
        "cid": row.cid,
        "kind": "Client",
        "type": "nats",
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
    body |= {
        name: text
        for name, text in (("name", row.name), ("lang", row.lang), ("version", row.version))
        if text
    }
    if query.auth and row.user:
        body["authorized_user"] = row.user
    if query.auth and row.account != GLOBAL_ACCOUNT:
        body["account"] = row.account
    if query.subs == "list" and row.subs:
        body["subscriptions_list"] = [sub[0] for sub in row.subs]
    elif query.subs == "detail" and row.subs:
        body["subscriptions_list_detail"] = [
            _subscription(SubscriptionRow(*[*sub, row.cid])) for sub in row.subs
        ]
    if query.auth:
        body["name_tag"] = row.account
    return body | {"shard": shard}


def subsz(
    server_id: str, parts: Mapping[str, Mapping[str, Any]], query: SubszQuery, now_ns: int
) -> dict[str, Any]:
    """/subsz from the shards' parts: {number: {"stats", "total", "rows"}}."""
    mine = list(parts.values())
    stats = [part["stats"] for part in mine]

    def added(name: str) -> int:
        return sum(row[name] for row in stats)

    cached, matches = added("num_cache"), added("num_matches")
    body: dict[str, Any] = {
        "server_id": server_id,
        "now": rfc3339(now_ns),
        "num_subscriptions": added("num_subscriptions"),
        "num_cache": cached,
        "num_inserts": added("num_inserts"),
        "num_removes": added("num_removes"),
        "num_matches": matches,
        "cache_hit_rate": _mean(stats, "cache_hit_rate", "num_matches", matches),
        "max_fanout": max((row["max_fanout"] for row in stats), default=0),
        "avg_fanout": _mean(stats, "avg_fanout", "num_cache", cached),
        "total": sum(part["total"] for part in mine),
        "offset": query.offset,
        "limit": query.limit,
    }
    rows = [SubscriptionRow(*fields) for part in mine for fields in part["rows"]]
    rows = rows[query.offset : query.offset + query.limit]
    if rows:
        body["subscriptions_list"] = [{"account": row.account, "account_tag": row.account} | _subscription(row) for row in rows]
    return body


def _subscription(row: SubscriptionRow) -> dict[str, Any]:
    body: dict[str, Any] = {"subject": row.subject}
    if row.queue:
        body["qgroup"] = row.queue
    body |= {"sid": row.sid, "msgs": row.delivered}
    if row.max:
        body["max"] = row.max
    return body | {"cid": row.cid}


def _mean(rows: Sequence[Mapping[str, Any]], value: str, weight: str, weights: int) -> float:
    return sum(row[value] * row[weight] for row in rows) / weights if weights else 0


def _kinds(clients: int) -> dict[str, int]:
    return {"clients": clients, "routes": 0, "gateways": 0, "leafs": 0}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * SECOND_NS)


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def root_page(base_path: str) -> str:
    """The index: a link for each endpoint."""
    prefix = "" if base_path == "/" else base_path
    links = "\n".join(
        f'<a href="{prefix}{path}">{text} <code>{path}</code></a><br/>'
        for path, text in (
            ("/varz", "General"),
            ("/connz", "Connections"),
            ("/subsz", "Subscriptions"),
            ("/healthz", "Health Probe"),
        )
    )
    return (
        '<html lang="en"><head><title>shardbroker</title></head>\n'
        f"<body><h1>shardbroker</h1>\n{links}\n"
        '<a href="https://docs.nats.io/running-a-nats-service/nats_admin/monitoring">Help</a></body></html>\n'
    )
