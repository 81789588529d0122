"""/healthz. Source: monitor.go healthz, HealthStatus.

One server is healthy when it takes connections, and its streams can write. With several shards it takes connections while
all of them do: one that is being replaced shows as unavailable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shardbroker.monitor.query import HealthzQuery, go_quoted
from shardbroker.monitor.source import Source

OK, BAD_REQUEST, NOT_FOUND, UNAVAILABLE = 200, 400, 404, 503
_NA: Final = "unavailable"


def _status(query: HealthzQuery, code: int, status: str, error: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """What is wrong, in the form that was asked for."""
    if query.details:
        return code, {"status": "error", "errors": [dict(error)]}
    return code, {"status": status, "error": error["error"]}


async def healthz(source: Source, query: HealthzQuery) -> tuple[int, dict[str, Any]]:
    """(status code, body)."""
    for missing, given, name, kind in (
        (not query.account, query.stream, "account", "stream"),
        (not query.stream, query.consumer, "stream", "consumer"),
    ):
        if missing and given:
            text = f'"{name}" must not be empty when checking {kind} health'
            return _status(query, BAD_REQUEST, "error", {"type": "BAD_REQUEST", "error": text})
    ready = source.statistics.ready()
    if ready < source.statistics.shards:
        text = f"{source.statistics.shards - ready} of {source.statistics.shards} shards are not ready"
        return _status(query, UNAVAILABLE, _NA, {"type": "CONNECTION", "error": text})
    front = await source.front("varz")
    if query.js_server_only or query.js_enabled_only or not front["options"]["jetstream"]["enabled"]:
        return OK, {"status": "ok"}
    return await _streams(source, query)


async def _streams(source: Source, query: HealthzQuery) -> tuple[int, dict[str, Any]]:
    wanted = {"account": query.account, "stream": query.stream, "consumer": query.consumer}
    parts = [await source.ask(shard, "health", wanted) for shard in range(source.statistics.shards)]
    there = [part for part in parts if part]
    failed = [
        {
            "type": "STREAM", "account": account, "stream": stream,
            "error": f"JetStream stream '{account} > {stream}' write error: the stream's storage has failed",
        }
        for part in there
        for account, stream in part["failed"]
        if query.account in ("", account) and query.stream in ("", stream)
    ]  # fmt: skip
    if failed and query.details:
        return UNAVAILABLE, {"status": "error", "errors": failed}
    if failed:
        return UNAVAILABLE, {"status": _NA, "error": failed[0]["error"]}
    account, stream, consumer = (go_quoted(wanted[name]) for name in ("account", "stream", "consumer"))
    texts = {
        "account": f"JetStream account {account} not found",
        "stream": f"JetStream stream {stream} not found on account {account}",
        "consumer": f"JetStream consumer {consumer} not found for stream {stream} on account {account}",
    }
    named: dict[str, str] = {}
    for name, text in texts.items():
        if not wanted[name]:
            break
        named[name] = wanted[name]
        if not any(part[name] for part in there):
            return _status(query, NOT_FOUND, _NA, {"type": name.upper(), **named, "error": text})
    return OK, {"status": "ok"}
