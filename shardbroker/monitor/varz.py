"""/varz. Source of fields, their order and what is left out when empty: monitor.go Varz."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardbroker import limits
from shardbroker.monitor.times import nanoseconds, rfc3339, uptime


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
    streams: Mapping[str, Any],
) -> dict[str, Any]:
    """The page. `front`: its answer to "varz"; `stats`: counters summed over the shards; `shards`: rows of ours."""
    options = front["options"]
    tls = options["tls"]
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
    if tls is not None:
        body |= {"tls_required": True} if not options["allow_non_tls"] else {}
        body |= {"tls_verify": True} if tls["verify"] or tls["verify_and_map"] else {}
    body |= {name: front[name] for name in ("connect_urls", "ws_connect_urls") if front.get(name)}
    body["max_connections"] = options["max_connections"]
    if options["max_subscriptions"]:
        body["max_subscriptions"] = options["max_subscriptions"]
    base_path = options["http_base_path"]
    body |= {
        "ping_interval": nanoseconds(options["ping_interval"]),
        "ping_max": options["ping_max"],
        "http_host": options["http_host"],
        "http_port": options["http_port"],
        "http_base_path": "" if base_path == "/" else base_path,
        "https_port": options["https_port"],
        "auth_timeout": _number(options["auth_timeout"]),
        "max_control_line": options["max_control_line"],
        "max_payload": options["max_payload"],
        "max_pending": options["max_pending"],
        "cluster": _cluster(front["cluster"]),
        "gateway": {},
        "leaf": {},
        "mqtt": {},
        "websocket": _websocket(front["websocket"]),
        "jetstream": dict(streams),
        "tls_timeout": _number(tls["timeout"] if tls is not None else limits.TLS_TIMEOUT),
        "write_deadline": nanoseconds(options["write_deadline"]),
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
    if front["operators"]:
        body["trusted_operators_jwt"] = front["operators"]
    if options["system_account"]:
        body["system_account"] = options["system_account"]
    body |= {
        "slow_consumer_stats": _kinds(stats["slow_consumers"]),
        "stale_connection_stats": _kinds(stats["stale_connections"]),
        "disk_io_wait_stats": {"waiters": 0, "waits": 0, "wait_time": 0, "max_wait_time": 0},
    }
    if front["certificates"].get("client"):
        body["tls_cert_not_after"] = rfc3339(front["certificates"]["client"])
    return body | {"shards": list(shards)}


def _cluster(shown: Mapping[str, Any]) -> dict[str, Any]:
    body = {name: value for name, value in shown.items() if value}
    return body | ({"auth_timeout": _number(shown["auth_timeout"])} if "auth_timeout" in shown else {})


def _websocket(settings: Mapping[str, Any]) -> dict[str, Any]:
    """WebsocketOptsVarz: what is set."""
    names = (
        "host", "port", "advertise", "no_auth_user", "jwt_cookie", "handshake_timeout", "auth_timeout", "no_tls", "tls_map",
        "tls_pinned_certs", "same_origin", "allowed_origins", "compression", "tls_cert_not_after",
    )  # fmt: skip
    return {name: settings[name] for name in names if settings.get(name)}


def _kinds(clients: int) -> dict[str, int]:
    return {"clients": clients, "routes": 0, "gateways": 0, "leafs": 0}


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value
