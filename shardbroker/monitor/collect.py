"""What the exporter's collectors would have read from the pages, as metrics. Source: prometheus-nats-exporter, collector/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shardbroker.monitor import accountz, connz, jsz
from shardbroker.monitor.metrics import Families, duration_milliseconds, flattened, milliseconds
from shardbroker.monitor.query import AccountStatzQuery, ConnzQuery, JszQuery
from shardbroker.monitor.source import Source

SERVER_LABELS: Final = ("server_id", "server_name", "cluster", "domain", "meta_leader", "is_meta_leader")
SUMMED: Final = ("pending_bytes", "subscriptions", "in_bytes", "out_bytes", "in_msgs", "out_msgs")
CONNECTION_LABELS: Final = (
    "cid", "kind", "type", "ip", "port", "name", "name_tag", "account", "account_id", "lang", "version", "tls_version",
    "tls_cipher_suite",
)  # fmt: skip

# Accounts that are asked for one by one on the detailed page.
ACCOUNTS_MAX: Final = 1024


async def connections(families: Families, source: Source, server_id: str) -> None:
    """gnatsd_connz_*: sums over all open connections (the exporter sees the first 1024 only)."""
    count = 0
    sums = dict.fromkeys(SUMMED, 0)
    async for part in connz.tables(source, ConnzQuery()):
        count += len(part)
        for brief in part:
            for name in SUMMED:
                sums[name] += getattr(brief, name)
    head = {"num_connections": count, "total": count, "offset": 0, "limit": ConnzQuery().limit}
    for name, value in (head | sums).items():
        families.add(f"gnatsd_connz_{name}", {"server_id": server_id}, value)


async def connections_detailed(families: Families, source: Source, server_id: str, now_ns: int) -> None:
    """The same of each of the first 1024 connections."""
    body = await connz.connz(source, ConnzQuery(auth=True), server_id, now_ns)
    for row in body["connections"]:
        values = row | {"account_id": row.get("account", "")}
        labels = {"server_id": server_id} | {name: str(values.get(name, "")) for name in CONNECTION_LABELS}
        numbers = {name: float(row[name]) for name in SUMMED}
        numbers |= {name: milliseconds(row[name]) for name in ("start", "last_activity")}
        numbers |= {name: duration_milliseconds(row[name]) for name in ("uptime", "idle")}
        numbers["rtt"] = _microseconds(row["rtt"])
        for name, number in numbers.items():
            families.add(f"gnatsd_connz_{name}", labels, number)


def _microseconds(text: str) -> float:
    """Go's duration of less than a minute, cut to microseconds; what is longer counts as a minute."""
    for unit, size in (("ns", 1e-3), ("µs", 1.0), ("ms", 1e3), ("s", 1e6)):
        if text.endswith(unit):
            try:
                return int(float(text.removesuffix(unit)) * size)
            except ValueError:
                return 6e7
    return 0.0


async def accounts(families: Families, source: Source, server_id: str, now_ns: int) -> None:
    """gnatsd_accstatz_* and, of the first ACCOUNTS_MAX, gnatsd_accountz_*."""
    body = await accountz.accstatz(source, AccountStatzQuery(unused=True), server_id, now_ns)
    for stat in body["account_statz"]:
        labels = {
            "server_id": server_id, "account": stat["acc"], "account_id": stat["acc"], "account_name": stat["name"],
        }  # fmt: skip
        for name, value in (
            ("current_connections", stat["conns"]), ("total_connections", stat["total_conns"]),
            ("subscriptions", stat["num_subscriptions"]), ("leaf_nodes", stat["leafnodes"]),
            ("sent_messages", stat["sent"]["msgs"]), ("sent_bytes", stat["sent"]["bytes"]),
            ("received_messages", stat["received"]["msgs"]), ("received_bytes", stat["received"]["bytes"]),
            ("slow_consumers", stat["slow_consumers"]),
        ):  # fmt: skip
            families.add(f"gnatsd_accstatz_{name}", labels, value)


    rows = await accountz.account_rows(source)
    names = await source.front("names")
    for account in sorted({*names["accounts"], *rows})[:ACCOUNTS_MAX]:
        detail = await accountz.account_info(source, account, rows)
        if detail is not None:
            _account(families, detail, server_id)


def _account(families: Families, detail: Mapping[str, Any], server_id: str) -> None:
    """As the exporter has it: limits are those of a JWT, else 0."""
    labels = {"server_id": server_id, "account_id": detail["account_name"], "account_name": detail["name_tag"]}
    for name in (
        "client_connections", "leafnode_connections", "subscriptions", "is_system", "expired", "complete", "jetstream_enabled",
    ):  # fmt: skip
        families.add(f"gnatsd_accountz_{name}", labels, float(detail.get(name, False)))
    limits = detail.get("decoded_jwt", {}).get("nats", {}).get("limits", {})
    for name in ("subs", "data", "payload", "imports", "exports", "wildcards", "conn", "leaf"):
        families.add(f"gnatsd_accountz_limit_{name}", labels, float(limits.get(name, 0)))


def health(families: Families, status: str, server_id: str) -> None:
    """gnatsd_healthz_*: the first is 0 when all is well, the second 1."""
    families.add("gnatsd_healthz_status", {"server_id": server_id}, 0 if status == "ok" else 1)
    families.add("gnatsd_healthz_status_value", {"server_id": server_id, "value": status}, 1 if status == "ok" else 0)


def pages(families: Families, varz: Mapping[str, Any], subsz: Mapping[str, Any], server_id: str) -> None:
    """gnatsd_varz_*, gnatsd_subsz_*, and what there is none of."""
    flattened(families, "gnatsd_varz", varz, server_id)
    flattened(families, "gnatsd_subsz", subsz, server_id)
    families.add("gnatsd_routez_num_routes", {"server_id": server_id}, 0)
    families.add("gnatsd_leafz_conn_nodes_total", {"server_id": server_id}, 0)


async def streams(
    families: Families, source: Source, front: Mapping[str, Any], now_ns: int, *, detailed: bool
) -> None:
    """jetstream_*: of the server; with `detailed` of each account, stream and consumer. One server leads all."""
    settings = front["options"]
    values = (front["server_id"], front["server_name"], settings["cluster_name"], settings["jetstream"]["domain"], "", "true")
    server = dict(zip(SERVER_LABELS, values, strict=True))
    query = JszQuery(accounts=detailed, streams=detailed, consumers=detailed, config=detailed)
    body = await jsz.jsz(source, query, front["server_id"], now_ns)
    disabled = bool(body.get("disabled"))
    families.add("jetstream_server_jetstream_disabled", server, float(disabled))
    if disabled:
        return
    for name, value in (
        ("total_streams", body["streams"]), ("total_consumers", body["consumers"]), ("total_messages", body["messages"]),
        ("total_message_bytes", body["bytes"]), ("max_memory", body["config"]["max_memory"]),
        ("max_storage", body["config"]["max_storage"]),
    ):  # fmt: skip
        families.add(f"jetstream_server_{name}", server, value)
    for account in body.get("account_details", ()):
        labels = server | {"account": account["name"], "account_name": account["name"], "account_id": account["id"]}
        for name, key in (
            ("max_storage", "reserved_storage"), ("max_memory", "reserved_memory"), ("storage_used", "storage"),
            ("memory_used", "memory"),
        ):  # fmt: skip
            families.add(f"jetstream_account_{name}", labels, account[key])
        for stream in account.get("stream_detail", ()):
            _stream(families, labels, stream, now_ns)


def _stream(families: Families, account: Mapping[str, str], stream: Mapping[str, Any], now_ns: int) -> None:
    labels = {
        **account, "stream_name": stream["name"], "stream_leader": stream["cluster"]["leader"], "is_stream_leader": "true",
        "stream_raft_group": "",
    }  # fmt: skip
    state, config = stream["state"], stream["config"]
    for name, value in (
        ("total_messages", state["messages"]), ("total_bytes", state["bytes"]), ("first_seq", state["first_seq"]),
        ("last_seq", state["last_seq"]), ("consumer_count", state["consumer_count"]),
        ("subject_count", state.get("num_subjects", 0)), ("limit_bytes", config["max_bytes"]),
        ("limit_messages", config["max_msgs"]),
    ):  # fmt: skip
        families.add(f"jetstream_stream_{name}", labels, value)
    for origin in stream.get("sources", ()):
        _origin(families, "source", labels, origin)
    if stream.get("mirror"):
        _origin(families, "mirror", labels, stream["mirror"])
    for consumer in stream.get("consumer_detail", ()):
        _consumer(families, labels, consumer, now_ns)


def _origin(families: Families, kind: str, stream: Mapping[str, str], origin: Mapping[str, Any]) -> None:
    """A stream's source, or what it mirrors."""
    external = origin.get("external") or {}
    labels = {
        **stream, f"{kind}_name": origin["name"], f"{kind}_api": external.get("api", ""),
        f"{kind}_deliver": external.get("deliver", ""),
    }  # fmt: skip
    families.add(f"jetstream_stream_{kind}_lag", labels, origin["lag"])
    families.add(f"jetstream_stream_{kind}_active_duration_ns", labels, origin["active"])


def _consumer(families: Families, stream: Mapping[str, str], consumer: Mapping[str, Any], now_ns: int) -> None:
    labels = {
        **stream, "consumer_name": consumer["name"], "consumer_leader": stream["stream_leader"], "is_consumer_leader": "true",
        "consumer_desc": consumer["config"].get("description", ""),
    }  # fmt: skip
    for name, place in (("last_delivery_seconds", "delivered"), ("last_ack_seconds", "ack_floor")):
        last = consumer[place].get("last_active")
        if last:
            families.add(f"jetstream_consumer_{name}", labels, max(now_ns / 1e6 - milliseconds(last), 0) / 1e3)
    numbers = {name: consumer[name] for name in ("num_ack_pending", "num_redelivered", "num_waiting", "num_pending")}
    for place in ("delivered", "ack_floor"):
        numbers |= {f"{place}_{kind}": consumer[place][kind] for kind in ("consumer_seq", "stream_seq")}
    for name, value in numbers.items():
        families.add(f"jetstream_consumer_{name}", labels, value)
