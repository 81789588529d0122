"""The monitoring process: HTTP on a socket that the front has bound, answered from shared memory and by the front.

Slow or dead, it harms nobody: shards are asked through the front, for one page at a time, and one request of a kind runs
at once. Ends when its channel to the front ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from shardbroker.ipc.channel import Channel, ChannelClosed
from shardbroker.monitor import endpoints, jsz
from shardbroker.monitor.endpoints import BadQuery, Usage
from shardbroker.shm import stats
from shardbroker.shm.layout import SLOT_STATES
from shardbroker.shm.segment import Segment

METHODS = ["GET", "HEAD", "POST"]
HEADERS = {"Access-Control-Allow-Origin": "*"}
# monitor.go gives a client 5 s for its headers; connections that say nothing are closed.
KEEP_ALIVE_SECONDS = 5
# Connections and requests at once; more are answered 503.
REQUESTS_MAX = 64


class Monitor:
    """The endpoints, with what they are answered from."""

    def __init__(self, segment: Segment, channel: Channel) -> None:
        self._segment = segment
        self._channel = channel
        self._requests: Counter[str] = Counter()
        self._page_lock = asyncio.Lock()
        self._cpu: tuple[float, int] | None = None
        self._cpu_percent = 0.0

    def app(self, base_path: str) -> Starlette:
        """The ASGI application, under `base_path`."""
        base = base_path.rstrip("/")
        pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._root,
            "/varz": self._varz,
            "/connz": self._connz,
            "/subsz": self._subsz,
            "/subscriptionsz": self._subsz,
            "/jsz": self._jsz,
            "/healthz": self._healthz,
        }
        routes = [Route(base + path, page, methods=METHODS) for path, page in pages.items()]
        return Starlette(
            routes=routes, exception_handlers={404: _not_found, BadQuery: _bad_query, ChannelClosed: _gone}
        )

    async def _root(self, request: Request) -> Response:
        self._requests["/"] += 1
        return HTMLResponse(endpoints.root_page(request.url.path))

    async def _varz(self, request: Request) -> Response:
        self._requests["/varz"] += 1
        front = await self._channel.request({"op": "varz"})
        rows = stats.snapshot(self._segment)
        totals = {
            name: stats.total(rows, name) for name in rows.dtype.names or () if name != "loop_lag_buckets"
        }
        states = stats.slots(self._segment)
        shards = [
            {
                "shard": number,
                "pid": int(slot["pid"]),
                "state": SLOT_STATES[int(slot["state"])],
                "epoch": int(slot["epoch"]),
                "restarts": int(slot["restarts"]),
                "connections": int(row["connections"]),
                "subscriptions": int(row["subscriptions"]),
                "in_msgs": int(row["in_msgs"]),
                "out_msgs": int(row["out_msgs"]),
                "mem": int(row["rss_bytes"]),
            }
            for number, (slot, row) in enumerate(zip(states, rows, strict=True))
        ]
        usage = Usage(
            totals["rss_bytes"], self._cpu_since_last(totals["cpu_user_us"] + totals["cpu_system_us"])
        )
        streams: dict[str, Any] = {}
        if front["options"]["jetstream"]["enabled"]:
            parts = await self._channel.request({"op": "jsz", "query": {}})
            streams = jsz.varz(parts["shards"])
        return _json(endpoints.varz(front, totals, usage, self._requests, time.time_ns(), shards, streams))

    def _cpu_since_last(self, used_us: int) -> float:
        now = time.monotonic()
        if self._cpu is not None and now - self._cpu[0] >= 0.5:
            percent = (used_us - self._cpu[1]) / 1e4 / (now - self._cpu[0])
            self._cpu_percent = round(max(0.0, percent), 1)
        if self._cpu is None or now - self._cpu[0] >= 0.5:
            self._cpu = (now, used_us)
        return self._cpu_percent

    async def _connz(self, request: Request) -> Response:
        query = endpoints.connz_query(request.query_params)
        self._requests["/connz"] += 1
        async with self._page_lock:
            answer = await self._channel.request({"op": "connz", "query": query.for_shards()})
        server_id = await self._server_id()
        return _json(endpoints.connz(server_id, answer["shards"], query, time.time_ns()))

    async def _subsz(self, request: Request) -> Response:
        self._requests["/subsz"] += 1
        query = endpoints.subsz_query(request.query_params)
        async with self._page_lock:
            answer = await self._channel.request({"op": "subsz", "query": query.for_shards()})
        server_id = await self._server_id()
        return _json(endpoints.subsz(server_id, answer["shards"], query, time.time_ns()))

    async def _jsz(self, request: Request) -> Response:
        self._requests["/jsz"] += 1
        query = jsz.read_query(request.query_params)
        async with self._page_lock:
            answer = await self._channel.request({"op": "jsz", "query": query.for_shards()})
        return _json(jsz.jsz(await self._server_id(), answer["shards"], query, time.time_ns()))

    async def _server_id(self) -> str:
        front = await self._channel.request({"op": "varz"})
        return str(front["server_id"])

    async def _healthz(self, request: Request) -> Response:
        self._requests["/healthz"] += 1
        answer = await self._channel.request({"op": "healthz"})
        if answer["ready"]:
            return Response(b'{"status":"ok"}', media_type="application/json", headers=HEADERS)
        body = {"status": "unavailable", "status_code": 503, "error": "a shard is being started"}
        return Response(orjson.dumps(body), 503, media_type="application/json", headers=HEADERS)


def _json(body: dict[str, Any]) -> Response:
    data = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    return Response(data, media_type="application/json", headers=HEADERS)


async def _not_found(request: Request, error: Exception) -> Response:
    return PlainTextResponse("404 page not found\n", 404, {"X-Content-Type-Options": "nosniff"})


async def _bad_query(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400, {"X-Content-Type-Options": "nosniff"})


async def _gone(request: Request, error: Exception) -> Response:
    return PlainTextResponse("the broker is stopping", 503)


class _Server(uvicorn.Server):
    """Without uvicorn's signal handlers: signals are for the front."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_monitor(segment: Segment, channel: Channel, listener: socket.socket, base_path: str) -> int:
    """Serve until the front has gone; the exit status."""
    asyncio.run(_serve(segment, channel, listener, base_path))
    return 0


async def _serve(segment: Segment, channel: Channel, listener: socket.socket, base_path: str) -> None:
    config = uvicorn.Config(
        Monitor(segment, channel).app(base_path),
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        interface="asgi3",
        http="h11",
        ws="none",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=REQUESTS_MAX,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=64 << 10,
    )
    server = _Server(config)

    def end(_: Channel) -> None:
        server.should_exit = True
        server.force_exit = True

    channel.start(lambda channel, message, descriptors: None, end)
    await server.serve(sockets=[listener])
