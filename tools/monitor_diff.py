#!/usr/bin/env python3
"""The same broker under two programs, and what their monitoring says differently.

    python tools/monitor_diff.py /path/to/nats-server            starts it and ours, prints the differences
    python tools/monitor_diff.py --record tests/monitor/nats_server.json /path/to/nats-server

Both get the same configuration, clients and streams; then every path of PATHS is fetched. What must differ (times, ids, sizes
of memory) is replaced by its type before it is compared; EXPECTED names what differs on purpose. tests/monitor compares ours
with the recorded answers, so no Go is needed there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig, StreamSource

CONFIG: Final = """
server_name: one
listen: 127.0.0.1:-1
http: 127.0.0.1:-1
server_tags: ["a:b"]
jetstream {{ store_dir: "{directory}", max_memory_store: 100MB, max_file_store: 1GB }}
accounts {{
  S {{ users [ {{user: s, password: s}} ] }}
  A {{
    jetstream: enabled, users [ {{user: a, password: a}} ]
    exports [ {{service: "help"}}, {{stream: "news.>", accounts: [B]}} ]
    mappings {{ "from.*": "to.$1" }}
  }}
  C {{ jetstream {{ max_mem: 10MB, max_file: 100MB, max_streams: 5 }}, users [ {{user: c, password: c}} ] }}
  B {{
    users [ {{user: b, password: b}} ]
    imports [ {{service: {{account: A, subject: help}}, to: "h"}}, {{stream: {{account: A, subject: "news.>"}}, prefix: "a"}} ]
  }}
}}
system_account: S
"""
JSZ_PATHS: Final = (
    *(f"jsz?accounts=1&{rest}" for rest in ("", "offset=1", "limit=1", "limit=1&offset=1", "offset=9", "limit=-1")),
    *(f"jsz?acc=A&{rest}" for rest in ("config=1", "raft=1", "streams=1&raft=1", "streams=1&stream-leader-only=1")),
    "jsz?acc=C&streams=1&offset=5", "jsz?acc=NONE&streams=1", "jsz?consumers=1&raft=1&leader-only=1",
    "jsz?acc=C&consumers=1&config=1&direct-consumers=1", "jsz?direct-consumers=1",
    *(f"jsz?{name}=x" for name in ("accounts", "streams", "consumers", "direct-consumers", "config", "leader-only", "raft",
                                   "stream-leader-only", "offset", "limit")),
)  # fmt: skip
PATHS: Final = (
    "varz", "connz", "connz?auth=1&subs=detail&sort=subs", "connz?subs=1&acc=A", "connz?state=closed&auth=1", "connz?user=b",
    "connz?state=any&sort=bytes_to&limit=1", "connz?acc=NONE", "connz?mqtt_client=x", "connz?sort=x", "connz?sort=stop",
    "connz?auth=x", "connz?offset=x", "connz?limit=99999999999999999999", "connz?cid=-1", "connz?state=x", "connz?subs=x",
    "subsz", "subsz?subs=1&acc=A&test=foo.x", "subsz?test=a..b", "subsz?offset=x", "routez", "routez?subs=x", "gatewayz",
    "gatewayz?accs=x", "leafz", "leafz?subs=x", "accountz", "accountz?acc=A", "accountz?acc=B", "accountz?acc=NONE", "accstatz",
    "accstatz?unused=1", "accstatz?unused=x", "jsz", "jsz?acc=A&consumers=1&config=1", "jsz?streams=1", "jsz?acc=B", "jsz?raft=1",
    *JSZ_PATHS,
    "healthz", "healthz?details=1", "healthz?js-server-only=true", "healthz?js-enabled-only=1",
    "healthz?stream=x", "healthz?account=A&consumer=x", "healthz?account=NONE", "healthz?account=A&stream=NONE",
    "healthz?account=A&stream=ST", "healthz?account=A&stream=ST&consumer=C",
    "healthz?account=A&stream=ST&consumer=NONE&details=1", "healthz?js-enabled-only=x", "ipqueuesz", "raftz", "nothing",
)  # fmt: skip
# What is shown as its type only. A name of both (`subscriptions`) is a number in one place and counts ours in another.
VOLATILE: Final = frozenset(
    {
        "server_id", "now", "start", "uptime", "idle", "rtt", "stop", "last_activity", "port", "http_port", "config_load_time",
        "version", "go", "mem", "cpu", "cores", "gomaxprocs", "http_req_stats", "config_digest", "cid", "created", "first_ts",
        "last_ts", "ts", "update_time", "level", "storage", "bytes", "store_dir", "host",
        # Ours counts other things: the broker's own subscriptions, its caches, its API requests.
        "in_msgs", "in_bytes", "in_client_msgs", "in_client_bytes", "out_msgs", "out_bytes", "out_client_msgs",
        "out_client_bytes", "subscriptions", "num_subscriptions", "num_cache", "num_inserts", "num_removes", "num_matches",
        "cache_hit_rate", "max_fanout", "avg_fanout", "total_connections", "msgs", "errors_count", "metadata",
        "connections_count", "sent", "received", "pending_bytes", "sid", "active", "pause_remaining", "last_active",
    }
)  # fmt: skip
# Place -> why it is not the same.
EXPECTED: Final = {
    "git_commit": "not ours",
    "feature_flags": "of nats-server 2.14 and later",
    "shard": "ours",
    "shards": "ours",
    "api.total": "counted elsewhere",
    "api.errors": "counted elsewhere",
    "jetstream.stats.api": "counted elsewhere",
    "api": "counted elsewhere",
    "compress_ok": "no S2 compression of blocks is needed of us",
    "sync_interval": "ours syncs before each acknowledgement",
    "sync_always": "ours syncs before each acknowledgement",
    "direct_consumer_detail": "ours has mirrors and sources without consumers",
    "account_details.stream_detail.sources.seq": "of nats-server after 2.12",
    "subscriptions_list": "compared elsewhere: ours does not list the broker's own, nor those of connections that have ended",
}


def scrub(value: Any, place: str = "") -> Any:
    """An answer without what must differ."""
    if isinstance(value, dict):
        out = {}
        for key, item in value.items():
            here = f"{place}.{key}".removeprefix(".")
            if key in EXPECTED or here in EXPECTED:
                continue
            if here == "account_detail.imports":
                # nats-server shows its own imports from the system account too.
                item = [one for one in item if not str(one["local_subject"]).startswith("$")]
                if not item:
                    continue
            if here == "connections" and item is None:
                item = []  # Go's nil, where there is no such account
            volatile = key in VOLATILE and not isinstance(item, list)
            out[key] = f"({_type(item)})" if volatile else scrub(item, here)
        return out
    if isinstance(value, str):
        return re.sub(r"(_I\.\w+)\.\w{22}", r"\1.(text)", value)
    if isinstance(value, list):
        return sorted((scrub(item, place) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def _type(value: Any) -> str:
    """Go writes 0 for 0.0."""
    if isinstance(value, bool):
        return "bool"
    return {int: "number", float: "number", str: "text", dict: "object"}[type(value)]


def fetch(port: int, path: str) -> list[Any]:
    """[status, content type, body]."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
            status, kind, data = answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        status, kind, data = error.code, error.headers["Content-Type"], error.read()
    body = scrub(json.loads(data)) if kind == "application/json" else data.decode()
    return [status, kind, body]


async def populate_streams(client: Client) -> None:
    """Streams and consumers of many kinds, and gaps."""
    js = client.jetstream()
    full = StreamConfig(name="FULL", subjects=["full.>"], storage=StorageType.MEMORY, max_msgs=3, max_age=3600)
    full.description, full.metadata = "d", {"k": "v"}
    await js.add_stream(full)
    await js.add_stream(StreamConfig(name="GAPS", subjects=["gaps.>"], retention=RetentionPolicy.INTEREST))
    for consumer in (
        ConsumerConfig(durable_name="PUSH", deliver_subject="push", deliver_group="g", flow_control=True, idle_heartbeat=5),
        ConsumerConfig(durable_name="PULL", filter_subject="gaps.a", max_ack_pending=7, metadata={"a": "b"}),
        ConsumerConfig(durable_name="PAUSED", pause_until="2099-01-01T00:00:00Z"),
    ):
        await js.add_consumer("GAPS", consumer)
    for n in range(5):
        await js.publish(f"full.{'ab'[n % 2]}", b"hello")
        await js.publish(f"gaps.{'ab'[n % 2]}", b"hello")
    await js.delete_msg("GAPS", 3)
    pull = await js.pull_subscribe_bind("PULL", "GAPS")
    first, _ = await pull.fetch(2, timeout=5)
    await first.ack_sync()
    await js.add_stream(StreamConfig(name="MIRROR", mirror=StreamSource(name="FULL")))
    source = StreamSource(name="FULL", filter_subject="full.a", opt_start_seq=1)
    await js.add_stream(StreamConfig(name="SOURCES", sources=[source]))
    while [(await js.stream_info(name)).state.messages for name in ("MIRROR", "SOURCES")] != [3, 2]:
        await asyncio.sleep(0.01)
    await client.close()


async def populate(port: int) -> list[Client]:
    """Streams, a consumer, three clients that stay and one that went."""

    async def client(user: str, name: str) -> Client:
        return await nats.connect(
            f"nats://127.0.0.1:{port}", user=user, password=user, name=name, allow_reconnect=False, inbox_prefix=f"_I.{name}"
        )

    worker = await client("a", "worker")
    streams = worker.jetstream()
    await streams.add_stream(StreamConfig(name="ST", subjects=["st.>"]))
    await streams.add_consumer("ST", ConsumerConfig(durable_name="C"))
    await streams.publish("st.x", b"hello")
    await populate_streams(await client("c", "many"))
    other = await client("b", "other")
    gone = await client("a", "gone")
    await worker.subscribe("foo.*", queue="q")
    await worker.subscribe("bar")
    await other.subscribe("a.news.>")
    await gone.publish("foo.x", b"hello")
    await gone.flush()
    await gone.close()
    for one in (worker, other):
        await one.flush()
    return [worker, other]


async def answers(port: int, http_port: int) -> dict[str, Any]:
    """Everything about a fresh server, by path."""
    clients = await populate(port)
    loop = asyncio.get_running_loop()
    while (await loop.run_in_executor(None, fetch, http_port, "connz?state=closed"))[2]["total"] < 1:
        await asyncio.sleep(0.01)
    found = {path: await loop.run_in_executor(None, fetch, http_port, path) for path in PATHS}
    for client in clients:
        await client.close()
    return found


def of_program(command: Sequence[str]) -> dict[str, Any]:
    """Start it, ask it, stop it."""
    with tempfile.TemporaryDirectory() as directory:
        config, log = Path(directory) / "server.conf", Path(directory) / "log"
        config.write_text(CONFIG.format(directory=f"{directory}/js"))
        process = subprocess.Popen([*command, "-c", str(config), "-l", str(log)])
        try:
            text = ""
            while "Server is ready" not in text:
                if process.poll() is not None:
                    raise SystemExit(f"{command[0]} has ended: {text}")
                text = log.read_text() if log.exists() else ""
            http = re.search(r"Starting http monitor on 127\.0\.0\.1:(\d+)", text)
            port = re.search(r"Listening for client connections on 127\.0\.0\.1:(\d+)", text)
            assert http and port
            return asyncio.run(answers(int(port[1]), int(http[1])))
        finally:
            process.terminate()
            process.wait(30)


def unlike(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two answers differ, a line for each place."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            found += unlike(ours.get(key, "(nothing)"), theirs.get(key, "(nothing)"), f"{path}.{key}")
        if not found and list(ours) != list(theirs):
            found.append(f"  {path or '.'}: order of fields: ours {list(ours)} theirs {list(theirs)}")
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for at, (one, other) in pairs for line in unlike(one, other, f"{path}[{at}]")]
    return [] if ours == theirs else [f"  {path or '.'}: ours {json.dumps(ours)} theirs {json.dumps(theirs)}"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path)
    parser.add_argument("server")
    arguments = parser.parse_args()
    theirs = of_program([arguments.server])
    if arguments.record:
        arguments.record.write_text(json.dumps(theirs, indent=1) + "\n")
        return 0
    ours = of_program([sys.executable, "-m", "shardbroker", "--workers", "2"])
    different = 0
    for path in PATHS:
        lines = unlike(ours[path], theirs[path])
        different += bool(lines)
        if lines:
            print("\n".join([path, *lines]))
    print(f"{different} of {len(PATHS)} paths differ")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
